//! Statements: what an affiliate earned and was paid in a period, as JSON, as CSV, and on paper.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::TenantHeader;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::exports;
use crate::extract::{Id, PaperFormat, Query};
use crate::state::App;
use crate::statements::load::{self, Asked};
use crate::statements::{Statement, StatementView, pdf};

/// How long each of its questions may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Days {
    /// The first day, in the tenant's time zone.
    #[param(example = "2026-11-01")]
    from: String,
    /// The last day; it is part of the period. At most 400 days.
    #[param(example = "2026-11-30")]
    to: String,
}

/// A PDF.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes what statements/pdf.rs writes")]
pub(crate) struct PdfFile(Vec<u8>);

/// Read an affiliate's statement
///
/// For each currency: the balances at the period's begin and end, each movement between, and the payouts. It adds up
/// to the last digit, and its figures stay what they are once the period is over (`final`). As JSON and on paper it
/// lists 2,000 movements at most; as CSV all of them, at any number.
#[utoipa::path(get, path = "/v1/affiliates/{id}/statement", tag = "Affiliates", params(TenantHeader, ("id" = i64, Path), Days),
    responses((status = 200, content((StatementView = "application/json"), (String = "text/csv"), (PdfFile = "application/pdf"))),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    id: Id,
    Query(days): Query<Days>,
    format: PaperFormat,
) -> Result<Response, Problem> {
    let asked = Asked {
        tenant: at.tenant,
        affiliate: id.0,
        from: days.from,
        to: days.to,
        now: app.clock.now(),
    };
    let name = asked.clone();
    let mut response = match format {
        PaperFormat::Csv => exports::respond(&app, at.tenant, asked).await?,
        PaperFormat::Json => {
            Json(StatementView::from(load_one(&app, &asked).await?)).into_response()
        }
        PaperFormat::Pdf => on_paper(load_one(&app, &asked).await?).await?,
    };
    if let Some(ending) = format.file_ending() {
        // The days were read as dates, so they can stand in a header.
        let Asked {
            affiliate,
            from,
            to,
            ..
        } = name;
        let value = format!("attachment; filename=\"statement-{affiliate}-{from}-{to}.{ending}\"");
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(CONTENT_DISPOSITION, value);
        }
    }
    Ok(response)
}

async fn load_one(app: &App, asked: &Asked) -> Result<Statement, Problem> {
    let mut connection = app.postgres.acquire().await?;
    let mut moment = exports::at_one_moment(&mut connection, STATEMENT_TIMEOUT).await?;
    let statement = load::statement(&mut moment, asked).await?;
    moment.rollback().await?;
    Ok(statement)
}

/// Drawn where it holds nobody else up.
async fn on_paper(statement: Statement) -> Result<Response, Problem> {
    let drawn = tokio::task::spawn_blocking(move || pdf::write(&statement)).await;
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "a statement could not be drawn");
        Problem::internal()
    };
    let file = drawn
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))?;
    Ok(([(CONTENT_TYPE, "application/pdf")], file).into_response())
}
