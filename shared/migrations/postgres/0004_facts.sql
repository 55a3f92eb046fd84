-- What a tenant chose to keep of its clicks, and which visitors it had erased.

-- address_kept: whole, truncated (/24 of IPv4, /48 of IPv6) or none. It holds for clicks that are stored from now on.
-- click_days: clicks are removed this many days after they were made. click_days_applied: what the stored
-- clicks carry (processor/src/erase.rs).
ALTER TABLE tenants
    ADD COLUMN address_kept       text    NOT NULL DEFAULT 'whole' CHECK (address_kept IN ('whole', 'truncated', 'none')),
    ADD COLUMN click_days         integer NOT NULL DEFAULT 1095 CHECK (click_days BETWEEN 1 AND 3650),
    ADD COLUMN click_days_applied integer NOT NULL DEFAULT 1095,
    ADD COLUMN click_days_set_at  timestamptz NOT NULL DEFAULT now();

-- A row stays: a click of the visitor may arrive later, from a journal or a rebuild of the facts.
CREATE TABLE erasures (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id    bigint      NOT NULL REFERENCES tenants,
    visitor_id   text        NOT NULL CHECK (visitor_id ~ '^[0-9a-f]{16}$'), -- as the facts name visitors
    requested_at timestamptz NOT NULL DEFAULT now(),
    erased_at    timestamptz,
    UNIQUE (tenant_id, visitor_id)
);
CREATE INDEX erasures_open ON erasures (id) WHERE erased_at IS NULL;
