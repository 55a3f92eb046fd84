//! A run → payouts: for each affiliate and currency one, of all that is available less what he owes, where the tenant's terms
//! and the affiliate allow it. Why others got none is counted in the run.
//!
//! A payout is drafted in one transaction with all that it moves; the run's row is locked meanwhile, so that processors which
//! work on one run take turns. A run that was broken off begins anew: who has an open payout is passed over.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tributary_shared::clock::Clock;
use tributary_shared::ids::{AffiliateId, TenantId, new_uuid_v7};
use tributary_shared::money::{Currency, Money};
use tributary_shared::payouts::{Fee, Method, Split, Terms};
use tributary_shared::sealing::SealingKeys;
use uuid::Uuid;

use super::carry::{self, Carry, Of};
use super::is_permanent;

/// Affiliates that are looked at together.
const AT_ONCE: i64 = 500;
/// Most commissions of one payout; debts come first, and the rest is the next one's.
const MAX_COMMISSIONS: i64 = 100_000;
/// Longest reference, in characters.
const MAX_REFERENCE_CHARS: usize = 140;

/// What of these conversions ($4) is to be paid: not of one that is to be settled first.
macro_rules! to_pay {
    () => {
        "FROM commissions m JOIN conversions c ON c.id = m.conversion_id
         WHERE m.tenant_id = $1 AND m.affiliate_id = $2 AND m.currency = $3 AND m.conversion_id = ANY($4)
           AND m.available + m.clawback <> 0 AND (c.settle_at IS NULL OR c.settle_at > $5)"
    };
}

/// Drafts payouts.
#[derive(Debug)]
pub(super) struct Drafter {
    pub(super) pool: PgPool,
    pub(super) clock: Clock,
    pub(super) keys: SealingKeys,
    pub(super) stop: CancellationToken,
}

/// Why an affiliate gets no payout, in the words in which the run counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LeftOut {
    NegativeBalance,
    BelowMinimum,
    /// Another one of his is on its way, or is not booked yet.
    Open,
    Blocked,
    NoMethod,
    /// Sealed with a key that is not there any more.
    MethodUnreadable,
    /// His method pays other currencies.
    Currency,
    /// Fee and tax would leave nothing.
    NothingLeft,
    TooLarge,
    /// The database refused it; the log says why.
    Failed,
}

impl LeftOut {
    fn as_str(self) -> &'static str {
        match self {
            Self::NegativeBalance => "negative_balance",
            Self::BelowMinimum => "below_minimum",
            Self::Open => "open_payout",
            Self::Blocked => "blocked",
            Self::NoMethod => "no_method",
            Self::MethodUnreadable => "method_unreadable",
            Self::Currency => "currency_of_method",
            Self::NothingLeft => "nothing_left",
            Self::TooLarge => "too_large",
            Self::Failed => "failed",
        }
    }
}

/// What came of looking at an affiliate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Drafted,
    LeftOut(LeftOut),
    /// The run has drafted his payout before, or there is nothing of his.
    Passed,
    /// Another processor has finished the run.
    RunIsDone,
}

#[derive(Debug, sqlx::FromRow)]
struct Run {
    id: i64,
    tenant_id: TenantId,
    due_on: Option<NaiveDate>,
    requested_by: Option<String>,
    affiliate_id: Option<AffiliateId>,
    currency: Option<String>,
    tenant_name: String,
    time_zone: String,
    approvals: i16,
    minimums: Json<BTreeMap<String, Decimal>>,
    fees: Json<Vec<Fee>>,
}

impl Run {
    /// Who has it drafted.
    fn actor(&self) -> &str {
        self.requested_by.as_deref().unwrap_or("the schedule")
    }

    /// What the affiliate reads.
    fn reference(&self, now: DateTime<Utc>) -> String {
        let zone: Tz = self.time_zone.parse().unwrap_or(Tz::UTC);
        let today = now.with_timezone(&zone).date_naive();
        let day = self.due_on.unwrap_or(today);
        let what = format!(", payout {day}");
        let room = MAX_REFERENCE_CHARS.saturating_sub(what.chars().count());
        let name: String = self.tenant_name.chars().take(room).collect();
        name + &what
    }
}

/// An affiliate to whom something is owed, or who owes something.
#[derive(Debug, sqlx::FromRow)]
struct Candidate {
    affiliate_id: AffiliateId,
    currency: String,
    /// By his balances: an estimate, as orders of his may be settled just now.
    total: Decimal,
}

#[derive(Debug, sqlx::FromRow)]
struct Payee {
    payout_method: Option<Vec<u8>>,
    withholding_percent: Decimal,
    blocked: bool,
    /// The run of a payout that is not over.
    open: Option<i64>,
}

impl Drafter {
    /// Works on the oldest run that is not done; whether there was one.
    pub(super) async fn turn(&self) -> Result<bool, sqlx::Error> {
        let run: Option<Run> = sqlx::query_as(
            "SELECT r.id, r.tenant_id, r.due_on, r.requested_by, r.affiliate_id, r.currency, t.name AS tenant_name, t.time_zone,
                    coalesce(p.approvals, 1::smallint) AS approvals, coalesce(p.minimums, '{}') AS minimums, coalesce(p.fees, '[]') AS fees
             FROM payout_runs r JOIN tenants t ON t.id = r.tenant_id LEFT JOIN payout_terms p ON p.tenant_id = r.tenant_id
             WHERE r.done_at IS NULL ORDER BY r.id LIMIT 1",
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(run) = run else {
            return Ok(false);
        };
        let terms = Terms {
            minimums: run.minimums.0.clone(),
            fees: run.fees.0.clone(),
        };
        let mut left_out: BTreeMap<LeftOut, i64> = BTreeMap::new();
        let mut after = (AffiliateId(0), String::new());
        loop {
            let page = self.candidates(&run, &after).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = (last.affiliate_id, last.currency.clone());
            for candidate in &page {
                if self.stop.is_cancelled() {
                    return Ok(false);
                }
                let looked = match self.look_at(&run, &terms, candidate).await {
                    Err(error) if is_permanent(&error) => {
                        let (affiliate, run) = (candidate.affiliate_id, run.id);
                        tracing::error!(%error, %affiliate, run, "a payout can't be drafted; others are");
                        Looked::LeftOut(LeftOut::Failed)
                    }
                    looked => looked?,
                };
                match looked {
                    Looked::LeftOut(why) => *left_out.entry(why).or_default() += 1,
                    Looked::RunIsDone => return Ok(true),
                    Looked::Drafted | Looked::Passed => {}
                }
            }
        }
        self.finish(&run, &left_out).await?;
        Ok(true)
    }

    async fn candidates(
        &self,
        run: &Run,
        after: &(AffiliateId, String),
    ) -> Result<Vec<Candidate>, sqlx::Error> {
        sqlx::query_as(
            "SELECT a.affiliate_id, a.currency, sum(b.balance) AS total
             FROM ledger_accounts a JOIN ledger_balances b ON b.account_id = a.id
             WHERE a.tenant_id = $1 AND a.kind IN ('available', 'clawback')
               AND ($2::bigint IS NULL OR a.affiliate_id = $2) AND ($3::text IS NULL OR a.currency = $3)
               AND (a.affiliate_id, a.currency) > ($4, $5)
             GROUP BY a.affiliate_id, a.currency HAVING bool_or(b.balance <> 0)
             ORDER BY a.affiliate_id, a.currency LIMIT $6",
        )
        .bind(run.tenant_id)
        .bind(run.affiliate_id)
        .bind(&run.currency)
        .bind(after.0)
        .bind(&after.1)
        .bind(AT_ONCE)
        .fetch_all(&self.pool)
        .await
    }

    async fn look_at(
        &self,
        run: &Run,
        terms: &Terms,
        candidate: &Candidate,
    ) -> Result<Looked, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let is_open = sqlx::query(
            "SELECT 1 FROM payout_runs WHERE id = $1 AND done_at IS NULL FOR NO KEY UPDATE",
        )
        .bind(run.id)
        .fetch_optional(&mut *transaction)
        .await?;
        if is_open.is_none() {
            return Ok(Looked::RunIsDone);
        }
        let looked = self.draft(&mut transaction, run, terms, candidate).await?;
        if looked == Looked::Drafted {
            transaction.commit().await?;
        }
        Ok(looked)
    }

    /// Drafts his payout, or says why not; then nothing was written.
    async fn draft(
        &self,
        connection: &mut PgConnection,
        run: &Run,
        terms: &Terms,
        candidate: &Candidate,
    ) -> Result<Looked, sqlx::Error> {
        let now = self.clock.now();
        let Ok(currency) = candidate.currency.parse::<Currency>() else {
            return Ok(Looked::LeftOut(LeftOut::Currency)); // no one of today's
        };
        let payee = payee(connection, run.tenant_id, candidate).await?;
        if payee.open == Some(run.id) {
            return Ok(Looked::Passed);
        }
        let method = self.method(candidate.affiliate_id, &payee);
        // First by the balances, which costs little; then by what is there once nobody can change it.
        let decided = decide(terms, &payee, &method, candidate.total, currency);
        if let Err(why) = decided {
            return Ok(Looked::LeftOut(why));
        }
        let conversions = lock_conversions(connection, run.tenant_id, candidate, now).await?;
        let payee = self::payee(connection, run.tenant_id, candidate).await?;
        let total = total(connection, run.tenant_id, candidate, &conversions, now).await?;
        if total.is_zero() {
            return Ok(Looked::Passed); // it is being settled, or was drafted a moment ago
        }
        let method = self.method(candidate.affiliate_id, &payee);
        let (split, method) = match (decide(terms, &payee, &method, total, currency), method) {
            (Ok(split), Ok(method)) => (split, method),
            (Err(why), _) | (_, Err(why)) => return Ok(Looked::LeftOut(why)),
        };
        let of = Of {
            id: new_uuid_v7(now),
            tenant: run.tenant_id,
            affiliate: candidate.affiliate_id,
            currency,
        };
        if !self
            .insert(connection, run, &of, total, split, &method, now)
            .await?
        {
            return Ok(Looked::LeftOut(LeftOut::Open));
        }
        sqlx::query(concat!(
            "INSERT INTO payout_items (tenant_id, payout_id, commission_id, amount)
             SELECT m.tenant_id, $6, m.id, m.available + m.clawback ",
            to_pay!()
        ))
        .bind(of.tenant)
        .bind(of.affiliate)
        .bind(currency.code())
        .bind(&conversions)
        .bind(now)
        .bind(of.id)
        .execute(&mut *connection)
        .await?;
        let carried = carry::carry(connection, &of, Carry::IntoPayout, now).await?;
        if carried == total {
            Ok(Looked::Drafted)
        } else {
            Err(sqlx::Error::Protocol(format!(
                "the items sum to {carried}, not to the payout's {total}"
            )))
        }
    }

    fn method(&self, affiliate: AffiliateId, payee: &Payee) -> Result<Method, LeftOut> {
        let sealed = payee.payout_method.as_ref().ok_or(LeftOut::NoMethod)?;
        let purpose = format!("affiliate:{affiliate}:payout_method");
        let plain = self.keys.open(&purpose, sealed).map_err(|error| {
            tracing::error!(%error, %affiliate, "a payout method can't be read");
            LeftOut::MethodUnreadable
        })?;
        serde_json::from_slice(&plain).map_err(|error| {
            tracing::error!(%error, %affiliate, "a payout method can't be read");
            LeftOut::MethodUnreadable
        })
    }

    /// Whether it could be inserted: not when another one of his is open.
    #[expect(clippy::too_many_arguments, reason = "a row's columns")]
    async fn insert(
        &self,
        connection: &mut PgConnection,
        run: &Run,
        of: &Of,
        total: Decimal,
        split: Split,
        method: &Method,
        now: DateTime<Utc>,
    ) -> Result<bool, sqlx::Error> {
        let plain =
            serde_json::to_vec(method).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        let sealed = (self.keys).seal(&format!("payout:{}:method", of.id), &plain);
        let is_approved = run.approvals == 0;
        let inserted = sqlx::query(
            "INSERT INTO payouts (id, tenant_id, run_id, affiliate_id, currency, state, amount, fee, withheld, method, method_kind,
                 reference, approved_by, created_at, approved_at)
             VALUES ($1, $2, $3, $4, $5, CASE WHEN $6 THEN 'approved' ELSE 'draft' END, $7, $8, $9, $10, $11, $12,
                 CASE WHEN $6 THEN ARRAY[$13::text] ELSE '{}' END, $14::timestamptz, CASE WHEN $6 THEN $14::timestamptz END)
             ON CONFLICT (tenant_id, affiliate_id, currency) WHERE NOT booked DO NOTHING",
        )
        .bind(of.id)
        .bind(of.tenant)
        .bind(run.id)
        .bind(of.affiliate)
        .bind(of.currency.code())
        .bind(is_approved)
        .bind(total)
        .bind(split.fee)
        .bind(split.withheld)
        .bind(sealed)
        .bind(method.kind())
        .bind(run.reference(now))
        .bind(run.actor())
        .bind(now)
        .execute(&mut *connection)
        .await?;
        if inserted.rows_affected() == 0 {
            return Ok(false);
        }
        let states = if is_approved {
            &["draft", "approved"][..]
        } else {
            &["draft"]
        };
        let texts = ["", "the terms ask for no approval"];
        sqlx::query(
            "INSERT INTO payout_events (tenant_id, payout_id, at, actor, state, text)
             SELECT $1, $2, $3, $4, e.state, e.text FROM unnest($5::text[], $6::text[]) AS e (state, text)",
        )
        .bind(of.tenant)
        .bind(of.id)
        .bind(now)
        .bind(run.actor())
        .bind(states)
        .bind(&texts[..states.len()])
        .execute(connection)
        .await?;
        Ok(true)
    }

    async fn finish(
        &self,
        run: &Run,
        left_out: &BTreeMap<LeftOut, i64>,
    ) -> Result<(), sqlx::Error> {
        let left_out: BTreeMap<&str, i64> = left_out
            .iter()
            .map(|(why, count)| (why.as_str(), *count))
            .collect();
        sqlx::query(
            "UPDATE payout_runs SET done_at = $2, left_out = $3,
                    drafted = (SELECT count(*) FROM payouts WHERE run_id = $1)
             WHERE id = $1 AND done_at IS NULL",
        )
        .bind(run.id)
        .bind(self.clock.now())
        .bind(Json(left_out))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// Whether `total` is paid out, and what of it reaches him.
fn decide(
    terms: &Terms,
    payee: &Payee,
    method: &Result<Method, LeftOut>,
    total: Decimal,
    currency: Currency,
) -> Result<Split, LeftOut> {
    if total <= Decimal::ZERO {
        return Err(LeftOut::NegativeBalance);
    }
    if payee.open.is_some() {
        return Err(LeftOut::Open);
    }
    if total < terms.minimum(currency) {
        return Err(LeftOut::BelowMinimum);
    }
    if payee.blocked {
        return Err(LeftOut::Blocked);
    }
    let method = method.as_ref().map_err(|why| *why)?;
    if matches!(method, Method::Sepa { .. }) && currency.code() != "EUR" {
        return Err(LeftOut::Currency);
    }
    let amount = Money::new(total, currency).map_err(|_| LeftOut::TooLarge)?;
    let split = terms.split(amount, method.kind(), payee.withholding_percent);
    split.ok_or(LeftOut::NothingLeft)
}

async fn payee(
    connection: &mut PgConnection,
    tenant: TenantId,
    candidate: &Candidate,
) -> Result<Payee, sqlx::Error> {
    sqlx::query_as(
        "SELECT a.payout_method, a.withholding_percent,
                EXISTS (SELECT FROM blocked b WHERE b.tenant_id = a.tenant_id AND b.kind = 'affiliate' AND b.value = a.id::text) AS blocked,
                (SELECT p.run_id FROM payouts p WHERE p.tenant_id = a.tenant_id AND p.affiliate_id = a.id AND p.currency = $3
                        AND NOT p.booked) AS open
         FROM affiliates a WHERE a.tenant_id = $1 AND a.id = $2",
    )
    .bind(tenant)
    .bind(candidate.affiliate_id)
    .bind(&candidate.currency)
    .fetch_one(connection)
    .await
}

/// Locks the conversions of which something is to be paid, in the order in which settling locks them; which ones.
async fn lock_conversions(
    connection: &mut PgConnection,
    tenant: TenantId,
    candidate: &Candidate,
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT id FROM conversions WHERE id IN (
             SELECT m.conversion_id FROM commissions m JOIN conversions c ON c.id = m.conversion_id
             WHERE m.tenant_id = $1 AND m.affiliate_id = $2 AND m.currency = $3 AND (m.available <> 0 OR m.clawback <> 0)
               AND (c.settle_at IS NULL OR c.settle_at > $4)
             ORDER BY m.clawback, m.id LIMIT $5)
         ORDER BY id FOR UPDATE",
    )
    .bind(tenant)
    .bind(candidate.affiliate_id)
    .bind(&candidate.currency)
    .bind(now)
    .bind(MAX_COMMISSIONS)
    .fetch_all(connection)
    .await
}

async fn total(
    connection: &mut PgConnection,
    tenant: TenantId,
    candidate: &Candidate,
    conversions: &[Uuid],
    now: DateTime<Utc>,
) -> Result<Decimal, sqlx::Error> {
    sqlx::query_scalar(concat!(
        "SELECT coalesce(sum(m.available + m.clawback), 0) ",
        to_pay!()
    ))
    .bind(tenant)
    .bind(candidate.affiliate_id)
    .bind(&candidate.currency)
    .bind(conversions)
    .bind(now)
    .fetch_one(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use rust_decimal::dec;

    #[test]
    fn who_gets_a_payout_and_why_others_do_not() {
        let terms = Terms {
            minimums: BTreeMap::from([("EUR".to_owned(), dec!(50))]),
            fees: vec![Fee {
                method: "sepa".to_owned(),
                currency: "EUR".to_owned(),
                percent: dec!(0),
                fixed: dec!(1),
                maximum: None,
            }],
        };
        let payee = |open, blocked| Payee {
            payout_method: None,
            withholding_percent: dec!(10),
            blocked,
            open,
        };
        let sepa = Ok(Method::Sepa {
            holder: "Ana".to_owned(),
            iban: "DE89370400440532013000".to_owned(),
            bic: None,
        });
        let free = payee(None, false);
        let decided = |payee: &Payee, method: &Result<Method, LeftOut>, total, currency: &str| {
            decide(&terms, payee, method, total, currency.parse().unwrap()).map(|split| split.net)
        };
        assert_eq!(decided(&free, &sepa, dec!(60), "EUR"), Ok(dec!(53)));
        assert_eq!(decided(&free, &sepa, dec!(50), "EUR"), Ok(dec!(44)));
        let refused = [
            (&free, &sepa, dec!(49.99), "EUR", LeftOut::BelowMinimum),
            (&free, &sepa, dec!(-60), "EUR", LeftOut::NegativeBalance),
            (&free, &sepa, dec!(0), "EUR", LeftOut::NegativeBalance),
            (&free, &sepa, dec!(60), "USD", LeftOut::Currency),
            (
                &free,
                &Err(LeftOut::NoMethod),
                dec!(60),
                "EUR",
                LeftOut::NoMethod,
            ),
            (
                &payee(Some(1), false),
                &sepa,
                dec!(60),
                "EUR",
                LeftOut::Open,
            ),
            (&payee(None, true), &sepa, dec!(60), "EUR", LeftOut::Blocked),
            (
                &free,
                &sepa,
                dec!(10_000_000_000_000),
                "EUR",
                LeftOut::TooLarge,
            ),
        ];
        for (payee, method, total, currency, why) in refused {
            assert_eq!(decided(payee, method, total, currency), Err(why));
        }
        let all = Payee {
            withholding_percent: dec!(100),
            ..payee(None, false)
        };
        assert_eq!(
            decided(&all, &sepa, dec!(60), "EUR"),
            Err(LeftOut::NothingLeft)
        );
    }
}
