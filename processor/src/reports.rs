//! What somebody reported of an order: read from topic `conversions`, kept in PostgreSQL `conversion_reports`.
//!
//! A report is named by what it says and when it was accepted, so one that Kafka delivers again is known. What is said
//! again in the same words is told by `words`: `settle/order.rs` decides what that means.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chrono::{DateTime, Utc};
use prost::Message as _;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;
use tributary_shared::clock::event_time;
use tributary_shared::customers::CustomerHash;
use tributary_shared::events::{Conversion, OrderItem, OrderStatus, Source as WireSource};
use tributary_shared::ids::{TenantId, conversion_id};
use tributary_shared::money::{Money, MoneyError};
use tributary_shared::orders::{is_event, is_order_id};
use uuid::Uuid;

/// Longest click id that is kept beside a conversion, ours or not.
const MAX_CLICK_ID_BYTES: usize = 256;
/// Longest of the other texts.
const MAX_TEXT_BYTES: usize = 512;
/// Most names of an order in one report.
const MAX_NAMES: usize = 16;
/// Most lines of an order.
const MAX_ITEMS: usize = 100;

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

/// Who reported it: shared/proto/conversions.proto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Postback,
    Pixel,
    Event,
    Webhook,
}

/// How an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Lead,
    Pending,
    Approved,
    Rejected,
    Refunded,
}

/// A line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) product: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) category: String,
    pub(crate) quantity: u32,
    /// Of the whole line, in the order's currency.
    pub(crate) amount: Decimal,
}

/// A report, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(crate) id: Uuid,
    /// The same for two reports of a conversion that say the same.
    pub(crate) words: Uuid,
    pub(crate) tenant_id: TenantId,
    pub(crate) conversion_id: Uuid,
    pub(crate) order_id: String,
    pub(crate) event: String,
    /// When it was accepted.
    pub(crate) reported_at: DateTime<Utc>,
    pub(crate) source: Source,
    pub(crate) status: Option<Status>,
    pub(crate) report_id: Option<String>,
    /// None: it says nothing of the amount; of a refund: all of it.
    pub(crate) money: Option<Money>,
    pub(crate) click_id: Option<String>,
    pub(crate) coupon: Option<String>,
    pub(crate) customer_id: Option<CustomerHash>,
    pub(crate) new_customer: Option<bool>,
    pub(crate) items: Vec<Item>,
    pub(crate) visitor_id: Option<[u8; 16]>,
    pub(crate) fingerprint: Option<[u8; 16]>,
    pub(crate) address: Option<IpAddr>,
    /// The address's, by the operator's file at the time when it was recorded; the message does not say.
    pub(crate) country: Option<String>,
    pub(crate) user_agent: Option<String>,
    pub(crate) email_domain: Option<String>,
    /// Other names by which the order is known; not read again once they are learned (order_names.rs).
    pub(crate) names: Vec<String>,
    /// A name of the order that this one renews.
    pub(crate) renews: Option<String>,
    /// As it came, where it has to wait for its order.
    pub(crate) message: Vec<u8>,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Postback => "postback",
            Self::Pixel => "pixel",
            Self::Event => "event",
            Self::Webhook => "webhook",
        }
    }

    /// Whether the merchant's own server said so, or a system that signs in its name.
    pub(crate) fn is_merchant(self) -> bool {
        matches!(self, Self::Postback | Self::Webhook)
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Postback, Self::Pixel, Self::Event, Self::Webhook]
            .into_iter()
            .find(|source| source.as_str() == name)
    }
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Lead => "lead",
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Refunded => "refunded",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let all = [
            Self::Lead,
            Self::Pending,
            Self::Approved,
            Self::Rejected,
            Self::Refunded,
        ];
        all.into_iter().find(|status| status.as_str() == name)
    }
}

impl Report {
    /// Reads a message of topic `conversions`.
    ///
    /// # Errors
    /// Why it is none; it never will be.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, BadConversion> {
        let mut event =
            Conversion::decode(payload).map_err(|e| BadConversion::Encoding(e.to_string()))?;
        let reported_at =
            event_time(event.accepted_at_us).ok_or(BadConversion::Field("accepted_at_us"))?;
        let tenant_id =
            TenantId::from_wire(event.tenant_id).ok_or(BadConversion::Field("tenant_id"))?;
        if event.names.len() > MAX_NAMES || !event.names.iter().all(|name| is_order_id(name)) {
            return Err(BadConversion::Field("names"));
        }
        let by_names = event.order_id.is_empty() && !event.names.is_empty();
        if !by_names && !is_order_id(&event.order_id) {
            return Err(BadConversion::Field("order_id"));
        }
        if !by_names && !is_event(&event.event) {
            return Err(BadConversion::Field("event"));
        }
        // Computed, not taken: what makes an order unique is not the message's to say. Of one that is told by names it
        // only names the report: no order id holds a line break.
        let conversion_id = match by_names {
            false => conversion_id(tenant_id, &event.order_id, &event.event),
            true => conversion_id(tenant_id, &format!("\n{}", event.names.join("\n")), ""),
        };
        event.conversion_id.clear();
        let id = Uuid::new_v5(&conversion_id, &event.encode_to_vec());
        event.accepted_at_us = 0;
        let words = Uuid::new_v5(&conversion_id, &event.encode_to_vec());

        let status = match event.status() {
            OrderStatus::Unsaid => None,
            OrderStatus::Lead => Some(Status::Lead),
            OrderStatus::Pending => Some(Status::Pending),
            OrderStatus::Approved => Some(Status::Approved),
            OrderStatus::Rejected => Some(Status::Rejected),
            OrderStatus::Refunded => Some(Status::Refunded),
        };
        let money = match (event.amount.as_str(), event.currency.as_str()) {
            ("", _) if status.is_some() || by_names => None,
            (amount, currency) => Some(Money::parse(amount, currency)?),
        };
        let source = match event.source() {
            WireSource::Postback => Source::Postback,
            WireSource::Pixel => Source::Pixel,
            WireSource::Event => Source::Event,
            WireSource::Webhook => Source::Webhook,
        };
        Ok(Self {
            id,
            words,
            tenant_id,
            conversion_id,
            reported_at,
            source,
            status,
            report_id: text("report_id", event.report_id, MAX_TEXT_BYTES)?,
            click_id: text("click_id", event.click_id, MAX_CLICK_ID_BYTES)?,
            coupon: text("coupon", event.coupon, MAX_TEXT_BYTES)?,
            customer_id: bytes("customer_id", &event.customer_id)?,
            new_customer: event.new_customer,
            items: items(event.items, &event.currency, money)?,
            money,
            visitor_id: bytes("visitor_id", &event.visitor_id)?,
            fingerprint: bytes("fingerprint", &event.fingerprint)?,
            address: match event.address.len() {
                0 => None,
                4 => bytes("address", &event.address)?.map(|a: [u8; 4]| Ipv4Addr::from(a).into()),
                _ => bytes("address", &event.address)?.map(|a: [u8; 16]| Ipv6Addr::from(a).into()),
            },
            country: None,
            user_agent: text("user_agent", event.user_agent, MAX_TEXT_BYTES)?,
            email_domain: text("email_domain", event.email_domain, MAX_TEXT_BYTES)?,
            names: event.names,
            renews: text("renews", event.renews, MAX_TEXT_BYTES)?,
            message: if by_names {
                payload.to_vec()
            } else {
                Vec::new()
            },
            order_id: event.order_id,
            event: event.event,
        })
    }

    /// Whether it says itself which order it is of.
    pub(crate) fn names_its_order(&self) -> bool {
        !self.order_id.is_empty()
    }

    /// Whether it says nothing but that its names are of one order.
    pub(crate) fn says_names_only(&self) -> bool {
        !self.message.is_empty() && self.status.is_none()
    }

    /// It is of this conversion, which is there already.
    pub(crate) fn is_of(&mut self, conversion: Uuid) {
        self.conversion_id = conversion;
        self.order_id.clear();
        self.event.clear();
    }
}

fn text(
    field: &'static str,
    text: String,
    max_bytes: usize,
) -> Result<Option<String>, BadConversion> {
    if text.len() > max_bytes || text.contains('\0') {
        return Err(BadConversion::Field(field));
    }
    Ok((!text.is_empty()).then_some(text))
}

fn bytes<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<Option<[u8; N]>, BadConversion> {
    if bytes.is_empty() {
        return Ok(None);
    }
    <[u8; N]>::try_from(bytes)
        .map(Some)
        .map_err(|_| BadConversion::Field(field))
}

fn items(
    items: Vec<OrderItem>,
    currency: &str,
    money: Option<Money>,
) -> Result<Vec<Item>, BadConversion> {
    if items.len() > MAX_ITEMS {
        return Err(BadConversion::Field("items"));
    }
    if money.is_none() {
        return Ok(Vec::new()); // amounts without a currency say nothing
    }
    let item = |item: OrderItem| {
        let product = text("items", item.product, MAX_TEXT_BYTES)?;
        Ok(Item {
            product: product.ok_or(BadConversion::Field("items"))?,
            category: text("items", item.category, MAX_TEXT_BYTES)?.unwrap_or_default(),
            quantity: item.quantity.max(1),
            amount: Money::parse(&item.amount, currency)?.amount(),
        })
    };
    items.into_iter().map(item).collect()
}

/// Keeps reports; one of an order that is not known yet opens its conversion, with nothing in it (version 0). Returns the
/// conversion of each that is new. Of who was erased nothing personal is kept.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    reports: &[Report],
) -> Result<Vec<Uuid>, sqlx::Error> {
    let by_id: BTreeMap<Uuid, &Report> = reports.iter().map(|report| (report.id, report)).collect();
    // In the order of ids, so that two processors never wait for each other.
    let mut conversions: BTreeMap<Uuid, &Report> = BTreeMap::new();
    for report in by_id.values().filter(|report| report.names_its_order()) {
        let first = conversions.entry(report.conversion_id).or_insert(report);
        if report.reported_at < first.reported_at {
            *first = report;
        }
    }
    let conversions: Vec<&Report> = conversions.into_values().collect();
    sqlx::query(
        "INSERT INTO conversions (id, tenant_id, order_id, event, amount, currency, accepted_at, converted_at, attribution, version)
         SELECT id, tenant_id, order_id, event, 0, 'XXX', reported_at, reported_at, 'no_click', 0
         FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::timestamptz[])
              AS r (id, tenant_id, order_id, event, reported_at)
         ON CONFLICT (tenant_id, order_id, event) DO NOTHING",
    )
    .bind(column(&conversions, |r| r.conversion_id))
    .bind(column(&conversions, |r| r.tenant_id))
    .bind(column(&conversions, |r| r.order_id.clone()))
    .bind(column(&conversions, |r| r.event.clone()))
    .bind(column(&conversions, |r| r.reported_at))
    .execute(&mut *connection)
    .await?;

    let reports: Vec<&Report> = by_id.into_values().collect();
    sqlx::query_scalar(
        "INSERT INTO conversion_reports (id, words, tenant_id, conversion_id, reported_at, source, status, report_id, amount, currency,
             click_id, coupon, customer_id, new_customer, items, visitor_id, fingerprint, address, country, user_agent, email_domain, renews)
         SELECT id, words, r.tenant_id, conversion_id, reported_at, source, status, report_id, amount, currency, click_id, coupon,
             CASE WHEN kept THEN r.customer_id END, new_customer, items, CASE WHEN kept THEN r.visitor_id END,
             CASE WHEN kept THEN fingerprint END, CASE WHEN kept THEN address::inet END, CASE WHEN kept THEN country END,
             CASE WHEN kept THEN user_agent END, CASE WHEN kept THEN email_domain END, renews
         FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::numeric[],
              $9::text[], $10::text[], $11::text[], $12::bytea[], $13::boolean[], $14::jsonb[], $15::bytea[], $16::bytea[],
              $17::text[], $18::text[], $19::text[], $20::uuid[], $21::text[], $22::text[])
              AS r (id, tenant_id, conversion_id, reported_at, source, status, report_id, amount, currency, click_id, coupon,
                    customer_id, new_customer, items, visitor_id, fingerprint, address, user_agent, email_domain, words, renews, country),
              LATERAL (SELECT NOT EXISTS (SELECT 1 FROM erasures e WHERE e.tenant_id = r.tenant_id AND (e.customer_id = r.customer_id
                       OR e.visitor_id = encode(substring(r.visitor_id FROM 9), 'hex')))) AS erased (kept)
         ON CONFLICT (id) DO NOTHING
         RETURNING conversion_id",
    )
    .bind(column(&reports, |r| r.id))
    .bind(column(&reports, |r| r.tenant_id))
    .bind(column(&reports, |r| r.conversion_id))
    .bind(column(&reports, |r| r.reported_at))
    .bind(column(&reports, |r| r.source.as_str()))
    .bind(column(&reports, |r| r.status.map(Status::as_str)))
    .bind(column(&reports, |r| r.report_id.clone()))
    .bind(column(&reports, |r| r.money.map(Money::amount)))
    .bind(column(&reports, |r| r.money.map(|m| m.currency().code())))
    .bind(column(&reports, |r| r.click_id.clone()))
    .bind(column(&reports, |r| r.coupon.clone()))
    .bind(column(&reports, |r| r.customer_id.map(Vec::from)))
    .bind(column(&reports, |r| r.new_customer))
    .bind(column(&reports, |r| Json(r.items.clone())))
    .bind(column(&reports, |r| r.visitor_id.map(Vec::from)))
    .bind(column(&reports, |r| r.fingerprint.map(Vec::from)))
    .bind(column(&reports, |r| r.address.map(|a| a.to_string())))
    .bind(column(&reports, |r| r.user_agent.clone()))
    .bind(column(&reports, |r| r.email_domain.clone()))
    .bind(column(&reports, |r| r.words))
    .bind(column(&reports, |r| r.renews.clone()))
    .bind(column(&reports, |r| r.country.clone()))
    .fetch_all(connection)
    .await
}

fn column<T>(reports: &[&Report], value: impl Fn(&Report) -> T) -> Vec<T> {
    reports.iter().map(|report| value(report)).collect()
}

/// A row of `conversion_reports`.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct ReportRow {
    id: Uuid,
    words: Uuid,
    tenant_id: TenantId,
    conversion_id: Uuid,
    order_id: String,
    event: String,
    reported_at: DateTime<Utc>,
    source: String,
    status: Option<String>,
    report_id: Option<String>,
    amount: Option<Decimal>,
    currency: Option<String>,
    click_id: Option<String>,
    coupon: Option<String>,
    customer_id: Option<CustomerHash>,
    new_customer: Option<bool>,
    items: Json<Vec<Item>>,
    visitor_id: Option<[u8; 16]>,
    fingerprint: Option<[u8; 16]>,
    address: Option<String>,
    country: Option<String>,
    user_agent: Option<String>,
    email_domain: Option<String>,
    renews: Option<String>,
}

impl From<ReportRow> for Report {
    fn from(row: ReportRow) -> Self {
        let money = (row.amount.zip(row.currency.as_deref()))
            .and_then(|(amount, currency)| Money::new(amount, currency.parse().ok()?).ok());
        Self {
            id: row.id,
            words: row.words,
            tenant_id: row.tenant_id,
            conversion_id: row.conversion_id,
            order_id: row.order_id,
            event: row.event,
            reported_at: row.reported_at,
            source: Source::from_name(&row.source).unwrap_or(Source::Event),
            status: row.status.as_deref().and_then(Status::from_name),
            report_id: row.report_id,
            money,
            click_id: row.click_id,
            coupon: row.coupon,
            customer_id: row.customer_id,
            new_customer: row.new_customer,
            items: row.items.0,
            visitor_id: row.visitor_id,
            fingerprint: row.fingerprint,
            address: row.address.and_then(|address| address.parse().ok()),
            country: row.country,
            user_agent: row.user_agent,
            email_domain: row.email_domain,
            names: Vec::new(),
            renews: row.renews,
            message: Vec::new(),
        }
    }
}

/// All reports of these conversions.
pub(crate) async fn of(
    connection: &mut PgConnection,
    conversions: &[Uuid],
) -> Result<Vec<Report>, sqlx::Error> {
    let rows: Vec<ReportRow> = sqlx::query_as(
        "SELECT r.id, r.words, r.tenant_id, r.conversion_id, c.order_id, c.event, r.reported_at, r.source, r.status, r.report_id,
                r.amount, r.currency, r.click_id, r.coupon, r.customer_id, r.new_customer, r.items, r.visitor_id,
                r.fingerprint, host(r.address) AS address, r.country, r.user_agent, r.email_domain, r.renews
         FROM conversion_reports r JOIN conversions c ON c.id = r.conversion_id WHERE r.conversion_id = ANY($1)",
    )
    .bind(conversions)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Report::from).collect())
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

    fn decode(event: &Conversion) -> Result<Report, BadConversion> {
        Report::decode(&event.encode_to_vec())
    }

    #[test]
    fn a_report_is_read_and_named_by_what_it_says() {
        let report = decode(&conversion()).unwrap();
        assert_eq!(
            report.conversion_id,
            conversion_id(TenantId(1), "A-1", "sale")
        );
        assert_eq!(report.money.unwrap().to_string(), "10.00 USD");
        let again = Conversion {
            conversion_id: "x".into(),
            ..conversion()
        };
        assert_eq!(decode(&again).unwrap().id, report.id);
        let later = Conversion {
            accepted_at_us: 1_763_000_000_999_999,
            ..conversion()
        };
        let later = decode(&later).unwrap();
        assert!(later.id != report.id && later.words == report.words);
        let other = Conversion {
            amount: "10.01".into(),
            ..conversion()
        };
        assert_ne!(decode(&other).unwrap().words, report.words);
    }

    #[test]
    fn a_status_needs_no_amount_and_an_order_does() {
        let told = |status: OrderStatus| {
            decode(&Conversion {
                amount: String::new(),
                currency: String::new(),
                status: status.into(),
                ..conversion()
            })
        };
        assert_eq!(
            told(OrderStatus::Approved).unwrap().status,
            Some(Status::Approved)
        );
        assert_eq!(told(OrderStatus::Refunded).unwrap().money, None);
        assert!(told(OrderStatus::Unsaid).is_err());
    }

    #[test]
    fn a_bad_conversion_says_why() {
        let changed = |change: fn(&mut Conversion)| {
            let mut event = conversion();
            change(&mut event);
            decode(&event).unwrap_err()
        };
        let field = BadConversion::Field;
        assert_eq!(changed(|c| c.tenant_id = 0), field("tenant_id"));
        assert_eq!(changed(|c| c.order_id.clear()), field("order_id"));
        assert_eq!(changed(|c| c.order_id = "a\0".into()), field("order_id"));
        assert_eq!(changed(|c| c.event = "Sale".into()), field("event"));
        assert_eq!(
            changed(|c| c.accepted_at_us = i64::MAX),
            field("accepted_at_us")
        );
        assert_eq!(changed(|c| c.click_id = "x".repeat(300)), field("click_id"));
        assert_eq!(changed(|c| c.coupon = "a\0".into()), field("coupon"));
        assert_eq!(
            changed(|c| c.customer_id = vec![1; 15]),
            field("customer_id")
        );
        assert_eq!(changed(|c| c.address = vec![1; 5]), field("address"));
        assert_eq!(
            changed(|c| c.items = vec![OrderItem::default()]),
            field("items")
        );
        assert_eq!(
            changed(|c| c.amount = "-1".into()),
            BadConversion::Money(MoneyError::Negative)
        );
        assert_eq!(
            changed(|c| c.currency = "??".into()),
            BadConversion::Money(MoneyError::UnknownCurrency)
        );
        assert!(matches!(
            Report::decode(b"\xff"),
            Err(BadConversion::Encoding(_))
        ));
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Report::decode(&payload);
        }
    }
}
