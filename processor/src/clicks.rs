//! Topic `clicks` → table `clicks`: decode, check, enrich, store each click once.
//!
//! A message holds several clicks. One that can't be read becomes a dead letter of its own; its
//! siblings are stored.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use chrono::{DateTime, Datelike as _, Utc};
use clickhouse::Row;
use prost::Message as _;
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tributary_shared::bots::Verdict;
use tributary_shared::click_token::{self, Parts, Place};
use tributary_shared::clock::event_time;
use tributary_shared::events::{Click, Outcome};
use tributary_shared::links::is_code;
use uuid::Uuid;

use crate::consume::Stage;
use crate::dead_letter::{Part, Unreadable};
use crate::enrich::{self, Circumstances, Enricher};
use crate::retry::{Retry, Stopped, until_done};
use crate::segments::{Named, Segments};
use crate::sink::{Fact, Prepare, Sink};
use crate::tenants::Tenants;
use crate::unresolved::{self, Link};

/// What is kept of a fingerprint: six bytes.
const FINGERPRINT: u64 = (1 << 48) - 1;
/// Longest text in a click; the redirector cuts earlier.
const MAX_TEXT_BYTES: usize = 4096;

/// A row of `clicks`: shared/migrations/clickhouse. Texts are `SmolStr`: most are short, and most of the others
/// are shared with what is remembered.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub(crate) struct ClickRow {
    #[serde(with = "clickhouse::serde::chrono::datetime64::millis")]
    received_at: DateTime<Utc>,
    tenant_id: u64,
    program_id: u64,
    affiliate_id: u64,
    link_id: u64,
    click_random: [u8; 10],
    click_key: u8,
    click_tag: [u8; 11],
    visitor_id: u64,
    fingerprint: u64,
    address: Ipv6Addr,
    country: SmolStr,
    region: SmolStr,
    city: SmolStr,
    network: SmolStr,
    user_agent: SmolStr,
    device: SmolStr,
    os: SmolStr,
    browser: SmolStr,
    accept_language: SmolStr,
    referrer: SmolStr,
    referrer_domain: SmolStr,
    channel: SmolStr,
    sub1: SmolStr,
    sub2: SmolStr,
    sub3: SmolStr,
    sub4: SmolStr,
    sub5: SmolStr,
    utm_source: SmolStr,
    utm_medium: SmolStr,
    utm_campaign: SmolStr,
    utm_term: SmolStr,
    utm_content: SmolStr,
    is_bot: u8,
    bot_reason: SmolStr,
    signals: u16,
    privacy_opt_out: u8,
    outcome: u8,
    variant: u32,
    code: SmolStr,
    host: SmolStr,
    #[serde(with = "clickhouse::serde::uuid")]
    segment_id: Uuid,
    segment_sequence: u32,
    keep_days: u16,
}

impl Fact for ClickRow {
    const TABLE: &'static str = "clicks";

    fn table_partition(&self) -> i32 {
        self.received_at.year() * 12 + i32::try_from(self.received_at.month0()).unwrap_or(0)
    }

    fn bytes(&self) -> usize {
        let texts = [
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
        size_of::<Self>() + texts.map(SmolStr::len).iter().sum::<usize>()
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

    /// Leaves of the click what its tenant chose to keep.
    fn keep(&mut self, tenants: &Tenants) {
        let tenant = tenants.of(self.tenant_id);
        self.address = tenant.address_kept.of(self.address);
        self.keep_days = tenant.click_days;
        if tenants.is_erased(self.tenant_id, self.visitor_id) {
            self.erase();
        }
    }

    /// Leaves nothing of the person. The same as in `erase`.
    fn erase(&mut self) {
        self.visitor_id = 0;
        self.fingerprint = 0;
        self.address = Ipv6Addr::UNSPECIFIED;
        for text in [
            &mut self.region,
            &mut self.city,
            &mut self.network,
            &mut self.user_agent,
            &mut self.accept_language,
            &mut self.referrer,
            &mut self.sub1,
            &mut self.sub2,
            &mut self.sub3,
            &mut self.sub4,
            &mut self.sub5,
            &mut self.utm_term,
            &mut self.utm_content,
        ] {
            *text = SmolStr::default();
        }
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
    #[error("click_id is not of this link and this moment")]
    Token,
}

/// `Clicks` with its clicks still encoded: one that can't be decoded does not take the others with it.
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    clicks: Vec<Bytes>,
    #[prost(bytes = "vec", tag = "2")]
    segment_id: Vec<u8>,
    #[prost(uint32, tag = "3")]
    first_sequence: u32,
}

/// A click's sequence, and its bytes.
type Numbered = (u32, Bytes);

/// Stores clicks.
pub(crate) struct Clicks {
    pub(crate) sink: Sink<ClickRow, Segments>,
    pub(crate) enricher: Enricher,
    pub(crate) tenants: Tenants,
    pub(crate) pool: PgPool,
    pub(crate) shutdown: CancellationToken,
    /// The click that is being read, for its texts' memory.
    pub(crate) click: Click,
}

impl Stage for Clicks {
    async fn take(&mut self, payload: &[u8]) -> Result<Vec<Unreadable>, Stopped> {
        let (segment, clicks) = match open(payload) {
            Ok(message) => message,
            Err(bad) => return Ok(vec![Unreadable::message(bad)]),
        };
        let mut unreadable = Vec::new();
        for (sequence, click) in clicks {
            let place = Place { segment, sequence };
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
        let mut keeper = Keeper {
            tenants: &mut self.tenants,
            pool: &self.pool,
            shutdown: &self.shutdown,
        };
        self.sink.write(&mut keeper).await
    }

    fn forget(&mut self) {
        self.sink.forget();
        self.enricher.windows.clear();
    }
}

/// Leaves of clicks what their tenants chose to keep.
struct Keeper<'c> {
    tenants: &'c mut Tenants,
    pool: &'c PgPool,
    shutdown: &'c CancellationToken,
}

impl Prepare<ClickRow> for Keeper<'_> {
    async fn prepare(&mut self, rows: &mut [ClickRow]) -> Result<(), Stopped> {
        if self.tenants.is_old(rows.iter().map(|row| row.tenant_id)) {
            let mut retry = Retry::new("postgres", self.shutdown);
            while let Err(error) = self.tenants.read(self.pool).await {
                retry.after(error).await?;
            }
        }
        for row in rows {
            row.keep(self.tenants);
        }
        Ok(())
    }
}

impl Clicks {
    fn read(&mut self, click: &[u8], place: Place) -> Result<ClickRow, BadClick> {
        decode(click, &mut self.click)?;
        row(&self.click, place, &mut self.enricher)
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
    let payload = Bytes::copy_from_slice(payload); // of which the clicks are parts
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
fn dead(click: Bytes, place: Place, bad: &BadClick) -> Unreadable {
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

/// Reads a click in the place of another.
fn decode(bytes: &[u8], click: &mut Click) -> Result<(), BadClick> {
    click.clear();
    click
        .merge(bytes)
        .map_err(|e| BadClick::Encoding(e.to_string()))?;
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
    Ok(())
}

fn row(click: &Click, place: Place, enricher: &mut Enricher) -> Result<ClickRow, BadClick> {
    let received_at =
        event_time(click.received_at_us).ok_or(BadClick::OutOfBounds("received_at_us"))?;
    let token = token(click, received_at)?;
    let address = address(&click.address)?;
    let visitor = sixteen(&click.visitor_id, "visitor_id")?;
    let fingerprint = sixteen(&click.fingerprint, "fingerprint")?;
    let visitor_id = stored_visitor(&visitor);
    let fingerprint = stored_fingerprint(&fingerprint);

    let agent = enricher.agents.read(&click.user_agent);
    let origin = enricher.referrers.read(&click.referrer, &click.utm_medium);
    let whereabouts = enricher.places.place(address);
    let network = enricher.places.network(address);
    let is_bot = agent.verdict != Verdict::Person;
    let at_ms = received_at.timestamp_millis();
    // Clicks of nobody, from nowhere or on an unknown link are no neighbours.
    let circumstances = Circumstances {
        is_duplicate: visitor_id != 0
            && click.link_id != 0
            && (enricher.windows).is_duplicate(visitor_id, click.link_id, at_ms),
        is_flood: !address.is_unspecified()
            && (enricher.windows).is_flood((click.tenant_id, address, &click.user_agent), at_ms),
        is_data_centre: network.is_data_centre,
    };
    let signals = enrich::signals(click, circumstances);

    let mut subs = click.sub_ids.iter();
    let mut sub = || subs.next().map(SmolStr::new).unwrap_or_default();
    let row = ClickRow {
        received_at,
        tenant_id: click.tenant_id,
        program_id: click.program_id,
        affiliate_id: click.affiliate_id,
        link_id: click.link_id,
        click_random: random_kept(&token, place),
        click_key: token.key_id,
        click_tag: token.tag,
        visitor_id,
        fingerprint,
        address,
        country: whereabouts.country.clone(),
        region: whereabouts.region.clone(),
        city: whereabouts.city.clone(),
        network: network.name.clone(),
        user_agent: agent.user_agent.clone(),
        device: agent.device.clone(),
        os: agent.os.clone(),
        browser: agent.browser.clone(),
        accept_language: SmolStr::new(&click.accept_language),
        referrer: SmolStr::new(&click.referrer),
        referrer_domain: origin.domain,
        channel: SmolStr::new_static(origin.channel),
        sub1: sub(),
        sub2: sub(),
        sub3: sub(),
        sub4: sub(),
        sub5: sub(),
        utm_source: SmolStr::new(&click.utm_source),
        utm_medium: SmolStr::new(&click.utm_medium),
        utm_campaign: SmolStr::new(&click.utm_campaign),
        utm_term: SmolStr::new(&click.utm_term),
        utm_content: SmolStr::new(&click.utm_content),
        is_bot: u8::from(is_bot),
        bot_reason: SmolStr::new_static(agent.verdict.reason()),
        signals,
        privacy_opt_out: u8::from(click.privacy_opt_out),
        // One that this processor does not know yet is stored all the same.
        outcome: u8::try_from(click.outcome).map_err(|_| BadClick::OutOfBounds("outcome"))?,
        variant: click.variant,
        code: SmolStr::new(&click.code),
        host: SmolStr::new(&click.host),
        segment_id: place.segment,
        segment_sequence: place.sequence,
        keep_days: 0, // its tenant's, before it is written
    };
    if subs.next().is_some() {
        return Err(BadClick::OutOfBounds("sub_ids"));
    }
    Ok(row)
}

/// The click token's parts; an unresolved click has none. The table keeps what link and time don't tell.
fn token(click: &Click, received_at: DateTime<Utc>) -> Result<Parts, BadClick> {
    if click.outcome == Outcome::Unresolved as i32 {
        return Ok(Parts::default());
    }
    click_token::parts(&click.click_id)
        .filter(|token| token.link == click.link_id)
        .filter(|token| i64::try_from(token.at_ms) == Ok(received_at.timestamp_millis()))
        .ok_or(BadClick::Token)
}

/// What is stored of a visitor: the migration of `clicks` says why.
pub(crate) fn stored_visitor(visitor_id: &[u8; 16]) -> u64 {
    u64::from_be_bytes(half(&visitor_id[8..]))
}

/// What is stored of a fingerprint.
pub(crate) fn stored_fingerprint(fingerprint: &[u8; 16]) -> u64 {
    u64::from_le_bytes(half(&fingerprint[..8])) & FINGERPRINT
}

/// A token's random part, as far as the click's name does not tell it.
fn random_kept(token: &Parts, place: Place) -> [u8; 10] {
    if token.random == place.random() {
        [0; 10]
    } else {
        token.random
    }
}

fn half(bytes: &[u8]) -> [u8; 8] {
    let mut half = [0; 8];
    half.copy_from_slice(bytes);
    half
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
    use std::cell::RefCell;

    use super::*;
    use proptest::prelude::*;
    use tributary_shared::click_token::ClickToken;
    use tributary_shared::events::FetchDest;
    use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
    use tributary_shared::signals;

    const PLACE: Place = Place {
        segment: Uuid::from_u128(5),
        sequence: 11,
    };
    const AT_US: i64 = 1_763_000_000_123_456;

    thread_local! {
        static ENRICHER: RefCell<Enricher> = RefCell::new(Enricher::for_test());
    }

    /// Of link 4, at [`AT_US`].
    const TOKEN: &str = "AZp6_R57egG8KkkubMcOXwAAAAAAAAAEAXqdJTwJJ_X4ahp_";

    fn click() -> Click {
        Click {
            click_id: TOKEN.into(),
            received_at_us: AT_US,
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

    fn read(bytes: &[u8]) -> Result<ClickRow, BadClick> {
        let mut click = a_strange_click();
        decode(bytes, &mut click)?;
        ENRICHER.with_borrow_mut(|enricher| row(&click, PLACE, enricher))
    }

    /// Each click is read in the place of another, of which nothing may stay.
    fn a_strange_click() -> Click {
        Click {
            referrer: "https://strange.example/".into(),
            sub_ids: vec!["strange".into(); 5],
            visitor_id: vec![9; 16],
            utm_term: "strange".into(),
            host: "strange.example".into(),
            privacy_opt_out: true,
            ..click()
        }
    }

    fn stored(click: &Click) -> Result<ClickRow, BadClick> {
        read(&click.encode_to_vec())
    }

    #[test]
    fn a_click_becomes_a_row() {
        let row = stored(&click()).unwrap();
        assert_eq!(row.address.to_string(), "::ffff:203.0.113.9");
        assert_eq!(
            (row.sub1.as_str(), row.sub2.as_str(), row.sub3.as_str()),
            ("a", "", "c")
        );
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
        assert_eq!(read(b""), Err(BadClick::Missing("received_at_us")));
    }

    #[test]
    fn a_token_must_be_of_its_link_and_moment() {
        let with = |change: fn(&mut Click)| {
            let mut click = click();
            change(&mut click);
            stored(&click)
        };
        let row = stored(&click()).unwrap();
        let parts = click_token::parts(TOKEN).unwrap();
        assert_eq!(parts.key_id, row.click_key);
        assert_eq!(parts.random, row.click_random);
        assert_eq!(with(|c| c.link_id = 5), Err(BadClick::Token));
        assert_eq!(with(|c| c.received_at_us += 1000), Err(BadClick::Token));
        assert_eq!(with(|c| c.click_id = "c".repeat(48)), Err(BadClick::Token));
        assert_eq!(with(|c| c.click_id.truncate(40)), Err(BadClick::Token));
    }

    #[test]
    fn what_a_clicks_name_tells_of_its_token_is_not_stored() {
        let keys = format!("1:{}", "ab".repeat(32)).parse().unwrap();
        let at = event_time(AT_US).unwrap();
        let stored_under = |place| {
            stored(&Click {
                click_id: ClickToken::of(&keys, LinkId(4), at, place).to_string(),
                ..click()
            })
        };
        assert_eq!(stored_under(PLACE).unwrap().click_random, [0; 10]);
        let other = Place {
            sequence: 12,
            ..PLACE
        };
        assert_eq!(stored_under(other).unwrap().click_random, other.random());
    }

    #[test]
    fn a_click_is_enriched() {
        let row = stored(&Click {
            user_agent: "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1".into(),
            referrer: "https://www.google.de/".into(),
            fetch_dest: FetchDest::Frame.into(),
            visitor_id: (0..16).collect(),
            fingerprint: (16..32).collect(),
            ..click()
        })
        .unwrap();
        assert_eq!(
            [&*row.device, &*row.os, &*row.browser],
            ["mobile", "iOS", "Mobile Safari"]
        );
        assert_eq!(
            [&*row.referrer_domain, &*row.channel],
            ["google.de", "search"]
        );
        let signals: Vec<_> = signals::of(row.signals).map(|signal| signal.name).collect();
        assert_eq!(signals, ["cookie_stuffing"]);
        assert_eq!(row.visitor_id, 0x0809_0a0b_0c0d_0e0f);
        assert_eq!(row.fingerprint, 0x1514_1312_1110);
    }

    #[test]
    fn clicks_of_nobody_are_no_repetitions_of_each_other() {
        let nobody = |seconds: i64| Click {
            received_at_us: AT_US + seconds * 1_000_000,
            ..unresolved()
        };
        for seconds in 0..30 {
            assert_eq!(stored(&nobody(seconds)).unwrap().signals, 0);
        }
    }

    #[test]
    fn nothing_of_an_erased_person_is_left() {
        let mut row = stored(&Click {
            visitor_id: vec![7; 16],
            fingerprint: vec![8; 16],
            user_agent: "agent".into(),
            accept_language: "language".into(),
            referrer: "https://referrer.example/".into(),
            sub_ids: (1..=5).map(|n| format!("sub{n}")).collect(),
            ..click()
        })
        .unwrap();
        row.erase();
        assert_eq!((row.visitor_id, row.fingerprint), (0, 0));
        assert_eq!(row.address, Ipv6Addr::UNSPECIFIED);
        let said = format!("{row:?}");
        for word in ["\"agent", "language\"", "https", "sub1\"", "sub5\""] {
            assert!(!said.contains(word), "{word} in {said}");
        }
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
            clicks: clicks.iter().cloned().map(Bytes::from).collect(),
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
            .map(|(sequence, bytes)| (sequence, Click::decode(&*bytes).unwrap()))
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
        let odd = Bytes::from_static(b"\xff\xff");
        let bad = read(&odd).unwrap_err();
        let letter = dead(odd.clone(), PLACE, &bad);
        assert!(letter.reason.starts_with("not a Click: "), "{letter:?}");
        let part = letter.part.unwrap();
        assert_eq!(open(&part.payload), Ok((PLACE.segment, vec![(11, odd)])));
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = open(&payload);
            let _ = read(&payload);
        }
    }
}
