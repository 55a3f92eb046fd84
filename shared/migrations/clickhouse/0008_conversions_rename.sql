-- See 0006.
RENAME TABLE IF EXISTS conversions_next TO conversions;
RENAME TABLE IF EXISTS commissions_next TO commissions;
