//! How often browsers may report by one publishable key. The key is public, so anybody can use it:
//! the bound keeps a flood by one tenant's key from the others, and from Kafka.
//!
//! A bucket per key, refilled at the rate and holding one second's worth. Each process has its own.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;

/// Keys whose buckets are kept; one that is pushed out begins anew, full.
const MAX_BUCKETS: usize = 10_000;

/// The buckets.
pub(crate) struct ReportLimits {
    quota: Quota,
    buckets: Cache<String, Arc<DefaultDirectRateLimiter>>,
}

impl ReportLimits {
    pub(crate) fn new(per_second: NonZeroU32) -> Self {
        Self {
            quota: Quota::per_second(per_second),
            buckets: Cache::new(MAX_BUCKETS),
        }
    }

    /// Takes one report from the bucket of `key`, which somebody must be known to own: keys that
    /// are made up would push buckets out.
    ///
    /// # Errors
    /// How long to wait when it is empty, in whole seconds.
    pub(crate) fn take(&self, key: &str) -> Result<(), Duration> {
        let fresh = || Ok::<_, Infallible>(Arc::new(RateLimiter::direct(self.quota)));
        let Ok(bucket) = self.buckets.get_or_insert_with(key, fresh);
        bucket.check().map_err(|empty| {
            let wait = empty.wait_time_from(bucket.clock().now());
            Duration::from_secs(wait.as_secs() + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_own_bucket() {
        let limits = ReportLimits::new(NonZeroU32::new(2).unwrap());
        assert!(limits.take("a").is_ok());
        assert!(limits.take("a").is_ok());
        assert_eq!(limits.take("a"), Err(Duration::from_secs(1)));
        assert!(limits.take("b").is_ok());
    }
}
