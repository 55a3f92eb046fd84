-- What the edge does with a click beyond its destination, and whom it serves on which host.

-- fallback_url: for a code that is unknown on the tenant's own domains, and for links that have
-- expired or reached their cap and have none of their own.
-- cookie_domain: what the cookies of a click are set for; null: the host that was clicked.
ALTER TABLE tenants
    ADD COLUMN fallback_url  text CHECK (char_length(fallback_url) BETWEEN 1 AND 2048),
    ADD COLUMN cookie_domain text CHECK (cookie_domain ~ '^[a-z0-9-]+(\.[a-z0-9-]+)+$' AND char_length(cookie_domain) <= 253);

-- override_hosts: where ?url= of a click may lead; *.shop.example: the subdomains of shop.example.
ALTER TABLE programs
    ADD COLUMN override_hosts text[] NOT NULL DEFAULT '{}' CHECK (cardinality(override_hosts) <= 50);

-- routing: variants and routes, in the form in which the API takes them (admin-api/src/routing.rs).
-- capped_since: when the link first got a cap; its clicks count from then.
ALTER TABLE links
    ADD COLUMN routing          jsonb   NOT NULL DEFAULT '{}',
    ADD COLUMN pass_query       boolean NOT NULL DEFAULT false,
    ADD COLUMN expires_at       timestamptz,
    ADD COLUMN click_cap        bigint  CHECK (click_cap BETWEEN 1 AND 1000000000000),
    ADD COLUMN click_cap_period text    NOT NULL DEFAULT 'total' CHECK (click_cap_period IN ('total', 'day')),
    ADD COLUMN capped_since     timestamptz,
    ADD COLUMN fallback_url     text    CHECK (char_length(fallback_url) BETWEEN 1 AND 2048),
    ADD CHECK (click_cap IS NULL OR capped_since IS NOT NULL);
CREATE INDEX links_by_program ON links (program_id, id);
CREATE INDEX links_with_cap ON links (id) WHERE click_cap IS NOT NULL;

-- A host is one tenant's. It is lower case and without a port, as keys of the edge index hold it.
CREATE TABLE domains (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   bigint      NOT NULL REFERENCES tenants,
    host        text        NOT NULL UNIQUE CHECK (host ~ '^[a-z0-9-]+(\.[a-z0-9-]+)+$' AND char_length(host) <= 253),
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX domains_by_tenant ON domains (tenant_id, id);

-- The key stands in the tenant's pages for all to read, so it is stored as it is.
CREATE TABLE publishable_keys (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   bigint      NOT NULL REFERENCES tenants,
    name        text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    key         text        NOT NULL UNIQUE CHECK (key ~ '^trk_pub_[A-Za-z0-9_-]{32}$'),
    origins     text[]      NOT NULL CHECK (cardinality(origins) BETWEEN 1 AND 50),
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);
CREATE INDEX publishable_keys_by_tenant ON publishable_keys (tenant_id, id);

-- A program or tenant stands for all its links: the relay reads them page by page. A domain is named
-- by its host, because it may be gone, or another tenant's, when the relay looks.
ALTER TABLE edge_outbox
    DROP CONSTRAINT edge_outbox_kind_check,
    ALTER COLUMN entity_id DROP NOT NULL,
    ADD COLUMN host text,
    ADD CHECK (kind IN ('link', 'postback_token', 'publishable_key', 'domain', 'program', 'tenant')),
    ADD CHECK ((kind = 'domain') = (host IS NOT NULL)),
    ADD CHECK ((kind = 'domain') = (entity_id IS NULL));
