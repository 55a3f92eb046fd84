//! A tenant's accounts at providers that send money. Credentials are stored sealed and never shown.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::PgConnection;
use tributary_shared::ids::TenantId;
use utoipa::ToSchema;

use super::TenantHeader;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::{Body, path_text};
use crate::state::App;
use crate::validate::Checks;

/// Longest key or secret, in characters.
const MAX_SECRET_CHARS: usize = 500;

/// A provider, as the path names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum Kind {
    Paypal,
    StripeConnect,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Paypal => "paypal",
            Self::StripeConnect => "stripe_connect",
        }
    }

    /// The texts that its credentials hold.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Paypal => &["client_id", "client_secret"],
            Self::StripeConnect => &["secret_key"],
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Kind {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match path_text(parts, state, "kind").await?.as_str() {
            "paypal" => Ok(Self::Paypal),
            "stripe_connect" => Ok(Self::StripeConnect),
            _ => Err(Problem::not_found(
                "provider: there are paypal and stripe_connect",
            )),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewProvider {
    /// Of paypal `client_id`, `client_secret` and, to try things out, `"sandbox": true`; of stripe_connect `secret_key`.
    #[schema(value_type = Object, examples(json!({"secret_key": "sk_live_…"})))]
    credentials: Map<String, Value>,
    /// Needed while payouts are with this provider: the new credentials are of the same account, where they can be asked
    /// about. With another account's they could be paid twice.
    #[serde(default)]
    same_account: bool,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct PayoutProvider {
    kind: Kind,
    updated_at: DateTime<Utc>,
}

/// Enter an account at a provider
///
/// Approved payouts of affiliates with this method are given to it from now on, also those that wait already.
#[utoipa::path(put, path = "/v1/payout-providers/{kind}", tag = "Payouts", request_body = NewProvider,
    params(TenantHeader, ("kind" = String, Path, description = "paypal or stripe_connect")),
    responses((status = 200, body = PayoutProvider), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn put(
    State(app): State<App>,
    at: Scoped,
    kind: Kind,
    body: Body<NewProvider>,
) -> Result<Json<PayoutProvider>, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    check(&mut checks, kind, &new.credentials);
    checks.finish()?;
    let purpose = format!("payout_provider:{}:{}", at.tenant, kind.as_str());
    let plain = Value::Object(new.credentials).to_string();
    let sealed = (app.settings.sealing).seal(&purpose, plain.as_bytes());
    let mut transaction = app.postgres.begin().await?;
    let with_it = lock(&mut transaction, at.tenant, kind).await?;
    if with_it > 0 && !new.same_account {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            format!(
                "{with_it} payouts are with this provider: say \"same_account\": true if the new credentials are of the \
                 same account; else wait until they are paid or failed"
            ),
        ));
    }
    let provider: PayoutProvider = sqlx::query_as(
        "INSERT INTO payout_providers (tenant_id, kind, credentials, updated_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (tenant_id, kind) DO UPDATE SET credentials = EXCLUDED.credentials, updated_at = EXCLUDED.updated_at
         RETURNING kind, updated_at",
    )
    .bind(at.tenant)
    .bind(kind)
    .bind(sealed)
    .bind(app.clock.now())
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Json(provider))
}

/// Lets no payout be given to the provider until the end of the transaction; how many are with it.
async fn lock(
    connection: &mut PgConnection,
    tenant: TenantId,
    kind: Kind,
) -> Result<i64, sqlx::Error> {
    sqlx::query("SELECT FROM payout_providers WHERE tenant_id = $1 AND kind = $2 FOR UPDATE")
        .bind(tenant)
        .bind(kind)
        .execute(&mut *connection)
        .await?;
    sqlx::query_scalar(
        "SELECT count(*) FROM payouts WHERE tenant_id = $1 AND state = 'sent' AND provider = $2",
    )
    .bind(tenant)
    .bind(kind)
    .fetch_one(connection)
    .await
}

fn check(checks: &mut Checks, kind: Kind, credentials: &Map<String, Value>) {
    for field in kind.fields() {
        let name = format!("credentials.{field}");
        match credentials.get(*field) {
            Some(Value::String(text)) => _ = checks.text(&name, text, MAX_SECRET_CHARS),
            Some(_) => checks.wrong(&name, "must be a text"),
            None => checks.wrong(&name, "is missing"),
        }
    }
    for (field, value) in credentials {
        let is_sandbox = kind == Kind::Paypal && field == "sandbox" && value.is_boolean();
        if !is_sandbox && !kind.fields().contains(&field.as_str()) {
            checks.wrong(&format!("credentials.{field}"), "is not known");
        }
    }
}

/// Read whether there is an account at a provider
#[utoipa::path(get, path = "/v1/payout-providers/{kind}", tag = "Payouts",
    params(TenantHeader, ("kind" = String, Path, description = "paypal or stripe_connect")),
    responses((status = 200, body = PayoutProvider), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    kind: Kind,
) -> Result<Json<PayoutProvider>, Problem> {
    let provider: Option<PayoutProvider> = sqlx::query_as(
        "SELECT kind, updated_at FROM payout_providers WHERE tenant_id = $1 AND kind = $2",
    )
    .bind(at.tenant)
    .bind(kind)
    .fetch_optional(&app.postgres)
    .await?;
    provider
        .map(Json)
        .ok_or_else(|| Problem::not_found("payout provider"))
}

/// Forget an account at a provider
///
/// Approved payouts wait then until a file is made or somebody says that they were sent. Not while payouts are with it.
#[utoipa::path(delete, path = "/v1/payout-providers/{kind}", tag = "Payouts",
    params(TenantHeader, ("kind" = String, Path, description = "paypal or stripe_connect")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    at: Scoped,
    kind: Kind,
) -> Result<StatusCode, Problem> {
    let mut transaction = app.postgres.begin().await?;
    let with_it = lock(&mut transaction, at.tenant, kind).await?;
    if with_it > 0 {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            format!("{with_it} payouts are with this provider: wait until they are paid or failed"),
        ));
    }
    let deleted = sqlx::query("DELETE FROM payout_providers WHERE tenant_id = $1 AND kind = $2")
        .bind(at.tenant)
        .bind(kind)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    match deleted.rows_affected() {
        0 => Err(Problem::not_found("payout provider")),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}
