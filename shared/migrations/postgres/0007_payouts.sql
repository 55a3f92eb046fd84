-- Payouts: what affiliates are paid. A payout takes what is available of an affiliate in one currency, less its debts,
-- and carries it through its states. Where the money of each commission stands is the ledger's business: a payout holds
-- parts of commissions (payout_items), and moves them from account to account (processor/src/payouts/).

-- What a tenant says of its payouts. schedule: when they are drafted by themselves (monthly: on day_of_month, in the
-- tenant's time zone), from the day after scheduled_at on, when that was decided. approvals: how many different people must
-- approve before money leaves. minimums: by currency, what has to be available. fees: what sending costs the affiliate, by
-- method and currency (both: shared/src/payouts/terms.rs).
CREATE TABLE payout_terms (
    tenant_id    bigint      PRIMARY KEY REFERENCES tenants,
    schedule     text        NOT NULL DEFAULT 'on_request' CHECK (schedule IN ('daily', 'monthly', 'on_request')),
    day_of_month smallint    NOT NULL DEFAULT 1 CHECK (day_of_month BETWEEN 1 AND 28),
    scheduled_at timestamptz NOT NULL DEFAULT now(),
    approvals    smallint    NOT NULL DEFAULT 1 CHECK (approvals BETWEEN 0 AND 2),
    minimums     jsonb       NOT NULL DEFAULT '{}', -- {"USD": "50.00"}
    fees         jsonb       NOT NULL DEFAULT '[]', -- [{"method": "paypal", "currency": "USD", "percent": "2", "fixed": "0.25", "maximum": "20.00"}]
    updated_at   timestamptz NOT NULL DEFAULT now()
);

-- payout_method: shared/src/payouts/method.rs, sealed (shared/src/sealing.rs, purpose 'affiliate:ID:payout_method');
-- null: he can't be paid yet. withholding_percent: what of each payout is kept back as tax.
ALTER TABLE affiliates
    ADD COLUMN payout_method       bytea,
    ADD COLUMN withholding_percent numeric(7, 4) NOT NULL DEFAULT 0 CHECK (withholding_percent BETWEEN 0 AND 100);

-- An account of the tenant's at a provider that sends money. credentials: sealed, purpose 'payout_provider:TENANT:KIND'.
CREATE TABLE payout_providers (
    tenant_id   bigint      NOT NULL REFERENCES tenants,
    kind        text        NOT NULL CHECK (kind IN ('paypal', 'stripe_connect')),
    credentials bytea       NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, kind)
);

-- A drafting of payouts: by the schedule (due_on), or because somebody asked (requested_by), of all affiliates or of one.
CREATE TABLE payout_runs (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id    bigint      NOT NULL REFERENCES tenants,
    due_on       date,
    requested_by text        CHECK (char_length(requested_by) BETWEEN 1 AND 254),
    affiliate_id bigint,
    currency     text        CHECK (currency ~ '^[A-Z]{3}$'),
    created_at   timestamptz NOT NULL DEFAULT now(),
    done_at      timestamptz,
    drafted      integer     NOT NULL DEFAULT 0,
    left_out     jsonb       NOT NULL DEFAULT '{}', -- why others got none, with how many: {"below_minimum": 3}
    CHECK ((due_on IS NULL) <> (requested_by IS NULL)),
    UNIQUE (tenant_id, due_on),
    UNIQUE (tenant_id, id),
    FOREIGN KEY (tenant_id, affiliate_id) REFERENCES affiliates (tenant_id, id)
);
CREATE INDEX payout_runs_to_do ON payout_runs (id) WHERE done_at IS NULL;

-- amount: what leaves the affiliate's accounts, the sum of its items; net is what is sent to him.
-- method: as of the draft, sealed with purpose 'payout:ID:method'; method_kind is its kind.
-- attempt: how often it was tried anew after it had failed; with the id it is the provider's idempotency key.
-- provider: whose hands it was given into; null: nobody's, or it is sent by a file or by hand.
-- booked: whether the ledger has followed a final state (paid, cancelled).
CREATE TABLE payouts (
    id           uuid           PRIMARY KEY,
    tenant_id    bigint         NOT NULL REFERENCES tenants,
    run_id       bigint         NOT NULL,
    affiliate_id bigint         NOT NULL,
    currency     text           NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    state        text           NOT NULL CHECK (state IN ('draft', 'approved', 'sent', 'paid', 'failed', 'cancelled')),
    amount       numeric(20, 4) NOT NULL CHECK (amount > 0),
    fee          numeric(20, 4) NOT NULL DEFAULT 0 CHECK (fee >= 0),
    withheld     numeric(20, 4) NOT NULL DEFAULT 0 CHECK (withheld >= 0),
    net          numeric(20, 4) NOT NULL GENERATED ALWAYS AS (amount - fee - withheld) STORED CHECK (net > 0),
    method       bytea          NOT NULL,
    method_kind  text           NOT NULL CHECK (method_kind IN ('paypal', 'sepa', 'bank', 'stripe_connect', 'manual')),
    reference    text           NOT NULL CHECK (char_length(reference) BETWEEN 1 AND 140), -- what the affiliate reads
    approved_by  text[]         NOT NULL DEFAULT '{}',
    attempt      integer        NOT NULL DEFAULT 0,
    provider     text           CHECK (provider IN ('paypal', 'stripe_connect')),
    provider_reference text,    -- the provider's or the bank's name for it
    failure      text,          -- why it failed last
    booked       boolean        NOT NULL DEFAULT false,
    send_at      timestamptz,   -- not before then it is given to its provider, or asked about there; null: at once
    created_at   timestamptz    NOT NULL,
    approved_at  timestamptz,
    sent_at      timestamptz,
    closed_at    timestamptz,   -- paid or cancelled
    UNIQUE (tenant_id, id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES payout_runs (tenant_id, id),
    FOREIGN KEY (tenant_id, affiliate_id) REFERENCES affiliates (tenant_id, id),
    CHECK ((state IN ('paid', 'cancelled')) = (closed_at IS NOT NULL)),
    CHECK (NOT booked OR closed_at IS NOT NULL)
);
-- One at a time for an affiliate and currency, until the ledger has followed: what becomes available meanwhile is the next one's.
CREATE UNIQUE INDEX payouts_open ON payouts (tenant_id, affiliate_id, currency) WHERE NOT booked;
CREATE INDEX payouts_by_time ON payouts (tenant_id, created_at DESC, id DESC);
CREATE INDEX payouts_by_affiliate ON payouts (tenant_id, affiliate_id, created_at DESC, id DESC);
CREATE INDEX payouts_to_book ON payouts (id) WHERE closed_at IS NOT NULL AND NOT booked;
CREATE INDEX payouts_by_run ON payouts (run_id);
CREATE INDEX payouts_to_send ON payouts (id) WHERE state IN ('approved', 'sent') AND method_kind IN ('paypal', 'stripe_connect');

-- The part of each commission that a payout pays; negative: a debt that it settles.
CREATE TABLE payout_items (
    tenant_id     bigint         NOT NULL,
    payout_id     uuid           NOT NULL,
    commission_id uuid           NOT NULL,
    amount        numeric(20, 4) NOT NULL CHECK (amount <> 0),
    PRIMARY KEY (payout_id, commission_id),
    FOREIGN KEY (tenant_id, payout_id) REFERENCES payouts (tenant_id, id),
    FOREIGN KEY (tenant_id, commission_id) REFERENCES commissions (tenant_id, id)
);
CREATE INDEX payout_items_by_commission ON payout_items (commission_id);

-- What became of a payout, and who did it. Kept for ever.
CREATE TABLE payout_events (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint      NOT NULL,
    payout_id uuid        NOT NULL,
    at        timestamptz NOT NULL,
    actor     text        NOT NULL CHECK (char_length(actor) BETWEEN 1 AND 254), -- a person, a key, 'the schedule', a provider
    state     text        NOT NULL, -- in which it is since
    text      text        NOT NULL DEFAULT '' CHECK (char_length(text) <= 1000),
    FOREIGN KEY (tenant_id, payout_id) REFERENCES payouts (tenant_id, id)
);
CREATE INDEX payout_events_by_payout ON payout_events (payout_id, id);
CREATE TRIGGER payout_events_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON payout_events
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_kept();

-- Whoever works on payouts is told that there is something to do.
CREATE FUNCTION payouts_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY payouts_to_do;
    RETURN NULL;
END $$;
CREATE TRIGGER payout_runs_notify AFTER INSERT ON payout_runs
    FOR EACH STATEMENT EXECUTE FUNCTION payouts_notify();
CREATE TRIGGER payouts_notify AFTER UPDATE ON payouts
    FOR EACH STATEMENT EXECUTE FUNCTION payouts_notify();
CREATE TRIGGER payout_providers_notify AFTER INSERT OR UPDATE ON payout_providers
    FOR EACH STATEMENT EXECUTE FUNCTION payouts_notify();

-- What can be paid out, or is owed back, of an affiliate: few of all his commissions.
CREATE INDEX commissions_to_pay ON commissions (tenant_id, affiliate_id, currency, id) WHERE available <> 0 OR clawback <> 0;

-- What a payout moves is posted for each commission, with both named. That it was paid is a transaction of its own, of no
-- commission: how the affiliate's money (payouts) was discharged, in what was sent, in fees and in tax withheld.
ALTER TABLE ledger_transactions
    ALTER COLUMN commission_id DROP NOT NULL,
    ADD COLUMN payout_id uuid,
    ADD FOREIGN KEY (tenant_id, payout_id) REFERENCES payouts (tenant_id, id),
    ADD CHECK (commission_id IS NOT NULL OR payout_id IS NOT NULL);
CREATE INDEX ledger_transactions_by_payout ON ledger_transactions (payout_id) WHERE payout_id IS NOT NULL;
ALTER TABLE ledger_accounts
    DROP CONSTRAINT ledger_accounts_kind_check,
    DROP CONSTRAINT ledger_accounts_check,
    ADD CHECK (kind IN ('commission_expense', 'payouts', 'payouts_sent', 'payout_fees', 'tax_withheld',
                        'pending', 'available', 'in_payout', 'paid', 'clawback')),
    ADD CHECK ((kind IN ('commission_expense', 'payouts', 'payouts_sent', 'payout_fees', 'tax_withheld')) = (affiliate_id IS NULL));

-- Invariant 4: from any ledger entry one query leads to conversion, rule version, path and click, and to the payout.
DROP VIEW ledger_explained;
CREATE VIEW ledger_explained AS
SELECT e.id AS entry_id, e.tenant_id, e.amount, e.currency, a.kind AS account, a.affiliate_id,
       t.operation_key, t.reason, t.posted_at,
       m.id AS commission_id, m.part, m.state, m.hold_until, m.rule_id, m.rule_version, m.basis, m.steps,
       c.id AS conversion_id, c.order_id, c.event, c.accepted_at, c.status, c.attribution, c.model, c.click_id,
       c.link_id, c.path,
       p.id AS payout_id, p.state AS payout_state, p.amount AS payout_amount, p.reference AS payout_reference
FROM ledger_entries e
JOIN ledger_accounts a ON a.id = e.account_id
JOIN ledger_transactions t ON t.id = e.transaction_id
LEFT JOIN commissions m ON m.id = t.commission_id
LEFT JOIN conversions c ON c.id = m.conversion_id
LEFT JOIN payouts p ON p.id = t.payout_id;
