//! The tenant's own account, from which a bank sends payouts by SEPA credit transfer.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tributary_shared::ids::TenantId;
use tributary_shared::payouts::Method;
use utoipa::ToSchema;

use super::TenantHeader;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::Body;
use crate::payout_files::Debtor;
use crate::state::App;
use crate::validate::Checks;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSepaAccount {
    /// 1 to 70 characters; files put it into SEPA's letters.
    #[schema(examples("Demo Shop GmbH"))]
    holder: String,
    #[schema(examples("DE89 3704 0044 0532 0130 00"))]
    iban: String,
    /// The bank's; it can be left out.
    #[schema(examples("COBADEFFXXX"))]
    bic: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SepaAccount {
    #[schema(examples("Demo Shop GmbH"))]
    holder: String,
    /// Its last four characters: the whole is shown nowhere.
    #[schema(examples("…3000"))]
    iban: String,
    bic: Option<String>,
    updated_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Row {
    holder: String,
    iban: Vec<u8>,
    bic: Option<String>,
    updated_at: DateTime<Utc>,
}

fn purpose(tenant: TenantId) -> String {
    format!("payout_account:{tenant}:sepa")
}

/// The account that files of a tenant name, and when it was last changed; none: there is none yet.
async fn stored(
    app: &App,
    connection: &mut PgConnection,
    tenant: TenantId,
) -> Result<Option<(Debtor, DateTime<Utc>)>, Problem> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT holder, iban, bic, updated_at FROM payout_accounts WHERE tenant_id = $1 AND kind = 'sepa'",
    )
    .bind(tenant)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let opened = app.settings.sealing.open(&purpose(tenant), &row.iban).ok();
    let Some(iban) = opened.and_then(|iban| String::from_utf8(iban).ok()) else {
        tracing::error!(%tenant, "the tenant's SEPA account can't be opened with SEALING_KEYS");
        return Err(Problem::internal());
    };
    let debtor = Debtor {
        holder: row.holder,
        iban,
        bic: row.bic,
    };
    Ok(Some((debtor, row.updated_at)))
}

/// The account that a file of `tenant` names.
pub(super) async fn debtor(
    app: &App,
    connection: &mut PgConnection,
    tenant: TenantId,
) -> Result<Option<Debtor>, Problem> {
    let found = stored(app, connection, tenant).await?;
    Ok(found.map(|(debtor, _)| debtor))
}

fn shown(debtor: Debtor, updated_at: DateTime<Utc>) -> SepaAccount {
    let Debtor { holder, iban, bic } = debtor;
    let method = Method::Sepa {
        holder: holder.clone(),
        iban,
        bic: bic.clone(),
    };
    SepaAccount {
        holder,
        iban: method.masked(),
        bic,
        updated_at,
    }
}

/// Read the account that SEPA payouts are paid from
#[utoipa::path(get, path = "/v1/payout-accounts/sepa", tag = "Payouts", params(TenantHeader),
    responses((status = 200, body = SepaAccount), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(State(app): State<App>, at: Scoped) -> Result<Json<SepaAccount>, Problem> {
    let mut connection = app.postgres.acquire().await?;
    let (debtor, updated_at) = stored(&app, &mut connection, at.tenant)
        .await?
        .ok_or_else(|| Problem::not_found("account"))?;
    Ok(Json(shown(debtor, updated_at)))
}

/// Say which account SEPA payouts are paid from
///
/// Files that were made before keep the account that they name.
#[utoipa::path(put, path = "/v1/payout-accounts/sepa", tag = "Payouts", request_body = NewSepaAccount, params(TenantHeader),
    responses((status = 200, body = SepaAccount), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn put(
    State(app): State<App>,
    at: Scoped,
    body: Body<NewSepaAccount>,
) -> Result<Json<SepaAccount>, Problem> {
    let NewSepaAccount { holder, iban, bic } = body.value;
    let holder = holder.trim().to_owned();
    let method = Method::Sepa {
        holder: holder.clone(),
        iban: iban.clone(),
        bic: bic.clone(),
    };
    let mut checks = Checks::default();
    for (field, message) in method.check() {
        checks.wrong(field, message);
    }
    checks.finish()?;
    // Checked above: it is one.
    let iban = tributary_shared::payouts::iban(&iban).unwrap_or(iban);
    let now = app.clock.now();
    let sealed = (app.settings.sealing).seal(&purpose(at.tenant), iban.as_bytes());
    sqlx::query(
        "INSERT INTO payout_accounts (tenant_id, kind, holder, iban, bic, updated_at) VALUES ($1, 'sepa', $2, $3, $4, $5)
         ON CONFLICT (tenant_id, kind) DO UPDATE SET holder = excluded.holder, iban = excluded.iban, bic = excluded.bic,
             updated_at = excluded.updated_at",
    )
    .bind(at.tenant)
    .bind(&holder)
    .bind(sealed)
    .bind(&bic)
    .bind(now)
    .execute(&app.postgres)
    .await?;
    Ok(Json(shown(Debtor { holder, iban, bic }, now)))
}

/// Pay from no account any more
#[utoipa::path(delete, path = "/v1/payout-accounts/sepa", tag = "Payouts", params(TenantHeader),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(State(app): State<App>, at: Scoped) -> Result<StatusCode, Problem> {
    let deleted = sqlx::query("DELETE FROM payout_accounts WHERE tenant_id = $1 AND kind = 'sepa'")
        .bind(at.tenant)
        .execute(&app.postgres)
        .await?;
    match deleted.rows_affected() {
        0 => Err(Problem::not_found("account")),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

impl std::fmt::Debug for NewSepaAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewSepaAccount(secret)")
    }
}
