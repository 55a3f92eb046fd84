//! Topic `clicks` → table `clicks`: decode, check, enrich, store.

use std::net::{Ipv4Addr, Ipv6Addr};

use chrono::{DateTime, Datelike as _, Utc};
use clickhouse::Row;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tributary_shared::bots::{BotList, Verdict};
use tributary_shared::clock::event_time;
use tributary_shared::events::Click;
use uuid::Uuid;

use crate::consume::{Failure, Position, Reader, Stage};
use crate::retry::Stopped;
use crate::sink::{Fact, Sink};

/// Longest text in a click; the redirector cuts earlier.
const MAX_TEXT_BYTES: usize = 4096;
/// What a row takes beside its texts.
const FIXED_ROW_BYTES: usize = 320;

/// A row of `clicks`: shared/migrations/clickhouse/0001_facts.sql.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub(crate) struct ClickRow {
    click_id: String,
    #[serde(with = "clickhouse::serde::chrono::datetime64::micros")]
    received_at: DateTime<Utc>,
    tenant_id: u64,
    program_id: u64,
    affiliate_id: u64,
    link_id: u64,
    #[serde(with = "clickhouse::serde::uuid")]
    visitor_id: Uuid,
    fingerprint: [u8; 16],
    address: Ipv6Addr,
    user_agent: String,
    referrer: String,
    accept_language: String,
    sub1: String,
    sub2: String,
    sub3: String,
    sub4: String,
    sub5: String,
    is_bot: u8,
    bot_reason: String,
    privacy_opt_out: u8,
    kafka_partition: i32,
    kafka_offset: i64,
}

impl Fact for ClickRow {
    const TABLE: &'static str = "clicks";

    fn table_partition(&self) -> i32 {
        self.received_at.year() * 12 + i32::try_from(self.received_at.month0()).unwrap_or(0)
    }

    fn bytes(&self) -> usize {
        FIXED_ROW_BYTES
            + [
                &self.click_id,
                &self.user_agent,
                &self.referrer,
                &self.accept_language,
            ]
            .iter()
            .map(|text| text.len())
            .sum::<usize>()
            + [&self.sub1, &self.sub2, &self.sub3, &self.sub4, &self.sub5]
                .iter()
                .map(|text| text.len())
                .sum::<usize>()
    }
}

/// Why a message is not a click.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadClick {
    #[error("not a Click: {0}")]
    Encoding(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is out of bounds")]
    OutOfBounds(&'static str),
}

/// Stores clicks.
pub(crate) struct Clicks {
    pub(crate) sink: Sink<ClickRow>,
    pub(crate) bots: BotList,
}

impl Stage for Clicks {
    async fn take(&mut self, payload: &[u8], at: Position, reader: &Reader) -> Result<(), Failure> {
        let click = decode(payload).map_err(|bad| Failure::Poison(bad.to_string()))?;
        let verdict = self.bots.judge(&click.user_agent);
        let row = row(click, verdict, at).map_err(|bad| Failure::Poison(bad.to_string()))?;
        self.sink.add(row, at, reader).await
    }

    fn is_full(&self) -> bool {
        self.sink.is_full()
    }

    async fn finish(&mut self) -> Result<(), Stopped> {
        self.sink.write().await
    }

    fn forget(&mut self) {
        self.sink.forget();
    }
}

fn decode(payload: &[u8]) -> Result<Click, BadClick> {
    let click = Click::decode(payload).map_err(|e| BadClick::Encoding(e.to_string()))?;
    let present = [
        (click.click_id.is_empty(), "click_id"),
        (click.tenant_id == 0, "tenant_id"),
        (click.program_id == 0, "program_id"),
        (click.affiliate_id == 0, "affiliate_id"),
        (click.link_id == 0, "link_id"),
        (click.received_at_us == 0, "received_at_us"),
    ];
    if let Some((_, name)) = present.into_iter().find(|(missing, _)| *missing) {
        return Err(BadClick::Missing(name));
    }
    let texts = [
        (&click.click_id, "click_id"),
        (&click.user_agent, "user_agent"),
        (&click.referrer, "referrer"),
        (&click.accept_language, "accept_language"),
    ];
    let subs = click.sub_ids.iter().map(|sub| (sub, "sub_ids"));
    if let Some((_, name)) = texts
        .into_iter()
        .chain(subs)
        .find(|(text, _)| text.len() > MAX_TEXT_BYTES)
    {
        return Err(BadClick::OutOfBounds(name));
    }
    Ok(click)
}

fn row(click: Click, verdict: Verdict, at: Position) -> Result<ClickRow, BadClick> {
    let mut subs = click.sub_ids.into_iter();
    let mut sub = || subs.next().unwrap_or_default();
    let row = ClickRow {
        received_at: event_time(click.received_at_us)
            .ok_or(BadClick::OutOfBounds("received_at_us"))?,
        visitor_id: Uuid::from_bytes(sixteen(&click.visitor_id, "visitor_id")?),
        fingerprint: sixteen(&click.fingerprint, "fingerprint")?,
        address: address(&click.address)?,
        click_id: click.click_id,
        tenant_id: click.tenant_id,
        program_id: click.program_id,
        affiliate_id: click.affiliate_id,
        link_id: click.link_id,
        user_agent: click.user_agent,
        referrer: click.referrer,
        accept_language: click.accept_language,
        sub1: sub(),
        sub2: sub(),
        sub3: sub(),
        sub4: sub(),
        sub5: sub(),
        is_bot: u8::from(verdict != Verdict::Person),
        bot_reason: verdict.reason().to_owned(),
        privacy_opt_out: u8::from(click.privacy_opt_out),
        kafka_partition: at.partition,
        kafka_offset: at.offset,
    };
    if subs.next().is_some() {
        return Err(BadClick::OutOfBounds("sub_ids"));
    }
    Ok(row)
}

fn sixteen(bytes: &[u8], name: &'static str) -> Result<[u8; 16], BadClick> {
    match bytes.len() {
        0 => Ok([0; 16]),
        _ => bytes.try_into().map_err(|_| BadClick::OutOfBounds(name)),
    }
}

/// All addresses stand in one column: IPv4 as ::ffff:a.b.c.d, none as ::.
fn address(bytes: &[u8]) -> Result<Ipv6Addr, BadClick> {
    match bytes.len() {
        0 => Ok(Ipv6Addr::UNSPECIFIED),
        4 => <[u8; 4]>::try_from(bytes)
            .map(|octets| Ipv4Addr::from(octets).to_ipv6_mapped())
            .map_err(|_| BadClick::OutOfBounds("address")),
        _ => sixteen(bytes, "address").map(Ipv6Addr::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: Position = Position {
        partition: 2,
        offset: 7,
    };

    fn click() -> Click {
        Click {
            click_id: "c".repeat(48),
            received_at_us: 1_763_000_000_000_000,
            tenant_id: 1,
            program_id: 2,
            affiliate_id: 3,
            link_id: 4,
            address: vec![203, 0, 113, 9].into(),
            sub_ids: vec!["a".into(), String::new(), "c".into()],
            ..Click::default()
        }
    }

    fn stored(click: &Click) -> Result<ClickRow, BadClick> {
        row(decode(&click.encode_to_vec())?, Verdict::Person, AT)
    }

    #[test]
    fn a_click_becomes_a_row() {
        let row = stored(&click()).unwrap();
        assert_eq!(row.address.to_string(), "::ffff:203.0.113.9");
        assert_eq!(
            (row.sub1.as_str(), row.sub2.as_str(), row.sub3.as_str()),
            ("a", "", "c")
        );
        assert_eq!((row.kafka_partition, row.kafka_offset), (2, 7));
        assert_eq!(row.table_partition(), 2025 * 12 + 10);
    }

    #[test]
    fn a_click_that_lacks_something_says_what() {
        let without = |change: fn(&mut Click)| {
            let mut click = click();
            change(&mut click);
            stored(&click).unwrap_err()
        };
        assert_eq!(without(|c| c.tenant_id = 0), BadClick::Missing("tenant_id"));
        assert_eq!(
            without(|c| c.received_at_us = 1),
            BadClick::OutOfBounds("received_at_us")
        );
        assert_eq!(
            without(|c| c.received_at_us = i64::MAX),
            BadClick::OutOfBounds("received_at_us")
        );
        assert_eq!(
            without(|c| c.address = vec![1; 5].into()),
            BadClick::OutOfBounds("address")
        );
        assert_eq!(
            without(|c| c.visitor_id = vec![1; 15].into()),
            BadClick::OutOfBounds("visitor_id")
        );
        assert_eq!(
            without(|c| c.sub_ids = vec![String::new(); 6]),
            BadClick::OutOfBounds("sub_ids")
        );
        assert_eq!(
            without(|c| c.referrer = "x".repeat(5000)),
            BadClick::OutOfBounds("referrer")
        );
        assert_eq!(decode(b""), Err(BadClick::Missing("click_id")));
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&payload).and_then(|click| row(click, Verdict::Person, AT));
        }
    }
}
