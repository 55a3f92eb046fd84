-- Configuration: who uses Tributary, what they sell, who promotes it, which links they use.
-- Every row that belongs to a tenant carries tenant_id, and every reference between two such rows
-- is a composite key over it, so that the database itself refuses to join two tenants.

CREATE TABLE tenants (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug        text        NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name        text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    time_zone   text        NOT NULL DEFAULT 'UTC',
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Secrets are random 256-bit values, so one SHA-256 is enough to store them safely.
CREATE TABLE api_keys (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   bigint      NOT NULL REFERENCES tenants,
    name        text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    role        text        NOT NULL CHECK (role IN ('admin', 'analyst')),
    prefix      text        NOT NULL,
    sha256      bytea       NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, id);

CREATE TABLE postback_tokens (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   bigint      NOT NULL REFERENCES tenants,
    name        text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    prefix      text        NOT NULL,
    sha256      bytea       NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);
CREATE INDEX postback_tokens_by_tenant ON postback_tokens (tenant_id, id);

CREATE TABLE users (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     bigint      NOT NULL REFERENCES tenants,
    email         text        NOT NULL CHECK (char_length(email) BETWEEN 3 AND 254),
    password_hash text        NOT NULL, -- Argon2id, PHC string
    role          text        NOT NULL CHECK (role IN ('admin', 'analyst')),
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_by_email ON users (lower(email));
CREATE INDEX users_by_tenant ON users (tenant_id, id);

CREATE TABLE sessions (
    sha256      bytea       PRIMARY KEY CHECK (octet_length(sha256) = 32),
    user_id     bigint      NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL
);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

-- window_seconds: how long after a click a conversion may still be credited to it.
-- hold_seconds: how long a commission stays pending, so that refunds can arrive.
CREATE TABLE programs (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id      bigint      NOT NULL REFERENCES tenants,
    name           text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    currency       text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    window_seconds bigint      NOT NULL CHECK (window_seconds BETWEEN 1 AND 31622400),
    hold_seconds   bigint      NOT NULL CHECK (hold_seconds BETWEEN 0 AND 31622400),
    created_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, id)
);

-- A version of a rule never changes; a change is the next version. A commission names its version.
CREATE TABLE commission_rules (
    id          bigint        GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   bigint        NOT NULL,
    program_id  bigint        NOT NULL,
    version     integer       NOT NULL CHECK (version >= 1),
    percent     numeric(7, 4) NOT NULL CHECK (percent BETWEEN 0 AND 100),
    created_at  timestamptz   NOT NULL DEFAULT now(),
    UNIQUE (program_id, version),
    FOREIGN KEY (tenant_id, program_id) REFERENCES programs (tenant_id, id)
);

CREATE TABLE affiliates (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   bigint      NOT NULL REFERENCES tenants,
    name        text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    email       text        CHECK (char_length(email) BETWEEN 3 AND 254),
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, id)
);

-- A code is unique over all tenants: they share the host that serves /r/{code}.
CREATE TABLE links (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id    bigint      NOT NULL REFERENCES tenants,
    program_id   bigint      NOT NULL,
    affiliate_id bigint      NOT NULL,
    code         text        NOT NULL UNIQUE CHECK (code ~ '^[A-Za-z0-9_-]{1,64}$'),
    destination  text        NOT NULL CHECK (char_length(destination) BETWEEN 1 AND 2048),
    active       boolean     NOT NULL DEFAULT true,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, id),
    FOREIGN KEY (tenant_id, program_id) REFERENCES programs (tenant_id, id),
    FOREIGN KEY (tenant_id, affiliate_id) REFERENCES affiliates (tenant_id, id)
);

-- What changed and has not reached Redis yet. A row names what changed, not what it changed to:
-- the relay reads the present state, so a row delivered twice or late does no harm.
CREATE TABLE edge_outbox (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text        NOT NULL CHECK (kind IN ('link', 'postback_token')),
    entity_id  bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION edge_outbox_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY edge_outbox;
    RETURN NULL;
END $$;
CREATE TRIGGER edge_outbox_notify AFTER INSERT ON edge_outbox
    FOR EACH STATEMENT EXECUTE FUNCTION edge_outbox_notify();

-- The answer to a creating POST, kept so that a retry with the same Idempotency-Key gets it again.
-- scope: the tenant's id, or 'owner'. Secrets are left out of the stored answer.
CREATE TABLE idempotency_keys (
    scope          text        NOT NULL,
    key            text        NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
    request_sha256 bytea       NOT NULL CHECK (octet_length(request_sha256) = 32),
    status         smallint    NOT NULL,
    response       jsonb       NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
