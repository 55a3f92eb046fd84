//! Webhooks of shop and payment systems, read as reports of orders: which events say something of an order, and what.
//! Pure functions of a body whose signature was checked (`signature`). What is unknown in a body is ignored, and what
//! can't be used of it (a coupon that is too long, a reference that is no click id) is left out: whoever sends it
//! can't mend it, and would send it for days.
//!
//! A report is of the moment at which its sender says that it happened. So one that is sent again is the same report
//! to the byte, however late, and those that come out of order end as if they had come in order.
//!
//! A payment system tells of refunds by the payment, not by the order. So each report carries the names by which its
//! sender knows the order (`stripe:pi_…`, `shopify:…`), and one that has nothing but names is of whichever order has
//! one of them (`processor/src/order_names.rs`).

mod loose;
mod shopify;
mod signature;
mod stripe;

use std::net::IpAddr;

use chrono::{DateTime, Utc};

pub use signature::{BadSignature, TOLERANCE, check as check_signature, sign};

use super::{MAX_COUPON_CHARS, Parameter, Refusal, Report, email};
use crate::click_token;
use crate::customers::is_customer_id;
use crate::events::webhook_source;
use crate::orders::is_order_id;

/// Longest body. Shopify's orders have some 3 KB a line, and up to 500 lines.
pub const MAX_WEBHOOK_BYTES: usize = 2 * 1024 * 1024;
/// Most reports that one webhook makes; further refunds in it are left out, and come by webhooks of their own.
pub const MAX_REPORTS: usize = 50;
/// Most names of an order that one report carries.
pub const MAX_NAMES: usize = 16;
/// The event of an order that renews another.
pub const RENEWAL: &str = "renewal";

/// Whose webhooks they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stripe,
    Shopify,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Stripe, Self::Shopify];

    /// As it stands in the API and in PostgreSQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stripe => "stripe",
            Self::Shopify => "shopify",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// As the edge index holds it.
    #[must_use]
    pub fn to_wire(self) -> webhook_source::Kind {
        match self {
            Self::Stripe => webhook_source::Kind::Stripe,
            Self::Shopify => webhook_source::Kind::Shopify,
        }
    }

    /// From the edge index; none: of a newer version than this one.
    #[must_use]
    pub fn from_wire(kind: webhook_source::Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.to_wire() == kind)
    }

    /// The header that holds the signature.
    #[must_use]
    pub fn signature_header(self) -> &'static str {
        match self {
            Self::Stripe => "stripe-signature",
            Self::Shopify => "x-shopify-hmac-sha256",
        }
    }

    /// The header that says what happened; none: the body says it.
    #[must_use]
    pub fn topic_header(self) -> Option<&'static str> {
        match self {
            Self::Stripe => None,
            Self::Shopify => Some("x-shopify-topic"),
        }
    }
}

/// What a webhook says.
#[derive(Debug)]
pub enum Said {
    /// At least one report.
    Orders(Vec<Report<'static>>),
    /// Nothing of an order. The report holds what is known of it, for the log.
    Nothing(Box<Report<'static>>, Nothing),
}

/// Why a webhook says nothing of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nothing {
    #[error("events of this type say nothing of an order")]
    Type,
    #[error("nothing was paid or given back by it")]
    NoMoney,
    #[error("another event says the same, more exactly")]
    ToldElsewhere,
    #[error("this invoice is of no subscription; its metadata names no click, coupon or order")]
    NoSubscription,
    #[error("it is a test order")]
    TestOrder,
}

impl Nothing {
    /// A stable name for programs, and for the log.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Type => "event_ignored",
            Self::NoMoney => "no_money",
            Self::ToldElsewhere => "told_elsewhere",
            Self::NoSubscription => "no_subscription",
            Self::TestOrder => "test_order",
        }
    }
}

/// Reads a webhook; `topic` is what [`Kind::topic_header`] holds.
///
/// # Errors
/// When it is none of this kind.
pub fn read(kind: Kind, topic: Option<&str>, body: &[u8]) -> Result<Said, Refusal> {
    match kind {
        Kind::Stripe => stripe::read(body),
        Kind::Shopify => shopify::read(topic.unwrap_or_default(), body),
    }
}

fn bad(kind: Kind, error: &serde_json::Error) -> Refusal {
    Refusal::Webhook(kind.name(), error.to_string())
}

/// A report that is being put together.
#[derive(Debug)]
struct Draft(Report<'static>);

impl Draft {
    /// Of what happened, by its sender's name for it, at a moment.
    fn new(happened: &str, id: &str, at: Option<DateTime<Utc>>) -> Self {
        let mut report = Report::default();
        report.received.note("webhook", happened, false);
        report.received.note("id", id, false);
        report.said_at = at;
        Self(report)
    }

    /// Says what can be used; returns whether it could.
    fn say(&mut self, parameter: Parameter, value: Option<impl Into<String>>) -> bool {
        let value = value.map(Into::into).filter(|value| fits(parameter, value));
        let Some(value) = value else {
            return false;
        };
        self.0.take(parameter.name(), value.into());
        true
    }

    /// Says the first that can be used.
    fn say_first<'v>(
        &mut self,
        parameter: Parameter,
        values: impl IntoIterator<Item = Option<&'v str>>,
    ) -> bool {
        values
            .into_iter()
            .any(|value| self.0.get(parameter).is_none() && self.say(parameter, value))
    }

    /// Names the order as `kind` knows it.
    fn name(&mut self, kind: Kind, id: Option<&str>) {
        let name = id.map(|id| name(kind, id)).filter(|name| is_order_id(name));
        if let Some(name) = name
            && self.0.names.len() < MAX_NAMES
            && !self.0.names.contains(&name)
        {
            self.0.names.push(name);
        }
    }

    fn nothing(self, why: Nothing) -> Said {
        Said::Nothing(Box::new(self.0), why)
    }

    fn order(self) -> Said {
        Said::Orders(vec![self.0])
    }
}

fn name(kind: Kind, id: &str) -> String {
    format!("{}:{id}", kind.name())
}

/// Whether a value can stand in a report; what is no matter of form is judged later.
fn fits(parameter: Parameter, value: &str) -> bool {
    match parameter {
        Parameter::ClickId => click_token::parts(value).is_some(),
        Parameter::OrderId | Parameter::ReportId => is_order_id(value),
        Parameter::CustomerId => is_customer_id(value),
        Parameter::Email => email::domain(value).is_some(),
        Parameter::Ip => value.parse::<IpAddr>().is_ok(),
        Parameter::Coupon => {
            let chars = value.trim().chars();
            !value.trim().is_empty()
                && chars.clone().count() <= MAX_COUPON_CHARS
                && !chars.clone().any(char::is_control)
        }
        _ => !value.is_empty(),
    }
}

#[cfg(test)]
mod tests;
