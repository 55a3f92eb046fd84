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

-- Clicks that are paid for as such (processor/src/settle/clicks.rs): how many of a link in a period that began at from_at, apart
-- by what the rules of that period look at (empty: they don't). A count is a number of facts, not a sum of increments: it is
-- counted whole each time. It makes a conversion of event 'click', which has no reports.
CREATE TABLE click_counts (
    conversion_id uuid        PRIMARY KEY,
    tenant_id     bigint      NOT NULL,
    program_id    bigint      NOT NULL,
    affiliate_id  bigint      NOT NULL,
    link_id       bigint      NOT NULL,
    from_at       timestamptz NOT NULL,
    country       text        NOT NULL,
    device        text        NOT NULL,
    campaign      text        NOT NULL,
    subs          text[]      NOT NULL CHECK (cardinality(subs) = 5),
    clicks        bigint      NOT NULL CHECK (clicks >= 0),
    counted_at    timestamptz NOT NULL,
    FOREIGN KEY (tenant_id, conversion_id) REFERENCES conversions (tenant_id, id),
    FOREIGN KEY (tenant_id, program_id) REFERENCES programs (tenant_id, id),
    FOREIGN KEY (tenant_id, affiliate_id) REFERENCES affiliates (tenant_id, id),
    FOREIGN KEY (tenant_id, link_id) REFERENCES links (tenant_id, id)
);
CREATE INDEX click_counts_by_period ON click_counts (program_id, from_at);
CREATE INDEX click_counts_by_affiliate ON click_counts (affiliate_id, program_id, from_at);
CREATE TRIGGER click_counts_kept BEFORE DELETE OR TRUNCATE ON click_counts
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_kept();

-- How far a program's clicks of a day were counted, and how many clicks of any kind the facts held then. Facts that hold fewer
-- have lost some (or are being filled again), and nothing is concluded from them.
CREATE TABLE click_days (
    program_id    bigint      NOT NULL REFERENCES programs,
    day           date        NOT NULL,
    seen          bigint      NOT NULL,
    counted_until timestamptz NOT NULL,
    PRIMARY KEY (program_id, day)
);
CREATE INDEX commission_rules_for_clicks ON commission_rules (program_id) WHERE document->'events' ? 'click';

-- Conversions that share something with one that is reviewed.
CREATE INDEX conversion_reports_by_fingerprint ON conversion_reports (tenant_id, fingerprint, reported_at) WHERE fingerprint IS NOT NULL;
CREATE INDEX conversion_reports_by_email_domain ON conversion_reports (tenant_id, email_domain, reported_at) WHERE email_domain IS NOT NULL;

-- Who changed what. before and after: what differs, as the API shows it; null: it is new, or gone.
CREATE TABLE audit_log (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   bigint      NOT NULL REFERENCES tenants,
    at          timestamptz NOT NULL,
    actor       text        NOT NULL CHECK (char_length(actor) BETWEEN 1 AND 254),
    action      text        NOT NULL CHECK (action IN ('created', 'changed', 'deleted', 'decided')),
    entity_kind text        NOT NULL CHECK (char_length(entity_kind) BETWEEN 1 AND 64),
    entity_id   text        NOT NULL CHECK (char_length(entity_id) BETWEEN 1 AND 128),
    before      jsonb,
    after       jsonb,
    CHECK (before IS NOT NULL OR after IS NOT NULL)
);
CREATE INDEX audit_log_by_tenant ON audit_log (tenant_id, id);
CREATE INDEX audit_log_by_entity ON audit_log (tenant_id, entity_kind, entity_id, id);
CREATE TRIGGER audit_log_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_kept();
