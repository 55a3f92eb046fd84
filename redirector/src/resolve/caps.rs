//! Click caps: may this click still go to the destination? Counted in Redis by one script, so that
//! several edges together let through exactly as many as the cap says, and never one more.
//!
//! Redis counts what it let through, not what it refused, so a cap that is raised goes on from there.
//! A click whose answer did not come in time may have been counted: with a Redis that fails, fewer may
//! be known to be allowed than the cap says. The counters are lost with
//! Redis, and are counted again from the facts when admin-api fills it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use quick_cache::sync::Cache;
use redis::RedisError;
use tributary_shared::ids::LinkId;
use tributary_shared::links::CapPeriod;

use super::cache::micros;
use super::{Index, Resolver};

/// Takes one of the clicks that are left. A day's key expires by itself.
const TAKE: &str = "
local taken = tonumber(redis.call('GET', KEYS[1]) or '0')
if taken >= tonumber(ARGV[1]) then return 0 end
if redis.call('INCR', KEYS[1]) == 1 and ARGV[2] ~= '0' then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return 1";

/// How long a day's counter is kept from its first click.
const DAY_KEPT: Duration = Duration::from_secs(2 * 24 * 60 * 60);
/// Longest that a cap is believed to be reached without asking: the counter might have been reset.
const REACHED_TTL: Duration = Duration::from_secs(60);
/// Links whose cap is known to be reached.
const MAX_REACHED: usize = 100_000;
/// Redis' scripts count exactly up to here.
const MAX_CAP: u64 = 1 << 53;

/// Whether one more click may go to the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CapAnswer {
    /// It has been counted.
    Allowed,
    Reached,
    /// Redis is away or late.
    Unknown,
}

/// The caps that are known to be reached, so that they cost no round trip.
pub(super) struct Reached(Cache<LinkId, ReachedCap>);

#[derive(Clone, Copy)]
struct ReachedCap {
    cap: u64,
    /// None: not the cap of a day.
    day: Option<NaiveDate>,
    /// In ticks.
    until: u64,
}

impl Reached {
    pub(super) fn new() -> Self {
        Self(Cache::new(MAX_REACHED))
    }

    fn note(&self, link: LinkId, cap: u64, day: Option<NaiveDate>, now: u64) {
        let until = now.saturating_add(micros(REACHED_TTL));
        self.0.insert(link, ReachedCap { cap, day, until });
    }

    /// A cap that was raised since, or is another day's, is not known to be reached.
    fn knows(&self, link: LinkId, cap: u64, day: Option<NaiveDate>, now: u64) -> bool {
        let known = self.0.get(&link);
        known.is_some_and(|known| known.day == day && cap <= known.cap && now < known.until)
    }
}

impl Resolver {
    /// Takes one of the clicks that `cap` allows a link in a `period`, at `now`. Ask only for links
    /// that have a cap: it costs a round trip until the cap is reached.
    pub(crate) async fn take(
        &self,
        link: LinkId,
        cap: u64,
        period: CapPeriod,
        now: DateTime<Utc>,
    ) -> CapAnswer {
        let index = &self.index;
        let day = match period {
            CapPeriod::Total => None,
            CapPeriod::Day => Some(now.date_naive()),
        };
        if index.reached.knows(link, cap, day, index.freshness.now()) {
            return CapAnswer::Reached;
        }
        if index.backs_off() {
            return CapAnswer::Unknown;
        }
        let asked = self
            .worker
            .spawn(Arc::clone(index).take(link, cap.min(MAX_CAP), day));
        match tokio::time::timeout(index.budget, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => CapAnswer::Unknown,
        }
    }
}

impl Index {
    async fn take(self: Arc<Self>, link: LinkId, cap: u64, day: Option<NaiveDate>) -> CapAnswer {
        let period = day.map_or_else(
            || String::from("total"),
            |day| day.format("%Y%m%d").to_string(),
        );
        let mut ask = redis::cmd("EVAL");
        ask.arg(TAKE).arg(1).arg(self.keys.cap(link, &period));
        ask.arg(cap).arg(day.map_or(0, |_| DAY_KEPT.as_secs()));
        let mut redis = self.redis.clone();
        let taken = tokio::time::timeout(self.budget, ask.query_async::<bool>(&mut redis)).await;
        match taken {
            Ok(Ok(true)) => CapAnswer::Allowed,
            Ok(Ok(false)) => {
                self.reached.note(link, cap, day, self.freshness.now());
                CapAnswer::Reached
            }
            Ok(Err(error)) => {
                self.not_taken(link, &error);
                CapAnswer::Unknown
            }
            Err(late) => {
                self.failed(&late);
                CapAnswer::Unknown
            }
        }
    }

    fn not_taken(&self, link: LinkId, error: &RedisError) {
        // A counter that can't be counted up is that link's trouble only.
        if error.code().is_some() {
            tracing::error!(%link, %error, "Redis does not count this link's clicks");
        } else {
            self.failed(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_known_to_be_reached_until_it_is_raised_or_its_day_is_over() {
        let reached = Reached::new();
        let day = NaiveDate::from_ymd_opt(2026, 3, 1);
        let next = NaiveDate::from_ymd_opt(2026, 3, 2);
        reached.note(LinkId(1), 10, day, 5);
        assert!(reached.knows(LinkId(1), 10, day, 6));
        assert!(reached.knows(LinkId(1), 9, day, 6));
        assert!(!reached.knows(LinkId(1), 11, day, 6));
        assert!(!reached.knows(LinkId(1), 10, next, 6));
        assert!(!reached.knows(LinkId(1), 10, None, 6));
        assert!(!reached.knows(LinkId(2), 10, day, 6));
        assert!(!reached.knows(LinkId(1), 10, day, 5 + micros(REACHED_TTL)));
    }
}
