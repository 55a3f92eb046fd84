//! New clicks as they come: ClickHouse is asked each second for the newest of the last minute, and what
//! was not shown yet is. Clicks arrive out of order (a journal may have waited), so a mark in time would
//! miss some; what was shown is remembered for that minute instead.
//!
//! It is a look through the window, not an export: of more than [`CLICKS_A_SECOND`], the newest are shown.

use std::collections::HashMap;

use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use tributary_shared::ids::TenantId;

use super::Facts;
use super::clicks::{BeforeClick, Click, ClickRow, Which};
use crate::error::Problem;
use crate::period::Period;
use crate::slots::{Slot, Slots};

/// Streams at once, of one tenant and of all.
const MAX_STREAMS_OF_TENANT: usize = 5;
const MAX_STREAMS: usize = 100;
/// Clicks that a stream shows at once.
pub(crate) const CLICKS_A_SECOND: i64 = 100;
/// How late a click may arrive and still be shown.
const WINDOW: TimeDelta = TimeDelta::seconds(60);
/// What one who could not be served is told to wait, in seconds.
const RETRY_AFTER_SECONDS: u32 = 60;

/// The streams that are open; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Streams(Slots);

impl Default for Streams {
    fn default() -> Self {
        Self(Slots::new(MAX_STREAMS_OF_TENANT, MAX_STREAMS))
    }
}

impl Streams {
    pub(crate) fn open(&self, tenant: TenantId) -> Result<Slot, Problem> {
        self.0.take(tenant).ok_or_else(|| {
            let detail = format!(
                "at most {MAX_STREAMS_OF_TENANT} live streams of a tenant and {MAX_STREAMS} of all at once: close another first"
            );
            Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(RETRY_AFTER_SECONDS)
        })
    }
}

/// One tenant's new clicks.
#[derive(Debug)]
pub(crate) struct Tail {
    tenant: TenantId,
    since: DateTime<Utc>,
    shown: HashMap<BeforeClick, i64>,
}

impl Tail {
    /// Clicks that are received from `now` on.
    pub(crate) fn new(tenant: TenantId, now: DateTime<Utc>) -> Self {
        Self {
            tenant,
            since: now,
            shown: HashMap::new(),
        }
    }

    /// What has come since it was asked before, the oldest first.
    pub(crate) async fn next(
        &mut self,
        facts: &Facts,
        now: DateTime<Utc>,
    ) -> Result<Vec<Click>, Problem> {
        let from = self.since.max(now - WINDOW);
        let period = Period {
            from,
            to: now + WINDOW, // an edge's clock may go a little ahead
            zone: Tz::UTC,
            days: Vec::new(),
        };
        let rows = facts
            .clicks(
                self.tenant,
                &period,
                &Which::default(),
                None,
                CLICKS_A_SECOND,
            )
            .await?;
        self.fresh(rows, from)
    }

    fn fresh(&mut self, rows: Vec<ClickRow>, from: DateTime<Utc>) -> Result<Vec<Click>, Problem> {
        self.shown.retain(|_, at| *at >= from.timestamp_millis());
        let mut fresh = Vec::new();
        for row in rows.into_iter().rev() {
            let place = row.place();
            let at = place.millis;
            if self.shown.insert(place, at).is_none() {
                fresh.push(row.read()?);
            }
        }
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_stream_makes_room() {
        let streams = Streams::default();
        let mut slots: Vec<Slot> = (0..MAX_STREAMS_OF_TENANT)
            .map(|_| streams.open(TenantId(1)).unwrap())
            .collect();
        assert_eq!(streams.open(TenantId(1)).unwrap_err().status(), 429);
        slots.push(streams.open(TenantId(2)).unwrap());
        slots.remove(0);
        slots.push(streams.open(TenantId(1)).unwrap());
        assert!(streams.open(TenantId(1)).is_err());
    }
}
