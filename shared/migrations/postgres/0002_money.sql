-- Conversions, commissions and the ledger.
-- Amounts are numeric(20, 4): four decimals hold the minor unit of every ISO 4217 currency.

-- One row per (tenant, order_id, event), however often the order is delivered.
-- attribution: why this conversion was credited, or why it was not.
CREATE TABLE conversions (
    id            uuid           PRIMARY KEY,
    tenant_id     bigint         NOT NULL REFERENCES tenants,
    order_id      text           NOT NULL CHECK (char_length(order_id) BETWEEN 1 AND 128),
    event         text           NOT NULL CHECK (event ~ '^[a-z0-9_]{1,32}$'),
    amount        numeric(20, 4) NOT NULL CHECK (amount >= 0),
    currency      text           NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    accepted_at   timestamptz    NOT NULL,
    attribution   text           NOT NULL CHECK (attribution IN (
                      'click_token', 'no_click', 'bad_click_token', 'unknown_link',
                      'other_tenant', 'outside_window')),
    path          jsonb          NOT NULL DEFAULT '[]', -- every touchpoint that was considered
    click_id      text,
    link_id       bigint,
    affiliate_id  bigint,
    program_id    bigint,
    recorded_at   timestamptz    NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, order_id, event),
    UNIQUE (tenant_id, id),
    FOREIGN KEY (tenant_id, link_id) REFERENCES links (tenant_id, id),
    FOREIGN KEY (tenant_id, affiliate_id) REFERENCES affiliates (tenant_id, id),
    FOREIGN KEY (tenant_id, program_id) REFERENCES programs (tenant_id, id),
    CHECK ((attribution = 'click_token') = (link_id IS NOT NULL)),
    CHECK ((link_id IS NULL) = (affiliate_id IS NULL) AND (link_id IS NULL) = (program_id IS NULL))
);
CREATE INDEX conversions_by_time ON conversions (tenant_id, accepted_at DESC, id DESC);

CREATE TABLE commissions (
    id            uuid           PRIMARY KEY,
    tenant_id     bigint         NOT NULL REFERENCES tenants,
    conversion_id uuid           NOT NULL,
    program_id    bigint         NOT NULL,
    affiliate_id  bigint         NOT NULL,
    link_id       bigint         NOT NULL,
    rule_id       bigint         NOT NULL REFERENCES commission_rules,
    rule_version  integer        NOT NULL,
    percent       numeric(7, 4)  NOT NULL,
    basis         numeric(20, 4) NOT NULL CHECK (basis >= 0), -- the amount that the percentage was taken of
    amount        numeric(20, 4) NOT NULL CHECK (amount >= 0),
    currency      text           NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    state         text           NOT NULL CHECK (state IN ('pending', 'approved', 'paid', 'rejected')),
    hold_until    timestamptz    NOT NULL,
    created_at    timestamptz    NOT NULL,
    UNIQUE (conversion_id, affiliate_id),
    UNIQUE (tenant_id, id),
    FOREIGN KEY (tenant_id, conversion_id) REFERENCES conversions (tenant_id, id),
    FOREIGN KEY (tenant_id, program_id) REFERENCES programs (tenant_id, id),
    FOREIGN KEY (tenant_id, affiliate_id) REFERENCES affiliates (tenant_id, id),
    FOREIGN KEY (tenant_id, link_id) REFERENCES links (tenant_id, id)
);
CREATE INDEX commissions_by_time ON commissions (tenant_id, created_at DESC, id DESC);
CREATE INDEX commissions_by_affiliate ON commissions (tenant_id, affiliate_id, created_at DESC);

-- An account holds one currency of one owner. The tenant's own account (affiliate_id null) is what
-- commissions are charged to; an affiliate's accounts are what it is owed, by state.
CREATE TABLE ledger_accounts (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id    bigint NOT NULL REFERENCES tenants,
    affiliate_id bigint,
    kind         text   NOT NULL CHECK (kind IN ('commission_expense', 'pending', 'available', 'paid')),
    currency     text   NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    UNIQUE NULLS NOT DISTINCT (tenant_id, affiliate_id, kind, currency),
    UNIQUE (tenant_id, id, currency),
    FOREIGN KEY (tenant_id, affiliate_id) REFERENCES affiliates (tenant_id, id),
    CHECK ((kind = 'commission_expense') = (affiliate_id IS NULL))
);

-- operation_key names the business operation, e.g. 'commission:<id>:earned'; it can be posted once.
CREATE TABLE ledger_transactions (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     bigint      NOT NULL REFERENCES tenants,
    operation_key text        NOT NULL CHECK (char_length(operation_key) BETWEEN 1 AND 200),
    commission_id uuid        NOT NULL,
    posted_at     timestamptz NOT NULL,
    UNIQUE (tenant_id, operation_key),
    UNIQUE (tenant_id, id),
    FOREIGN KEY (tenant_id, commission_id) REFERENCES commissions (tenant_id, id)
);

-- amount: positive is owed to the account's owner, negative is charged to it.
CREATE TABLE ledger_entries (
    id             bigint         GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id      bigint         NOT NULL,
    transaction_id bigint         NOT NULL,
    account_id     bigint         NOT NULL,
    amount         numeric(20, 4) NOT NULL CHECK (amount <> 0),
    currency       text           NOT NULL,
    FOREIGN KEY (tenant_id, transaction_id) REFERENCES ledger_transactions (tenant_id, id),
    FOREIGN KEY (tenant_id, account_id, currency) REFERENCES ledger_accounts (tenant_id, id, currency)
);
CREATE INDEX ledger_entries_by_transaction ON ledger_entries (transaction_id);
CREATE INDEX ledger_entries_by_account ON ledger_entries (account_id, id);

-- Invariant 3, kept by the database itself: a transaction sums to zero in each currency ...
CREATE FUNCTION ledger_must_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM ledger_entries WHERE transaction_id = NEW.transaction_id
               GROUP BY currency HAVING sum(amount) <> 0) THEN
        RAISE EXCEPTION 'ledger transaction % does not sum to zero', NEW.transaction_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_entries_balance AFTER INSERT ON ledger_entries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_must_balance();

-- ... and no entry, once written, is changed or taken away.
CREATE FUNCTION ledger_is_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: post a correcting transaction instead of % on %', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER ledger_transactions_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_immutable();
CREATE TRIGGER ledger_entries_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_immutable();

-- Invariant 4: from any ledger entry one query leads to conversion, rule version, path and click.
CREATE VIEW ledger_explained AS
SELECT e.id AS entry_id, e.tenant_id, e.amount, e.currency, a.kind AS account, a.affiliate_id,
       t.operation_key, t.posted_at,
       m.id AS commission_id, m.state, m.hold_until, m.rule_id, m.rule_version, m.percent, m.basis,
       c.id AS conversion_id, c.order_id, c.event, c.accepted_at, c.attribution, c.click_id, c.link_id, c.path
FROM ledger_entries e
JOIN ledger_accounts a ON a.id = e.account_id
JOIN ledger_transactions t ON t.id = e.transaction_id
JOIN commissions m ON m.id = t.commission_id
JOIN conversions c ON c.id = m.conversion_id;

-- What the ledger did and Kafka has not acknowledged yet; the relay deletes what it delivered.
CREATE TABLE ledger_outbox (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id  bigint      NOT NULL, -- the message's key
    payload    bytea       NOT NULL, -- a LedgerEvent, shared/proto/ledger.proto
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE FUNCTION ledger_outbox_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY ledger_outbox;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_outbox_notify AFTER INSERT ON ledger_outbox
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_outbox_notify();
