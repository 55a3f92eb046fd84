//! Clicks and reports of orders as a redirector puts them into Kafka.

use std::time::Duration;

use prost::Message as _;
use rdkafka::producer::{BaseProducer, Producer as _};
use tributary_shared::click_token::{ClickToken, Place};
use tributary_shared::clock::{Clock, event_time};
use tributary_shared::config::KafkaConfig;
use tributary_shared::engines;
use tributary_shared::events::{Click, Clicks, Conversion, FetchDest, OrderStatus, Topic, Topics};
use tributary_shared::ids::{LinkId, new_uuid_v7};
use tributary_shared::secrets::KeyRing;
use uuid::Uuid;

use super::market::Market;
use super::story::{CLICK_BEFORE_US, Order, Report, Said};
use crate::Error;
use crate::dice::roll;
use crate::facts::transport::{failed, send};

/// Clicks of one message and of one segment.
const MESSAGE: usize = 250;
const SEGMENT: usize = 50_000;
const QUEUE_BYTES: usize = 64 << 20;
const FLUSH_WITHIN: Duration = Duration::from_secs(60);
/// Of one visitor, so that the facts find him.
const VISITOR_BYTES: usize = 16;

/// The way into Kafka. Orders are called by the run's name and their number.
pub(super) struct Sender {
    keys: KeyRing,
    run: String,
    producer: BaseProducer,
    topics: Topics,
    segment: Uuid,
    waiting: Vec<Click>,
    /// Clicks of this segment that were sent.
    sent: usize,
    /// All clicks.
    pub(super) clicks: u64,
}

impl Sender {
    pub(super) fn new(kafka: &KafkaConfig, keys: KeyRing, run: &str) -> Result<Self, Error> {
        Ok(Self {
            keys,
            run: run.to_owned(),
            producer: engines::kafka::journal_producer(kafka, QUEUE_BYTES)
                .create()
                .map_err(failed)?,
            topics: Topics::new(&kafka.kafka_topic_prefix),
            segment: new_uuid_v7(Clock::system().now()),
            waiting: Vec::with_capacity(MESSAGE),
            sent: 0,
            clicks: 0,
        })
    }

    /// Sends the order's clicks, and returns the id of the one that the shop names.
    pub(super) fn click(&mut self, market: &Market, order: &Order) -> Result<String, Error> {
        if let Some(other) = order.other {
            self.one_click(market, order, other, 2)?;
        }
        self.one_click(market, order, order.partner, 1)
    }

    fn one_click(
        &mut self,
        market: &Market,
        order: &Order,
        partner: usize,
        before: i64,
    ) -> Result<String, Error> {
        let program = &market.programs[order.program];
        let partner = program.partners[partner];
        let at_us = order.at_us - before * CLICK_BEFORE_US;
        let at = event_time(at_us).unwrap_or_default();
        let sequence = u32::try_from(self.sent + self.waiting.len()).unwrap_or(u32::MAX);
        let place = Place {
            segment: self.segment,
            sequence,
        };
        let click_id = ClickToken::of(&self.keys, LinkId(partner.link), at, place).to_string();
        let number = roll(0, "visitor", order.nth);
        let [_, _, _, _, _, a, b, c] = u64::try_from(order.nth).unwrap_or(0).to_be_bytes();
        self.waiting.push(Click {
            click_id: click_id.clone(),
            received_at_us: at_us,
            tenant_id: market.tenant.unsigned_abs(),
            program_id: program.id.unsigned_abs(),
            affiliate_id: partner.affiliate.unsigned_abs(),
            link_id: partner.link.unsigned_abs(),
            visitor_id: number.to_be_bytes().repeat(VISITOR_BYTES / 8),
            address: vec![10, a, b, c],
            user_agent:
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0"
                    .to_owned(),
            utm_campaign: "autumn".to_owned(),
            sub_ids: vec!["newsletter".to_owned()],
            fetch_dest: FetchDest::Document.into(),
            ..Click::default()
        });
        self.clicks += 1;
        if self.waiting.len() == MESSAGE {
            self.send_clicks()?;
        }
        Ok(click_id)
    }

    fn send_clicks(&mut self) -> Result<(), Error> {
        let clicks = std::mem::take(&mut self.waiting);
        let count = clicks.len();
        let message = Clicks {
            clicks,
            segment_id: self.segment.as_bytes().to_vec(),
            first_sequence: u32::try_from(self.sent).unwrap_or(u32::MAX),
        };
        let topic = self.topics.name(Topic::Clicks);
        let key = self.segment.as_bytes();
        send(&self.producer, &topic, key, &message.encode_to_vec())?;
        self.sent += count;
        if self.sent >= SEGMENT {
            self.segment = new_uuid_v7(Clock::system().now());
            self.sent = 0;
        }
        Ok(())
    }

    /// Sends a report of an order that names this click.
    pub(super) fn report(
        &self,
        market: &Market,
        order: &Order,
        report: &Report,
        click: &str,
    ) -> Result<(), Error> {
        let tenant_id = market.tenant.unsigned_abs();
        let order_id = format!("{}-{}", self.run, order.nth);
        let key = format!("{tenant_id}\n{order_id}");
        let (status, name, amount) = words(order, report);
        let message = Conversion {
            accepted_at_us: report.at_us,
            tenant_id,
            order_id,
            event: "sale".to_owned(),
            currency: if amount.is_empty() {
                String::new()
            } else {
                order.coin.code.to_owned()
            },
            amount,
            click_id: click.to_owned(),
            report_id: name,
            status: status.into(),
            ..Conversion::default()
        };
        let topic = self.topics.name(Topic::Conversions);
        send(
            &self.producer,
            &topic,
            key.as_bytes(),
            &message.encode_to_vec(),
        )
    }

    /// Returns once Kafka has everything.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if !self.waiting.is_empty() {
            self.send_clicks()?;
        }
        self.producer.flush(FLUSH_WITHIN).map_err(failed)
    }
}

/// What a report says, as the shop writes it: status, the report's name, amount.
fn words(order: &Order, report: &Report) -> (OrderStatus, String, String) {
    let amount = |minor| order.coin.text(minor);
    let (status, name, amount) = match report.said {
        Said::Worth(minor) => (OrderStatus::Unsaid, None, amount(minor)),
        Said::Refund(minor, name) => (OrderStatus::Refunded, name, amount(minor)),
        Said::RefundAll => (OrderStatus::Refunded, None, String::new()),
        Said::Approved => (OrderStatus::Approved, None, String::new()),
        Said::Rejected => (OrderStatus::Rejected, None, String::new()),
    };
    let name = name.map_or_else(String::new, |name| format!("R-{name}"));
    (status, name, amount)
}
