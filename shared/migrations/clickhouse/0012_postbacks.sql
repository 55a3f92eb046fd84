-- The log of reports: one row for each that came with a known token or key, taken or refused, as topic `postbacks`
-- tells it (shared/proto/postbacks.proto).
--
-- * ORDER BY: a tenant asks for its newest, or for a stretch of time; the id ends the key, so that a message that is
--   delivered again replaces its own row and no other. It is read with FINAL, and time and id of a row never change, so
--   only the period that is asked for is merged.
-- * Filters (order, click, text) read the period's rows: a log is asked for hours or days, and an index on text of 2 KiB
--   would be larger than the text itself, which repeats its parameters' names and packs well.
-- * TTL: long enough for the last month's invoice and the one before; a log is for finding mistakes, the orders
--   themselves stand in the ledger.
-- * address: the merchant's server, as in clicks (IPv4 as ::ffff:a.b.c.d, none as ::). A shopper's is not stored.
-- * conversion_id: zeros where the report was refused.
CREATE TABLE IF NOT EXISTS postbacks (
    id              UUID,
    received_at     DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    tenant_id       UInt64 CODEC(ZSTD(1)),
    door            LowCardinality(String),
    verdict         LowCardinality(String),
    reason          LowCardinality(String),
    message         String CODEC(ZSTD(1)),
    conversion_id   UUID CODEC(ZSTD(1)),
    order_id        String CODEC(ZSTD(1)),
    event           LowCardinality(String),
    status          LowCardinality(String),
    click_id        String CODEC(ZSTD(1)),
    query           String CODEC(ZSTD(1)),
    address         IPv6 CODEC(ZSTD(1)),
    user_agent      LowCardinality(String) CODEC(ZSTD(1))
) ENGINE = ReplacingMergeTree
ORDER BY (tenant_id, received_at, id)
TTL toDateTime(received_at) + INTERVAL 90 DAY;
