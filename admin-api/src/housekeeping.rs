//! Throws away what has expired: sessions, and answers kept for an Idempotency-Key.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::idempotency::KEEP_ANSWERS;
use crate::state::App;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(10 * 60);
/// Rows that one statement deletes, so that none runs long.
const BATCH: i64 = 10_000;

/// Runs until `shutdown`.
pub(crate) async fn run(app: &App, shutdown: CancellationToken) {
    loop {
        if let Err(error) = prune(app).await {
            tracing::warn!(%error, "expired sessions and answers stay a little longer");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn prune(app: &App) -> Result<(), sqlx::Error> {
    let now = app.clock.now();
    let sessions = "DELETE FROM sessions WHERE sha256 IN (
                        SELECT sha256 FROM sessions WHERE expires_at <= $1 LIMIT $2)";
    let answers = "DELETE FROM idempotency_keys WHERE (scope, key) IN (
                       SELECT scope, key FROM idempotency_keys WHERE created_at <= $1 LIMIT $2)";
    for (statement, before) in [(sessions, now), (answers, now - KEEP_ANSWERS)] {
        loop {
            let deleted = sqlx::query(statement)
                .bind(before)
                .bind(BATCH)
                .execute(&app.postgres)
                .await?
                .rows_affected();
            if deleted == 0 {
                break;
            }
            tracing::debug!(deleted, "expired rows thrown away");
        }
    }
    Ok(())
}
