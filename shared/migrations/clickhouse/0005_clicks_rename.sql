-- See 0003.
RENAME TABLE IF EXISTS clicks_next TO clicks;
