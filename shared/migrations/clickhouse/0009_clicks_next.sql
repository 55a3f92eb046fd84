-- Clicks in fewer bytes, and visitors in a rollup of their own. 0009 copies, 0010 drops the old table, 0011 puts the new
-- one in its place: each of the three can be run again whole, like 0003 to 0005, whose reasons for order, columns
-- and rollups hold on. No processor may write meanwhile.
--
-- Each choice, measured on 5 million clicks of 5 days, which lie as densely as 100 million of 90 days: figures are bytes
-- of one click on disk, in all with the rollups 74 before and 48 after; benches/README.md has what was tried besides.
--
-- * click_random is empty where it is what the click's name says (10 -> 0): the redirector makes a token's random part of
--   segment and sequence (shared/src/click_token.rs, Place), and click_id reckons it again. A click whose token
--   was made otherwise keeps its ten bytes.
-- * fingerprint is 6 of its 16 bytes (8 -> 6; T64 stores no more of a number than its range takes). A fingerprint is a guess: people
--   of one network with one browser share theirs. That a stranger's is the same by chance is as likely as 1 to
--   281 million among a million clicks that are looked through.
-- * referrer has a dictionary (2.4 -> 0.9), and so has segment_id (0.8 -> 0.4). Sites send many clicks from few pages.
-- * received_at and segment_sequence by T64 in place of Delta (3.1 -> 2.8, 2.0 -> 1.7): of neighbours that share an hour only
--   the lower bits differ, and those are noise.
-- * program_id by ZSTD(3) (0.75 -> 0.25), tenant_id as well (0.1 -> 0.0).
-- * Rollups are compressed by ZSTD as well: a projection's columns have the table's codec, not the column's.
--
-- segments holds each segment's sequences as two bitmaps, the second shifted by one, as the processor asks for them: a
-- whole segment is a few bytes, where a sorted list of names took 4 bytes a click.
--
-- visitors leaves the program out: a tenant's quarter of an hour is one sketch, full and of 3 KB, where each program's
-- visitors took 6 bytes a click (now 0.6). Visitors of a program are counted from the clicks. Bots are no visitors
-- (0.9 -> 0.6).
CREATE TABLE IF NOT EXISTS clicks_next (
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
) ENGINE = MergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (tenant_id, toStartOfHour(received_at), link_id, received_at)
TTL toDateTime(received_at) + toIntervalDay(keep_days)
SETTINGS default_compression_codec = 'ZSTD(1)';

TRUNCATE TABLE clicks_next;

INSERT INTO clicks_next (
    received_at, tenant_id, program_id, affiliate_id, link_id, click_random, click_key, click_tag, visitor_id, fingerprint,
    address, country, region, city, network, user_agent, device, os, browser, accept_language, referrer, referrer_domain,
    channel, sub1, sub2, sub3, sub4, sub5, utm_source, utm_medium, utm_campaign, utm_term, utm_content, is_bot, bot_reason,
    signals, privacy_opt_out, outcome, variant, code, host, segment_id, segment_sequence, keep_days)
SELECT
    received_at, tenant_id, program_id, affiliate_id, link_id, click_random, click_key, click_tag, visitor_id,
    bitAnd(fingerprint, 281474976710655),
    address, country, region, city, network, user_agent, device, os, browser, accept_language, referrer, referrer_domain,
    channel, sub1, sub2, sub3, sub4, sub5, utm_source, utm_medium, utm_campaign, utm_term, utm_content, is_bot, bot_reason,
    signals, privacy_opt_out, outcome, variant, code, host, segment_id, segment_sequence, keep_days
FROM clicks;
