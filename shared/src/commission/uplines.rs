//! What the affiliates above get: a commission for each level, of one direct commission.
//!
//! There is none without a direct commission, and none of a bonus. Nobody gets two: who stands above
//! himself, or twice in the chain, is passed over.

use super::exchange::Exchange;
use super::explain::{Step, What, exact, number};
use super::price::{Commission, CommissionKind, PriceError, Priced, per_cent};
use super::program::{Program, UplineOf};
use crate::ids::AffiliateId;
use crate::money::Money;

pub(super) fn uplines(
    program: &Program,
    exchange: &Exchange,
    direct: AffiliateId,
    above: &[AffiliateId],
    priced: &mut Priced,
) -> Result<(), PriceError> {
    let Some(base) = priced
        .commissions
        .iter()
        .find(|commission| commission.kind == CommissionKind::Direct)
        .cloned()
    else {
        return Ok(());
    };
    let mut paid = vec![direct];
    let levels = program.uplines.levels.iter().zip(above);
    for (level, (percent, affiliate)) in (1_u8..).zip(levels) {
        if paid.contains(affiliate) {
            let text =
                format!("affiliate {affiliate} at level {level} has a commission of this already");
            priced.left_out.push(Step::new(What::Upline, text));
            continue;
        }
        paid.push(*affiliate);
        exchange.begin();
        let (of, basis, name) = match program.uplines.of {
            UplineOf::Commission => (
                base.amount.amount(),
                Some(base.amount),
                "the direct commission of ",
            ),
            UplineOf::Order => {
                let basis = base.basis.map_or_else(Default::default, Money::amount);
                (exchange.order_to_pay(basis)?, base.basis, "")
            }
        };
        let given = per_cent(of, percent.0)?;
        let amount = Money::rounded(given, exchange.pay)?;
        let step = Step::new(
            What::Upline,
            format!(
                "upline level {level}: {} % of {name}{} = {}, rounded to {amount}",
                number(percent.0),
                exact(of, exchange.pay),
                exact(given, exchange.pay)
            ),
        );
        if amount.is_zero() {
            priced.left_out.push(step);
            continue;
        }
        priced.commissions.push(Commission {
            kind: CommissionKind::Upline(level),
            affiliate: *affiliate,
            amount,
            basis,
            rule: base.rule.clone(),
            parts: Vec::new(),
            rate: exchange.used(),
            steps: vec![step],
        });
    }
    Ok(())
}
