//! Passwords: Argon2id, off the async threads, a few at a time, and slower after each failure.
//!
//! An unknown e-mail address costs the same work as a wrong password, so the time of an answer does
//! not tell which it was.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Semaphore;
use tributary_shared::clock::Clock;

use crate::error::Problem;

/// Passwords hashed at once: each takes a core and 19 MiB for some 30 ms.
const CONCURRENT_HASHES: usize = 2;
/// How long a request waits for its turn.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// Failures that cost nothing but the work.
const FREE_FAILURES: u32 = 5;
/// Longest pause after a failure, in seconds. It also bounds how long a stranger can keep an
/// address from signing in.
const MAX_PAUSE_SECONDS: i64 = 60;
/// A failure is forgotten after this.
const REMEMBER_FAILURES: TimeDelta = TimeDelta::minutes(15);
/// Addresses whose failures are remembered.
const MAX_REMEMBERED: usize = 10_000;

/// Checked when there is no user, so that it takes as long.
static NOBODY: LazyLock<Option<String>> = LazyLock::new(|| hash("nobody has this password").ok());

/// Hashes and checks passwords; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Passwords {
    slots: Arc<Semaphore>,
    failures: Arc<Mutex<HashMap<String, Failures>>>,
    clock: Clock,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: DateTime<Utc>,
}

impl Failures {
    /// None until the free ones are used up; then 1 s, 2 s, 4 s ... after the last failure.
    fn paused_until(&self) -> DateTime<Utc> {
        let doublings = self.count.saturating_sub(FREE_FAILURES);
        let seconds = match doublings {
            0 => 0,
            n => 1_i64
                .checked_shl(n - 1)
                .unwrap_or(MAX_PAUSE_SECONDS)
                .clamp(1, MAX_PAUSE_SECONDS),
        };
        self.last + TimeDelta::seconds(seconds)
    }
}

impl Passwords {
    pub(crate) fn new(clock: Clock) -> Self {
        LazyLock::force(&NOBODY); // now, so that the first sign-in is not slower
        Self {
            slots: Arc::new(Semaphore::new(CONCURRENT_HASHES)),
            failures: Arc::default(),
            clock,
        }
    }

    /// What to store for a password.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Problem> {
        self.work(move || hash(&password)).await?.map_err(|error| {
            tracing::error!(%error, "a password could not be hashed");
            Problem::internal()
        })
    }

    /// Refuses while `email` has to wait after its failures.
    pub(crate) fn may_try(&self, email: &str) -> Result<(), Problem> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until) = failures
            .get(&email.to_lowercase())
            .map(Failures::paused_until)
        else {
            return Ok(());
        };
        let wait = (until - self.clock.now()).num_milliseconds();
        if wait <= 0 {
            return Ok(());
        }
        let seconds = u32::try_from(wait.saturating_add(999) / 1000).unwrap_or(u32::MAX);
        Err(Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many failed attempts to sign in with this e-mail address; wait a little",
        )
        .retry_after(seconds))
    }

    /// Whether `password` is the one that `stored` was made of; false without a stored one.
    pub(crate) async fn check(
        &self,
        email: &str,
        password: String,
        stored: Option<String>,
    ) -> Result<bool, Problem> {
        let known = stored.is_some();
        let right = self
            .work(move || {
                let stored = stored.or_else(|| NOBODY.clone());
                stored.is_some_and(|stored| verify(&password, &stored))
            })
            .await?;
        let right = right && known;
        self.remember(email, right);
        Ok(right)
    }

    fn remember(&self, email: &str, right: bool) {
        let (email, now) = (email.to_lowercase(), self.clock.now());
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if right {
            failures.remove(&email);
            return;
        }
        if failures.len() >= MAX_REMEMBERED {
            failures.retain(|_, f| now - f.last < REMEMBER_FAILURES);
        }
        if failures.len() >= MAX_REMEMBERED && !failures.contains_key(&email) {
            // Somebody tries many addresses: each is still slowed by the hashing's queue.
            return;
        }
        let entry = failures.entry(email).or_insert(Failures {
            count: 0,
            last: now,
        });
        if now - entry.last >= REMEMBER_FAILURES {
            entry.count = 0;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let slot =
            tokio::time::timeout(QUEUE_TIMEOUT, Arc::clone(&self.slots).acquire_owned()).await;
        let Ok(Ok(slot)) = slot else {
            return Err(Problem::unavailable(
                "too many people are signing in at once; try again",
            ));
        };
        tokio::task::spawn_blocking(move || {
            // The slot is given back when the work ends, even if nobody waits for it any more.
            let _slot = slot;
            work()
        })
        .await
        .map_err(|error| {
            tracing::error!(%error, "hashing a password failed");
            Problem::internal()
        })
    }
}

fn hash(password: &str) -> Result<String, argon2::password_hash::Error> {
    Ok(Argon2::default()
        .hash_password(password.as_bytes())?
        .to_string())
}

fn verify(password: &str, stored: &str) -> bool {
    PasswordHash::new(stored).is_ok_and(|stored| {
        Argon2::default()
            .verify_password(password.as_bytes(), &stored)
            .is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_shared::clock::from_micros;

    #[tokio::test]
    async fn a_hash_checks_its_own_password_only() {
        let clock = Clock::manual(from_micros(0).unwrap());
        let passwords = Passwords::new(clock);
        let stored = passwords.hash("correct horse".into()).await.unwrap();
        assert!(stored.starts_with("$argon2id$"));
        assert!(
            passwords
                .check("a@b", "correct horse".into(), Some(stored.clone()))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .check("a@b", "Correct horse".into(), Some(stored))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .check("a@b", "nobody has this password".into(), None)
                .await
                .unwrap()
        );
    }

    #[test]
    fn failures_make_the_next_attempt_wait_and_time_heals() {
        let clock = Clock::manual(from_micros(0).unwrap());
        let passwords = Passwords::new(clock.clone());
        for _ in 0..FREE_FAILURES {
            assert!(passwords.may_try("a@b").is_ok());
            passwords.remember("a@b", false);
        }
        assert!(passwords.may_try("a@b").is_ok());
        passwords.remember("A@B", false);
        assert!(passwords.may_try("a@b").is_err());
        assert!(passwords.may_try("c@d").is_ok());
        clock.advance(TimeDelta::seconds(1));
        assert!(passwords.may_try("a@b").is_ok());
        for _ in 0..100 {
            passwords.remember("a@b", false);
        }
        clock.advance(TimeDelta::seconds(MAX_PAUSE_SECONDS - 1));
        assert!(passwords.may_try("a@b").is_err());
        clock.advance(TimeDelta::seconds(1));
        assert!(passwords.may_try("a@b").is_ok());
        passwords.remember("a@b", true);
        passwords.remember("a@b", false);
        assert!(passwords.may_try("a@b").is_ok());
    }
}
