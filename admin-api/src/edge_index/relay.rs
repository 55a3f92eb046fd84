//! The relay: what changes in PostgreSQL is in Redis a moment later, and an index that was lost is
//! written again.
//!
//! It wakes when PostgreSQL notifies and at least each second. Any number of relays may run: each
//! takes the writer's lock only while it has something to write.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionManager;
use sqlx::postgres::PgListener;
use sqlx::{PgConnection, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tributary_shared::telemetry::Readiness;

use super::{EdgeError, EdgeIndex, lock, lock_connection};

/// How often the outbox and Redis are looked at without being told.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// The part of the readiness that the relay reports.
pub const READINESS_PART: &str = "edge index";

/// Publishes changes until it is told to stop.
#[derive(Debug)]
pub struct Relay {
    postgres: PgPool,
    index: EdgeIndex,
    readiness: Readiness,
    /// The connection that holds the lock now and then; none after an error.
    connection: Option<PgConnection>,
    /// The run of Redis that the index was written to.
    written_to: Option<String>,
}

impl Relay {
    pub fn new(postgres: PgPool, index: EdgeIndex, readiness: Readiness) -> Self {
        Self {
            postgres,
            index,
            readiness,
            connection: None,
            written_to: None,
        }
    }

    /// Runs until `shutdown`. What it was doing then is done by the next one.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let changed = Arc::new(Notify::new());
        let listening = listen(self.postgres.clone(), Arc::clone(&changed));
        let publishing = async {
            let mut told = String::new();
            loop {
                match self.step().await {
                    Ok(()) => {
                        if !told.is_empty() {
                            tracing::info!("edge index: publishing again");
                            told.clear();
                        }
                        self.readiness.ready(READINESS_PART);
                    }
                    Err(error) => {
                        self.connection = None; // with the lock, if it holds it
                        let text = error.to_string();
                        if text != told {
                            tracing::warn!(%error, "edge index: changes wait; trying again");
                            told = text;
                        }
                        if self.written_to.is_none() {
                            self.readiness.not_ready(READINESS_PART, error.to_string());
                        }
                        tokio::time::sleep(POLL_EVERY).await;
                    }
                }
                // A permit that came in meanwhile is kept, so no notice is missed.
                let _ = tokio::time::timeout(POLL_EVERY, changed.notified()).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = listening => {}
            () = publishing => {}
        }
    }

    async fn step(&mut self) -> Result<(), EdgeError> {
        let mut redis = self.index.redis.clone();
        // Asked before the rebuild: a Redis that restarts during it has another run afterwards.
        let run = run_id(&mut redis).await?;
        let same_run = self.written_to.as_ref() == Some(&run);
        let intact = same_run && self.index.is_complete().await?;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(lock_connection(&self.postgres).await?),
        };
        let waiting: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM edge_outbox)")
            .fetch_one(&mut *connection)
            .await?;
        if intact && !waiting {
            return Ok(());
        }
        lock(connection).await?;
        // Another writer may have rebuilt the index while we waited for the lock.
        if same_run && self.index.is_complete().await? {
            let mut writer = self.index.claim(connection).await?;
            writer.publish_changes().await?;
            return writer.release().await;
        }
        self.written_to = None;
        let mut writer = self.index.claim_rebuild(connection).await?;
        let report = writer.rebuild().await?;
        writer.publish_changes().await?;
        writer.release().await?;
        tracing::info!("{report}");
        self.written_to = Some(run);
        Ok(())
    }
}

/// Names the present run of the Redis server.
async fn run_id(redis: &mut ConnectionManager) -> Result<String, EdgeError> {
    let info: String = redis::cmd("INFO").arg("server").query_async(redis).await?;
    Ok(info
        .lines()
        .find_map(|line| line.strip_prefix("run_id:"))
        .unwrap_or_default()
        .trim()
        .to_owned())
}

/// Passes PostgreSQL's notices on. While it can't listen, the relay still looks each second.
async fn listen(postgres: PgPool, changed: Arc<Notify>) {
    loop {
        let heard: Result<(), sqlx::Error> = async {
            let mut listener = PgListener::connect_with(&postgres).await?;
            listener.listen("edge_outbox").await?;
            loop {
                listener.recv().await?;
                changed.notify_one();
            }
        }
        .await;
        if let Err(error) = heard {
            tracing::debug!(%error, "not listening to PostgreSQL");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
