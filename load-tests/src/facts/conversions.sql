-- Of a hundred clicks by people one became an order: a lead, or twice as often a sale, minutes to days later.
INSERT INTO conversions (conversion_id, accepted_at, tenant_id, program_id, affiliate_id, link_id, click_id, order_id, event, amount, currency, attribution, version)
WITH cityHash64(click_tag) AS dice
SELECT generateUUIDv4(), received_at + toIntervalSecond(toUInt64(exp2(log2(500000) * (cityHash64(dice) / 18446744073709551616.)))),
       tenant_id, program_id, affiliate_id, link_id, click_id, toString(dice), if(dice % 300 = 0, 'lead', 'sale'), toDecimal64(dice % 20000, 4) / 100,
       'EUR', 'click_token', 1
FROM clicks WHERE is_bot = 0 AND dice % 100 = 0
