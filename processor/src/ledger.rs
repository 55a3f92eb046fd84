//! Posting to the ledger in PostgreSQL: many postings at once, each a transaction of its own in the ledger.
//!
//! The operation key makes a posting happen once; the database refuses one that does not sum to zero, and keeps the
//! balances (shared/migrations/postgres/0006_settlement.sql).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::PgConnection;
use tributary_shared::ids::{AffiliateId, TenantId};
use uuid::Uuid;

/// The tenant's own account, against which commissions are earned.
const EXPENSE: &str = "commission_expense";
/// The tenant's own accounts of payouts: what affiliates' money was discharged by, and in what.
const OF_PAYOUTS: [&str; 4] = ["payouts", "payouts_sent", "payout_fees", "tax_withheld"];

/// What a posting is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject {
    /// A commission, which it changes, or moves by a payout.
    Commission {
        id: Uuid,
        /// Of the commission's postings which one this is.
        number: i32,
        payout: Option<Uuid>,
    },
    /// A payout that was paid.
    Paid(Uuid),
}

/// Something to post. What `moves` leave over is charged to the tenant.
#[derive(Debug, Clone)]
pub(crate) struct Posting {
    pub(crate) tenant_id: TenantId,
    pub(crate) affiliate_id: AffiliateId,
    pub(crate) subject: Subject,
    pub(crate) reason: &'static str,
    pub(crate) currency: &'static str,
    /// Accounts, of the affiliate or the tenant's own of payouts, and what each gets; none of them nothing.
    pub(crate) moves: Vec<(&'static str, Decimal)>,
}

impl Posting {
    fn operation_key(&self) -> String {
        match self.subject {
            Subject::Commission { id, number, .. } => format!("commission:{id}:{number}"),
            Subject::Paid(id) => format!("payout:{id}:paid"),
        }
    }

    fn commission_id(&self) -> Option<Uuid> {
        match self.subject {
            Subject::Commission { id, .. } => Some(id),
            Subject::Paid(_) => None,
        }
    }

    fn payout_id(&self) -> Option<Uuid> {
        match self.subject {
            Subject::Commission { payout, .. } => payout,
            Subject::Paid(id) => Some(id),
        }
    }
}

/// An account by what it is for; the tenant's own has no affiliate.
type Account = (TenantId, Option<AffiliateId>, &'static str, &'static str);

/// Posts all of them or none.
pub(crate) async fn post(
    connection: &mut PgConnection,
    postings: &[Posting],
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if postings.is_empty() {
        return Ok(());
    }
    let transactions = open_transactions(connection, postings, at).await?;
    let mut entries: Vec<(TenantId, i64, Account, Decimal)> = Vec::new();
    for posting in postings {
        let transaction = *transactions
            .get(&posting.operation_key())
            .ok_or(sqlx::Error::RowNotFound)?;
        let mut left = Decimal::ZERO;
        let mut enter = |affiliate, kind, amount| {
            let account = (posting.tenant_id, affiliate, kind, posting.currency);
            entries.push((posting.tenant_id, transaction, account, amount));
        };
        for (kind, amount) in &posting.moves {
            left += *amount;
            let whose = (!OF_PAYOUTS.contains(kind)).then_some(posting.affiliate_id);
            enter(whose, *kind, *amount);
        }
        if !left.is_zero() {
            enter(None, EXPENSE, -left);
        }
    }
    let accounts = accounts(connection, entries.iter().map(|entry| entry.2)).await?;
    let account = |account: &Account| accounts.get(account).copied().unwrap_or_default();
    sqlx::query(
        "INSERT INTO ledger_entries (tenant_id, transaction_id, account_id, amount, currency)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::numeric[], $5::text[])",
    )
    .bind(entries.iter().map(|e| e.0).collect::<Vec<_>>())
    .bind(entries.iter().map(|e| e.1).collect::<Vec<_>>())
    .bind(entries.iter().map(|e| account(&e.2)).collect::<Vec<_>>())
    .bind(entries.iter().map(|e| e.3).collect::<Vec<_>>())
    .bind(entries.iter().map(|e| e.2.3).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn open_transactions(
    connection: &mut PgConnection,
    postings: &[Posting],
    at: DateTime<Utc>,
) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "INSERT INTO ledger_transactions (tenant_id, operation_key, commission_id, reason, posted_at, payout_id)
         SELECT tenant_id, operation_key, commission_id, reason, $5, payout_id
         FROM unnest($1::bigint[], $2::text[], $3::uuid[], $4::text[], $6::uuid[])
              AS p (tenant_id, operation_key, commission_id, reason, payout_id)
         RETURNING operation_key, id",
    )
    .bind(postings.iter().map(|p| p.tenant_id).collect::<Vec<_>>())
    .bind(postings.iter().map(Posting::operation_key).collect::<Vec<_>>())
    .bind(postings.iter().map(Posting::commission_id).collect::<Vec<_>>())
    .bind(postings.iter().map(|p| p.reason).collect::<Vec<_>>())
    .bind(at)
    .bind(postings.iter().map(Posting::payout_id).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// The accounts' ids; opens each with its first posting.
async fn accounts(
    connection: &mut PgConnection,
    wanted: impl Iterator<Item = Account>,
) -> Result<BTreeMap<Account, i64>, sqlx::Error> {
    let wanted: Vec<Account> = {
        let mut wanted: Vec<Account> = wanted.collect();
        wanted.sort_unstable(); // so that two who open the same accounts never wait for each other
        wanted.dedup();
        wanted
    };
    // In two parts, each of which an index answers.
    let find = "WITH w AS (
                    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) WITH ORDINALITY
                             AS w (tenant_id, affiliate_id, kind, currency, place))
                SELECT w.place, a.id FROM w JOIN ledger_accounts a ON a.tenant_id = w.tenant_id
                     AND a.affiliate_id = w.affiliate_id AND a.kind = w.kind AND a.currency = w.currency
                UNION ALL
                SELECT w.place, a.id FROM w JOIN ledger_accounts a ON a.tenant_id = w.tenant_id
                     AND a.affiliate_id IS NULL AND a.kind = w.kind AND a.currency = w.currency
                WHERE w.affiliate_id IS NULL";
    let open = "WITH opened AS (
                    INSERT INTO ledger_accounts (tenant_id, affiliate_id, kind, currency)
                    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[])
                    ON CONFLICT (tenant_id, affiliate_id, kind, currency) DO NOTHING RETURNING id)
                SELECT 0::bigint, id FROM opened";
    // Found nearly always. When not, another processor may open one between the statements: then opening waits for
    // that one's commit, and the last statement sees its row.
    for statement in [find, open, find] {
        let rows: Vec<(i64, i64)> = sqlx::query_as(statement)
            .bind(wanted.iter().map(|w| w.0).collect::<Vec<_>>())
            .bind(wanted.iter().map(|w| w.1).collect::<Vec<_>>())
            .bind(wanted.iter().map(|w| w.2).collect::<Vec<_>>())
            .bind(wanted.iter().map(|w| w.3).collect::<Vec<_>>())
            .fetch_all(&mut *connection)
            .await?;
        if statement == find && rows.len() == wanted.len() {
            let place = |place: i64| usize::try_from(place).ok()?.checked_sub(1);
            let known = rows.into_iter().filter_map(|(nth, id)| {
                let account = *wanted.get(place(nth)?)?;
                Some((account, id))
            });
            return Ok(known.collect());
        }
    }
    Err(sqlx::Error::RowNotFound)
}
