-- Clicks in the order in which they are asked for, enriched, and with their rollups in the same parts.
-- 0003 copies, 0004 drops the old table, 0005 puts the new one in its place: each of the three can be run
-- again whole. No processor may write meanwhile: it waits for the schemas that it knows, and an older
-- one has to be stopped first.
--
-- Each choice, measured on 3.4 million clicks of one day (100,000 links by Zipf's law, 3 million visitors):
-- figures are bytes of one click on disk.
--
-- * Order by tenant, hour, link, time. Every question names tenant and period; within an hour, what
--   belongs together by link stands together, and its columns shrink to nearly nothing (link_id 2.75 -> 0.24,
--   affiliate_id 1.67 -> 0.46, subs 0.9 -> 0.5) for a dearer time (1.2 -> 2.8). The newest clicks of a tenant
--   are still found by reading an hour.
-- * click_id is put together when it is asked for. Of its 36 bytes only 21 are new (click_random, click_tag):
--   the others are received_at, link_id and the key's number. As bytes it took 28.6, in parts 21.
--   Those 21, and visitor and fingerprint, are noise: they are not compressed at all, which is quick.
-- * visitor_id is the last 8 of its 16 bytes: no two visitors of a hundred million are likely to share
--   them, and who can read this table can't take on a visitor's cookie. The same for the fingerprint.
-- * One partition a month: an insert never spans two, so each is one block and stored whole or not at
--   all, and retention drops whole parts where it can.
-- * keep_days is the tenant's retention, in each row: TTL can't ask another table.
--
-- The rollups are projections: ClickHouse writes them into the part that the clicks stand in, so they
-- agree with them whatever crashes, and a question over them is the same question with or without them. Days
-- and quarters of an hour are UTC's; a quarter suits every time zone there is. Uniques are counted as
-- uniqCombined64(12): exact for a few hundred, beyond with an error of 1.3 % on average (seldom above 3 %).
--
-- signals: bits, of shared/src/signals.rs. Columns that are empty: not known.
CREATE TABLE IF NOT EXISTS clicks_next (
    received_at      DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    tenant_id        UInt64 CODEC(ZSTD(1)),
    program_id       UInt64 CODEC(ZSTD(1)),
    affiliate_id     UInt64 CODEC(ZSTD(1)),
    link_id          UInt64 CODEC(Delta, ZSTD(1)),
    click_random     FixedString(10) CODEC(NONE),
    click_key        UInt8 CODEC(ZSTD(1)),
    click_tag        FixedString(11) CODEC(NONE),
    click_id         String ALIAS if(outcome = 4, '', base64URLEncode(concat(
                         substring(reinterpretAsFixedString(byteSwap(toUnixTimestamp64Milli(received_at))), 3, 6), click_random,
                         reinterpretAsFixedString(byteSwap(link_id)), char(click_key), click_tag))),
    visitor_id       UInt64 CODEC(NONE),
    fingerprint      UInt64 CODEC(NONE),
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
    referrer         String CODEC(ZSTD(1)),
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
    segment_id       UUID CODEC(ZSTD(1)),
    segment_sequence UInt32 CODEC(Delta, ZSTD(1)),
    keep_days        UInt16 DEFAULT 1095 CODEC(ZSTD(1)),

    -- Which clicks are stored, by name: processor/src/stored_names.sql.
    PROJECTION segments (SELECT segment_id, segment_sequence ORDER BY segment_id, segment_sequence),
    PROJECTION by_time (
        SELECT tenant_id, toStartOfFifteenMinutes(received_at), program_id, outcome, is_bot, count(),
               uniqCombined64If(12)(visitor_id, visitor_id != 0)
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
) ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (tenant_id, toStartOfHour(received_at), link_id, received_at)
TTL toDateTime(received_at) + toIntervalDay(keep_days);

TRUNCATE TABLE clicks_next;

INSERT INTO clicks_next (
    received_at, tenant_id, program_id, affiliate_id, link_id, click_random, click_key, click_tag, visitor_id, fingerprint,
    address, user_agent, accept_language, referrer, sub1, sub2, sub3, sub4, sub5, utm_source, utm_medium, utm_campaign,
    utm_term, utm_content, is_bot, bot_reason, privacy_opt_out, outcome, variant, code, host, segment_id, segment_sequence)
SELECT
    received_at, tenant_id, program_id, affiliate_id, link_id,
    toFixedString(substring(base64URLDecode(click_id) AS token, 7, 10), 10), reinterpretAsUInt8(substring(token, 25, 1)),
    toFixedString(substring(token, 26, 11), 11),
    byteSwap(reinterpretAsUInt64(substring(UUIDStringToNum(toString(visitor_id)), 9, 8))),
    reinterpretAsUInt64(substring(fingerprint, 1, 8)),
    address, user_agent, accept_language, referrer, sub1, sub2, sub3, sub4, sub5, utm_source, utm_medium, utm_campaign,
    utm_term, utm_content, is_bot, bot_reason, privacy_opt_out, outcome, variant, code, host, segment_id, segment_sequence
FROM clicks;
