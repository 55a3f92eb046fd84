//! Against a bank that does what a script of dice says: takes payouts and does not answer, answers and has not taken them,
//! hangs while the sender is killed. It does not look at keys, so whatever reaches it twice is paid twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use rust_decimal::dec;
use tributary_shared::ids::new_uuid_v7;
use tributary_shared::testing::Isolated;

use super::*;

/// Payouts of one run of the script.
const PAYOUTS: usize = 40;
/// How long a sender lives that hangs.
const LIFE: Duration = Duration::from_millis(400);
/// Rounds after which everything must be over.
const ROUNDS: usize = 400;

/// Numbers from a seed (splitmix64).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// What a bank has of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Taken {
    times: u32,
    arrived: bool,
    came_back: bool,
}

#[derive(Debug)]
struct Bank {
    dice: Mutex<Dice>,
    taken: Mutex<BTreeMap<String, Taken>>,
}

impl Bank {
    fn roll(&self, sides: u64) -> u64 {
        self.dice.lock().unwrap().roll(sides)
    }

    fn take(&self, key: &str, arrived: bool) {
        let mut taken = self.taken.lock().unwrap();
        let of = taken.entry(key.to_owned()).or_default();
        of.times += 1;
        of.arrived = arrived;
    }

    /// How often the payout's money is with the affiliate or on its way to him.
    fn times(&self, payout: Uuid) -> u32 {
        let begin = format!("{}-", payout.simple());
        let taken = self.taken.lock().unwrap();
        let of = taken.iter().filter(|(key, _)| key.starts_with(&begin));
        of.filter(|(_, taken)| !taken.came_back)
            .map(|(_, taken)| taken.times)
            .sum()
    }
}

#[derive(Debug, Clone)]
struct Account(Arc<Bank>);

impl Accounts for Account {
    type Provider = Self;

    fn of(&self, kind: &str, credentials: &[u8]) -> Result<Self, String> {
        assert_eq!((kind, credentials), ("paypal", b"{}".as_slice()));
        Ok(self.clone())
    }
}

impl Provider for Account {
    async fn send(&self, payment: &Payment, key: &str) -> Result<Outcome, ProviderError> {
        assert_eq!(payment.net.amount(), dec!(97.75));
        let reference = format!("ref {key}");
        match self.0.roll(10) {
            0 => Err(ProviderError::Refused("no such account".to_owned())),
            1 => Err(ProviderError::Unavailable("busy".to_owned())),
            2 => Err(ProviderError::Unknown(
                "cut off on the way there".to_owned(),
            )),
            3 => {
                self.0.take(key, false);
                Err(ProviderError::Unknown("cut off on the way back".to_owned()))
            }
            4 => std::future::pending().await,
            5 => {
                self.0.take(key, true);
                std::future::pending().await
            }
            6 => {
                self.0.take(key, true);
                Ok(Outcome::Paid { reference })
            }
            _ => {
                self.0.take(key, false);
                Ok(Outcome::Pending { reference })
            }
        }
    }

    async fn outcome(
        &self,
        key: &str,
        _reference: Option<&str>,
    ) -> Result<Option<Outcome>, ProviderError> {
        let luck = self.0.roll(8);
        if luck < 2 {
            return Err(ProviderError::Unknown("no answer".to_owned()));
        }
        let mut taken = self.0.taken.lock().unwrap();
        let Some(of) = taken.get_mut(key) else {
            return Ok(None);
        };
        let reference = format!("ref {key}");
        if !of.arrived && !of.came_back {
            of.arrived = luck < 5;
            of.came_back = luck == 5;
        }
        Ok(Some(if of.arrived {
            Outcome::Paid { reference }
        } else if of.came_back {
            Outcome::Failed {
                reference: Some(reference),
                reason: "it came back".to_owned(),
            }
        } else {
            Outcome::Pending { reference }
        }))
    }
}

fn keys() -> SealingKeys {
    format!("1:{}", "ab".repeat(32)).parse().unwrap()
}

/// Approved payouts of 100.00, one for each affiliate.
async fn approved(pool: &PgPool, now: DateTime<Utc>, count: usize) -> Vec<Uuid> {
    let tenant: i64 =
        sqlx::query_scalar("INSERT INTO tenants (slug, name) VALUES ('a', 'A') RETURNING id")
            .fetch_one(pool)
            .await
            .unwrap();
    let run: i64 = sqlx::query_scalar(
        "INSERT INTO payout_runs (tenant_id, requested_by, done_at) VALUES ($1, 'Ana', now()) RETURNING id",
    )
    .bind(tenant)
    .fetch_one(pool)
    .await
    .unwrap();
    let sealed = keys().seal(&format!("payout_provider:{tenant}:paypal"), b"{}");
    sqlx::query(
        "INSERT INTO payout_providers (tenant_id, kind, credentials) VALUES ($1, 'paypal', $2)",
    )
    .bind(tenant)
    .bind(sealed)
    .execute(pool)
    .await
    .unwrap();
    let mut payouts = Vec::new();
    for _ in 0..count {
        let id = new_uuid_v7(now);
        let method = serde_json::to_vec(&Method::Paypal {
            email: "ana@example.com".to_owned(),
        });
        let method = keys().seal(&format!("payout:{id}:method"), &method.unwrap());
        sqlx::query(
            "WITH a AS (INSERT INTO affiliates (tenant_id, name) VALUES ($1, 'Ana') RETURNING id)
             INSERT INTO payouts (id, tenant_id, run_id, affiliate_id, currency, state, amount, fee, method, method_kind, reference,
                                  created_at, approved_at)
             SELECT $2, $1, $3, a.id, 'USD', 'approved', 100, 2.25, $4, 'paypal', 'A, payout', $5, $5 FROM a",
        )
        .bind(tenant)
        .bind(id)
        .bind(run)
        .bind(method)
        .bind(now)
        .execute(pool)
        .await
        .unwrap();
        payouts.push(id);
    }
    payouts
}

async fn states(pool: &PgPool) -> BTreeMap<String, i64> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT state, count(*) FROM payouts GROUP BY state")
            .fetch_all(pool)
            .await
            .unwrap();
    rows.into_iter().collect()
}

#[tokio::test]
async fn whatever_a_provider_does_each_payout_is_sent_once() {
    let place = Isolated::create().await.unwrap();
    let pool = place.pool().unwrap();
    let clock = Clock::manual("2026-06-01T00:00:00Z".parse().unwrap());
    let payouts = approved(&pool, clock.now(), PAYOUTS).await;
    let bank = Arc::new(Bank {
        dice: Mutex::new(Dice(20_261_130)),
        taken: Mutex::default(),
    });
    let sender = || Sender {
        pool: pool.clone(),
        clock: clock.clone(),
        keys: keys(),
        accounts: Account(Arc::clone(&bank)),
    };
    let mut dice = Dice(7);
    let mut rounds = 0;
    loop {
        // Two processors at once; one that hangs is killed where it is.
        let (one, other) = (sender(), sender());
        let lives = (
            tokio::time::timeout(LIFE, one.turn()),
            tokio::time::timeout(LIFE, other.turn()),
        );
        let (one, other) = tokio::join!(lives.0, lives.1);
        for ended in [one, other] {
            assert!(!matches!(ended, Ok(Err(_))), "{ended:?}");
        }
        clock.advance(TimeDelta::seconds(i64::try_from(dice.roll(300)).unwrap()));
        // People: what failed is tried again, or cancelled.
        let (action, attempt) = match dice.roll(4) {
            0 => ("cancelled", 0),
            _ => ("approved", 1),
        };
        sqlx::query(
            "UPDATE payouts SET state = $1, attempt = attempt + $2, provider = NULL, provider_reference = NULL, sent_at = NULL,
                    send_at = NULL, closed_at = CASE WHEN $1 = 'cancelled' THEN now() END
             WHERE id = (SELECT id FROM payouts WHERE state = 'failed' ORDER BY id LIMIT 1)",
        )
        .bind(action)
        .bind(attempt)
        .execute(&pool)
        .await
        .unwrap();
        let states = states(&pool).await;
        if states
            .keys()
            .all(|state| state == "paid" || state == "cancelled")
        {
            break;
        }
        rounds += 1;
        assert!(rounds < ROUNDS, "it does not come to an end: {states:?}");
    }
    let paid: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM payouts WHERE state = 'paid'")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert!(paid.len() > PAYOUTS / 2 && bank.taken.lock().unwrap().len() > paid.len());
    for payout in payouts {
        let times = u32::from(paid.contains(&payout));
        assert_eq!(bank.times(payout), times, "{payout}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_never_sent_again() {
    /// Acknowledges everything and remembers nothing.
    #[derive(Debug, Clone, Default)]
    struct Forgetful(Arc<Mutex<u32>>);

    impl Accounts for Forgetful {
        type Provider = Self;

        fn of(&self, _: &str, _: &[u8]) -> Result<Self, String> {
            Ok(self.clone())
        }
    }

    impl Provider for Forgetful {
        async fn send(&self, _: &Payment, key: &str) -> Result<Outcome, ProviderError> {
            *self.0.lock().unwrap() += 1;
            let reference = key.to_owned();
            Ok(Outcome::Pending { reference })
        }

        async fn outcome(
            &self,
            _: &str,
            _: Option<&str>,
        ) -> Result<Option<Outcome>, ProviderError> {
            Ok(None)
        }
    }

    let place = Isolated::create().await.unwrap();
    let pool = place.pool().unwrap();
    let clock = Clock::manual("2026-06-01T00:00:00Z".parse().unwrap());
    approved(&pool, clock.now(), 1).await;
    let provider = Forgetful::default();
    let sender = Sender {
        pool: pool.clone(),
        clock: clock.clone(),
        keys: keys(),
        accounts: provider.clone(),
    };
    for _ in 0..5 {
        assert!(sender.turn().await.unwrap());
        assert!(!sender.turn().await.unwrap(), "not before its time");
        clock.advance(TimeDelta::hours(2));
    }
    assert_eq!(*provider.0.lock().unwrap(), 1);
    assert_eq!(
        states(&pool).await,
        BTreeMap::from([("sent".to_owned(), 1)])
    );
}

#[test]
fn questions_become_rarer() {
    let now: DateTime<Utc> = "2026-06-01T00:00:00Z".parse().unwrap();
    let after = |waited| pause(Some(now - waited), now);
    assert_eq!(after(TimeDelta::zero()), SHORTEST_PAUSE);
    assert_eq!(after(TimeDelta::minutes(10)), TimeDelta::minutes(5));
    assert_eq!(after(TimeDelta::days(3)), LONGEST_PAUSE);
}
