//! Why a report can't be taken, in words for whoever sent it.

use super::{
    MAX_CATEGORY_CHARS, MAX_COUPON_CHARS, MAX_ITEMS, MAX_PRODUCT_CHARS, MAX_QUANTITY, Parameter,
    STATUSES,
};
use crate::click_token::TokenError;
use crate::customers::MAX_CUSTOMER_ID_CHARS;
use crate::money::MoneyError;
use crate::orders::{MAX_EVENT_CHARS, MAX_ORDER_ID_CHARS};

/// What is wrong with a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the body must be a JSON object with order_id, amount and currency: {0}")]
    BodyJson(String),
    #[error("the body is no webhook of {0}: {1}")]
    Webhook(&'static str, String),
    #[error("{0} is given twice")]
    Repeated(&'static str),
    #[error("{0} and {1} are names of the same and say different things")]
    Contradicted(&'static str, &'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("order_id must be 1 to {MAX_ORDER_ID_CHARS} characters without control characters")]
    OrderId,
    #[error("event must be 1 to {MAX_EVENT_CHARS} of a-z, 0-9 and _")]
    Event,
    #[error("status must be one of {}", STATUSES.map(|(name, _)| name).join(", "))]
    Status,
    #[error("report_id must be 1 to {MAX_ORDER_ID_CHARS} characters without control characters")]
    ReportId,
    #[error("coupon must be 1 to {MAX_COUPON_CHARS} characters without control characters")]
    Coupon,
    #[error(transparent)]
    Items(#[from] BadItems),
    #[error(
        "customer_id must be 1 to {MAX_CUSTOMER_ID_CHARS} characters without control characters"
    )]
    CustomerId,
    #[error("new_customer must be true, false, 1 or 0")]
    NewCustomer,
    #[error("email must be an e-mail address such as ana@example.com")]
    Email,
    #[error("ip must be an IPv4 or IPv6 address")]
    Ip,
    #[error("{0}")]
    Money(#[from] MoneyError),
    #[error("click_id: {0}")]
    ClickId(#[from] TokenError),
}

/// What is wrong with a report's items; they are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadItems {
    #[error("items must be a JSON array of objects with product and amount: {0}")]
    Json(String),
    #[error("items must be at most {MAX_ITEMS}")]
    TooMany,
    #[error(
        "item {0}: product must be 1 to {MAX_PRODUCT_CHARS} characters without control characters"
    )]
    Product(usize),
    #[error(
        "item {0}: category must be at most {MAX_CATEGORY_CHARS} characters without control characters"
    )]
    Category(usize),
    #[error("item {0}: quantity must be a whole number from 1 to {MAX_QUANTITY}")]
    Quantity(usize),
    #[error("item {0}: {1}")]
    Amount(usize, MoneyError),
}

impl Refusal {
    /// A stable name for programs, and for metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BodyJson(_) | Self::Webhook(..) => "body_invalid",
            Self::Repeated(_) | Self::Contradicted(..) => "parameter_repeated",
            Self::Missing(_) => "parameter_missing",
            Self::OrderId => "order_id_invalid",
            Self::Event => "event_invalid",
            Self::Status => "status_invalid",
            Self::ReportId => "report_id_invalid",
            Self::Coupon => "coupon_invalid",
            Self::Items(_) => "items_invalid",
            Self::CustomerId => "customer_id_invalid",
            Self::NewCustomer => "new_customer_invalid",
            Self::Email => "email_invalid",
            Self::Ip => "ip_invalid",
            Self::Money(MoneyError::UnknownCurrency) => "currency_unknown",
            Self::Money(_) => "amount_invalid",
            Self::ClickId(TokenError::Malformed) => "click_id_malformed",
            Self::ClickId(TokenError::Foreign) => "click_id_foreign",
        }
    }

    /// Of what the report needs and does not say.
    pub(super) fn missing(parameter: Parameter) -> Self {
        Self::Missing(parameter.name())
    }
}
