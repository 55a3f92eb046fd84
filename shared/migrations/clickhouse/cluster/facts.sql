-- The facts on a cluster: several shards, each of several replicas. For an operator to run in place of the
-- migrations, which make the same tables on one server: a test (processor/tests/pipeline/cluster.rs) compares the
-- two column by column. The reasons for columns, codecs, order and rollups stand in 0003, 0006, 0009 and 0012; here is what
-- a cluster adds.
--
-- It needs ClickHouse Keeper, the macros {cluster}, {shard} and {replica} on each server, and the services' user with
--   distributed_foreground_insert = 1    an insert that was answered is on its shards, not in a queue of the server asked
--   insert_quorum = 'auto'               and on a majority of each shard's replicas, so that it outlives one of them
--   insert_quorum_parallel = 0           which the next one needs
--   select_sequential_consistency = 1    the question which clicks are stored must not be asked of a replica that lags:
--                                        counted once depends on it
--   optimize_skip_unused_shards = 1      a question that names a segment goes to its shard alone
--
-- * clicks are sharded by segment: one segment's clicks are on one shard, so the question which of them are stored asks
--   one shard, and load spreads evenly, also that of one large tenant. Dashboards ask all shards and merge
--   counts and uniques, which takes as long as the slowest shard.
-- * conversions, commissions and postbacks are sharded by tenant: all versions of a row have to meet on one shard, or FINAL
--   would show each of them. There are a hundred times fewer of them.
-- * No deduplication of blocks: the processor asks which clicks are stored, by name. A block that looks like an
--   earlier one may be one whose rows were erased or have expired since; it must not be dropped unheard.
-- * An insert of several segments is split by shard, so it is no longer stored whole or not at all. Nothing depends
--   on that: what is missing is sent again, by name (processor/src/sink.rs).
--
-- What the services do not do on a cluster yet ("Known gaps" in ARCHITECTURE.md): the processor ends inserts that it did
-- not hear of (KILL QUERY) on the server that it asks alone, and erases in table clicks, which a Distributed table
-- refuses: it would have to name clicks_local ON CLUSTER.

CREATE TABLE IF NOT EXISTS clicks_local ON CLUSTER '{cluster}' (
    received_at      DateTime64(3, 'UTC') CODEC(T64, ZSTD(1)),
    tenant_id        UInt64 CODEC(ZSTD(3)),
    program_id       UInt64 CODEC(ZSTD(3)),
    affiliate_id     UInt64 CODEC(ZSTD(1)),
    link_id          UInt64 CODEC(Delta, ZSTD(1)),
    click_random     FixedString(10) CODEC(ZSTD(1)),
    click_key        UInt8 CODEC(ZSTD(1)),
    click_tag        FixedString(11) CODEC(NONE),
    click_id         String ALIAS if(outcome = 4, '', base64URLEncode(concat(
                         substring(reinterpretAsFixedString(byteSwap(toUnixTimestamp64Milli(received_at))), 3, 6),
                         if(click_random != toFixedString('', 10), click_random, toFixedString(substring(reinterpretAsFixedString(
                             bitOr(bitAnd(reinterpretAsUInt128(sipHash128ReferenceKeyed(
                                 (reinterpretAsUInt64(substring(UUIDToNum(segment_id), 1, 8)), reinterpretAsUInt64(substring(UUIDToNum(segment_id), 9, 8))),
                                 segment_sequence)), bitNot(toUInt128(12583152))), toUInt128(8388720))), 1, 10), 10)),
                         reinterpretAsFixedString(byteSwap(link_id)), char(click_key), click_tag))),
    visitor_id       UInt64 CODEC(NONE),
    fingerprint      UInt64 CODEC(T64),
    address          IPv6 CODEC(ZSTD(1)),
    country          LowCardinality(String) CODEC(ZSTD(1)),
    region           LowCardinality(String) CODEC(ZSTD(1)),
    city             LowCardinality(String) CODEC(ZSTD(1)),
    network          LowCardinality(String) CODEC(ZSTD(1)),
    user_agent       LowCardinality(String) CODEC(ZSTD(1)),
    device           LowCardinality(String) CODEC(ZSTD(1)),
    os               LowCardinality(String) CODEC(ZSTD(1)),
    browser          LowCardinality(String) CODEC(ZSTD(1)),
    accept_language  LowCardinality(String) CODEC(ZSTD(1)),
    referrer         LowCardinality(String) CODEC(ZSTD(1)),
    referrer_domain  LowCardinality(String) CODEC(ZSTD(1)),
    channel          LowCardinality(String) CODEC(ZSTD(1)),
    sub1             String CODEC(ZSTD(1)),
    sub2             String CODEC(ZSTD(1)),
    sub3             String CODEC(ZSTD(1)),
    sub4             String CODEC(ZSTD(1)),
    sub5             String CODEC(ZSTD(1)),
    utm_source       LowCardinality(String) CODEC(ZSTD(1)),
    utm_medium       LowCardinality(String) CODEC(ZSTD(1)),
    utm_campaign     LowCardinality(String) CODEC(ZSTD(1)),
    utm_term         String CODEC(ZSTD(1)),
    utm_content      String CODEC(ZSTD(1)),
    is_bot           UInt8 CODEC(ZSTD(1)),
    bot_reason       LowCardinality(String) CODEC(ZSTD(1)),
    signals          UInt16 CODEC(ZSTD(1)),
    privacy_opt_out  UInt8 CODEC(ZSTD(1)),
    outcome          UInt8 CODEC(ZSTD(1)),
    variant          UInt32 CODEC(ZSTD(1)),
    code             String CODEC(ZSTD(1)),
    host             LowCardinality(String) CODEC(ZSTD(1)),
    segment_id       LowCardinality(UUID) CODEC(ZSTD(1)),
    segment_sequence UInt32 CODEC(T64('bit'), ZSTD(1)),
    keep_days        UInt16 DEFAULT 1095 CODEC(ZSTD(1)),

    -- Which clicks are stored, by name: processor/src/stored_names.sql.
    PROJECTION segments (
        SELECT segment_id, groupBitmapState(segment_sequence), groupBitmapState(toUInt32(segment_sequence + 1))
        GROUP BY segment_id),
    PROJECTION visitors (
        SELECT tenant_id, toStartOfFifteenMinutes(received_at), outcome, is_bot, count(),
               uniqCombined64If(12)(visitor_id, visitor_id != 0 AND is_bot = 0)
        GROUP BY tenant_id, toStartOfFifteenMinutes(received_at), outcome, is_bot),
    PROJECTION by_time (
        SELECT tenant_id, toStartOfFifteenMinutes(received_at), program_id, outcome, is_bot, count()
        GROUP BY tenant_id, toStartOfFifteenMinutes(received_at), program_id, outcome, is_bot),
    PROJECTION by_link (
        SELECT tenant_id, toStartOfDay(received_at), program_id, affiliate_id, link_id, outcome, is_bot, count()
        GROUP BY tenant_id, toStartOfDay(received_at), program_id, affiliate_id, link_id, outcome, is_bot),
    PROJECTION by_place (
        SELECT tenant_id, toStartOfDay(received_at), program_id, country, device, os, browser, channel, outcome, is_bot, count()
        GROUP BY tenant_id, toStartOfDay(received_at), program_id, country, device, os, browser, channel, outcome, is_bot),
    PROJECTION by_referrer (
        SELECT tenant_id, toStartOfDay(received_at), program_id, referrer_domain, outcome, is_bot, count()
        GROUP BY tenant_id, toStartOfDay(received_at), program_id, referrer_domain, outcome, is_bot),
    PROJECTION by_signal (
        SELECT tenant_id, toStartOfDay(received_at), program_id, affiliate_id, bot_reason, signals, outcome, is_bot, count()
        GROUP BY tenant_id, toStartOfDay(received_at), program_id, affiliate_id, bot_reason, signals, outcome, is_bot)
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/clicks', '{replica}')
PARTITION BY toYYYYMM(received_at)
ORDER BY (tenant_id, toStartOfHour(received_at), link_id, received_at)
TTL toDateTime(received_at) + toIntervalDay(keep_days)
SETTINGS replicated_deduplication_window = 0, default_compression_codec = 'ZSTD(1)';

CREATE TABLE IF NOT EXISTS conversions_local ON CLUSTER '{cluster}' (
    conversion_id   UUID,
    accepted_at     DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    tenant_id       UInt64 CODEC(ZSTD(1)),
    program_id      UInt64 CODEC(ZSTD(1)),
    affiliate_id    UInt64 CODEC(ZSTD(1)),
    link_id         UInt64 CODEC(ZSTD(1)),
    click_id        String CODEC(ZSTD(1)),
    clicked_at      DateTime64(3, 'UTC') DEFAULT if(attribution IN ('click_token', 'visitor', 'fingerprint') AND length(click_id) = 48,
                        fromUnixTimestamp64Milli(toInt64(reinterpretAsUInt64(reverse(substring(tryBase64URLDecode(click_id), 1, 6))))),
                        fromUnixTimestamp64Milli(toInt64(0))) CODEC(Delta, ZSTD(1)),
    customer_id     FixedString(16) CODEC(ZSTD(1)),
    is_new          Nullable(Bool) CODEC(ZSTD(1)),
    order_id        String CODEC(ZSTD(1)),
    event           LowCardinality(String),
    amount          Decimal(20, 4) CODEC(ZSTD(1)),
    currency        LowCardinality(String),
    attribution     LowCardinality(String),
    status          LowCardinality(String) DEFAULT 'pending',
    refunded        Decimal(20, 4) CODEC(ZSTD(1)),
    version         UInt64 CODEC(ZSTD(1))
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/conversions', '{replica}', version)
ORDER BY (tenant_id, accepted_at, conversion_id);

CREATE TABLE IF NOT EXISTS commissions_local ON CLUSTER '{cluster}' (
    commission_id   UUID,
    conversion_id   UUID,
    created_at      DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    tenant_id       UInt64 CODEC(ZSTD(1)),
    program_id      UInt64 CODEC(ZSTD(1)),
    affiliate_id    UInt64 CODEC(ZSTD(1)),
    link_id         UInt64 CODEC(ZSTD(1)),
    amount          Decimal(20, 4) CODEC(ZSTD(1)),
    currency        LowCardinality(String),
    state           LowCardinality(String),
    rule_id         UInt64 CODEC(ZSTD(1)),
    rule_version    UInt32 CODEC(ZSTD(1)),
    hold_until      DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version         UInt64 CODEC(ZSTD(1))
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/commissions', '{replica}', version)
ORDER BY (tenant_id, created_at, commission_id);

CREATE TABLE IF NOT EXISTS postbacks_local ON CLUSTER '{cluster}' (
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
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/postbacks', '{replica}')
ORDER BY (tenant_id, received_at, id)
TTL toDateTime(received_at) + INTERVAL 90 DAY;

-- What the services use.
CREATE TABLE IF NOT EXISTS clicks ON CLUSTER '{cluster}' AS clicks_local
ENGINE = Distributed('{cluster}', currentDatabase(), clicks_local, sipHash64(segment_id));

CREATE TABLE IF NOT EXISTS conversions ON CLUSTER '{cluster}' AS conversions_local
ENGINE = Distributed('{cluster}', currentDatabase(), conversions_local, tenant_id);

CREATE TABLE IF NOT EXISTS commissions ON CLUSTER '{cluster}' AS commissions_local
ENGINE = Distributed('{cluster}', currentDatabase(), commissions_local, tenant_id);

CREATE TABLE IF NOT EXISTS postbacks ON CLUSTER '{cluster}' AS postbacks_local
ENGINE = Distributed('{cluster}', currentDatabase(), postbacks_local, tenant_id);

-- The services wait for this version of the schema, and make nothing themselves when it is there.
CREATE TABLE IF NOT EXISTS schema_versions ON CLUSTER '{cluster}' (version UInt32, applied_at DateTime DEFAULT now())
ENGINE = ReplicatedMergeTree('/clickhouse/tables/all/{database}/schema_versions', '{shard}-{replica}')
ORDER BY version;

INSERT INTO schema_versions (version) VALUES (13);
