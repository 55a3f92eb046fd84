//! Topic `conversions` → ledger: check → attribute → price → post, each order once.

use prost::Message as _;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tributary_shared::click_token::{self, Click};
use tributary_shared::clock::event_time;
use tributary_shared::customers::CustomerHash;
use tributary_shared::events::Conversion;
use tributary_shared::ids::{TenantId, conversion_id};
use tributary_shared::money::{Money, MoneyError};
use tributary_shared::names;
use tributary_shared::orders::{is_event, is_order_id};
use tributary_shared::secrets::KeyRing;

use crate::attribute::{Touchpoint, Unattributed, last_click};
use crate::consume::Stage;
use crate::dead_letter::Unreadable;
use crate::ledger::{self, Decision, Order};
use crate::price::price;
use crate::retry::{Stopped, until_done};

/// Longest click id that is kept beside a conversion, ours or not.
const MAX_CLICK_ID_BYTES: usize = 256;

/// Why a message is not a conversion.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadConversion {
    #[error("not a Conversion: {0}")]
    Encoding(String),
    #[error("{0} is missing or out of bounds")]
    Field(&'static str),
    #[error("{0}")]
    Money(#[from] MoneyError),
    #[error("there is no tenant {0}")]
    NoSuchTenant(TenantId),
}

/// Records conversions.
pub(crate) struct Conversions {
    pub(crate) pool: PgPool,
    pub(crate) keys: KeyRing,
    pub(crate) shutdown: CancellationToken,
}

impl Stage for Conversions {
    async fn take(&mut self, payload: &[u8]) -> Result<Vec<Unreadable>, Stopped> {
        let order = match decode(payload) {
            Ok(order) => order,
            Err(bad) => return Ok(vec![Unreadable::message(bad)]),
        };
        let outcome = until_done("postgres", &self.shutdown, || self.settle(&order)).await?;
        let Some(outcome) = outcome else {
            let nobodys = BadConversion::NoSuchTenant(order.tenant_id);
            return Ok(vec![Unreadable::message(nobodys)]);
        };
        metrics::counter!(names::CONVERSIONS, "outcome" => outcome).increment(1);
        Ok(Vec::new())
    }

    async fn finish(&mut self) -> Result<(), Stopped> {
        Ok(()) // each message is settled when it is taken
    }

    fn forget(&mut self) {}
}

impl Conversions {
    /// Decides and records; the outcome as the metric names it. None when the tenant does not exist.
    async fn settle(&self, order: &Order) -> Result<Option<&'static str>, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        if !ledger::tenant_exists(&mut connection, order.tenant_id).await? {
            return Ok(None);
        }
        let path = match self.evidence(order) {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(click)) => match ledger::link_terms(&mut connection, click.link).await? {
                Some(terms) => Ok(vec![touchpoint(order, click, &terms)]),
                None => Err(Unattributed::UnknownLink),
            },
            Err(reason) => Err(reason),
        };
        let (path, credited) = match &path {
            Ok(path) => (
                path.as_slice(),
                last_click(path, order.tenant_id, order.accepted_at),
            ),
            Err(reason) => ([].as_slice(), Err(*reason)),
        };
        let mut decision = Decision {
            attribution: credited.map_or_else(Unattributed::as_str, |touch| touch.evidence),
            path,
            credited: credited.ok(),
            priced: None,
        };
        if let Some(touch) = decision.credited {
            let rule = ledger::current_rule(&mut connection, touch.program_id).await?;
            decision.priced = rule.map(|rule| (rule, price(order.money, &rule, order.accepted_at)));
        }
        drop(connection);
        let first = ledger::record(&self.pool, order, &decision).await?;
        Ok(Some(if first {
            decision.attribution
        } else {
            "duplicate"
        }))
    }

    /// The click that the order names; none when it names none.
    fn evidence(&self, order: &Order) -> Result<Option<Click>, Unattributed> {
        if order.click_id.is_empty() {
            return Ok(None);
        }
        click_token::verify(&self.keys, &order.click_id)
            .map(Some)
            .map_err(|_| Unattributed::BadClickToken)
    }
}

fn touchpoint(order: &Order, click: Click, terms: &ledger::LinkTerms) -> Touchpoint {
    Touchpoint {
        click_id: order.click_id.clone(),
        clicked_at: click.at,
        tenant_id: terms.tenant_id,
        program_id: terms.program_id,
        affiliate_id: terms.affiliate_id,
        link_id: click.link,
        window_seconds: terms.window_seconds,
        evidence: "click_token",
    }
}

fn decode(payload: &[u8]) -> Result<Order, BadConversion> {
    let event = Conversion::decode(payload).map_err(|e| BadConversion::Encoding(e.to_string()))?;
    let tenant_id =
        TenantId::from_wire(event.tenant_id).ok_or(BadConversion::Field("tenant_id"))?;
    if !is_order_id(&event.order_id) {
        return Err(BadConversion::Field("order_id"));
    }
    if !is_event(&event.event) {
        return Err(BadConversion::Field("event"));
    }
    if event.click_id.len() > MAX_CLICK_ID_BYTES || event.click_id.contains('\0') {
        return Err(BadConversion::Field("click_id"));
    }
    let customer_id = match event.customer_id.as_slice() {
        [] => None,
        hash => {
            Some(CustomerHash::try_from(hash).map_err(|_| BadConversion::Field("customer_id"))?)
        }
    };
    let accepted_at =
        event_time(event.accepted_at_us).ok_or(BadConversion::Field("accepted_at_us"))?;
    Ok(Order {
        // Computed, not taken: what makes an order unique is not the message's to say.
        id: conversion_id(tenant_id, &event.order_id, &event.event),
        tenant_id,
        money: Money::parse(&event.amount, &event.currency)?,
        order_id: event.order_id,
        event: event.event,
        click_id: event.click_id,
        customer_id,
        new_customer: event.new_customer,
        accepted_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn conversion() -> Conversion {
        Conversion {
            conversion_id: String::new(),
            accepted_at_us: 1_763_000_000_000_000,
            tenant_id: 1,
            order_id: "A-1".into(),
            event: "sale".into(),
            amount: "10.00".into(),
            currency: "USD".into(),
            click_id: String::new(),
            ..Conversion::default()
        }
    }

    #[test]
    fn a_conversion_is_read() {
        let order = decode(&conversion().encode_to_vec()).unwrap();
        assert_eq!(order.id, conversion_id(TenantId(1), "A-1", "sale"));
        assert_eq!(order.money.to_string(), "10.00 USD");
    }

    #[test]
    fn a_bad_conversion_says_why() {
        let changed = |change: fn(&mut Conversion)| {
            let mut event = conversion();
            change(&mut event);
            decode(&event.encode_to_vec()).unwrap_err()
        };
        assert_eq!(
            changed(|c| c.tenant_id = 0),
            BadConversion::Field("tenant_id")
        );
        assert_eq!(
            changed(|c| c.order_id.clear()),
            BadConversion::Field("order_id")
        );
        assert_eq!(
            changed(|c| c.order_id = "a\0".into()),
            BadConversion::Field("order_id")
        );
        assert_eq!(
            changed(|c| c.event = "Sale".into()),
            BadConversion::Field("event")
        );
        assert_eq!(
            changed(|c| c.accepted_at_us = i64::MAX),
            BadConversion::Field("accepted_at_us")
        );
        assert_eq!(
            changed(|c| c.click_id = "x".repeat(300)),
            BadConversion::Field("click_id")
        );
        assert_eq!(
            changed(|c| c.customer_id = vec![1; 15]),
            BadConversion::Field("customer_id")
        );
        assert_eq!(
            changed(|c| c.amount = "-1".into()),
            BadConversion::Money(MoneyError::Negative)
        );
        assert_eq!(
            changed(|c| c.currency = "??".into()),
            BadConversion::Money(MoneyError::UnknownCurrency)
        );
        assert!(matches!(decode(b"\xff"), Err(BadConversion::Encoding(_))));
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&payload);
        }
    }
}
