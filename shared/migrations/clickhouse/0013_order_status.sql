-- How an order stands, and what of it was given back: what is left is what counts as revenue.
ALTER TABLE conversions ADD COLUMN IF NOT EXISTS status LowCardinality(String) DEFAULT 'pending' AFTER attribution;

ALTER TABLE conversions ADD COLUMN IF NOT EXISTS refunded Decimal(20, 4) CODEC(ZSTD(1)) AFTER status;

-- A click is credited by its token, or found by its visitor or fingerprint.
ALTER TABLE conversions MODIFY COLUMN clicked_at DateTime64(3, 'UTC')
    DEFAULT if(attribution IN ('click_token', 'visitor', 'fingerprint') AND length(click_id) = 48,
        fromUnixTimestamp64Milli(toInt64(reinterpretAsUInt64(reverse(substring(tryBase64URLDecode(click_id), 1, 6))))),
        fromUnixTimestamp64Milli(toInt64(0))) CODEC(Delta, ZSTD(1));
