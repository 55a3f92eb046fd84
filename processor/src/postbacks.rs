//! Topic `postbacks` → table `postbacks`: what became of each report of an order, for its tenant to read.
//!
//! A message may be stored twice: the table replaces rows of the same id and is read with `FINAL`.

use std::net::Ipv6Addr;

use chrono::{DateTime, Utc};
use clickhouse::Row;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tributary_shared::clock::event_time;
use tributary_shared::events::PostbackLogged;
use tributary_shared::events::postback_logged::{Door, Verdict};
use uuid::Uuid;

use crate::consume::Stage;
use crate::dead_letter::Unreadable;
use crate::retry::Stopped;
use crate::sink::{AsTheyAre, Fact, Repeatable, Sink};

/// Longest text of a row, in bytes: the redirector's bounds are lower.
const MAX_TEXT_BYTES: usize = 4096;
/// Roughly what a row takes in memory beside its texts.
const ROW_BYTES: usize = 512;

/// A row of `postbacks`: shared/migrations/clickhouse/0012_postbacks.sql.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub(crate) struct PostbackRow {
    #[serde(with = "clickhouse::serde::uuid")]
    id: Uuid,
    #[serde(with = "clickhouse::serde::chrono::datetime64::micros")]
    received_at: DateTime<Utc>,
    tenant_id: u64,
    door: String,
    verdict: String,
    reason: String,
    message: String,
    /// Zeros: the report was refused.
    #[serde(with = "clickhouse::serde::uuid")]
    conversion_id: Uuid,
    order_id: String,
    event: String,
    status: String,
    click_id: String,
    query: String,
    address: Ipv6Addr,
    user_agent: String,
}

impl Fact for PostbackRow {
    const TABLE: &'static str = "postbacks";

    fn table_partition(&self) -> i32 {
        0 // the table has one
    }

    fn bytes(&self) -> usize {
        ROW_BYTES + self.message.len() + self.query.len() + self.user_agent.len()
    }
}

/// Why a message is no line of the log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPostback {
    #[error("not a PostbackLogged: {0}")]
    Encoding(String),
    #[error("{0} is missing or out of bounds")]
    Field(&'static str),
}

/// Stores the log.
pub(crate) struct Postbacks {
    pub(crate) sink: Sink<PostbackRow, Repeatable>,
}

impl Stage for Postbacks {
    async fn take(&mut self, payload: &[u8]) -> Result<Vec<Unreadable>, Stopped> {
        match read(payload) {
            Ok(row) => {
                self.sink.add(row);
                Ok(Vec::new())
            }
            Err(bad) => Ok(vec![Unreadable::message(bad)]),
        }
    }

    fn is_full(&self) -> bool {
        self.sink.is_full()
    }

    async fn finish(&mut self) -> Result<(), Stopped> {
        self.sink.write(&mut AsTheyAre).await
    }

    fn forget(&mut self) {
        self.sink.forget();
    }
}

fn read(payload: &[u8]) -> Result<PostbackRow, BadPostback> {
    let logged =
        PostbackLogged::decode(payload).map_err(|e| BadPostback::Encoding(e.to_string()))?;
    let field = BadPostback::Field;
    let texts = [
        ("reason", &logged.reason),
        ("message", &logged.message),
        ("order_id", &logged.order_id),
        ("event", &logged.event),
        ("status", &logged.status),
        ("click_id", &logged.click_id),
        ("query", &logged.query),
        ("user_agent", &logged.user_agent),
    ];
    if let Some((name, _)) = texts.iter().find(|(_, text)| text.len() > MAX_TEXT_BYTES) {
        return Err(field(name));
    }
    let door = match logged.door() {
        Door::Postback => "postback",
        Door::Pixel => "pixel",
        Door::Event => "event",
        Door::Webhook => "webhook",
    };
    let verdict = match logged.verdict() {
        Verdict::Taken => "taken",
        Verdict::Refused => "refused",
        Verdict::Ignored => "ignored",
    };
    Ok(PostbackRow {
        id: logged.id.parse().map_err(|_| field("id"))?,
        received_at: event_time(logged.received_at_us).ok_or(field("received_at_us"))?,
        tenant_id: Some(logged.tenant_id)
            .filter(|id| *id > 0)
            .ok_or(field("tenant_id"))?,
        door: door.to_owned(),
        verdict: verdict.to_owned(),
        reason: logged.reason,
        message: logged.message,
        conversion_id: match &*logged.conversion_id {
            "" => Uuid::nil(),
            id => id.parse().map_err(|_| field("conversion_id"))?,
        },
        order_id: logged.order_id,
        event: logged.event,
        status: logged.status,
        click_id: logged.click_id,
        query: logged.query,
        address: address(&logged.address).ok_or(field("address"))?,
        user_agent: logged.user_agent,
    })
}

/// All addresses stand in one column: IPv4 as ::ffff:a.b.c.d, none as ::.
fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    match bytes.len() {
        0 => Some(Ipv6Addr::UNSPECIFIED),
        4 => {
            let v4: [u8; 4] = bytes.try_into().ok()?;
            Some(std::net::Ipv4Addr::from(v4).to_ipv6_mapped())
        }
        _ => <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged() -> PostbackLogged {
        PostbackLogged {
            id: Uuid::from_u128(1).to_string(),
            received_at_us: 1_700_000_000_000_000,
            tenant_id: 7,
            verdict: Verdict::Refused.into(),
            reason: "order_id_invalid".to_owned(),
            address: vec![203, 0, 113, 9],
            ..PostbackLogged::default()
        }
    }

    #[test]
    fn a_refused_report_is_a_row_without_a_conversion() {
        let row = read(&logged().encode_to_vec()).unwrap();
        assert_eq!(
            (&*row.door, &*row.verdict, &*row.reason),
            ("postback", "refused", "order_id_invalid")
        );
        assert_eq!(row.conversion_id, Uuid::nil());
        assert_eq!(row.address.to_string(), "::ffff:203.0.113.9");
    }

    #[test]
    fn what_is_no_line_of_the_log_says_why() {
        let without = |change: fn(&mut PostbackLogged)| {
            let mut logged = logged();
            change(&mut logged);
            read(&logged.encode_to_vec()).unwrap_err()
        };
        let field = BadPostback::Field;
        assert_eq!(without(|l| l.id = "x".into()), field("id"));
        assert_eq!(without(|l| l.tenant_id = 0), field("tenant_id"));
        assert_eq!(without(|l| l.received_at_us = -1), field("received_at_us"));
        assert_eq!(without(|l| l.address = vec![1; 5]), field("address"));
        assert_eq!(without(|l| l.query = "x".repeat(5000)), field("query"));
        assert!(matches!(read(b"\xff"), Err(BadPostback::Encoding(_))));
    }
}
