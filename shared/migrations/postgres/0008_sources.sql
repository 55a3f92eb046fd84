-- Webhooks of shop and payment systems as sources of reports, the names by which those know an order, and orders that
-- renew others.

-- Where a tenant's system sends its webhooks: POST /webhooks/{public_id}. secret: what it signs with, sealed for
-- 'webhook:PUBLIC_ID' (shared/src/sealing.rs); old_secret counts beside it until old_secret_ends_at.
CREATE TABLE sources (
    id                 bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id          bigint      NOT NULL REFERENCES tenants,
    name               text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    kind               text        NOT NULL CHECK (kind IN ('stripe', 'shopify')),
    public_id          text        NOT NULL UNIQUE CHECK (public_id ~ '^trw_[A-Za-z0-9_-]{32}$'),
    secret             bytea       NOT NULL,
    old_secret         bytea,
    old_secret_ends_at timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    revoked_at         timestamptz,
    CHECK ((old_secret IS NULL) = (old_secret_ends_at IS NULL))
);
CREATE INDEX sources_by_tenant ON sources (tenant_id, id);

ALTER TABLE edge_outbox
    DROP CONSTRAINT edge_outbox_kind_check,
    ADD CONSTRAINT edge_outbox_kind_check CHECK (kind IN (
        'link', 'postback_token', 'publishable_key', 'source', 'domain', 'program', 'tenant'));

-- renews: a name of the order that this one renews.
ALTER TABLE conversion_reports
    DROP CONSTRAINT conversion_reports_source_check,
    ADD CONSTRAINT conversion_reports_source_check CHECK (source IN ('postback', 'pixel', 'event', 'webhook')),
    ADD COLUMN renews text;
CREATE INDEX conversion_reports_by_renewed ON conversion_reports (tenant_id, renews) WHERE renews IS NOT NULL;
CREATE INDEX conversions_that_renew ON conversions (tenant_id, customer_id) WHERE event = 'renewal';

-- Whose order a name is, such as 'stripe:pi_…' (processor/src/order_names.rs). Once given it stays.
CREATE TABLE order_names (
    tenant_id     bigint NOT NULL,
    name          text   NOT NULL CHECK (char_length(name) BETWEEN 1 AND 128),
    conversion_id uuid   NOT NULL,
    PRIMARY KEY (tenant_id, name),
    FOREIGN KEY (tenant_id, conversion_id) REFERENCES conversions (tenant_id, id)
);
CREATE INDEX order_names_by_conversion ON order_names (conversion_id);

-- Reports that name an order which is not known yet. message: as it came on topic `conversions`.
CREATE TABLE waiting_reports (
    id          uuid        PRIMARY KEY,
    tenant_id   bigint      NOT NULL REFERENCES tenants,
    names       text[]      NOT NULL CHECK (cardinality(names) >= 1),
    message     bytea       NOT NULL,
    reported_at timestamptz NOT NULL
);
CREATE INDEX waiting_reports_by_name ON waiting_reports USING gin (names);
CREATE INDEX waiting_reports_by_time ON waiting_reports (reported_at);
