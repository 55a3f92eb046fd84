-- Whose order it is, and the erasure of a customer.

-- customer_id: the hash of shared/src/customers.rs; null: not known, or erased. new_customer: whether he was new to
-- the merchant with this conversion, as the merchant said; where he did not say, whether it is the
-- first one of this customer that was recorded; null: neither is known.
ALTER TABLE conversions
    ADD COLUMN customer_id  bytea CHECK (octet_length(customer_id) = 16),
    ADD COLUMN new_customer boolean;
CREATE INDEX conversions_by_customer ON conversions (tenant_id, customer_id) WHERE customer_id IS NOT NULL;

-- Either a visitor or a customer is erased.
ALTER TABLE erasures
    ALTER COLUMN visitor_id DROP NOT NULL,
    ADD COLUMN customer_id bytea CHECK (octet_length(customer_id) = 16),
    ADD CHECK (num_nonnulls(visitor_id, customer_id) = 1),
    ADD UNIQUE (tenant_id, customer_id);
