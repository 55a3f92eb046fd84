//! Converting between the order's currency and the program's, by one recorded rate.
//!
//! A commission knows two currencies at most, and one direction: what the program pays in decides
//! it. The other way the same rate divides, so a commission never depends on two rates that
//! disagree. Nothing is rounded here.

use std::cell::Cell;
use std::fmt;

use rust_decimal::Decimal;

use super::figures::Figures;
use super::occasion::Occasion;
use super::price::PriceError;
use super::program::{PayIn, Program};
use crate::money::{Currency, Money};

/// A rate that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub from: Currency,
    pub to: Currency,
    /// What one unit of `from` is in `to`.
    pub rate: Decimal,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1 {} = {} {}", self.from, self.rate, self.to)
    }
}

/// From which currency to which a rate converts, where there are two.
pub(super) fn pair(program: &Program, occasion: &Occasion) -> Option<(Currency, Currency)> {
    let order = occasion.amount?.currency();
    (order != program.currency).then_some(match program.pay_in {
        PayIn::Order => (program.currency, order),
        PayIn::Program => (order, program.currency),
    })
}

/// The currencies of one pricing.
pub(super) struct Exchange {
    pub(super) program: Currency,
    order: Currency,
    /// What commissions are in.
    pub(super) pay: Currency,
    rate: Option<Rate>,
    used: Cell<bool>,
}

impl Exchange {
    pub(super) fn new(program: &Program, occasion: &Occasion, figures: &Figures) -> Self {
        let order = occasion
            .amount
            .map_or(program.currency, |amount| amount.currency());
        let rate = pair(program, occasion).and_then(|(from, to)| {
            let rate = figures.rates.get(&(from, to)).copied();
            rate.filter(|rate| *rate > Decimal::ZERO)
                .map(|rate| Rate { from, to, rate })
        });
        Self {
            program: program.currency,
            order,
            pay: match program.pay_in {
                PayIn::Order => order,
                PayIn::Program => program.currency,
            },
            rate,
            used: Cell::new(false),
        }
    }

    /// The rate, where one was used.
    pub(super) fn used(&self) -> Option<Rate> {
        self.rate.filter(|_| self.used.get())
    }

    /// Begins a commission: no rate was used for it yet.
    pub(super) fn begin(&self) {
        self.used.set(false);
    }

    pub(super) fn order_to_pay(&self, amount: Decimal) -> Result<Decimal, PriceError> {
        self.convert(amount, self.order, self.pay)
    }

    pub(super) fn program_to_pay(&self, amount: Decimal) -> Result<Decimal, PriceError> {
        self.convert(amount, self.program, self.pay)
    }

    pub(super) fn order_to_program(&self, amount: Decimal) -> Result<Decimal, PriceError> {
        self.convert(amount, self.order, self.program)
    }

    /// What a commission is in the program's currency, rounded; none where that is another one and
    /// the commission needed no rate.
    pub(super) fn pay_to_program(&self, amount: Decimal) -> Result<Option<Money>, PriceError> {
        if self.pay != self.program && !self.used.get() {
            return Ok(None);
        }
        let amount = self.convert(amount, self.pay, self.program)?;
        Ok(Some(Money::rounded(amount, self.program)?))
    }

    fn convert(
        &self,
        amount: Decimal,
        from: Currency,
        to: Currency,
    ) -> Result<Decimal, PriceError> {
        if from == to {
            return Ok(amount);
        }
        let rate = self.rate.ok_or_else(|| self.missing())?;
        self.used.set(true);
        let converted = if rate.from == from {
            amount.checked_mul(rate.rate)
        } else {
            amount.checked_div(rate.rate)
        };
        converted.ok_or(PriceError::TooLarge)
    }

    fn missing(&self) -> PriceError {
        let (from, to) = if self.pay == self.order {
            (self.program, self.order)
        } else {
            (self.order, self.program)
        };
        PriceError::NoRate { from, to }
    }
}
