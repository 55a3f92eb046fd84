-- Facts: one row a click, a conversion, a commission. All can be rebuilt from Kafka and PostgreSQL.
--
-- kafka_partition and kafka_offset say which message a row came from: for people who look for it.
-- What is stored already is told otherwise (0002_clicks_once.sql, processor/src/sink.rs).

-- Sorted by tenant and time because every question names both. Whoever looks one click up should name
-- its time as well: the id holds it, but its text does not sort by it. One partition a month: an insert
-- never spans two. The projection is dropped by 0002.
CREATE TABLE IF NOT EXISTS clicks (
    click_id        String CODEC(ZSTD(1)),
    received_at     DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    tenant_id       UInt64 CODEC(ZSTD(1)),
    program_id      UInt64 CODEC(ZSTD(1)),
    affiliate_id    UInt64 CODEC(ZSTD(1)),
    link_id         UInt64 CODEC(ZSTD(1)),
    visitor_id      UUID CODEC(ZSTD(1)),
    fingerprint     FixedString(16) CODEC(ZSTD(1)),
    address         IPv6 CODEC(ZSTD(1)),
    user_agent      LowCardinality(String),
    referrer        String CODEC(ZSTD(1)),
    accept_language LowCardinality(String),
    sub1            String CODEC(ZSTD(1)),
    sub2            String CODEC(ZSTD(1)),
    sub3            String CODEC(ZSTD(1)),
    sub4            String CODEC(ZSTD(1)),
    sub5            String CODEC(ZSTD(1)),
    is_bot          UInt8,
    bot_reason      LowCardinality(String),
    privacy_opt_out UInt8,
    kafka_partition Int32 CODEC(ZSTD(1)),
    kafka_offset    Int64 CODEC(Delta, ZSTD(1)),
    PROJECTION positions (SELECT kafka_partition, max(kafka_offset) GROUP BY kafka_partition)
) ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (tenant_id, received_at, click_id);

-- version grows with each change of the same conversion: read with FINAL.
CREATE TABLE IF NOT EXISTS conversions (
    conversion_id   UUID,
    accepted_at     DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    tenant_id       UInt64,
    program_id      UInt64,
    affiliate_id    UInt64,
    link_id         UInt64,
    click_id        String CODEC(ZSTD(1)),
    order_id        String CODEC(ZSTD(1)),
    event           LowCardinality(String),
    amount          Decimal(20, 4),
    currency        LowCardinality(String),
    attribution     LowCardinality(String),
    version         UInt64,
    kafka_partition Int32,
    kafka_offset    Int64
) ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant_id, conversion_id);

CREATE TABLE IF NOT EXISTS commissions (
    commission_id   UUID,
    conversion_id   UUID,
    created_at      DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    tenant_id       UInt64,
    program_id      UInt64,
    affiliate_id    UInt64,
    link_id         UInt64,
    amount          Decimal(20, 4),
    currency        LowCardinality(String),
    state           LowCardinality(String),
    rule_id         UInt64,
    rule_version    UInt32,
    hold_until      DateTime64(6, 'UTC'),
    version         UInt64,
    kafka_partition Int32,
    kafka_offset    Int64
) ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant_id, commission_id);
