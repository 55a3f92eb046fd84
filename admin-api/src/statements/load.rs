//! A statement from PostgreSQL: the ledger's entries of one affiliate, as of one moment.

use std::collections::BTreeMap;

use chrono::DateTime;
use chrono::Utc;
use chrono_tz::Tz;
use rust_decimal::Decimal;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{PgConnection, Postgres};
use tributary_shared::ids::TenantId;

use super::balance::{self, Accounts, Wrong};
use super::{Change, MAX_MOVEMENTS, MAX_PAYOUTS, Movement, Payout, Section, Statement, is_final};
use crate::error::Problem;
use crate::period::Period;

/// A query whose text and values are its own.
type Find<T> = QueryAs<'static, Postgres, T, PgArguments>;

/// Sums up an affiliate's postings by account; `$1` to `$4` are the tenant, the affiliate, the begin and the end.
macro_rules! postings {
    () => {
        "WITH posting AS (
             SELECT t.id, t.posted_at, t.reason, t.commission_id, a.currency,
                    coalesce(sum(e.amount) FILTER (WHERE a.kind = 'pending'), 0) AS pending,
                    coalesce(sum(e.amount) FILTER (WHERE a.kind = 'available'), 0) AS available,
                    coalesce(sum(e.amount) FILTER (WHERE a.kind = 'in_payout'), 0) AS in_payout,
                    coalesce(sum(e.amount) FILTER (WHERE a.kind = 'clawback'), 0) AS clawback,
                    coalesce(sum(e.amount) FILTER (WHERE a.kind = 'paid'), 0) AS paid
             FROM ledger_accounts a
             JOIN ledger_entries e ON e.account_id = a.id
             JOIN ledger_transactions t ON t.id = e.transaction_id
             WHERE a.tenant_id = $1 AND a.affiliate_id = $2 AND t.posted_at >= $3 AND t.posted_at < $4
             GROUP BY t.id, a.currency)"
    };
}

/// Whose statement, of which days.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub tenant: TenantId,
    pub affiliate: i64,
    /// The first and the last day.
    pub from: String,
    pub to: String,
    pub now: DateTime<Utc>,
}

/// The statement without movements and payouts; its balances and changes add up.
pub(crate) async fn frame(
    connection: &mut PgConnection,
    asked: &Asked,
) -> Result<Statement, Problem> {
    let found: Option<(String, String, String, Option<String>)> = sqlx::query_as(
        "SELECT t.name, t.time_zone, a.name, a.email FROM affiliates a JOIN tenants t ON t.id = a.tenant_id
         WHERE a.tenant_id = $1 AND a.id = $2",
    )
    .bind(asked.tenant)
    .bind(asked.affiliate)
    .fetch_optional(&mut *connection)
    .await?;
    let (tenant, zone, affiliate, email) = found.ok_or_else(|| Problem::not_found("affiliate"))?;
    let zone: Tz = zone.parse().map_err(|_| {
        tracing::error!(tenant = %asked.tenant, zone, "a tenant's time zone is unknown");
        Problem::internal()
    })?;
    let period = Period::whole_days(&asked.from, &asked.to, zone)?;
    let sections = sections(connection, asked, &period).await?;
    Ok(Statement {
        tenant,
        affiliate_id: asked.affiliate,
        affiliate,
        email,
        is_final: is_final(period.to, asked.now),
        period,
        sections,
    })
}

/// The whole statement, of movements and payouts so many as are listed.
pub(crate) async fn statement(
    connection: &mut PgConnection,
    asked: &Asked,
) -> Result<Statement, Problem> {
    let mut statement = frame(connection, asked).await?;
    let limit = |most: usize| i64::try_from(most).ok();
    let listed = movements(asked, &statement.period, limit(MAX_MOVEMENTS));
    for movement in listed.fetch_all(&mut *connection).await? {
        section(&mut statement.sections, &movement.currency)
            .ok_or_else(|| Wrong::UnknownCurrency(movement.currency.clone()))
            .map_err(|wrong| refused(asked, &wrong))?
            .movements
            .push(movement);
    }
    let found = payouts(asked, &statement.period);
    let mut listed = 0;
    for payout in found.fetch_all(&mut *connection).await? {
        let section = section(&mut statement.sections, &payout.currency)
            .ok_or_else(|| Wrong::UnknownCurrency(payout.currency.clone()))
            .map_err(|wrong| refused(asked, &wrong))?;
        if listed < MAX_PAYOUTS {
            section.payouts.push(payout);
            listed += 1;
        } else {
            section.payouts_left_out += 1;
        }
    }
    for section in &statement.sections {
        balance::adds_up(section).map_err(|wrong| refused(asked, &wrong))?;
    }
    statement.sections.retain(says_something);
    Ok(statement)
}

/// A currency in which nothing was ever owed, until the period's end, is left out.
pub(crate) fn says_something(section: &Section) -> bool {
    section.opening != Accounts::default()
        || section.closing != Accounts::default()
        || !section.changes.is_empty()
        || !section.payouts.is_empty()
}

fn section<'s>(sections: &'s mut [Section], currency: &str) -> Option<&'s mut Section> {
    sections.iter_mut().find(|s| s.currency == currency)
}

/// A statement that does not add up is not given out: a person has to look at the ledger.
pub(crate) fn refused(asked: &Asked, wrong: &Wrong) -> Problem {
    tracing::error!(
        tenant = %asked.tenant, affiliate = asked.affiliate, from = asked.from, to = asked.to, %wrong,
        "a statement does not add up and was not given out; run `processor ledger check`"
    );
    Problem::internal()
}

#[derive(Debug, sqlx::FromRow)]
struct AccountRow {
    currency: String,
    kind: String,
    opening: Decimal,
    closing: Decimal,
    entries: Decimal,
    balance: Decimal,
}

#[derive(Debug, sqlx::FromRow)]
struct ChangeRow {
    currency: String,
    reason: String,
    postings: i64,
    #[sqlx(flatten)]
    amounts: Accounts,
}

/// Balances and changes of each currency, which add up, and agree with the balances that the database keeps.
async fn sections(
    connection: &mut PgConnection,
    asked: &Asked,
    period: &Period,
) -> Result<Vec<Section>, Problem> {
    let accounts: Vec<AccountRow> = sqlx::query_as(
        "SELECT a.currency, a.kind,
                coalesce(sum(e.amount) FILTER (WHERE t.posted_at < $3), 0) AS opening,
                coalesce(sum(e.amount) FILTER (WHERE t.posted_at < $4), 0) AS closing,
                coalesce(sum(e.amount), 0) AS entries, coalesce(b.balance, 0) AS balance
         FROM ledger_accounts a
         LEFT JOIN ledger_balances b ON b.account_id = a.id
         LEFT JOIN ledger_entries e ON e.account_id = a.id
         LEFT JOIN ledger_transactions t ON t.id = e.transaction_id
         WHERE a.tenant_id = $1 AND a.affiliate_id = $2
         GROUP BY a.id, b.account_id ORDER BY a.currency, a.id",
    )
    .bind(asked.tenant)
    .bind(asked.affiliate)
    .bind(period.from)
    .bind(period.to)
    .fetch_all(&mut *connection)
    .await?;
    let changes: Vec<ChangeRow> = sqlx::query_as(concat!(
        postings!(),
        " SELECT currency, reason, count(*) AS postings, sum(pending) AS pending, sum(available) AS available,
                 sum(in_payout) AS in_payout, sum(clawback) AS clawback, sum(paid) AS paid
          FROM posting GROUP BY currency, reason ORDER BY currency, min(id)"
    ))
    .bind(asked.tenant)
    .bind(asked.affiliate)
    .bind(period.from)
    .bind(period.to)
    .fetch_all(connection)
    .await?;
    summed_up(accounts, changes).map_err(|wrong| refused(asked, &wrong))
}

fn summed_up(accounts: Vec<AccountRow>, changes: Vec<ChangeRow>) -> Result<Vec<Section>, Wrong> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    for row in accounts {
        let AccountRow {
            currency,
            kind,
            opening,
            closing,
            entries,
            balance,
        } = row;
        let (mut sum, mut kept) = (Accounts::default(), Accounts::default());
        let section = sections.entry(currency.clone()).or_insert_with(|| Section {
            currency: currency.clone(),
            ..Section::default()
        });
        for (place, amount) in [
            (section.opening.account(&kind), opening),
            (section.closing.account(&kind), closing),
            (sum.account(&kind), entries),
            (kept.account(&kind), balance),
        ] {
            *place.ok_or_else(|| Wrong::UnknownAccount(kind.clone()))? = amount;
        }
        balance::same(&currency, "all entries", &kept, &sum)?;
    }
    for row in changes {
        let section = sections
            .get_mut(&row.currency)
            .ok_or(Wrong::UnknownCurrency(row.currency))?;
        section.changes.push(Change {
            reason: row.reason,
            postings: row.postings,
            amounts: row.amounts,
        });
    }
    let sections: Vec<Section> = sections.into_values().collect();
    for section in &sections {
        balance::adds_up(section)?;
    }
    Ok(sections)
}

/// The period's postings: by currency, those of one commission together, `limit` of them; none: all.
pub(crate) fn movements(asked: &Asked, period: &Period, limit: Option<i64>) -> Find<Movement> {
    sqlx::query_as(concat!(
        postings!(),
        " SELECT p.posted_at, p.currency, p.commission_id, c.order_id, c.event, g.name AS program,
                 (SELECT CASE WHEN count(DISTINCT i ->> 'product') = 1 THEN min(i ->> 'product') END
                  FROM jsonb_array_elements(c.items) i) AS product,
                 m.part, p.reason, m.basis, p.pending, p.available, p.in_payout, p.clawback, p.paid
          FROM posting p
          JOIN commissions m ON m.tenant_id = $1 AND m.id = p.commission_id
          JOIN conversions c ON c.tenant_id = $1 AND c.id = m.conversion_id
          JOIN programs g ON g.tenant_id = $1 AND g.id = m.program_id
          ORDER BY p.currency, m.created_at, m.id, p.id LIMIT $5"
    ))
    .bind(asked.tenant)
    .bind(asked.affiliate)
    .bind(period.from)
    .bind(period.to)
    .bind(limit)
}

/// The payouts on which something happened in the period, as they stood at its end, by what is kept for ever.
pub(crate) fn payouts(asked: &Asked, period: &Period) -> Find<Payout> {
    sqlx::query_as(
        "SELECT p.id, last.at, p.currency, last.state, p.method_kind AS method, p.reference,
                p.amount AS gross, p.fee, p.withheld, p.net
         FROM payouts p CROSS JOIN LATERAL (
              SELECT e.at, e.state FROM payout_events e WHERE e.payout_id = p.id AND e.at < $4
              ORDER BY e.id DESC LIMIT 1) last
         WHERE p.tenant_id = $1 AND p.affiliate_id = $2 AND last.at >= $3
         ORDER BY p.currency, last.at, p.id",
    )
    .bind(asked.tenant)
    .bind(asked.affiliate)
    .bind(period.from)
    .bind(period.to)
}
