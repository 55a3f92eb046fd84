//! Payouts: what is available of affiliates' commissions, drafted, approved, sent and paid.
//!
//! - Money moves in the ledger when a payout is drafted (available and debts → in payout) and once more when it is over: paid,
//!   or cancelled and back. What lies between (approved, sent, failed) is the payout's own state and moves nothing.
//! - An affiliate has one payout of a currency at a time, until its end is booked.
//! - What a payout holds never changes. What is taken back meanwhile is a debt, and settled by the next one.
//! - Any number of processors share the work by row locks; each step is one transaction, so a crash leaves it done or not.
//!
//! | file | |
//! |---|---|
//! | `schedule` | which day's run is due |
//! | `draft` | a run → payouts |
//! | `carry` | moves a payout's commissions in the ledger |
//! | `book` | paid and cancelled payouts → ledger |
//! | `send`, `providers` | approved payouts → a provider, once |

mod book;
mod carry;
mod draft;
mod providers;
mod schedule;
mod send;

use std::fmt::Display;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tributary_shared::clock::Clock;
use tributary_shared::ids::TenantId;
use tributary_shared::sealing::SealingKeys;

use self::book::Booker;
use self::draft::Drafter;
pub(crate) use self::providers::{ProviderAddresses, Providers};
use self::schedule::{Schedule, due};
use self::send::Sender;
use crate::RunError;
use crate::retry::until_done;
use crate::settle::due::is_permanent as refused_for_good;

/// How often it is looked for something to do without having been told.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether a day's run is due.
const SCHEDULE_EVERY: Duration = Duration::from_secs(5);

/// Starts the tasks, which work until `stop`.
pub(crate) fn start(
    tasks: &mut JoinSet<Result<(), RunError>>,
    pool: &PgPool,
    keys: &SealingKeys,
    providers: Providers,
    stop: &CancellationToken,
) {
    let clock = Clock::system();
    let (of_pool, of_clock, of_stop) = (pool.clone(), clock.clone(), stop.clone());
    tasks.spawn(async move {
        let turn = || make_due_runs(&of_pool, &of_clock);
        while until_done("payout schedule", &of_stop, turn).await.is_ok() {
            tokio::select! {
                () = of_stop.cancelled() => break,
                () = tokio::time::sleep(SCHEDULE_EVERY) => {}
            }
        }
        Ok(())
    });
    let drafter = Drafter {
        pool: pool.clone(),
        clock: clock.clone(),
        keys: keys.clone(),
        stop: stop.clone(),
    };
    let of_stop = stop.clone();
    tasks.spawn(async move {
        let turn = || drafter.turn();
        Box::pin(repeat(&drafter.pool, "payout drafts", &of_stop, turn)).await
    });
    let booker = Booker {
        pool: pool.clone(),
        clock: clock.clone(),
    };
    let of_stop = stop.clone();
    tasks.spawn(async move {
        let turn = || booker.turn();
        Box::pin(repeat(&booker.pool, "payout bookings", &of_stop, turn)).await
    });
    let sender = Sender {
        pool: pool.clone(),
        clock,
        keys: keys.clone(),
        accounts: providers,
    };
    let of_stop = stop.clone();
    tasks.spawn(async move {
        let turn = || sender.turn();
        Box::pin(repeat(&sender.pool, "payout sending", &of_stop, turn)).await
    });
}

/// Takes turns until `stop`: at once while there is more to do, else when PostgreSQL says that something changed, or a moment
/// later. A turn that `stop` interrupts is as one that a crash interrupts.
async fn repeat<E: Display, F: Future<Output = Result<bool, E>>>(
    pool: &PgPool,
    engine: &'static str,
    stop: &CancellationToken,
    mut turn: impl FnMut() -> F,
) -> Result<(), RunError> {
    let mut listener = None;
    loop {
        let done = stop.run_until_cancelled(until_done(engine, stop, &mut turn));
        match done.await {
            Some(Ok(true)) => {}
            Some(Ok(false)) => tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = news(pool, &mut listener) => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            },
            Some(Err(_)) | None => return Ok(()),
        }
    }
}

/// Returns when PostgreSQL says that there is something to do; never when it can't say.
async fn news(pool: &PgPool, listener: &mut Option<PgListener>) {
    if listener.is_none() {
        let connected = async {
            let mut listener = PgListener::connect_with(pool).await?;
            listener.listen("payouts_to_do").await?;
            Ok::<_, sqlx::Error>(listener)
        };
        *listener = connected.await.ok();
    }
    match listener {
        Some(connection) => {
            if connection.recv().await.is_err() {
                *listener = None;
            }
        }
        None => std::future::pending().await,
    }
}

#[derive(Debug, sqlx::FromRow)]
struct Scheduled {
    tenant_id: TenantId,
    is_daily: bool,
    day_of_month: i16,
    scheduled_at: DateTime<Utc>,
    time_zone: String,
    last: Option<NaiveDate>,
}

/// Makes the runs whose day has come; one for each tenant and day, whoever is first.
async fn make_due_runs(pool: &PgPool, clock: &Clock) -> Result<(), sqlx::Error> {
    let scheduled: Vec<Scheduled> = sqlx::query_as(
        "SELECT p.tenant_id, p.schedule = 'daily' AS is_daily, p.day_of_month, p.scheduled_at, t.time_zone,
                (SELECT max(r.due_on) FROM payout_runs r WHERE r.tenant_id = p.tenant_id) AS last
         FROM payout_terms p JOIN tenants t ON t.id = p.tenant_id WHERE p.schedule <> 'on_request'",
    )
    .fetch_all(pool)
    .await?;
    let now = clock.now();
    for of in scheduled {
        let Ok(zone) = of.time_zone.parse() else {
            tracing::error!(tenant = %of.tenant_id, zone = of.time_zone, "a tenant's time zone is not known; it has no scheduled payouts");
            continue;
        };
        let schedule = match (of.is_daily, u32::try_from(of.day_of_month)) {
            (false, Ok(day)) => Schedule::Monthly(day),
            _ => Schedule::Daily,
        };
        if let Some(day) = due(schedule, zone, of.scheduled_at, of.last, now) {
            sqlx::query(
                "INSERT INTO payout_runs (tenant_id, due_on, created_at) VALUES ($1, $2, $3) ON CONFLICT (tenant_id, due_on) DO NOTHING",
            )
            .bind(of.tenant_id)
            .bind(day)
            .bind(now)
            .execute(pool)
            .await?;
        }
    }
    Ok(())
}

/// Whether PostgreSQL would refuse the same again, or what it holds makes no sense.
fn is_permanent(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => refused_for_good(&**error),
        sqlx::Error::Protocol(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
            true
        }
        _ => false,
    }
}
