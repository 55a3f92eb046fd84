//! What all reports of a conversion together say: a pure function of the set of them, so it does not matter in
//! which order they arrive, nor how often.
//!
//! * The merchant's own server, and a system that signs in its name, is believed before a shopper's browser, which anybody can imitate: once the
//!   server has said something, a browser's word of the same thing no longer counts.
//! * Of the server's reports the latest word counts, of browsers' the first: a browser can't change an order.
//! * Every refund counts, and all of them together never more than the order. Of those under one name (`report_id`) the last
//!   one counts; of those without one the same words are the same refund.
//! * The same words within an hour are a report that was sent again; later they are said anew.
//! * Who the shopper was (click, visitor, customer) is what was said first.

use std::collections::BTreeMap;
use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use tributary_shared::customers::CustomerHash;
use tributary_shared::money::Currency;
use uuid::Uuid;

use super::click_counts::ClickCount;
use crate::reports::{Item, Report, Status};

/// A conversion by its reports.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order<'r> {
    /// Never `Refunded` with something left.
    pub(crate) status: Status,
    /// None: nobody has said yet what it is worth.
    pub(crate) currency: Option<Currency>,
    pub(crate) amount: Decimal,
    /// At most `amount`.
    pub(crate) refunded: Decimal,
    pub(crate) items: &'r [Item],
    pub(crate) coupon: Option<&'r str>,
    /// Every click id that was named, the one that counts first.
    pub(crate) click_ids: Vec<&'r str>,
    pub(crate) customer_id: Option<CustomerHash>,
    pub(crate) new_customer: Option<bool>,
    /// The shopper's, by his browser or the merchant's word.
    pub(crate) address: Option<IpAddr>,
    /// Where that address lies; none: not known.
    pub(crate) country: Option<&'r str>,
    pub(crate) email_domain: Option<&'r str>,
    /// How many clicks it is, where it is no order but clicks that are paid for.
    pub(crate) clicks: Option<u64>,
    /// When the first report came.
    pub(crate) converted_at: DateTime<Utc>,
    /// What could not be followed.
    pub(crate) note: Option<&'static str>,
}

/// For how long the same words are the same report, sent again.
const SENT_AGAIN: TimeDelta = TimeDelta::hours(1);

const REFUND_CURRENCY: &str = "a refund in another currency than the order's was left out";

impl<'r> Order<'r> {
    /// None without reports.
    pub(crate) fn of(reports: &'r [Report]) -> Option<Self> {
        let mut reports: Vec<&Report> = reports.iter().collect();
        // The id settles what came at the same moment.
        reports.sort_by_key(|report| (report.reported_at, report.id));
        let converted_at = reports.first()?.reported_at;
        let reports = without_repetitions(&reports);
        let (merchants, browsers): (Vec<&Report>, Vec<&Report>) = reports
            .into_iter()
            .partition(|report| report.source.is_merchant());
        // What an order is comes from reports that are no refunds; in the order in which they are believed.
        let says_what = |report: &&&Report| report.status != Some(Status::Refunded);
        let words: Vec<&Report> = (merchants.iter().rev().filter(says_what))
            .chain(browsers.iter().filter(says_what))
            .copied()
            .collect();
        let who: Vec<&Report> = merchants.iter().chain(&browsers).copied().collect();

        let money = words.iter().find_map(|report| report.money);
        let (amount, currency) = match money {
            Some(money) => (money.amount(), Some(money.currency())),
            None => (Decimal::ZERO, None),
        };
        let mut note = None;
        let mut refunded = Decimal::ZERO;
        let mut all = false;
        let mut refunds: BTreeMap<(Option<&str>, Uuid), &Report> = BTreeMap::new();
        let is_refund = |report: &&&Report| report.status == Some(Status::Refunded);
        for refund in merchants.iter().filter(is_refund) {
            let name = refund.report_id.as_deref();
            let words = name.map_or(refund.words, |_| Uuid::nil());
            refunds.insert((name, words), refund);
        }
        for refund in refunds.values() {
            match refund.money {
                None => all = true,
                Some(money) if Some(money.currency()) == currency => refunded += money.amount(),
                // Before the order itself is known a refund waits for it without a word.
                Some(_) => note = currency.map(|_| REFUND_CURRENCY),
            }
        }
        let refunded = if all { amount } else { refunded.min(amount) };
        let stated = (merchants.iter().rev().filter(says_what))
            .find_map(|report| report.status)
            .or_else(|| {
                let statuses = browsers.iter().filter_map(|report| report.status);
                let mut modest = statuses.filter(|s| matches!(s, Status::Lead | Status::Pending));
                modest.next()
            })
            .unwrap_or(Status::Pending);
        let gone = all || (refunded == amount && !refunded.is_zero());
        let mut click_ids: Vec<&str> = Vec::new();
        for id in who.iter().filter_map(|report| report.click_id.as_deref()) {
            if !click_ids.contains(&id) {
                click_ids.push(id);
            }
        }
        // Of a customer who was erased the country stays.
        let is_placed = |report: &&&Report| report.address.is_some() || report.country.is_some();
        let from = who.iter().find(is_placed);
        Some(Self {
            status: match stated {
                Status::Rejected => Status::Rejected,
                _ if gone => Status::Refunded,
                stated => stated,
            },
            currency,
            amount,
            refunded,
            items: (words.iter().map(|report| report.items.as_slice()))
                .find(|items| !items.is_empty())
                .unwrap_or_default(),
            coupon: words.iter().find_map(|report| report.coupon.as_deref()),
            click_ids,
            customer_id: who.iter().find_map(|report| report.customer_id),
            new_customer: who.iter().find_map(|report| report.new_customer),
            address: from.and_then(|report| report.address),
            country: from.and_then(|report| report.country.as_deref()),
            email_domain: who.iter().find_map(|report| report.email_domain.as_deref()),
            clicks: None,
            converted_at,
            note,
        })
    }

    /// Clicks that are paid for: worth nothing themselves, nobody's order, of the time when their period begins.
    pub(crate) fn of_clicks(count: &ClickCount) -> Self {
        Self {
            status: Status::Pending,
            currency: None,
            amount: Decimal::ZERO,
            refunded: Decimal::ZERO,
            items: &[],
            coupon: None,
            click_ids: Vec::new(),
            customer_id: None,
            new_customer: None,
            address: None,
            country: None,
            email_domain: None,
            clicks: Some(count.clicks()),
            converted_at: count.from_at,
            note: None,
        }
    }
}

/// Leaves out what was said in the same words within the hour before.
fn without_repetitions<'r>(reports: &[&'r Report]) -> Vec<&'r Report> {
    let mut said: BTreeMap<Uuid, DateTime<Utc>> = BTreeMap::new();
    let is_new = |report: &&&Report| {
        let before = said.insert(report.words, report.reported_at);
        before.is_none_or(|before| report.reported_at - before > SENT_AGAIN)
    };
    reports.iter().filter(is_new).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::Source;
    use proptest::prelude::*;
    use tributary_shared::ids::TenantId;
    use tributary_shared::money::Money;

    fn report(source: Source, second: i64, status: Option<Status>, amount: &str) -> Report {
        Report {
            id: Uuid::from_u128(u128::from(second.unsigned_abs()) * 1000 + amount.len() as u128),
            words: Uuid::new_v5(
                &Uuid::nil(),
                format!("{source:?}{status:?}{amount}").as_bytes(),
            ),
            tenant_id: TenantId(1),
            conversion_id: Uuid::nil(),
            order_id: "A".into(),
            event: "sale".into(),
            reported_at: DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap(),
            source,
            status,
            report_id: None,
            money: (!amount.is_empty()).then(|| Money::parse(amount, "EUR").unwrap()),
            click_id: None,
            coupon: None,
            customer_id: None,
            new_customer: None,
            items: Vec::new(),
            visitor_id: None,
            fingerprint: None,
            address: None,
            country: None,
            user_agent: None,
            email_domain: None,
            names: Vec::new(),
            renews: None,
            message: Vec::new(),
        }
    }

    use Source::{Event, Postback, Webhook};
    use Status::{Approved, Lead, Pending, Refunded, Rejected};

    /// Status, amount and what was refunded.
    fn told(reports: &[Report]) -> (Status, String, String) {
        let order = Order::of(reports).unwrap();
        (
            order.status,
            order.amount.to_string(),
            order.refunded.to_string(),
        )
    }

    fn is(status: Status, amount: &str, refunded: &str) -> (Status, String, String) {
        (status, amount.to_owned(), refunded.to_owned())
    }

    #[test]
    fn the_merchants_last_word_counts() {
        let first = report(Postback, 1, None, "10.00");
        assert_eq!(
            told(std::slice::from_ref(&first)),
            is(Pending, "10.00", "0")
        );
        let more = report(Postback, 2, None, "12.50");
        assert_eq!(
            told(&[more.clone(), first.clone()]),
            is(Pending, "12.50", "0")
        );
        let approved = report(Postback, 3, Some(Approved), "");
        assert_eq!(
            told(&[approved.clone(), first.clone()]),
            is(Approved, "10.00", "0")
        );
        let rejected = report(Postback, 4, Some(Rejected), "");
        assert_eq!(
            told(&[first, approved, rejected]),
            is(Rejected, "10.00", "0")
        );
    }

    #[test]
    fn a_browser_can_neither_change_an_order_nor_come_before_the_merchant() {
        let forged = report(Event, 1, Some(Approved), "999.00");
        assert_eq!(
            told(std::slice::from_ref(&forged)),
            is(Pending, "999.00", "0")
        );
        let real = report(Postback, 5, None, "10.00");
        assert_eq!(
            told(&[forged.clone(), real.clone()]),
            is(Pending, "10.00", "0")
        );
        let refund = report(Event, 6, Some(Refunded), "10.00");
        assert_eq!(told(&[real, refund]), is(Pending, "10.00", "0"));
        let later = report(Event, 7, Some(Lead), "1.00");
        assert_eq!(told(&[forged, later]), is(Lead, "999.00", "0"));
    }

    #[test]
    fn a_webhook_is_the_merchants_word() {
        let order = report(Webhook, 1, Some(Pending), "10.00");
        let forged = report(Event, 2, None, "999.00");
        let refund = report(Webhook, 3, Some(Refunded), "4.00");
        let reports = [order.clone(), forged, refund];
        assert_eq!(told(&reports), is(Pending, "10.00", "4.00"));
        let later = report(Postback, 4, None, "12.00");
        assert_eq!(told(&[order, later]), is(Pending, "12.00", "0"));
    }

    #[test]
    fn refunds_add_up_to_the_order_at_most() {
        let order = report(Postback, 1, Some(Approved), "10.00");
        let three = report(Postback, 2, Some(Refunded), "3.00");
        let eight = report(Postback, 3, Some(Refunded), "8.00");
        let all = report(Postback, 4, Some(Refunded), "");
        assert_eq!(
            told(&[order.clone(), three.clone()]),
            is(Approved, "10.00", "3.00")
        );
        assert_eq!(
            told(&[eight, order.clone(), three.clone()]),
            is(Refunded, "10.00", "10.00")
        );
        assert_eq!(told(&[all, order]), is(Refunded, "10.00", "10.00"));
        // The refund came first: it waits.
        assert_eq!(told(&[three]), is(Pending, "0", "0"));
    }

    #[test]
    fn what_is_said_again_soon_is_a_repetition_and_later_a_new_word() {
        let order = report(Postback, 1, None, "10.00");
        let approved = |second| report(Postback, second, Some(Approved), "");
        let rejected = report(Postback, 100, Some(Rejected), "");
        let soon = [order.clone(), approved(2), rejected.clone(), approved(3600)];
        assert_eq!(told(&soon).0, Rejected);
        let later = [order.clone(), approved(2), rejected, approved(3603)];
        assert_eq!(told(&later).0, Approved);
        // A refund stays the same refund.
        let refund = |second| report(Postback, second, Some(Refunded), "3.00");
        assert_eq!(told(&[order, refund(2), refund(9000)]).2, "3.00");
    }

    #[test]
    fn of_refunds_under_one_name_the_last_one_counts() {
        let order = report(Postback, 1, None, "10.00");
        let named = |name: &str, second, amount| Report {
            report_id: Some(name.to_owned()),
            ..report(Postback, second, Some(Refunded), amount)
        };
        let reports = [
            order,
            named("R-1", 2, "3.00"),
            named("R-2", 3, "2.00"),
            named("R-1", 4, "4.00"),
        ];
        assert_eq!(told(&reports), is(Pending, "10.00", "6.00"));
    }

    #[test]
    fn a_refund_in_another_currency_is_left_out_with_a_word() {
        let order = report(Postback, 1, None, "10.00");
        let mut refund = report(Postback, 2, Some(Refunded), "3.00");
        refund.money = Some(Money::parse("3.00", "USD").unwrap());
        let reports = [order, refund];
        let order = Order::of(&reports).unwrap();
        assert_eq!(
            (order.refunded, order.note),
            (Decimal::ZERO, Some(REFUND_CURRENCY))
        );
    }

    proptest! {
        /// The same set in any order says the same.
        #[test]
        fn the_order_of_arrival_does_not_matter(
            said in proptest::collection::vec((0..2_u8, 0..6_i64, 0..6_u8, 0..40_u32), 1..8),
            shuffle in any::<prop::sample::Index>(),
        ) {
            let mut reports: Vec<Report> = said.iter().enumerate().map(|(place, (source, second, status, cents))| {
                let source = if *source == 0 { Postback } else { Event };
                let status = [None, Some(Lead), Some(Pending), Some(Approved), Some(Rejected), Some(Refunded)][usize::from(*status)];
                let amount = if *cents == 0 { String::new() } else { format!("0.{cents:02}") };
                let mut report = report(source, *second, status, &amount);
                report.id = Uuid::from_u128(place as u128);
                report.click_id = (cents % 3 == 0).then(|| cents.to_string());
                report
            }).collect();
            let forward = format!("{:?}", Order::of(&reports).unwrap());
            let middle = shuffle.index(reports.len());
            reports.rotate_left(middle);
            reports.reverse();
            let order = Order::of(&reports).unwrap();
            prop_assert_eq!(forward, format!("{:?}", order));
            prop_assert!(order.refunded <= order.amount);
        }
    }
}
