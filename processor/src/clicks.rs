//! Topic `clicks` → table `clicks`: decode, check, enrich, store each click once.
//!
//! A message holds several clicks. One that can't be read becomes a dead letter of its own; its
//! siblings are stored.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use chrono::{DateTime, Datelike as _, Utc};
use clickhouse::Row;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tributary_shared::bots::{BotList, Verdict};
use tributary_shared::clock::event_time;
use tributary_shared::events::{Click, Outcome};
use tributary_shared::links::is_code;
use uuid::Uuid;

use crate::consume::{Position, Stage};
use crate::dead_letter::{Part, Unreadable};
use crate::retry::{Stopped, until_done};
use crate::segments::{Named, Segments};
use crate::sink::{Fact, Sink};
use crate::unresolved::{self, Link};

/// Longest text in a click; the redirector cuts earlier.
const MAX_TEXT_BYTES: usize = 4096;

/// A row of `clicks`: shared/migrations/clickhouse.
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
    #[serde(with = "clickhouse::serde::uuid")]
    segment_id: Uuid,
    segment_sequence: u32,
    utm_source: String,
    utm_medium: String,
    utm_campaign: String,
    utm_term: String,
    utm_content: String,
    outcome: u8,
    variant: u32,
    code: String,
    host: String,
}

impl Fact for ClickRow {
    const TABLE: &'static str = "clicks";

    fn table_partition(&self) -> i32 {
        self.received_at.year() * 12 + i32::try_from(self.received_at.month0()).unwrap_or(0)
    }

    fn bytes(&self) -> usize {
        let texts = [
            &self.click_id,
            &self.user_agent,
            &self.referrer,
            &self.accept_language,
            &self.sub1,
            &self.sub2,
            &self.sub3,
            &self.sub4,
            &self.sub5,
            &self.utm_source,
            &self.utm_medium,
            &self.utm_campaign,
            &self.utm_term,
            &self.utm_content,
            &self.code,
            &self.host,
        ];
        size_of::<Self>() + texts.map(String::len).iter().sum::<usize>()
    }
}

impl Named for ClickRow {
    fn name(&self) -> (Uuid, u32) {
        (self.segment_id, self.segment_sequence)
    }
}

impl ClickRow {
    /// The code that the redirector could not look up, while it is not known whose it is.
    fn unresolved_code(&self) -> Option<&str> {
        let unresolved = i32::from(self.outcome) == Outcome::Unresolved as i32;
        (unresolved && self.link_id == 0).then_some(&self.code)
    }

    /// Makes the click its link's; unless it came by the host of a tenant whose link it is not.
    fn resolve(&mut self, link: &Link) {
        let tenant = link.tenant_id.to_wire();
        if self.tenant_id == 0 || self.tenant_id == tenant {
            self.tenant_id = tenant;
            self.program_id = link.program_id.to_wire();
            self.affiliate_id = link.affiliate_id.to_wire();
            self.link_id = link.link_id.to_wire();
        }
    }
}

/// Why a message does not hold clicks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMessage {
    #[error("not a Clicks: {0}")]
    Encoding(String),
    #[error("segment_id is missing or out of bounds")]
    Segment,
    #[error("it holds no clicks")]
    Empty,
    #[error("first_sequence is out of bounds")]
    Sequence,
}

/// Why a click is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadClick {
    #[error("not a Click: {0}")]
    Encoding(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is out of bounds")]
    OutOfBounds(&'static str),
}

/// `Clicks` with its clicks still encoded: one that can't be decoded does not take the others with it.
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(bytes = "vec", repeated, tag = "1")]
    clicks: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "2")]
    segment_id: Vec<u8>,
    #[prost(uint32, tag = "3")]
    first_sequence: u32,
}

/// A click's sequence, and its bytes.
type Numbered = (u32, Vec<u8>);

/// Where a click stands: its name, and the message that brought it.
#[derive(Debug, Clone, Copy)]
struct Place {
    segment: Uuid,
    sequence: u32,
    at: Position,
}

/// Stores clicks.
pub(crate) struct Clicks {
    pub(crate) sink: Sink<ClickRow, Segments>,
    pub(crate) bots: BotList,
    pub(crate) pool: PgPool,
    pub(crate) shutdown: CancellationToken,
}

impl Stage for Clicks {
    async fn take(&mut self, payload: &[u8], at: Position) -> Result<Vec<Unreadable>, Stopped> {
        let (segment, clicks) = match open(payload) {
            Ok(message) => message,
            Err(bad) => return Ok(vec![Unreadable::message(bad)]),
        };
        let mut unreadable = Vec::new();
        for (sequence, click) in clicks {
            let place = Place {
                segment,
                sequence,
                at,
            };
            match self.read(&click, place) {
                Ok(row) => self.sink.add(row),
                Err(bad) => unreadable.push(dead(click, place, &bad)),
            }
        }
        Ok(unreadable)
    }

    fn is_full(&self) -> bool {
        self.sink.is_full()
    }

    async fn finish(&mut self) -> Result<(), Stopped> {
        self.resolve().await?;
        self.sink.write().await
    }

    fn forget(&mut self) {
        self.sink.forget();
    }
}

impl Clicks {
    fn read(&mut self, click: &[u8], place: Place) -> Result<ClickRow, BadClick> {
        let click = decode(click)?;
        let verdict = self.bots.judge(&click.user_agent);
        row(click, verdict, place)
    }

    /// Finds the links of those that have none yet. A code that PostgreSQL does not know is nobody's.
    async fn resolve(&mut self) -> Result<(), Stopped> {
        let rows = self.sink.rows_mut();
        let codes: BTreeSet<&str> = rows.iter().filter_map(ClickRow::unresolved_code).collect();
        if codes.is_empty() {
            return Ok(());
        }
        let codes: Vec<String> = codes.into_iter().map(str::to_owned).collect();
        let ask = || unresolved::links(&self.pool, &codes);
        let links = until_done("postgres", &self.shutdown, ask).await?;
        for row in rows {
            if let Some(link) = row.unresolved_code().and_then(|code| links.get(code)) {
                row.resolve(link);
            }
        }
        Ok(())
    }
}

/// A message's segment, and its clicks with their sequences.
fn open(payload: &[u8]) -> Result<(Uuid, Vec<Numbered>), BadMessage> {
    let message = Envelope::decode(payload).map_err(|e| BadMessage::Encoding(e.to_string()))?;
    // All zeros is what rows have that are older than segments.
    let segment = Uuid::from_slice(&message.segment_id)
        .ok()
        .filter(|id| !id.is_nil())
        .ok_or(BadMessage::Segment)?;
    if message.clicks.is_empty() {
        return Err(BadMessage::Empty);
    }
    // The highest number is left out: the place after a click must be one, too.
    let end = u32::try_from(message.clicks.len())
        .ok()
        .and_then(|count| message.first_sequence.checked_add(count))
        .ok_or(BadMessage::Sequence)?;
    Ok((
        segment,
        (message.first_sequence..end).zip(message.clicks).collect(),
    ))
}

/// A click that can't be read, as a message of its own.
fn dead(click: Vec<u8>, place: Place, bad: &BadClick) -> Unreadable {
    let message = Envelope {
        clicks: vec![click],
        segment_id: place.segment.as_bytes().to_vec(),
        first_sequence: place.sequence,
    };
    Unreadable {
        reason: bad.to_string(),
        part: Some(Part {
            payload: message.encode_to_vec(),
            headers: vec![
                ("segment_id", place.segment.to_string()),
                ("sequence", place.sequence.to_string()),
            ],
        }),
    }
}

fn decode(click: &[u8]) -> Result<Click, BadClick> {
    let click = Click::decode(click).map_err(|e| BadClick::Encoding(e.to_string()))?;
    if click.received_at_us == 0 {
        return Err(BadClick::Missing("received_at_us"));
    }
    if click.outcome == Outcome::Unresolved as i32 {
        if !is_code(&click.code) {
            return Err(BadClick::OutOfBounds("code"));
        }
    } else {
        let present = [
            (click.click_id.is_empty(), "click_id"),
            (click.tenant_id == 0, "tenant_id"),
            (click.program_id == 0, "program_id"),
            (click.affiliate_id == 0, "affiliate_id"),
            (click.link_id == 0, "link_id"),
        ];
        if let Some((_, name)) = present.into_iter().find(|(missing, _)| *missing) {
            return Err(BadClick::Missing(name));
        }
    }
    let texts = [
        (&click.click_id, "click_id"),
        (&click.user_agent, "user_agent"),
        (&click.referrer, "referrer"),
        (&click.accept_language, "accept_language"),
        (&click.utm_source, "utm_source"),
        (&click.utm_medium, "utm_medium"),
        (&click.utm_campaign, "utm_campaign"),
        (&click.utm_term, "utm_term"),
        (&click.utm_content, "utm_content"),
        (&click.code, "code"),
        (&click.host, "host"),
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

fn row(click: Click, verdict: Verdict, place: Place) -> Result<ClickRow, BadClick> {
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
        kafka_partition: place.at.partition,
        kafka_offset: place.at.offset,
        segment_id: place.segment,
        segment_sequence: place.sequence,
        utm_source: click.utm_source,
        utm_medium: click.utm_medium,
        utm_campaign: click.utm_campaign,
        utm_term: click.utm_term,
        utm_content: click.utm_content,
        // One that this processor does not know yet is stored all the same.
        outcome: u8::try_from(click.outcome).map_err(|_| BadClick::OutOfBounds("outcome"))?,
        variant: click.variant,
        code: click.code,
        host: click.host,
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
    use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};

    const PLACE: Place = Place {
        segment: Uuid::from_u128(5),
        sequence: 11,
        at: Position {
            partition: 2,
            offset: 7,
        },
    };

    fn click() -> Click {
        Click {
            click_id: "c".repeat(48),
            received_at_us: 1_763_000_000_000_000,
            tenant_id: 1,
            program_id: 2,
            affiliate_id: 3,
            link_id: 4,
            address: vec![203, 0, 113, 9],
            sub_ids: vec!["a".into(), String::new(), "c".into()],
            utm_campaign: "spring".into(),
            variant: 2,
            ..Click::default()
        }
    }

    fn unresolved() -> Click {
        Click {
            received_at_us: 1_763_000_000_000_000,
            outcome: Outcome::Unresolved as i32,
            code: "demo".into(),
            host: "go.shop.example".into(),
            ..Click::default()
        }
    }

    fn stored(click: &Click) -> Result<ClickRow, BadClick> {
        row(decode(&click.encode_to_vec())?, Verdict::Person, PLACE)
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
        assert_eq!(row.name(), (Uuid::from_u128(5), 11));
        assert_eq!((row.utm_campaign.as_str(), row.variant), ("spring", 2));
        assert_eq!(row.table_partition(), 2025 * 12 + 10);
        assert_eq!(row.unresolved_code(), None);
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
            without(|c| c.address = vec![1; 5]),
            BadClick::OutOfBounds("address")
        );
        assert_eq!(
            without(|c| c.visitor_id = vec![1; 15]),
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
        assert_eq!(
            without(|c| c.outcome = 256),
            BadClick::OutOfBounds("outcome")
        );
        assert_eq!(
            without(|c| c.outcome = -1),
            BadClick::OutOfBounds("outcome")
        );
        assert_eq!(decode(b""), Err(BadClick::Missing("received_at_us")));
    }

    #[test]
    fn an_outcome_of_a_newer_redirector_is_stored() {
        let newer = Click {
            outcome: 77,
            ..click()
        };
        assert_eq!(stored(&newer).unwrap().outcome, 77);
    }

    #[test]
    fn an_unresolved_click_becomes_its_links() {
        let link = Link {
            tenant_id: TenantId(1),
            program_id: ProgramId(2),
            affiliate_id: AffiliateId(3),
            link_id: LinkId(4),
        };
        let ids = |row: &ClickRow| (row.tenant_id, row.program_id, row.affiliate_id, row.link_id);
        let mut row = stored(&unresolved()).unwrap();
        assert_eq!(row.unresolved_code(), Some("demo"));
        row.resolve(&link);
        assert_eq!(ids(&row), (1, 2, 3, 4));
        assert_eq!(row.unresolved_code(), None);
        // It came by the domain of another tenant, where there is no such code.
        let mut others = stored(&Click {
            tenant_id: 9,
            ..unresolved()
        })
        .unwrap();
        others.resolve(&link);
        assert_eq!(ids(&others), (9, 0, 0, 0));
        let nothing = Click {
            code: "a b".into(),
            ..unresolved()
        };
        assert_eq!(stored(&nothing), Err(BadClick::OutOfBounds("code")));
    }

    fn message(clicks: &[Vec<u8>], segment_id: &[u8], first_sequence: u32) -> Vec<u8> {
        Envelope {
            clicks: clicks.to_vec(),
            segment_id: segment_id.to_vec(),
            first_sequence,
        }
        .encode_to_vec()
    }

    #[test]
    fn a_message_is_what_the_contract_says() {
        let sent = tributary_shared::events::Clicks {
            clicks: vec![click(), unresolved()],
            segment_id: PLACE.segment.as_bytes().to_vec(),
            first_sequence: 3,
        };
        let (segment, clicks) = open(&sent.encode_to_vec()).unwrap();
        assert_eq!(segment, PLACE.segment);
        let read: Vec<(u32, Click)> = clicks
            .into_iter()
            .map(|(sequence, bytes)| (sequence, decode(&bytes).unwrap()))
            .collect();
        assert_eq!(read, [(3, click()), (4, unresolved())]);
    }

    #[test]
    fn a_message_without_clicks_or_names_for_them_is_refused() {
        let one = [click().encode_to_vec()];
        let id = PLACE.segment.as_bytes();
        assert_eq!(open(b""), Err(BadMessage::Segment));
        assert_eq!(open(&message(&one, &[1; 15], 0)), Err(BadMessage::Segment));
        assert_eq!(open(&message(&one, &[0; 16], 0)), Err(BadMessage::Segment));
        assert_eq!(open(&message(&[], id, 0)), Err(BadMessage::Empty));
        assert_eq!(
            open(&message(&one, id, u32::MAX)),
            Err(BadMessage::Sequence)
        );
        assert!(open(&message(&one, id, u32::MAX - 1)).is_ok());
        assert!(matches!(open(b"\xff"), Err(BadMessage::Encoding(_))));
    }

    #[test]
    fn a_dead_click_is_kept_as_it_came() {
        let odd = b"\xff\xff".to_vec();
        let bad = decode(&odd).unwrap_err();
        let letter = dead(odd.clone(), PLACE, &bad);
        assert!(letter.reason.starts_with("not a Click: "), "{letter:?}");
        let part = letter.part.unwrap();
        assert_eq!(open(&part.payload), Ok((PLACE.segment, vec![(11, odd)])));
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = open(&payload);
            let _ = decode(&payload).and_then(|click| row(click, Verdict::Person, PLACE));
        }
    }
}
