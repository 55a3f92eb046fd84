-- What a verdict and a price rest on stays what it was: who an affiliate was at the time of an order, from where the order
-- came, how many clicks are paid for. And who changed what, in one log.

-- What rules, uplines and self-referral ask of an affiliate, from valid_from until the next version. Kept by the trigger; what
-- an older order asks is answered by the version of its time (processor/src/settle/load.rs).
CREATE TABLE affiliate_versions (
    tenant_id      bigint      NOT NULL,
    affiliate_id   bigint      NOT NULL,
    valid_from     timestamptz NOT NULL,
    parent_id      bigint,
    email          text,
    tier           text,
    groups         text[]      NOT NULL,
    tags           text[]      NOT NULL,
    certifications text[]      NOT NULL,
    PRIMARY KEY (affiliate_id, valid_from),
    FOREIGN KEY (tenant_id, affiliate_id) REFERENCES affiliates (tenant_id, id),
    FOREIGN KEY (tenant_id, parent_id) REFERENCES affiliates (tenant_id, id)
);
INSERT INTO affiliate_versions
SELECT tenant_id, id, created_at, parent_id, email, tier, groups, tags, certifications FROM affiliates;

-- The clock, not the transaction's beginning: of two transactions that change one affiliate the one that waited is later.
CREATE FUNCTION affiliates_keep_versions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO affiliate_versions
    SELECT NEW.tenant_id, NEW.id,
           CASE TG_OP WHEN 'INSERT' THEN NEW.created_at
           ELSE greatest(clock_timestamp(), (SELECT max(valid_from) + interval '1 microsecond'
                                             FROM affiliate_versions WHERE affiliate_id = NEW.id)) END,
           NEW.parent_id, NEW.email, NEW.tier, NEW.groups, NEW.tags, NEW.certifications;
    RETURN NULL;
END $$;
CREATE TRIGGER affiliates_begin AFTER INSERT ON affiliates
    FOR EACH ROW EXECUTE FUNCTION affiliates_keep_versions();
CREATE TRIGGER affiliates_change AFTER UPDATE ON affiliates
    FOR EACH ROW WHEN ((OLD.parent_id, OLD.email, OLD.tier, OLD.groups, OLD.tags, OLD.certifications)
        IS DISTINCT FROM (NEW.parent_id, NEW.email, NEW.tier, NEW.groups, NEW.tags, NEW.certifications))
    EXECUTE FUNCTION affiliates_keep_versions();
CREATE TRIGGER affiliate_versions_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON affiliate_versions
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_kept();

-- The versions of an affiliate from the one in force at `first` on to `last`; of one who is younger, the first.
CREATE FUNCTION affiliate_versions_between(affiliate bigint, first timestamptz, last timestamptz)
RETURNS SETOF affiliate_versions LANGUAGE sql STABLE AS $$
    SELECT v.* FROM affiliate_versions v,
        LATERAL (SELECT coalesce(
            (SELECT max(b.valid_from) FROM affiliate_versions b WHERE b.affiliate_id = affiliate AND b.valid_from <= first),
            (SELECT min(b.valid_from) FROM affiliate_versions b WHERE b.affiliate_id = affiliate)) AS start) s
    WHERE v.affiliate_id = affiliate AND v.valid_from >= s.start AND v.valid_from <= greatest(last, s.start)
$$;

-- country: where the address lies, by the operator's file at the time when the report was recorded.
ALTER TABLE conversion_reports ADD COLUMN country text CHECK (char_length(country) BETWEEN 1 AND 2);
-- An affiliate's orders lately (signal rate_anomaly).
CREATE INDEX conversions_by_affiliate ON conversions (affiliate_id, converted_at DESC, id DESC)
    WHERE affiliate_id IS NOT NULL AND event <> 'click';
