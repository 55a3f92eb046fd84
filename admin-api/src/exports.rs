//! Whole lists as CSV, of any length, in bounded memory.
//!
//! The lines are read in one read-only transaction that sees one moment, so that a list neither misses nor repeats
//! what changes meanwhile, and are sent as they come: what waits for the client is bounded, and a client that does
//! not read ends its export. An answer begins only once there is something to send, so that what fails at once is a
//! problem document; what fails later cuts the answer off, which no client can take for the end of it.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::QueryAs;
use sqlx::{AssertSqlSafe, Connection as _, FromRow, PgConnection, Postgres};
use tokio::sync::mpsc;
use tributary_shared::ids::TenantId;

use crate::csv::{self, Table};
use crate::error::Problem;
use crate::extract::Format;
use crate::slots::Slots;
use crate::state::App;

/// Exports at once, of one tenant and of all: each holds a connection to PostgreSQL.
const MAX_EXPORTS_OF_TENANT: usize = 2;
const MAX_EXPORTS: usize = 4;
/// How long one may take, from the question to its last line.
const EXPORT_TIMEOUT: Duration = Duration::from_mins(10);
/// How long a client may leave what was sent unread.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may go on after the end of the process was asked for; the server gives requests as long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that are sent together.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that wait for the client.
const CHUNKS_AHEAD: usize = 4;
/// What one who could not be served is told to wait, in seconds.
const RETRY_AFTER_SECONDS: u32 = 30;

/// The exports that are under way; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Exports(Slots);

impl Default for Exports {
    fn default() -> Self {
        Self(Slots::new(MAX_EXPORTS_OF_TENANT, MAX_EXPORTS))
    }
}

/// Something that is written line by line.
pub(crate) trait Export: Send + 'static {
    /// Reads from `connection`, in a transaction that sees one moment, and gives all of it to `lines`.
    fn write(
        self,
        connection: &mut PgConnection,
        lines: &mut Lines,
    ) -> impl Future<Output = Result<(), Problem>> + Send;
}

/// What a query finds, each row as the line that it becomes.
pub(crate) struct Rows<R, T> {
    pub query: QueryAs<'static, Postgres, R, PgArguments>,
    pub line: fn(R) -> T,
}

impl<R, T> Export for Rows<R, T>
where
    R: for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static,
    T: Serialize + Send + Sync + 'static,
{
    async fn write(self, connection: &mut PgConnection, lines: &mut Lines) -> Result<(), Problem> {
        let mut rows = self.query.fetch(connection);
        while let Some(row) = rows.try_next().await? {
            lines.add(&(self.line)(row)).await?;
        }
        Ok(())
    }
}

/// Where an export's lines go.
#[derive(Debug)]
pub(crate) struct Lines {
    table: Table,
    to: mpsc::Sender<Result<Bytes, Problem>>,
}

impl Lines {
    pub(crate) async fn add<T: Serialize + Sync>(&mut self, line: &T) -> Result<(), Problem> {
        self.table.add(line).map_err(not_written)?;
        if self.table.len() < CHUNK_BYTES {
            return Ok(());
        }
        self.send().await
    }

    async fn send(&mut self) -> Result<(), Problem> {
        let chunk = self.table.take().map_err(not_written)?;
        match tokio::time::timeout(STALL_TIMEOUT, self.to.send(Ok(chunk.into()))).await {
            Ok(Ok(())) => Ok(()),
            // Nobody is told: there is nobody who reads.
            Ok(Err(_)) => Err(Problem::unavailable("the client went away")),
            Err(_) => Err(Problem::unavailable("the client did not read")),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn not_written(error: csv::WriteError) -> Problem {
    tracing::error!(%error, "a line could not be written as CSV");
    Problem::internal()
}

/// Whether the caller wants a whole list (`all`), which comes as CSV and has no pages.
pub(crate) fn whole(
    all: Option<bool>,
    format: Format,
    limit: Option<i64>,
    cursor: Option<&str>,
) -> Result<bool, Problem> {
    if all != Some(true) {
        return Ok(false);
    }
    if format != Format::Csv {
        return Err(Problem::bad_request(
            "all=true gives the whole list as CSV: send Accept: text/csv, or leave it out",
        ));
    }
    if limit.is_some() || cursor.is_some() {
        return Err(Problem::bad_request(
            "all=true gives the whole list: leave limit and cursor out",
        ));
    }
    Ok(true)
}

/// Answers with all of `export`, as it comes.
pub(crate) async fn respond(
    app: &App,
    tenant: TenantId,
    export: impl Export,
) -> Result<Response, Problem> {
    let slot = app.exports.0.take(tenant).ok_or_else(|| {
        let detail = format!(
            "at most {MAX_EXPORTS_OF_TENANT} exports of a tenant and {MAX_EXPORTS} of all at once: let another end first"
        );
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(RETRY_AFTER_SECONDS)
    })?;
    let (to, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
    let app = app.clone();
    tokio::spawn(async move {
        let stopped = async {
            app.stopping.cancelled().await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        let lines = Lines {
            table: Table::default(),
            to: to.clone(),
        };
        let ended = tokio::select! {
            ended = run(&app, export, lines) => ended,
            () = tokio::time::sleep(EXPORT_TIMEOUT) => {
                Err(Problem::unavailable("this took too long; ask for less"))
            }
            () = stopped => Err(Problem::unavailable("stopping; try again")),
        };
        if let Err(problem) = ended {
            tracing::warn!(%tenant, reason = problem.detail(), "an export was cut off");
            // Who does not read any more is not waited for.
            let _ = tokio::time::timeout(STALL_TIMEOUT, to.send(Err(problem))).await;
        }
        drop(slot);
    });
    let first = chunks.recv().await.transpose()?.unwrap_or_default();
    let rest = futures::stream::unfold(chunks, async |mut chunks| {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    });
    let body = futures::stream::once(async { Ok(first) })
        .chain(rest)
        .map_err(|problem| std::io::Error::other(problem.detail().to_owned()));
    Ok(([(CONTENT_TYPE, csv::MEDIA_TYPE)], Body::from_stream(body)).into_response())
}

async fn run(app: &App, export: impl Export, mut lines: Lines) -> Result<(), Problem> {
    let mut connection = app.postgres.acquire().await?;
    // What is cut off leaves rows unread: the connection would have to read them all before its next use.
    connection.close_on_drop();
    let mut moment = at_one_moment(&mut connection, EXPORT_TIMEOUT).await?;
    export.write(&mut moment, &mut lines).await?;
    moment.rollback().await?;
    lines.send().await
}

/// A read-only transaction all of whose statements see the same moment, each for `timeout` at most.
pub(crate) async fn at_one_moment(
    connection: &mut PgConnection,
    timeout: Duration,
) -> Result<sqlx::Transaction<'_, Postgres>, sqlx::Error> {
    let mut moment = connection
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let timeout = timeout.as_millis();
    let statement = format!("SET LOCAL statement_timeout = {timeout}");
    sqlx::query(AssertSqlSafe(statement))
        .execute(&mut *moment)
        .await?;
    Ok(moment)
}
