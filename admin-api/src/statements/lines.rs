//! A statement as CSV, of any length: for each currency its opening balances, then every movement, every payout, and
//! the closing balances. What is sent is added up once more on the way.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::balance::{self, Accounts};
use super::load::{self, Asked, refused};
use super::{AccountsView, Movement, Payout};
use crate::amounts;
use crate::error::Problem;
use crate::exports::{Export, Lines};

/// A line; what it does not have is empty.
#[derive(Debug, Default, Serialize)]
struct Line {
    /// opening, movement, payout or closing.
    record: &'static str,
    currency: String,
    at: Option<DateTime<Utc>>,
    commission_id: Option<Uuid>,
    order_id: Option<String>,
    event: Option<String>,
    program: Option<String>,
    product: Option<String>,
    part: Option<String>,
    basis: Option<String>,
    reason: Option<String>,
    pending: Option<String>,
    available: Option<String>,
    in_payout: Option<String>,
    clawback: Option<String>,
    paid: Option<String>,
    payout_id: Option<Uuid>,
    state: Option<String>,
    method: Option<String>,
    reference: Option<String>,
    gross: Option<String>,
    fee: Option<String>,
    withheld: Option<String>,
    net: Option<String>,
}

impl Line {
    fn with(record: &'static str, currency: &str, accounts: &Accounts) -> Self {
        let view = AccountsView::new(accounts, currency);
        Self {
            record,
            currency: currency.to_owned(),
            pending: Some(view.pending),
            available: Some(view.available),
            in_payout: Some(view.in_payout),
            clawback: Some(view.clawback),
            paid: Some(view.paid),
            ..Self::default()
        }
    }

    fn balance(record: &'static str, currency: &str, at: DateTime<Utc>, of: &Accounts) -> Self {
        Self {
            at: Some(at),
            ..Self::with(record, currency, of)
        }
    }
}

impl From<Movement> for Line {
    fn from(of: Movement) -> Self {
        let amounts = Self::with("movement", &of.currency, &of.amounts);
        Self {
            at: Some(of.posted_at),
            commission_id: Some(of.commission_id),
            order_id: Some(of.order_id),
            event: Some(of.event),
            program: Some(of.program),
            product: of.product,
            part: Some(of.part),
            basis: Some(amounts::text(of.basis, &of.currency)),
            reason: Some(of.reason),
            ..amounts
        }
    }
}

impl From<Payout> for Line {
    fn from(of: Payout) -> Self {
        let text = |amount| Some(amounts::text(amount, &of.currency));
        Self {
            record: "payout",
            at: Some(of.at),
            payout_id: Some(of.id),
            gross: text(of.gross),
            fee: text(of.fee),
            withheld: text(of.withheld),
            net: text(of.net),
            state: Some(of.state),
            method: Some(of.method),
            reference: Some(of.reference),
            currency: of.currency,
            ..Self::default()
        }
    }
}

impl Export for Asked {
    async fn write(self, connection: &mut PgConnection, lines: &mut Lines) -> Result<(), Problem> {
        let statement = load::frame(connection, &self).await?;
        let period = &statement.period;
        let sections = statement.sections.iter();
        let sections: Vec<_> = sections.filter(|s| load::says_something(s)).collect();
        for section in &sections {
            let (currency, balances) = (&section.currency, &section.opening);
            lines
                .add(&Line::balance("opening", currency, period.from, balances))
                .await?;
        }
        let mut sums: BTreeMap<String, Accounts> = BTreeMap::new();
        let mut movements = load::movements(&self, period, None).fetch(&mut *connection);
        while let Some(movement) = movements.try_next().await? {
            match sums.get_mut(&movement.currency) {
                Some(sum) => *sum += movement.amounts,
                None => {
                    sums.insert(movement.currency.clone(), movement.amounts);
                }
            }
            lines.add(&Line::from(movement)).await?;
        }
        drop(movements);
        let mut payouts = load::payouts(&self, period).fetch(connection);
        while let Some(payout) = payouts.try_next().await? {
            lines.add(&Line::from(payout)).await?;
        }
        for section in &sections {
            let (currency, closing) = (&section.currency, &section.closing);
            let sent = section.opening + sums.get(currency).copied().unwrap_or_default();
            balance::same(currency, "opening balances and lines", closing, &sent)
                .map_err(|wrong| refused(&self, &wrong))?;
            lines
                .add(&Line::balance("closing", currency, period.to, closing))
                .await?;
        }
        Ok(())
    }
}
