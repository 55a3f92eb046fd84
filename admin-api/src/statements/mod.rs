//! Statements: what an affiliate earned, lost and was paid in a period, in each currency.
//!
//! A statement is made of the ledger's entries, which never change, so the figures of a period that is over stay what
//! they are. It adds up, to the last digit, or it is not given out ([`balance`]): opening balances and movements are
//! the closing balances, and these are what the database keeps beside the entries.
//!
//! | module | subject |
//! |---|---|
//! | `balance` | the accounts, and whether a statement adds up: pure |
//! | `load` | from PostgreSQL, at one moment |
//! | `lines` | as CSV, of any length |
//! | `pdf` | as a paper: what stands where |
//! | `paper` | pages, text and lines as PDF |

pub(crate) mod balance;
pub(crate) mod lines;
pub(crate) mod load;
mod paper;
pub(crate) mod pdf;
#[cfg(test)]
mod reading;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use self::balance::Accounts;
use crate::amounts;
use crate::period::Period;

/// Most movements that a statement lists as JSON and on paper, of all currencies together, and most payouts: the first
/// ones. The CSV has all.
pub(crate) const MAX_MOVEMENTS: usize = 2000;
pub(crate) const MAX_PAYOUTS: usize = 500;
/// How long after its end a period is over for good: a posting bears the time at which its transaction began, and
/// processors' clocks differ.
const SETTLED_AFTER: TimeDelta = TimeDelta::hours(1);

/// An affiliate's statement of a period.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub tenant: String,
    pub affiliate_id: i64,
    pub affiliate: String,
    pub email: Option<String>,
    pub period: Period,
    /// Whether nothing can be added to it any more.
    pub is_final: bool,
    pub sections: Vec<Section>,
}

/// One currency's part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Section {
    pub currency: String,
    pub opening: Accounts,
    pub closing: Accounts,
    /// What happened, by why.
    pub changes: Vec<Change>,
    /// Each posting, those of one commission together; not all of them where there are too many.
    pub movements: Vec<Movement>,
    pub payouts: Vec<Payout>,
    pub payouts_left_out: usize,
}

/// All postings of a period that were made for one reason.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub reason: String,
    pub postings: i64,
    pub amounts: Accounts,
}

/// A posting about a commission: what it moved between the affiliate's accounts.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Movement {
    pub posted_at: DateTime<Utc>,
    pub currency: String,
    pub commission_id: Uuid,
    pub order_id: String,
    pub event: String,
    pub program: String,
    pub product: Option<String>,
    pub part: String,
    pub reason: String,
    pub basis: Decimal,
    #[sqlx(flatten)]
    pub amounts: Accounts,
}

/// A payout on which something happened in the period, as it stood at the period's end.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Payout {
    pub id: Uuid,
    pub at: DateTime<Utc>,
    pub currency: String,
    pub state: String,
    pub method: String,
    pub reference: String,
    pub gross: Decimal,
    pub fee: Decimal,
    pub withheld: Decimal,
    pub net: Decimal,
}

/// Whether a period that ends at `end` can't get another posting at `now`.
pub(crate) fn is_final(end: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    end + SETTLED_AFTER <= now
}

impl Statement {
    pub(crate) fn first_day(&self) -> NaiveDate {
        self.period.days.first().copied().unwrap_or_default()
    }

    pub(crate) fn last_day(&self) -> NaiveDate {
        self.period.days.last().copied().unwrap_or_default()
    }

    pub(crate) fn zone(&self) -> Tz {
        self.period.zone
    }
}

impl Section {
    /// Movements that are not listed.
    pub(crate) fn movements_left_out(&self) -> usize {
        let all: i64 = self.changes.iter().map(|change| change.postings).sum();
        usize::try_from(all)
            .unwrap_or(0)
            .saturating_sub(self.movements.len())
    }
}

/// A statement, as the API writes it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatementView {
    /// The tenant's name, as it is today.
    #[schema(examples("Shoes & more"))]
    tenant: String,
    affiliate_id: i64,
    /// The affiliate's name, as it is today.
    affiliate: String,
    /// The first day, in the tenant's time zone.
    from: NaiveDate,
    /// The last day.
    to: NaiveDate,
    #[schema(examples("Europe/Berlin"))]
    time_zone: String,
    /// Whether the period is over, so that nothing will be added to it any more.
    #[serde(rename = "final")]
    is_final: bool,
    /// One for each currency.
    currencies: Vec<SectionView>,
}

#[derive(Debug, Serialize, ToSchema)]
struct SectionView {
    #[schema(examples("USD"))]
    currency: String,
    /// At the period's begin.
    opening: AccountsView,
    /// At its end: the opening balances and all movements.
    closing: AccountsView,
    /// What happened, by why.
    changes: Vec<ChangeView>,
    /// Each posting, those of one commission together; at most 2,000 of a statement.
    movements: Vec<MovementView>,
    /// How many are not listed; the CSV has all.
    movements_left_out: usize,
    /// On which something happened in the period, as they stood at its end; at most 500 of a statement.
    payouts: Vec<PayoutView>,
    payouts_left_out: usize,
}

/// An affiliate's accounts: balances, or what was added to them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AccountsView {
    /// Earned and still on hold.
    #[schema(examples("12.50"))]
    pending: String,
    /// Approved and not paid yet.
    #[schema(examples("100.00"))]
    available: String,
    /// In a payout that is under way.
    #[schema(examples("0.00"))]
    in_payout: String,
    /// What was paid and taken back since, as a negative amount: the next payout is less by it.
    #[schema(examples("0.00"))]
    clawback: String,
    /// Paid, since the beginning.
    #[schema(examples("0.00"))]
    paid: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct ChangeView {
    /// earned, changed, approved, refunded, rejected, reinstated, paid ...
    #[schema(examples("earned"))]
    reason: String,
    postings: i64,
    #[serde(flatten)]
    amounts: AccountsView,
}

#[derive(Debug, Serialize, ToSchema)]
struct MovementView {
    posted_at: DateTime<Utc>,
    commission_id: Uuid,
    /// The merchant's own.
    order_id: String,
    #[schema(examples("sale"))]
    event: String,
    /// The program's name, as it is today.
    program: String,
    /// The order's only one; null: it has none or several. As it is known today, like the basis.
    product: Option<String>,
    /// `direct`, `upline 1` (the affiliate's parent) and so on, or `bonus` with the rule's name.
    #[schema(examples("direct"))]
    part: String,
    /// What the commission is taken of, as it is known today.
    #[schema(examples("49.90"))]
    basis: String,
    /// earned, changed, approved, refunded, rejected, reinstated, paid ...
    #[schema(examples("earned"))]
    reason: String,
    #[serde(flatten)]
    amounts: AccountsView,
}

#[derive(Debug, Serialize, ToSchema)]
struct PayoutView {
    id: Uuid,
    /// When it came into its state.
    at: DateTime<Utc>,
    /// draft, approved, sent, paid, failed or cancelled.
    #[schema(examples("paid"))]
    state: String,
    /// The kind of method alone: paypal, sepa, bank, stripe_connect or manual.
    #[schema(examples("sepa"))]
    method: String,
    reference: String,
    #[schema(examples("100.00"))]
    gross: String,
    #[schema(examples("0.25"))]
    fee: String,
    #[schema(examples("0.00"))]
    withheld: String,
    #[schema(examples("99.75"))]
    net: String,
}

impl AccountsView {
    pub(crate) fn new(accounts: &Accounts, currency: &str) -> Self {
        let text = |amount| amounts::text(amount, currency);
        Self {
            pending: text(accounts.pending),
            available: text(accounts.available),
            in_payout: text(accounts.in_payout),
            clawback: text(accounts.clawback),
            paid: text(accounts.paid),
        }
    }
}

impl From<Statement> for StatementView {
    fn from(statement: Statement) -> Self {
        Self {
            from: statement.first_day(),
            to: statement.last_day(),
            time_zone: statement.zone().name().to_owned(),
            tenant: statement.tenant,
            affiliate_id: statement.affiliate_id,
            affiliate: statement.affiliate,
            is_final: statement.is_final,
            currencies: statement.sections.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Section> for SectionView {
    fn from(section: Section) -> Self {
        let currency = section.currency.as_str();
        let change = |change: &Change| ChangeView {
            reason: change.reason.clone(),
            postings: change.postings,
            amounts: AccountsView::new(&change.amounts, currency),
        };
        Self {
            opening: AccountsView::new(&section.opening, currency),
            closing: AccountsView::new(&section.closing, currency),
            changes: section.changes.iter().map(change).collect(),
            movements_left_out: section.movements_left_out(),
            payouts_left_out: section.payouts_left_out,
            movements: section.movements.into_iter().map(Into::into).collect(),
            payouts: section.payouts.into_iter().map(Into::into).collect(),
            currency: section.currency,
        }
    }
}

impl From<Movement> for MovementView {
    fn from(movement: Movement) -> Self {
        Self {
            basis: amounts::text(movement.basis, &movement.currency),
            amounts: AccountsView::new(&movement.amounts, &movement.currency),
            posted_at: movement.posted_at,
            commission_id: movement.commission_id,
            order_id: movement.order_id,
            event: movement.event,
            program: movement.program,
            product: movement.product,
            part: movement.part,
            reason: movement.reason,
        }
    }
}

impl From<Payout> for PayoutView {
    fn from(payout: Payout) -> Self {
        let text = |amount| amounts::text(amount, &payout.currency);
        Self {
            gross: text(payout.gross),
            fee: text(payout.fee),
            withheld: text(payout.withheld),
            net: text(payout.net),
            id: payout.id,
            at: payout.at,
            state: payout.state,
            method: payout.method,
            reference: payout.reference,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_over_for_good_an_hour_after_its_end() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let end = at("2026-11-30T23:00:00Z");
        assert!(!is_final(end, at("2026-11-30T23:59:59Z")));
        assert!(is_final(end, at("2026-12-01T00:00:00Z")));
    }
}
