-- See 0009.
RENAME TABLE IF EXISTS clicks_next TO clicks;
