-- From one report of an order to any number: what the merchant said at which time stands in conversion_reports, what
-- people decided in conversion_decisions. A conversion is what follows from both (processor/src/settle/): its row
-- and its commissions are computed again whenever one of them grows, and the ledger gets the difference.

-- tier, groups and tags: by what commission rules choose (shared/src/commission). parent_id: who gets the uplines' part.
ALTER TABLE affiliates
    ADD COLUMN parent_id bigint,
    ADD COLUMN tier      text   CHECK (char_length(tier) BETWEEN 1 AND 64),
    ADD COLUMN groups    text[] NOT NULL DEFAULT '{}' CHECK (cardinality(groups) <= 50),
    ADD COLUMN tags      text[] NOT NULL DEFAULT '{}' CHECK (cardinality(tags) <= 50),
    ADD COLUMN certifications text[] NOT NULL DEFAULT '{}' CHECK (cardinality(certifications) <= 50),
    ADD FOREIGN KEY (tenant_id, parent_id) REFERENCES affiliates (tenant_id, id),
    ADD CHECK (parent_id <> id);
CREATE INDEX affiliates_by_parent ON affiliates (tenant_id, parent_id) WHERE parent_id IS NOT NULL;

-- model: how a conversion is shared out over the clicks that led to it (processor/src/attribute.rs).
-- pay_in: whether commissions are in the order's currency or in the program's.
-- upline_percents: what the parent, its parent and so on get, of the commission or of the order (upline_of).
ALTER TABLE programs
    ADD COLUMN model           text    NOT NULL DEFAULT 'last_click' CHECK (model IN (
                                   'last_click', 'first_click', 'linear', 'time_decay', 'position_based')),
    ADD COLUMN pay_in          text    NOT NULL DEFAULT 'order' CHECK (pay_in IN ('order', 'program')),
    ADD COLUMN upline_percents numeric(7, 4)[] NOT NULL DEFAULT '{10,3,1}' CHECK (
                                   cardinality(upline_percents) <= 10 AND 0 <= ALL (upline_percents) AND 100 >= ALL (upline_percents)),
    ADD COLUMN upline_of       text    NOT NULL DEFAULT 'commission' CHECK (upline_of IN ('commission', 'order'));

-- fraud: what each signal does, where the program wants it otherwise than processor/src/settle/judge.rs.
ALTER TABLE programs ADD COLUMN fraud jsonb NOT NULL DEFAULT '{}';

-- What a tenant wants nothing of. value: an affiliate's id, an address or a range of them, a network's number and name as
-- the facts have it, a referring site, a customer's hash in hexadecimal digits, the domain of an e-mail address.
CREATE TABLE blocked (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id  bigint      NOT NULL REFERENCES tenants,
    kind       text        NOT NULL CHECK (kind IN ('affiliate', 'address', 'network', 'referrer', 'customer', 'email_domain')),
    value      text        NOT NULL CHECK (char_length(value) BETWEEN 1 AND 253 AND (kind <> 'address' OR value::inet IS NOT NULL)),
    reason     text        NOT NULL DEFAULT '' CHECK (char_length(reason) <= 1000),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, kind, value)
);

-- A program has any number of rules, each by its name; 'base' is the percentage that the program was made with.
-- document: shared/src/commission/rule.rs. An inactive version takes the rule out of force from then on.
ALTER TABLE commission_rules
    ADD COLUMN name     text    NOT NULL DEFAULT 'base' CHECK (char_length(name) BETWEEN 1 AND 64),
    ADD COLUMN document jsonb,
    ADD COLUMN active   boolean NOT NULL DEFAULT true,
    DROP CONSTRAINT commission_rules_program_id_version_key,
    ADD UNIQUE (program_id, name, version);
UPDATE commission_rules SET document = jsonb_build_object(
    'events', '[]'::jsonb, 'reward', jsonb_build_object('kind', 'percent', 'percent', trim_scale(percent)::text));
ALTER TABLE commission_rules
    ALTER COLUMN document SET NOT NULL,
    DROP COLUMN percent;
CREATE FUNCTION rule_versions_are_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a version of a commission rule never changes: add the next version instead of % on %', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER commission_rules_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON commission_rules
    FOR EACH STATEMENT EXECUTE FUNCTION rule_versions_are_immutable();

-- What one unit of base costs in quote, from valid_from until the next rate of the pair.
CREATE TABLE exchange_rates (
    id         bigint          GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id  bigint          NOT NULL REFERENCES tenants,
    base       text            NOT NULL CHECK (base ~ '^[A-Z]{3}$'),
    quote      text            NOT NULL CHECK (quote ~ '^[A-Z]{3}$' AND quote <> base),
    rate       numeric(20, 10) NOT NULL CHECK (rate > 0),
    valid_from timestamptz     NOT NULL,
    UNIQUE (tenant_id, base, quote, valid_from)
);

-- A code that an affiliate gives to its public; who uses it was brought by the affiliate. One that was ended keeps what it
-- brought until then.
CREATE TABLE coupons (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id    bigint      NOT NULL REFERENCES tenants,
    code         text        NOT NULL CHECK (char_length(code) BETWEEN 1 AND 64),
    program_id   bigint      NOT NULL,
    affiliate_id bigint      NOT NULL,
    active       boolean     NOT NULL DEFAULT true,
    ended_at     timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    CHECK (active = (ended_at IS NULL)),
    FOREIGN KEY (tenant_id, program_id) REFERENCES programs (tenant_id, id),
    FOREIGN KEY (tenant_id, affiliate_id) REFERENCES affiliates (tenant_id, id)
);
CREATE UNIQUE INDEX coupons_by_code ON coupons (tenant_id, lower(code));

-- accepted_at is the first recorded report's and never changes; converted_at is the earliest report's, which may
-- be recorded later. path: every touchpoint that was considered, with its share. amount less refunded is what counts.
-- settle_at: when something is to be done about the conversion next (processor/src/settle); null: nothing, until
-- somebody says something. looks: how often the facts were asked for its clicks.
-- model: by which it was shared out; it stays so when the program chooses another one, until a replay says otherwise.
-- rules_at: a replay had it priced by the rules of that time; null: by those of converted_at.
-- verdict: the strongest of what the signals say; signals: each with what it does and why. A verdict of hold or reject
-- waits for a person's decision.
-- version: of what was published of it.
ALTER TABLE conversions
    ADD COLUMN status       text           NOT NULL DEFAULT 'pending' CHECK (status IN (
                                'lead', 'pending', 'approved', 'rejected', 'refunded')),
    ADD COLUMN refunded     numeric(20, 4) NOT NULL DEFAULT 0 CHECK (refunded BETWEEN 0 AND amount),
    ADD COLUMN converted_at timestamptz,
    ADD COLUMN model        text           CHECK (model IN (
                                'last_click', 'first_click', 'linear', 'time_decay', 'position_based')),
    ADD COLUMN rules_at     timestamptz,
    ADD COLUMN coupon       text,
    ADD COLUMN items        jsonb          NOT NULL DEFAULT '[]',
    ADD COLUMN note         text,          -- why it earns nothing, or what could not be followed; for people
    ADD COLUMN verdict      text           NOT NULL DEFAULT 'clear' CHECK (verdict IN ('clear', 'flag', 'hold', 'reject')),
    ADD COLUMN signals      jsonb          NOT NULL DEFAULT '[]',
    ADD COLUMN settle_at    timestamptz    DEFAULT now(),
    ADD COLUMN looks        smallint       NOT NULL DEFAULT 0,
    ADD COLUMN version      bigint         NOT NULL DEFAULT 1,
    DROP CONSTRAINT conversions_attribution_check,
    DROP CONSTRAINT conversions_check,
    DROP CONSTRAINT conversions_check1,
    ADD CHECK (attribution IN ('click_token', 'coupon', 'visitor', 'fingerprint',
        'no_click', 'bad_click_token', 'unknown_link', 'other_tenant', 'outside_window')),
    ADD CHECK ((attribution IN ('click_token', 'coupon', 'visitor', 'fingerprint')) = (affiliate_id IS NOT NULL)),
    ADD CHECK ((affiliate_id IS NULL) = (program_id IS NULL)),
    ADD CHECK (link_id IS NULL OR affiliate_id IS NOT NULL);
UPDATE conversions SET converted_at = accepted_at, settle_at = NULL;
ALTER TABLE conversions ALTER COLUMN converted_at SET NOT NULL;
CREATE INDEX conversions_by_conversion ON conversions (converted_at, id);
CREATE INDEX conversions_to_review ON conversions (tenant_id, verdict, accepted_at DESC, id DESC) WHERE verdict <> 'clear';
CREATE INDEX conversions_to_settle ON conversions (settle_at) WHERE settle_at IS NOT NULL;

-- id: of what the report says and when it was accepted (processor/src/reports.rs), so that one that is delivered again is known.
-- words: of what it says alone. A report is never changed, but loses its customer when he is erased.
CREATE TABLE conversion_reports (
    id            uuid        PRIMARY KEY,
    words         uuid        NOT NULL,
    tenant_id     bigint      NOT NULL,
    conversion_id uuid        NOT NULL,
    reported_at   timestamptz NOT NULL,
    source        text        NOT NULL CHECK (source IN ('postback', 'pixel', 'event')),
    status        text        CHECK (status IN ('lead', 'pending', 'approved', 'rejected', 'refunded')),
    report_id     text,
    amount        numeric(20, 4) CHECK (amount >= 0),
    currency      text        CHECK (currency ~ '^[A-Z]{3}$'),
    click_id      text,
    coupon        text,
    customer_id   bytea       CHECK (octet_length(customer_id) = 16),
    new_customer  boolean,
    items         jsonb       NOT NULL DEFAULT '[]',
    visitor_id    bytea       CHECK (octet_length(visitor_id) = 16),
    fingerprint   bytea       CHECK (octet_length(fingerprint) = 16),
    address       inet,
    user_agent    text,
    email_domain  text,
    FOREIGN KEY (tenant_id, conversion_id) REFERENCES conversions (tenant_id, id),
    CHECK ((amount IS NULL) = (currency IS NULL) OR (status = 'refunded' AND amount IS NULL))
);
CREATE INDEX conversions_without_rate ON conversions (tenant_id) WHERE starts_with(note, 'there is no rate');
CREATE INDEX conversion_reports_by_conversion ON conversion_reports (conversion_id);
CREATE INDEX conversion_reports_by_address ON conversion_reports (tenant_id, address, reported_at) WHERE address IS NOT NULL;
CREATE INDEX conversion_reports_by_visitor ON conversion_reports (tenant_id, substring(visitor_id FROM 9)) WHERE visitor_id IS NOT NULL;
CREATE INDEX conversion_reports_by_customer ON conversion_reports (tenant_id, customer_id) WHERE customer_id IS NOT NULL;
INSERT INTO conversion_reports (id, words, tenant_id, conversion_id, reported_at, source, amount, currency, click_id, customer_id, new_customer)
SELECT id, id, tenant_id, id, accepted_at, 'postback', amount, currency, click_id, customer_id, new_customer FROM conversions;

-- What a person decided. The latest decision counts, above what the merchant says and above the fraud signals.
CREATE TABLE conversion_decisions (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     bigint      NOT NULL,
    conversion_id uuid        NOT NULL,
    decision      text        NOT NULL CHECK (decision IN ('approve', 'reject', 'reinstate')),
    reason        text        NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 1000),
    decided_by    text        NOT NULL CHECK (char_length(decided_by) BETWEEN 1 AND 254),
    decided_at    timestamptz NOT NULL,
    FOREIGN KEY (tenant_id, conversion_id) REFERENCES conversions (tenant_id, id)
);
CREATE INDEX conversion_decisions_by_conversion ON conversion_decisions (conversion_id, id);

CREATE FUNCTION history_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what was reported and decided is kept: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER conversion_decisions_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON conversion_decisions
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_kept();
CREATE TRIGGER conversion_reports_kept BEFORE DELETE OR TRUNCATE ON conversion_reports
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_kept();

-- part: what of the conversion it is: 'direct', 'upline 1' ..., 'bonus NAME'. amount is what it is worth now, after refunds;
-- the five below it say where in the ledger that stands, and sum to what was posted of it.
-- steps: how it came about, in words and numbers (shared/src/commission/explain.rs). parts: what each rule gave of it, and
-- what of that counts towards the rule's cap. rate: what one unit of its currency was taken to be, where currencies differ.
ALTER TABLE commissions
    ADD COLUMN part       text           NOT NULL DEFAULT 'direct' CHECK (char_length(part) BETWEEN 1 AND 80),
    ADD COLUMN gross      numeric(20, 4) CHECK (gross >= 0), -- before refunds
    ADD COLUMN steps      jsonb          NOT NULL DEFAULT '[]',
    ADD COLUMN parts      jsonb          NOT NULL DEFAULT '[]',
    ADD COLUMN rate       jsonb,
    ADD COLUMN pending    numeric(20, 4) NOT NULL DEFAULT 0,
    ADD COLUMN available  numeric(20, 4) NOT NULL DEFAULT 0,
    ADD COLUMN in_payout  numeric(20, 4) NOT NULL DEFAULT 0,
    ADD COLUMN paid       numeric(20, 4) NOT NULL DEFAULT 0,
    ADD COLUMN clawback   numeric(20, 4) NOT NULL DEFAULT 0,
    ADD COLUMN postings   integer        NOT NULL DEFAULT 0,
    ADD COLUMN version    bigint         NOT NULL DEFAULT 1,
    ALTER COLUMN link_id DROP NOT NULL,
    DROP CONSTRAINT commissions_conversion_id_affiliate_id_key,
    DROP CONSTRAINT commissions_state_check;
UPDATE commissions SET gross = amount, pending = amount, postings = CASE WHEN amount > 0 THEN 1 ELSE 0 END;
ALTER TABLE commissions
    ALTER COLUMN gross SET NOT NULL,
    DROP COLUMN percent CASCADE, -- and ledger_explained, which comes back below
    ADD UNIQUE (conversion_id, affiliate_id, part, currency),
    ADD CHECK (state IN ('pending', 'approved', 'paid', 'rejected', 'clawed_back')),
    ADD CHECK (pending + available + in_payout + paid + clawback = amount);

CREATE INDEX ledger_transactions_by_commission ON ledger_transactions (tenant_id, commission_id);

-- reason: why it was posted: earned, changed, approved, refunded, rejected, reinstated ...
ALTER TABLE ledger_transactions ADD COLUMN reason text NOT NULL DEFAULT 'earned';
ALTER TABLE ledger_accounts
    DROP CONSTRAINT ledger_accounts_kind_check,
    ADD CHECK (kind IN ('commission_expense', 'pending', 'available', 'in_payout', 'paid', 'clawback'));

-- All entries of a transaction are written by one statement, which must balance: so it does from the first moment, and no
-- later statement can put it out of balance.
DROP TRIGGER ledger_entries_balance ON ledger_entries;
DROP FUNCTION ledger_must_balance();
CREATE FUNCTION ledger_must_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong bigint;
BEGIN
    SELECT transaction_id INTO wrong FROM written GROUP BY transaction_id, currency HAVING sum(amount) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger transaction % does not sum to zero', wrong USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    -- In the order of accounts, so that two writers never wait for each other.
    INSERT INTO ledger_balances AS b (account_id, balance)
    SELECT w.account_id, sum(w.amount) FROM written w
    JOIN ledger_accounts a ON a.id = w.account_id AND a.affiliate_id IS NOT NULL
    GROUP BY w.account_id ORDER BY w.account_id
    ON CONFLICT (account_id) DO UPDATE SET balance = b.balance + EXCLUDED.balance;
    RETURN NULL;
END $$;

-- What an affiliate's account holds: the sum of its entries, kept by the trigger, compared and rebuilt by
-- `processor balances`. A tenant's own account has none, as every posting of the tenant would wait for it.
CREATE TABLE ledger_balances (
    account_id bigint         PRIMARY KEY REFERENCES ledger_accounts,
    balance    numeric(20, 4) NOT NULL
);
INSERT INTO ledger_balances
SELECT e.account_id, sum(e.amount) FROM ledger_entries e
JOIN ledger_accounts a ON a.id = e.account_id AND a.affiliate_id IS NOT NULL GROUP BY e.account_id;
CREATE TRIGGER ledger_entries_balance AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION ledger_must_balance();

-- Invariant 4: from any ledger entry one query leads to conversion, rule version, path and click.
DROP VIEW IF EXISTS ledger_explained;
CREATE VIEW ledger_explained AS
SELECT e.id AS entry_id, e.tenant_id, e.amount, e.currency, a.kind AS account, a.affiliate_id,
       t.operation_key, t.reason, t.posted_at,
       m.id AS commission_id, m.part, m.state, m.hold_until, m.rule_id, m.rule_version, m.basis, m.steps,
       c.id AS conversion_id, c.order_id, c.event, c.accepted_at, c.status, c.attribution, c.model, c.click_id,
       c.link_id, c.path
FROM ledger_entries e
JOIN ledger_accounts a ON a.id = e.account_id
JOIN ledger_transactions t ON t.id = e.transaction_id
JOIN commissions m ON m.id = t.commission_id
JOIN conversions c ON c.id = m.conversion_id;

-- Whoever settles is told that there is something to settle.
CREATE FUNCTION conversions_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY conversions_to_settle;
    RETURN NULL;
END $$;
CREATE TRIGGER conversion_decisions_notify AFTER INSERT ON conversion_decisions
    FOR EACH STATEMENT EXECUTE FUNCTION conversions_notify();
