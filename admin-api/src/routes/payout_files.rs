//! Files of payouts that a person gives to PayPal or to a bank.
//!
//! Making one marks its payouts as sent, in the transaction that stores the file: a payout stands in one file at most
//! until somebody says that it failed and it is approved again. What was made is kept, sealed, and handed out byte for byte: a file
//! that was written anew could differ from the one that the bank has.

use axum::Json;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use tributary_shared::ids::TenantId;
use tributary_shared::money::{Currency, Money};
use tributary_shared::payouts::{Payment, paypal};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{IdempotencyHeader, TenantHeader, payout_accounts};
use crate::amounts::Amount;
use crate::auth::{Actor, Caller, Role, Scoped};
use crate::error::Problem;
use crate::extract::{Body, Format, Id, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::payout_files::{self, Batch, FileError, FileFormat, Form, MAX_PAYMENTS, Transfer};
use crate::state::App;
use crate::validate::Checks;

/// Most payouts that a request names one by one.
const MAX_NAMED: usize = 1_000;
/// How many days ahead a bank may be asked to send the money.
const MAX_DAYS_AHEAD: i64 = 90;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPayoutFile {
    format: FileFormat,
    /// ISO 4217; one a file. `sepa`: EUR.
    #[schema(examples("EUR"))]
    currency: String,
    /// Only these payouts, 1,000 at most. Left out: all approved ones that the format can carry and that go to no provider,
    /// the oldest 5,000.
    payout_ids: Option<Vec<Uuid>>,
    /// On which day the bank is to send the money, today (in the tenant's time zone) to 90 days ahead; for `sepa` only. Left
    /// out: today.
    execution_date: Option<NaiveDate>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PayoutFile {
    id: i64,
    /// Stands at its payouts as `provider_reference`.
    #[schema(examples("payouts-12.xml"))]
    name: String,
    format: FileFormat,
    total: Amount,
    /// How many payouts it holds.
    payouts: i32,
    execution_date: Option<NaiveDate>,
    /// Of the file's content, 64 hexadecimal digits.
    sha256: String,
    created_by: String,
    created_at: DateTime<Utc>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PayoutFileWithLines {
    #[serde(flatten)]
    file: PayoutFile,
    /// Its payouts, in the order of the file.
    lines: Vec<PayoutFileLine>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PayoutFileLine {
    /// From 1. With the file's id it is the payment's name in PayPal's file, such as `12-3`.
    line: i32,
    payout_id: Uuid,
    net: Amount,
}

#[derive(sqlx::FromRow)]
struct FileRow {
    id: i64,
    format: FileFormat,
    currency: String,
    execution_date: Option<NaiveDate>,
    payouts: i32,
    total: Decimal,
    sha256: Vec<u8>,
    created_by: String,
    created_at: DateTime<Utc>,
}

impl FileRow {
    fn shown(self) -> PayoutFile {
        PayoutFile {
            name: self.format.name(self.id),
            total: Amount::new(self.total, &self.currency),
            sha256: hex::encode(&self.sha256),
            id: self.id,
            format: self.format,
            payouts: self.payouts,
            execution_date: self.execution_date,
            created_by: self.created_by,
            created_at: self.created_at,
        }
    }
}

/// A payout that may go into a file, locked.
#[derive(sqlx::FromRow)]
struct PayoutRow {
    id: Uuid,
    affiliate_name: String,
    state: String,
    currency: String,
    net: Decimal,
    method: Vec<u8>,
    method_kind: String,
    with_provider: bool,
    reference: String,
}

/// Make a file of payouts
///
/// Its payouts are `sent` from then on, so that none is paid twice. Give the file to the bank or to PayPal, then say
/// of each payout that it was paid or that it failed.
#[utoipa::path(post, path = "/v1/payout-files", tag = "Payouts", request_body = NewPayoutFile, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = PayoutFile), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    Actor(actor): Actor,
    idempotency: IdempotencyKey,
    body: Body<NewPayoutFile>,
) -> Result<Response, Problem> {
    let new = body.value;
    let currency = check(&new)?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let now = app.clock.now();
    let connection = creation.connection();
    let form = match new.format {
        FileFormat::PaypalCsv => Form::PaypalCsv,
        FileFormat::Sepa => Form::Sepa(transfer(&app, connection, at.tenant, &new, now).await?),
        FileFormat::BankCsv => Form::BankCsv,
    };
    let payments = payments(&app, connection, at.tenant, &new, currency).await?;
    let id: i64 =
        sqlx::query_scalar("SELECT nextval(pg_get_serial_sequence('payout_files', 'id'))")
            .fetch_one(&mut *connection)
            .await?;
    let batch = Batch {
        id,
        created_at: now,
        payments: &payments,
    };
    let content = payout_files::write(&batch, &form).map_err(refused)?;
    let file = FileRow {
        id,
        format: new.format,
        currency: currency.code().to_owned(),
        execution_date: match &form {
            Form::Sepa(transfer) => Some(transfer.execution_date),
            Form::PaypalCsv | Form::BankCsv => None,
        },
        payouts: i32::try_from(payments.len()).unwrap_or(i32::MAX), // MAX_PAYMENTS at most
        total: payments.iter().map(|payment| payment.net.amount()).sum(),
        sha256: Sha256::digest(&content).to_vec(),
        created_by: actor,
        created_at: now,
    };
    let sealed = app.settings.sealing.seal(&purpose(id), &content);
    store(connection, at.tenant, &file, &sealed, &payments).await?;
    creation.finish(&file.shown(), &[]).await
}

/// List files of payouts
#[utoipa::path(get, path = "/v1/payout-files", tag = "Payouts", params(TenantHeader, ListQuery),
    responses((status = 200, body = Page<PayoutFile>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<FileRow> = sqlx::query_as(
        "SELECT id, format, currency, execution_date, payouts, total, sha256, created_by, created_at FROM payout_files
         WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |row| AfterId(row.id), FileRow::shown)
        .respond(format)
}

/// Read which payouts a file holds
#[utoipa::path(get, path = "/v1/payout-files/{id}", tag = "Payouts", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = PayoutFileWithLines), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<Json<PayoutFileWithLines>, Problem> {
    let file: FileRow = sqlx::query_as(
        "SELECT id, format, currency, execution_date, payouts, total, sha256, created_by, created_at FROM payout_files
         WHERE tenant_id = $1 AND id = $2",
    )
    .bind(at.tenant)
    .bind(id.0)
    .fetch_optional(&app.postgres)
    .await?
    .ok_or_else(|| Problem::not_found("file"))?;
    let rows: Vec<(i32, Uuid, Decimal)> = sqlx::query_as(
        "SELECT l.line, l.payout_id, p.net FROM payout_file_lines l JOIN payouts p ON p.id = l.payout_id
         WHERE l.tenant_id = $1 AND l.file_id = $2 ORDER BY l.line",
    )
    .bind(at.tenant)
    .bind(id.0)
    .fetch_all(&app.postgres)
    .await?;
    let line = |(line, payout_id, net)| PayoutFileLine {
        line,
        payout_id,
        net: Amount::new(net, &file.currency),
    };
    Ok(Json(PayoutFileWithLines {
        lines: rows.into_iter().map(line).collect(),
        file: file.shown(),
    }))
}

/// Download a file of payouts
///
/// The file itself, as it was made. Account numbers stand in it, so an analyst does not get it.
#[utoipa::path(get, path = "/v1/payout-files/{id}/content", tag = "Payouts", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn content(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<Response, Problem> {
    let stored: Option<(FileFormat, Vec<u8>)> =
        sqlx::query_as("SELECT format, content FROM payout_files WHERE tenant_id = $1 AND id = $2")
            .bind(at.tenant)
            .bind(id.0)
            .fetch_optional(&app.postgres)
            .await?;
    let (format, sealed) = stored.ok_or_else(|| Problem::not_found("file"))?;
    if let Caller::Member {
        role: Role::Analyst,
        ..
    } = at.caller
    {
        return Err(Problem::forbidden(
            "account numbers stand in it: an admin may download it",
        ));
    }
    let content = open(&app, &purpose(id.0), &sealed)?;
    let name = format!("attachment; filename=\"{}\"", format.name(id.0));
    let mut response = ([(CONTENT_TYPE, format.media_type())], content).into_response();
    if let Ok(name) = HeaderValue::try_from(name) {
        response.headers_mut().insert(CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

fn purpose(file: i64) -> String {
    format!("payout_file:{file}")
}

fn open(app: &App, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, Problem> {
    app.settings.sealing.open(purpose, sealed).map_err(|error| {
        tracing::error!(%error, purpose, "what is sealed can't be opened");
        Problem::internal()
    })
}

/// What can be told to be wrong without looking at any payout.
fn check(new: &NewPayoutFile) -> Result<Currency, Problem> {
    let mut checks = Checks::default();
    let currency: Option<Currency> = new.currency.parse().ok();
    match (new.format, currency) {
        (_, None) => checks.currency("currency", &new.currency),
        (FileFormat::Sepa, Some(currency)) if currency.code() != "EUR" => {
            checks.wrong("currency", "must be EUR: a SEPA credit transfer is in euro");
        }
        (FileFormat::PaypalCsv, Some(currency)) if !paypal::takes(currency) => {
            checks.wrong("currency", "must be one that PayPal sends, such as USD");
        }
        _ => {}
    }
    if let Some(ids) = &new.payout_ids
        && !(1..=MAX_NAMED).contains(&ids.len())
    {
        checks.wrong(
            "payout_ids",
            format!("must be 1 to {MAX_NAMED} payouts; leave it out for all"),
        );
    }
    if new.execution_date.is_some() && new.format != FileFormat::Sepa {
        checks.wrong("execution_date", "is for the format sepa only");
    }
    checks.finish()?;
    currency.ok_or_else(Problem::internal) // refused above
}

/// From which account, and when.
async fn transfer(
    app: &App,
    connection: &mut PgConnection,
    tenant: TenantId,
    new: &NewPayoutFile,
    now: DateTime<Utc>,
) -> Result<Transfer, Problem> {
    let zone: String = sqlx::query_scalar("SELECT time_zone FROM tenants WHERE id = $1")
        .bind(tenant)
        .fetch_one(&mut *connection)
        .await?;
    let zone: Tz = zone.parse().unwrap_or(Tz::UTC);
    let today = now.with_timezone(&zone).date_naive();
    let execution_date = new.execution_date.unwrap_or(today);
    if !(today..=today + TimeDelta::days(MAX_DAYS_AHEAD)).contains(&execution_date) {
        let mut checks = Checks::default();
        let told = format!("must be today, which is {today}, or up to {MAX_DAYS_AHEAD} days later");
        checks.wrong("execution_date", told);
        checks.finish()?;
    }
    let debtor = payout_accounts::debtor(app, connection, tenant).await?;
    let debtor = debtor.ok_or_else(|| {
        Problem::new(
            StatusCode::CONFLICT,
            "there is no account to pay from: PUT /v1/payout-accounts/sepa first",
        )
    })?;
    Ok(Transfer {
        debtor,
        execution_date,
    })
}

/// The payments that go into the file. Their payouts are locked: nobody else sends or changes them meanwhile.
async fn payments(
    app: &App,
    connection: &mut PgConnection,
    tenant: TenantId,
    new: &NewPayoutFile,
    currency: Currency,
) -> Result<Vec<Payment>, Problem> {
    // What was given into the hands of a provider is never for a file.
    let rows: Vec<PayoutRow> = sqlx::query_as(
        "SELECT p.id, a.name AS affiliate_name, p.state, p.currency, p.net, p.method, p.method_kind,
                p.provider IS NOT NULL AS with_provider, p.reference
         FROM payouts p JOIN affiliates a ON a.tenant_id = p.tenant_id AND a.id = p.affiliate_id
         WHERE p.tenant_id = $1 AND (
             p.id = ANY($2) OR
             $2 IS NULL AND p.state = 'approved' AND p.method_kind = $3 AND p.currency = $4 AND p.provider IS NULL)
         ORDER BY p.created_at, p.id LIMIT $5 FOR UPDATE OF p",
    )
    .bind(tenant)
    .bind(&new.payout_ids)
    .bind(new.format.method_kind())
    .bind(currency.code())
    .bind(MAX_PAYMENTS)
    .fetch_all(connection)
    .await?;
    if let Some(ids) = &new.payout_ids {
        must_fit(ids, &rows, new, currency)?;
    }
    if rows.is_empty() {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "no approved payout of this currency can go into such a file",
        ));
    }
    rows.into_iter()
        .map(|row| payment(app, row, currency))
        .collect()
}

/// Each payout that was named must be there, once, and fit.
fn must_fit(
    ids: &[Uuid],
    rows: &[PayoutRow],
    new: &NewPayoutFile,
    currency: Currency,
) -> Result<(), Problem> {
    let mut checks = Checks::default();
    for (number, id) in ids.iter().enumerate() {
        let why = match rows.iter().find(|row| row.id == *id) {
            None => "there is no such payout".to_owned(),
            Some(_) if ids[..number].contains(id) => "stands in the list already".to_owned(),
            Some(row) if row.state != "approved" => format!("is {}, not approved", row.state),
            Some(row) if row.with_provider => "is given to a provider".to_owned(),
            Some(row) if row.method_kind != new.format.method_kind() => {
                format!("is paid by {}", row.method_kind)
            }
            Some(row) if row.currency != currency.code() => format!("is in {}", row.currency),
            Some(_) => continue,
        };
        checks.wrong(&format!("payout_ids[{number}]"), why);
    }
    checks.finish()
}

fn payment(app: &App, row: PayoutRow, currency: Currency) -> Result<Payment, Problem> {
    let opened = open(app, &format!("payout:{}:method", row.id), &row.method)?;
    let method = serde_json::from_slice(&opened).map_err(|_| {
        tracing::error!(payout = %row.id, "the payout's method can't be read"); // the error could tell it
        Problem::internal()
    })?;
    let net = Money::new(row.net, currency).map_err(|error| {
        tracing::error!(payout = %row.id, %error, "the payout's net can't be paid");
        Problem::internal()
    })?;
    Ok(Payment {
        payout_id: row.id,
        affiliate_name: row.affiliate_name,
        method,
        net,
        reference: row.reference,
    })
}

fn refused(error: FileError) -> Problem {
    match error {
        FileError::Payment { .. } => Problem::new(
            StatusCode::CONFLICT,
            format!("{error}; make the file without it, by payout_ids"),
        ),
        FileError::Writing(error) => {
            tracing::error!(%error, "a file of payouts could not be written");
            Problem::internal()
        }
    }
}

/// Stores the file and marks its payouts as sent.
async fn store(
    connection: &mut PgConnection,
    tenant: TenantId,
    file: &FileRow,
    sealed: &[u8],
    payments: &[Payment],
) -> Result<(), Problem> {
    let name = file.format.name(file.id);
    let ids: Vec<Uuid> = payments.iter().map(|payment| payment.payout_id).collect();
    sqlx::query(
        "INSERT INTO payout_files (id, tenant_id, format, currency, execution_date, payouts, total, sha256, content,
                                   created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(file.id)
    .bind(tenant)
    .bind(file.format)
    .bind(&file.currency)
    .bind(file.execution_date)
    .bind(file.payouts)
    .bind(file.total)
    .bind(&file.sha256)
    .bind(sealed)
    .bind(&file.created_by)
    .bind(file.created_at)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO payout_file_lines (tenant_id, file_id, line, payout_id)
         SELECT $1, $2, line, id FROM unnest($3::uuid[]) WITH ORDINALITY AS listed (id, line)",
    )
    .bind(tenant)
    .bind(file.id)
    .bind(&ids)
    .execute(&mut *connection)
    .await?;
    let marked = sqlx::query(
        "UPDATE payouts SET state = 'sent', sent_at = $3, provider_reference = $4, failure = NULL
         WHERE tenant_id = $1 AND id = ANY($2) AND state = 'approved' AND provider IS NULL",
    )
    .bind(tenant)
    .bind(&ids)
    .bind(file.created_at)
    .bind(&name)
    .execute(&mut *connection)
    .await?;
    if marked.rows_affected() != u64::try_from(ids.len()).unwrap_or(u64::MAX) {
        tracing::error!(
            file = name,
            "payouts that are locked were changed: no file is made"
        );
        return Err(Problem::internal());
    }
    sqlx::query(
        "INSERT INTO payout_events (tenant_id, payout_id, at, actor, state, text)
         SELECT $1, id, $3, $4, 'sent', $5 FROM unnest($2::uuid[]) AS listed (id)",
    )
    .bind(tenant)
    .bind(&ids)
    .bind(file.created_at)
    .bind(&file.created_by)
    .bind(format!("in the file {name}"))
    .execute(connection)
    .await?;
    Ok(())
}
