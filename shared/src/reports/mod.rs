//! A report of an order: which parameters it may have and what makes it a conversion, whichever door it
//! comes by. The redirector takes reports by these rules, the admin API tries them out.
//!
//! | parameter | |
//! |---|---|
//! | `order_id` | the merchant's own, 1 to 128 characters |
//! | `amount`, `currency` | `49.90`, `USD` (ISO 4217); not needed with a status that settles an order |
//! | `event` | `a-z 0-9 _`, at most 32; `sale` when absent |
//! | `status` | how the order stands: `lead`, `pending`, `approved`, `rejected`, `refunded` (`status` has synonyms) |
//! | `report_id` | the merchant's own name of this report, such as a refund's id, 1 to 128 characters |
//! | `coupon` | the code that the customer used, 1 to 64 characters |
//! | `items` | what was bought: a JSON array (`items`); the amount is needed beside it |
//! | `customer_id` | the merchant's own name for the customer, 1 to 128 characters; only its hash is kept |
//! | `new_customer` | whether he is new to the merchant: `true`, `false`, `1`, `0` |
//! | `email` | the customer's e-mail address, of which the domain is kept; absent: of `customer_id`, if that is one |
//! | `ip`, `user_agent` | the shopper's, as the merchant or its shop system saw them; not of a browser |
//! | `click_id` | from the destination's `{click_id}`; absent: recorded, credited to nobody |
//!
//! Each has other names too ([`Parameter::names`]). An empty parameter is an absent one; what is unknown is
//! ignored, a name that stands twice is refused, and so are two names of one parameter that differ. A
//! report that is refused leaves nothing behind but its line in the log; one that is repeated is counted
//! once, and reads the same `conversion_id`.

pub(crate) mod email;
mod items;
mod json;
mod parameters;
mod received;
mod refusal;
mod status;
pub mod webhooks;

use std::borrow::Cow;
use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use url::form_urlencoded;

pub use items::{MAX_CATEGORY_CHARS, MAX_ITEMS, MAX_PRODUCT_CHARS, MAX_QUANTITY};
pub use parameters::Parameter;
pub use received::MAX_RECEIVED_BYTES;
pub use refusal::{BadItems, Refusal};
pub use status::{STATUSES, status, status_name};

use crate::click_token::{self, TokenError};
use crate::customers::{customer_hash, is_customer_id};
use crate::events::{Conversion, OrderItem, OrderStatus, Source};
use crate::ids::{TenantId, conversion_id};
use crate::money::{Currency, Money};
use crate::orders::{is_event, is_order_id};
use crate::secrets::KeyRing;

use json::{Fields, Text, as_text};
use received::Received;

/// The event of a report that names none.
pub const DEFAULT_EVENT: &str = "sale";
/// Longest coupon code, in characters.
pub const MAX_COUPON_CHARS: usize = 64;
/// Longest User-Agent of a shopper that is kept, in bytes; a longer one is cut.
pub const MAX_USER_AGENT_BYTES: usize = 512;

/// How late a report may come and still be of the moment at which it happened: its sender repeats it for days.
const MAX_LATE: TimeDelta = TimeDelta::days(7);

/// What was reported, as it was written.
#[derive(Debug, Default)]
pub struct Report<'r> {
    given: [Option<Given<'r>>; Parameter::ALL.len()],
    /// What is wrong with how it is written, the first of it.
    problem: Option<Refusal>,
    received: Received,
    /// Other names by which its sender knows the order; in place of its id where that is not given.
    names: Vec<String>,
    /// A name of the order that this one renews.
    renews: Option<String>,
    /// When it happened, by its sender; none: when it is accepted.
    said_at: Option<DateTime<Utc>>,
}

/// A parameter's value, and by which of its names it was given: one bit each.
#[derive(Debug)]
struct Given<'r> {
    value: Cow<'r, str>,
    name: &'static str,
    names: u8,
}

impl<'r> Report<'r> {
    /// Reads the parameters of a query and of a form, and the one that is called `credential`.
    #[must_use]
    pub fn from_form(
        query: &'r str,
        form: &'r [u8],
        credential: &'static str,
    ) -> (Self, Option<Cow<'r, str>>) {
        let mut report = Self::default();
        let mut secret = None;
        let pairs = form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(form));
        for (name, value) in pairs {
            if name == credential {
                report.secret(&mut secret, credential, value);
            } else {
                report.take(&name, value);
            }
        }
        (report, secret)
    }

    /// Reads a JSON object, and its field that is called `credential`. Numbers are taken digit by digit
    /// as they are written.
    ///
    /// # Errors
    /// When it is none, or a field stands in it twice.
    pub fn from_json(
        body: &'r [u8],
        credential: &'static str,
    ) -> Result<(Self, Option<Cow<'r, str>>), Refusal> {
        let Fields(fields) = serde_json::from_slice(body)
            .map_err(|error: serde_json::Error| Refusal::BodyJson(error.to_string()))?;
        let mut report = Self::default();
        let mut secret = None;
        for (name, value) in fields {
            let known = Parameter::named(&name).map(|(parameter, _)| parameter);
            let text = match as_text(value) {
                Text::Null => continue,
                Text::Said(text) => text,
                Text::Other(written) => match (known, written.as_bytes().first()) {
                    (Some(Parameter::Items), Some(b'['))
                    | (Some(Parameter::NewCustomer), Some(b't' | b'f')) => Cow::Borrowed(written),
                    (None, _) if name != credential => continue,
                    _ => {
                        let why = format!("{name} is neither a string nor a number");
                        report.problem.get_or_insert(Refusal::BodyJson(why));
                        continue;
                    }
                },
            };
            if name == credential {
                report.secret(&mut secret, credential, text);
            } else {
                report.take(&name, text);
            }
        }
        Ok((report, secret))
    }

    fn secret(
        &mut self,
        secret: &mut Option<Cow<'r, str>>,
        name: &'static str,
        value: Cow<'r, str>,
    ) {
        // An empty parameter is what a shop's template leaves when it has no value.
        if !value.is_empty() && secret.replace(value).is_some() {
            self.problem.get_or_insert(Refusal::Repeated(name));
        }
    }

    fn take(&mut self, name: &str, value: Cow<'r, str>) {
        let known = Parameter::named(name);
        let is_personal = known.is_some_and(|(parameter, _)| parameter.is_personal());
        self.received.note(name, &value, is_personal);
        let Some((parameter, place)) = known.filter(|_| !value.is_empty()) else {
            return;
        };
        let (name, bit) = (parameter.names()[place], 1 << place);
        let problem = match &mut self.given[parameter as usize] {
            Some(given) if given.names & bit != 0 => Refusal::Repeated(name),
            Some(given) if given.value != value => Refusal::Contradicted(given.name, name),
            Some(given) => {
                given.names |= bit;
                return;
            }
            none => {
                let names = bit;
                *none = Some(Given { value, name, names });
                return;
            }
        };
        self.problem.get_or_insert(problem);
    }

    /// What a parameter says, whatever name it was given by.
    #[must_use]
    pub fn get(&self, parameter: Parameter) -> Option<&str> {
        let given = self.given[parameter as usize].as_ref()?;
        Some(&given.value)
    }

    /// Says of which click the order is, where the report does not.
    pub fn remember_click(&mut self, click_id: Option<&'r str>) {
        let place = &mut self.given[Parameter::ClickId as usize];
        if let (None, Some(click_id)) = (&place, click_id) {
            *place = Some(Given {
                value: Cow::Borrowed(click_id),
                name: Parameter::ClickId.name(),
                names: 0,
            });
        }
    }

    /// What is wrong with how it is written.
    #[must_use]
    pub fn problem(&self) -> Option<&Refusal> {
        self.problem.as_ref()
    }

    /// The parameters as they came, for the tenant's log: without secrets, without what says who the
    /// customer is, and within [`MAX_RECEIVED_BYTES`].
    #[must_use]
    pub fn received(&self) -> &str {
        self.received.text()
    }

    /// The event that is reported.
    #[must_use]
    pub fn event(&self) -> &str {
        self.get(Parameter::Event).unwrap_or(DEFAULT_EVENT)
    }

    /// The conversion that this report is of, told by `source` for `tenant` at `now`.
    ///
    /// # Errors
    /// Says which parameter is missing or wrong.
    pub fn check(
        &self,
        keys: &KeyRing,
        tenant: TenantId,
        source: Source,
        now: DateTime<Utc>,
    ) -> Result<Conversion, Refusal> {
        let verify = |click_id: &str| click_token::verify(keys, click_id).map(|_| ());
        self.check_with(verify, tenant, source, now)
    }

    /// As [`Report::check`], for who has no keys: `verify` judges the click token.
    ///
    /// # Errors
    /// Says which parameter is missing or wrong.
    pub fn check_with(
        &self,
        verify: impl FnOnce(&str) -> Result<(), TokenError>,
        tenant: TenantId,
        source: Source,
        now: DateTime<Utc>,
    ) -> Result<Conversion, Refusal> {
        if let Some(problem) = &self.problem {
            return Err(problem.clone());
        }
        // One of an order that is told by its other names alone has neither.
        let (order_id, event) = match self.get(Parameter::OrderId) {
            None if !self.names.is_empty() => ("", ""),
            _ => (self.needed(Parameter::OrderId)?, self.event()),
        };
        let by_names = order_id.is_empty();
        if !by_names && !is_order_id(order_id) {
            return Err(Refusal::OrderId);
        }
        if !by_names && !is_event(event) {
            return Err(Refusal::Event);
        }
        let status = match self.get(Parameter::Status) {
            None => OrderStatus::Unsaid,
            Some(word) => status(word).ok_or(Refusal::Status)?,
        };
        let worth = match status {
            OrderStatus::Unsaid if by_names => Worth::default(),
            status => self.worth(status)?,
        };
        let click_id = self.get(Parameter::ClickId).unwrap_or_default();
        if !click_id.is_empty() {
            verify(click_id)?;
        }
        let customer_id = self.get(Parameter::CustomerId);
        if !customer_id.is_none_or(is_customer_id) {
            return Err(Refusal::CustomerId);
        }
        let new_customer = match self.get(Parameter::NewCustomer) {
            None => None,
            Some("true" | "1") => Some(true),
            Some("false" | "0") => Some(false),
            Some(_) => return Err(Refusal::NewCustomer),
        };
        let report_id = self.get(Parameter::ReportId).unwrap_or_default();
        if !report_id.is_empty() && !is_order_id(report_id) {
            return Err(Refusal::ReportId);
        }
        let (address, user_agent) = match source {
            Source::Postback | Source::Webhook => self.shopper()?,
            // A browser that reports is the shopper's: what it writes of itself is no evidence.
            Source::Pixel | Source::Event => (Vec::new(), String::new()),
        };
        Ok(Conversion {
            conversion_id: match by_names {
                true => String::new(),
                false => conversion_id(tenant, order_id, event).to_string(),
            },
            accepted_at_us: self.happened_at(now).timestamp_micros(),
            tenant_id: tenant.to_wire(),
            order_id: order_id.to_owned(),
            event: event.to_owned(),
            amount: worth.amount,
            currency: worth.currency,
            click_id: click_id.to_owned(),
            source: source.into(),
            customer_id: customer_id
                .map(|id| customer_hash(tenant, id).to_vec())
                .unwrap_or_default(),
            new_customer,
            status: status.into(),
            report_id: report_id.to_owned(),
            coupon: self.coupon()?,
            items: worth.items,
            address,
            user_agent,
            email_domain: self.email_domain()?,
            names: self.names.clone(),
            renews: self.renews.clone().unwrap_or_default(),
            ..Conversion::default()
        })
    }

    /// When its sender says that it happened, as far as that can be believed.
    fn happened_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let said_at = self.said_at.filter(|at| now - *at <= MAX_LATE);
        said_at.map_or(now, |at| at.min(now))
    }

    fn needed(&self, parameter: Parameter) -> Result<&str, Refusal> {
        self.get(parameter)
            .ok_or_else(|| Refusal::missing(parameter))
    }

    /// What the order is worth, or was given back of it.
    fn worth(&self, status: OrderStatus) -> Result<Worth, Refusal> {
        let settles = matches!(
            status,
            OrderStatus::Approved | OrderStatus::Rejected | OrderStatus::Refunded
        );
        let items = self.get(Parameter::Items);
        // Whether items alone were to be given back whole, or are all that is left, nobody could tell.
        if settles && items.is_none() && self.get(Parameter::Amount).is_none() {
            if let Some(code) = self.get(Parameter::Currency) {
                code.parse::<Currency>()?;
            }
            return Ok(Worth::default());
        }
        let amount = self.needed(Parameter::Amount)?;
        let money = Money::parse(amount, self.needed(Parameter::Currency)?)?;
        let currency = money.currency();
        let items = match items {
            Some(text) => items::items(text, currency)?,
            None => Vec::new(),
        };
        Ok(Worth {
            amount: money.amount().to_string(),
            currency: currency.code().to_owned(),
            items,
        })
    }

    fn coupon(&self) -> Result<String, Refusal> {
        let coupon = self.get(Parameter::Coupon).unwrap_or_default().trim();
        let printable = !coupon.chars().any(char::is_control);
        if coupon.chars().count() > MAX_COUPON_CHARS || !printable {
            return Err(Refusal::Coupon);
        }
        Ok(coupon.to_owned())
    }

    fn email_domain(&self) -> Result<String, Refusal> {
        if let Some(email) = self.get(Parameter::Email) {
            return email::domain(email).ok_or(Refusal::Email);
        }
        let customer = self.get(Parameter::CustomerId).and_then(email::domain);
        Ok(customer.unwrap_or_default())
    }

    /// Address and User-Agent of the shopper, as the merchant saw them.
    fn shopper(&self) -> Result<(Vec<u8>, String), Refusal> {
        let address = match self.get(Parameter::Ip) {
            None => Vec::new(),
            Some(text) => {
                let address: IpAddr = text.trim().parse().map_err(|_| Refusal::Ip)?;
                address_bytes(address.to_canonical())
            }
        };
        let user_agent = self.get(Parameter::UserAgent).unwrap_or_default();
        let end = user_agent.floor_char_boundary(MAX_USER_AGENT_BYTES);
        Ok((address, user_agent[..end].to_owned()))
    }
}

/// What a report says of money.
#[derive(Default)]
struct Worth {
    amount: String,
    currency: String,
    items: Vec<OrderItem>,
}

/// An address as events carry it: 4 or 16 bytes.
#[must_use]
pub fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests;
