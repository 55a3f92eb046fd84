//! What a conversion earns, by its program's rules: brings what is known into the form of `shared/src/commission`, and
//! what that says back.

use rust_decimal::Decimal;
use serde_json::Value;
use sqlx::PgConnection;
use tributary_shared::ids::{AffiliateId, ProgramId};
use tributary_shared::money::{Currency, Money};
use uuid::Uuid;

use super::attribute::{Attribution, WHOLE};
use super::load::{self, Before, Known};
use super::order::Order;

/// What somebody earns by a conversion.
#[derive(Debug, Clone)]
pub(super) struct Priced {
    pub(super) program_id: ProgramId,
    pub(super) affiliate_id: AffiliateId,
    /// `direct`, `upline 1`, `bonus NAME` ...
    pub(super) part: String,
    pub(super) currency: Currency,
    /// Before refunds.
    pub(super) gross: Decimal,
    /// What it was taken of.
    pub(super) basis: Decimal,
    pub(super) rule_id: i64,
    pub(super) rule_version: i32,
    pub(super) steps: Value,
}

impl Priced {
    /// A commission that was earned once and is no longer.
    pub(super) fn no_longer(gone: &load::Commission, currency: Currency) -> Self {
        Self {
            program_id: gone.program_id,
            affiliate_id: gone.affiliate_id,
            part: gone.part.clone(),
            currency,
            gross: Decimal::ZERO,
            basis: Decimal::ZERO,
            rule_id: gone.rule_id,
            rule_version: gone.rule_version,
            steps: Value::Array(Vec::new()),
        }
    }

    /// The commission's id: the same at each replay.
    pub(super) fn id(&self, conversion: Uuid) -> Uuid {
        let name = format!("{}\n{}\n{}", self.affiliate_id, self.part, self.currency.code());
        Uuid::new_v5(&conversion, name.as_bytes())
    }
}

/// What all earn by a conversion.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) commissions: Vec<Priced>,
    /// Why nobody earns anything, or less than expected.
    pub(super) note: Option<String>,
}

pub(super) async fn price(
    _connection: &mut PgConnection,
    known: &Known,
    before: &Before,
    order: &Order<'_>,
    attribution: &Attribution,
    _new_customer: Option<bool>,
) -> Result<Outcome, sqlx::Error> {
    let _ = before;
    let program_id = attribution.leading().program_id;
    let mut outcome = Outcome::default();
    let Some(currency) = order.currency else {
        return Ok(outcome);
    };
    let rules = known.rules.get(&program_id).map(Vec::as_slice).unwrap_or_default();
    let Some(rule) = rules.iter().rev().find(|rule| rule.active && rule.name == "base") else {
        return Ok(outcome);
    };
    let percent: Decimal = rule.document.0["reward"]["percent"].as_str().and_then(|p| p.parse().ok()).unwrap_or_default();
    for (affiliate_id, share) in attribution.shares() {
        let basis = currency.round(order.amount * Decimal::from(share) / Decimal::from(WHOLE));
        let money = Money::new(basis, currency).map(|money| money.percent(percent).amount());
        outcome.commissions.push(Priced {
            program_id,
            affiliate_id,
            part: "direct".into(),
            currency,
            gross: money.unwrap_or_default(),
            basis,
            rule_id: rule.id,
            rule_version: rule.version,
            steps: Value::Array(Vec::new()),
        });
    }
    Ok(outcome)
}
