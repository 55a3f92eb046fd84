//! Stripe's events as reports of orders.
//!
//! | event | |
//! |---|---|
//! | `checkout.session.completed`, `….async_payment_succeeded` | a sale, pending: the money is there, the hold counts all the same |
//! | `checkout.session.async_payment_failed` | the sale is rejected |
//! | `invoice.paid` | a subscription's first invoice is its sale, the same as its checkout session's; each later one a `renewal` of it; another invoice a sale if its metadata names a click, a coupon or an order |
//! | `invoice_payment.paid` | which payment paid which invoice, so that the payment's refunds are the invoice's |
//! | `refund.created`, `….updated`, `….failed`, `charge.refund.updated` | a refund by its own id; one that failed gives nothing back |
//! | `charge.refunded` | refunds as well, for API versions that tell them so (below) |
//! | `charge.dispute.created`, `….closed` | a refund by the dispute's id: Stripe takes the money at once, and gives it back when the dispute is won |
//!
//! Refunds, by the API version that the endpoint has: before 2022-11-15 `charge.refunded` lists them; before 2024-10-28 it
//! says their sum alone, which is taken as one refund by the charge's id; since then there is a `refund.created` for each.
//!
//! The order's id is `order_id` of the metadata; else the invoice's of a subscription, else the payment's. A renewal's is
//! always its invoice's: it has the subscription's metadata.

use chrono::DateTime;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::loose::{Maybe, Metadata, Ref};
use super::{Draft, Kind, MAX_REPORTS, Nothing, RENEWAL, Said, bad, name};
use crate::reports::{Parameter, Refusal};

const KIND: Kind = Kind::Stripe;

/// Currencies of which Stripe counts whole units. ISK and UGX have no smaller unit either, but Stripe counts
/// hundredths of them.
const ZERO_DECIMAL: [&str; 15] = [
    "BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF",
    "XOF", "XPF",
];
/// Currencies of which it counts thousandths.
const THREE_DECIMAL: [&str; 5] = ["BHD", "JOD", "KWD", "OMR", "TND"];

/// From this API version on `charge.refunded` lists no refunds.
const WITHOUT_LIST: &str = "2022-11-15";
/// From this one on there is a `refund.created` for each.
const REFUNDS_THEMSELVES: &str = "2024-10-28";

#[derive(Deserialize)]
struct Event<'b> {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    created: Maybe<i64>,
    #[serde(default)]
    api_version: Maybe<String>,
    #[serde(borrow)]
    data: Data<'b>,
}

#[derive(Deserialize)]
struct Data<'b> {
    #[serde(borrow)]
    object: &'b RawValue,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Session {
    id: String,
    mode: Maybe<String>,
    amount_total: Maybe<i64>,
    currency: Maybe<String>,
    client_reference_id: Maybe<String>,
    customer: Maybe<Ref>,
    customer_email: Maybe<String>,
    customer_details: Maybe<Details>,
    metadata: Metadata,
    payment_intent: Maybe<Ref>,
    subscription: Maybe<Ref>,
    invoice: Maybe<Ref>,
    discounts: Maybe<Vec<Maybe<Discount>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    email: Maybe<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Discount {
    coupon: Maybe<Ref>,
    promotion_code: Maybe<PromotionCode>,
}

/// Only where it stands there itself: its id says nothing to anybody.
#[derive(Debug, Deserialize)]
struct PromotionCode {
    code: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Invoice {
    id: String,
    billing_reason: Maybe<String>,
    amount_paid: Maybe<i64>,
    currency: Maybe<String>,
    customer: Maybe<Ref>,
    customer_email: Maybe<String>,
    metadata: Metadata,
    discount: Maybe<Discount>,
    discounts: Maybe<Vec<Maybe<Discount>>>,
    // Until 2025-03-31:
    subscription: Maybe<Ref>,
    subscription_details: Maybe<SubscriptionDetails>,
    payment_intent: Maybe<Ref>,
    charge: Maybe<Ref>,
    // Since then:
    parent: Maybe<Parent>,
    payments: Maybe<Payments>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parent {
    subscription_details: Maybe<SubscriptionDetails>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SubscriptionDetails {
    subscription: Maybe<Ref>,
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Payments {
    data: Maybe<Vec<Maybe<InvoicePayment>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InvoicePayment {
    id: String,
    invoice: Maybe<Ref>,
    payment: Maybe<Payment>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Payment {
    payment_intent: Maybe<Ref>,
    charge: Maybe<Ref>,
}

/// A refund, or a dispute.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reversal {
    id: String,
    amount: Maybe<i64>,
    currency: Maybe<String>,
    status: Maybe<String>,
    payment_intent: Maybe<Ref>,
    charge: Maybe<Ref>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Charge {
    id: String,
    amount_refunded: Maybe<i64>,
    currency: Maybe<String>,
    payment_intent: Maybe<Ref>,
    invoice: Maybe<Ref>,
    refunds: Maybe<Refunds>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refunds {
    data: Maybe<Vec<Maybe<Reversal>>>,
}

/// How an API version tells of refunds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RefundsBy {
    List,
    Sum,
    Themselves,
}

impl Event<'_> {
    fn draft(&self) -> Draft {
        let at = self.created.get();
        let at = at.and_then(|seconds| DateTime::from_timestamp(*seconds, 0));
        Draft::new(&self.kind, &self.id, at)
    }

    /// What the event is about.
    fn object<T: for<'o> Deserialize<'o>>(&self) -> Result<T, Refusal> {
        serde_json::from_str(self.data.object.get()).map_err(|error| bad(KIND, &error))
    }

    fn refunds_by(&self) -> RefundsBy {
        match self.api_version.text() {
            Some(version) if version < WITHOUT_LIST => RefundsBy::List,
            Some(version) if version < REFUNDS_THEMSELVES => RefundsBy::Sum,
            _ => RefundsBy::Themselves,
        }
    }
}

/// Reads an event.
pub(super) fn read(body: &[u8]) -> Result<Said, Refusal> {
    let event: Event<'_> = serde_json::from_slice(body).map_err(|error| bad(KIND, &error))?;
    match event.kind.as_str() {
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => {
            Ok(session(event.draft(), &event.object()?, "pending"))
        }
        "checkout.session.async_payment_failed" => {
            Ok(session(event.draft(), &event.object()?, "rejected"))
        }
        "invoice.paid" => Ok(invoice(event.draft(), &event.object()?)),
        "invoice_payment.paid" => Ok(invoice_payment(event.draft(), &event.object()?)),
        "charge.refund.updated" if event.refunds_by() == RefundsBy::Sum => {
            Ok(event.draft().nothing(Nothing::ToldElsewhere))
        }
        "refund.created" | "refund.updated" | "refund.failed" | "charge.refund.updated" => {
            let refund: Reversal = event.object()?;
            let failed = matches!(refund.status.text(), Some("failed" | "canceled"));
            Ok(reversal(event.draft(), &refund, failed).order())
        }
        "charge.refunded" => charge_refunded(&event),
        "charge.dispute.created" | "charge.dispute.closed" => {
            let dispute: Reversal = event.object()?;
            let status = dispute.status.text().unwrap_or_default();
            // An inquiry takes no money, unless it becomes a dispute.
            let is_inquiry = status.starts_with("warning");
            if is_inquiry && event.kind == "charge.dispute.created" {
                return Ok(event.draft().nothing(Nothing::NoMoney));
            }
            Ok(reversal(event.draft(), &dispute, is_inquiry || status == "won").order())
        }
        _ => Ok(event.draft().nothing(Nothing::Type)),
    }
}

/// An order placed by Stripe's checkout.
fn session(mut draft: Draft, session: &Session, status: &str) -> Said {
    if session.mode.text() == Some("setup") {
        return draft.nothing(Nothing::NoMoney);
    }
    let payment = session.payment_intent.id();
    let is_subscription = session.subscription.id().is_some();
    let invoice = session.invoice.id();
    // A single payment's invoice is made after it, and not named by every event.
    let ids = [
        session.metadata.of("order_id"),
        invoice.filter(|_| is_subscription),
        payment,
        Some(session.id.as_str()),
    ];
    draft.say_first(Parameter::OrderId, ids);
    for id in [payment, invoice, session.subscription.id()] {
        draft.name(KIND, id);
    }
    draft.say(Parameter::Status, Some(status));
    say_money(&mut draft, &session.amount_total, &session.currency);
    let reference = session.client_reference_id.text();
    draft.say_first(
        Parameter::ClickId,
        [session.metadata.of("click_id"), reference],
    );
    let coupons = coupons(session.discounts.each());
    draft.say_first(
        Parameter::Coupon,
        [session.metadata.of("coupon")].into_iter().chain(coupons),
    );
    say_customer(&mut draft, &session.customer);
    let details = session.customer_details.get();
    let email = details.and_then(|details| details.email.text());
    draft.say_first(Parameter::Email, [email, session.customer_email.text()]);
    draft.order()
}

fn invoice(mut draft: Draft, invoice: &Invoice) -> Said {
    let parent = invoice.parent.get();
    let details = parent.and_then(|parent| parent.subscription_details.get());
    let details = details.or_else(|| invoice.subscription_details.get());
    let subscription = details.and_then(|details| details.subscription.id());
    let subscription = subscription.or_else(|| invoice.subscription.id());
    // What the merchant noted at the subscription, as of the invoice; else at the invoice itself.
    let noted = |key| {
        let at_subscription = details.and_then(|details| details.metadata.of(key));
        at_subscription.or_else(|| invoice.metadata.of(key))
    };
    let is_first = invoice.billing_reason.text() == Some("subscription_create");
    let is_renewal = subscription.is_some() && !is_first;
    if subscription.is_none() && ["click_id", "coupon", "order_id"].map(noted) == [None; 3] {
        return draft.nothing(Nothing::NoSubscription);
    }
    // A free trial has a first order, of nothing; a free month renews nothing.
    if is_renewal && invoice.amount_paid.get() == Some(&0) {
        return draft.nothing(Nothing::NoMoney);
    }
    let order_id = noted("order_id").filter(|_| !is_renewal);
    draft.say_first(Parameter::OrderId, [order_id, Some(invoice.id.as_str())]);
    draft.name(KIND, Some(&invoice.id));
    draft.name(KIND, invoice.payment_intent.id());
    draft.name(KIND, invoice.charge.id());
    let payments = invoice.payments.get();
    for paid in payments.iter().flat_map(|payments| payments.data.each()) {
        name_payment(&mut draft, paid);
    }
    if is_renewal {
        draft.say(Parameter::Event, Some(RENEWAL));
        draft.0.renews = subscription.map(|id| name(KIND, id));
    } else {
        draft.name(KIND, subscription);
    }
    draft.say(Parameter::Status, Some("pending"));
    say_money(&mut draft, &invoice.amount_paid, &invoice.currency);
    draft.say(Parameter::ClickId, noted("click_id"));
    let discounts = invoice.discounts.each().chain(invoice.discount.get());
    draft.say_first(
        Parameter::Coupon,
        [noted("coupon")].into_iter().chain(coupons(discounts)),
    );
    say_customer(&mut draft, &invoice.customer);
    draft.say(Parameter::Email, invoice.customer_email.text());
    draft.order()
}

fn invoice_payment(mut draft: Draft, paid: &InvoicePayment) -> Said {
    draft.name(KIND, paid.invoice.id());
    name_payment(&mut draft, paid);
    if draft.0.names.len() < 2 {
        return draft.nothing(Nothing::Type); // it ties nothing together
    }
    draft.order()
}

fn name_payment(draft: &mut Draft, paid: &InvoicePayment) {
    if let Some(payment) = paid.payment.get() {
        draft.name(KIND, payment.payment_intent.id());
        draft.name(KIND, payment.charge.id());
    }
}

/// A refund or dispute of a payment; one that is over gives nothing back.
fn reversal(mut draft: Draft, reversal: &Reversal, is_over: bool) -> Draft {
    draft.say(Parameter::ReportId, Some(reversal.id.as_str()));
    draft.say(Parameter::Status, Some("refunded"));
    let nothing = Maybe(Some(0));
    let amount = if is_over { &nothing } else { &reversal.amount };
    say_money(&mut draft, amount, &reversal.currency);
    draft.name(KIND, reversal.payment_intent.id());
    draft.name(KIND, reversal.charge.id());
    draft
}

fn charge_refunded(event: &Event<'_>) -> Result<Said, Refusal> {
    let charge: Charge = event.object()?;
    let name = |draft: &mut Draft| {
        draft.name(KIND, charge.payment_intent.id());
        draft.name(KIND, Some(&charge.id));
        draft.name(KIND, charge.invoice.id());
    };
    let listed = charge.refunds.get();
    let listed = listed.iter().flat_map(|refunds| refunds.data.each());
    let listed: Vec<&Reversal> = listed.take(MAX_REPORTS).collect();
    match event.refunds_by() {
        RefundsBy::Themselves => Ok(event.draft().nothing(Nothing::ToldElsewhere)),
        RefundsBy::List if !listed.is_empty() => {
            let report = |refund: &&Reversal| {
                let failed = matches!(refund.status.text(), Some("failed" | "canceled"));
                let mut draft = reversal(event.draft(), refund, failed);
                name(&mut draft);
                draft.0
            };
            Ok(Said::Orders(listed.iter().map(report).collect()))
        }
        RefundsBy::List | RefundsBy::Sum => {
            let sum = Reversal {
                id: charge.id.clone(),
                amount: Maybe(charge.amount_refunded.0),
                currency: Maybe(charge.currency.0.clone()),
                ..Reversal::default()
            };
            let mut draft = reversal(event.draft(), &sum, false);
            name(&mut draft);
            Ok(draft.order())
        }
    }
}

fn say_money(draft: &mut Draft, minor: &Maybe<i64>, currency: &Maybe<String>) {
    let currency = currency.text().map(str::to_ascii_uppercase);
    if let (Some(minor), Some(currency)) = (minor.get(), &currency) {
        draft.say(Parameter::Amount, Some(major(*minor, currency)));
    }
    draft.say(Parameter::Currency, currency);
}

/// An amount in major units.
fn major(minor: i64, currency: &str) -> String {
    let digits = match currency {
        zero if ZERO_DECIMAL.contains(&zero) => 0,
        three if THREE_DECIMAL.contains(&three) => 3,
        _ => 2,
    };
    Decimal::new(minor, digits).normalize().to_string()
}

fn say_customer(draft: &mut Draft, customer: &Maybe<Ref>) {
    draft.say(Parameter::CustomerId, customer.id());
}

/// Codes that customers entered, and the names of coupons, which merchants often choose alike.
fn coupons<'d>(
    discounts: impl Iterator<Item = &'d Discount>,
) -> impl Iterator<Item = Option<&'d str>> {
    discounts.flat_map(|discount| {
        let code = discount.promotion_code.get().map(|code| code.code.as_str());
        [code, discount.coupon.id()]
    })
}
