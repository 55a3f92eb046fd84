//! How affiliates want to be paid. What is entered is stored sealed; answers show enough to recognise it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tributary_shared::ids::{AffiliateId, TenantId};
use tributary_shared::payouts::Method;
use tributary_shared::sealing::SealingKeys;
use utoipa::ToSchema;

use super::TenantHeader;
use super::affiliates::find;
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::{Body, Id};
use crate::state::App;
use crate::validate::Checks;

/// Where an affiliate's money goes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(dead_code, reason = "describes what shared/src/payouts reads")]
pub(crate) enum NewPayoutMethod {
    /// To a PayPal account.
    Paypal { email: String },
    /// By a SEPA credit transfer; euro only.
    Sepa {
        holder: String,
        iban: String,
        bic: Option<String>,
    },
    /// To an account at a bank anywhere, by a file that the tenant gives its own bank.
    Bank {
        holder: String,
        account: String,
        /// A BIC, a routing number, a sort code.
        bank_code: String,
        bank_name: String,
        /// ISO 3166, two letters.
        country: String,
    },
    /// To an account that is connected to the tenant's at Stripe.
    StripeConnect { account: String },
    /// By hand, as the note says.
    Manual { note: String },
}

/// How an affiliate is paid, without what others could use.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PayoutMethod {
    /// paypal, sepa, bank, stripe_connect or manual.
    #[schema(examples("sepa"))]
    kind: String,
    /// The end of the account's number, the e-mail address's first letter and domain, or the note.
    #[schema(examples("…3000"))]
    account: String,
    /// Whose account, where that was said.
    holder: Option<String>,
}

impl PayoutMethod {
    pub(crate) fn of(method: &Method) -> Self {
        let holder = match method {
            Method::Sepa { holder, .. } | Method::Bank { holder, .. } => Some(holder.clone()),
            _ => None,
        };
        let account = match method {
            Method::Manual { note } => note.clone(),
            method => method.masked(),
        };
        Self {
            kind: method.kind().to_owned(),
            account,
            holder,
        }
    }
}

/// Opens what was sealed for `purpose`.
pub(crate) fn open(keys: &SealingKeys, purpose: &str, sealed: &[u8]) -> Result<Method, Problem> {
    let plain = keys.open(purpose, sealed).map_err(|error| {
        tracing::error!(%error, purpose, "a payout method can't be read");
        Problem::internal()
    })?;
    serde_json::from_slice(&plain).map_err(|error| {
        tracing::error!(%error, purpose, "a payout method can't be read");
        Problem::internal()
    })
}

fn purpose(affiliate: AffiliateId) -> String {
    format!("affiliate:{affiliate}:payout_method")
}

/// Say how an affiliate is paid
///
/// It counts for payouts that are drafted from now on; those that are on their way keep theirs.
#[utoipa::path(put, path = "/v1/affiliates/{id}/payout-method", tag = "Payouts", request_body = NewPayoutMethod, params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = PayoutMethod), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn put(
    State(app): State<App>,
    at: Scoped,
    id: Id,
    body: Body<Method>,
) -> Result<Json<PayoutMethod>, Problem> {
    let method = body.value;
    let mut transaction = app.postgres.begin().await?;
    find(&mut transaction, at.tenant, id).await?;
    let mut checks = Checks::default();
    for (field, told) in method.check() {
        checks.wrong(field, told);
    }
    checks.finish()?;
    let plain = serde_json::to_vec(&method).map_err(|error| {
        tracing::error!(%error, "a payout method can't be written");
        Problem::internal()
    })?;
    let sealed = (app.settings.sealing).seal(&purpose(AffiliateId(id.0)), &plain);
    sqlx::query("UPDATE affiliates SET payout_method = $3 WHERE tenant_id = $1 AND id = $2")
        .bind(at.tenant)
        .bind(id.0)
        .bind(sealed)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Json(PayoutMethod::of(&method)))
}

/// Read how an affiliate is paid
#[utoipa::path(get, path = "/v1/affiliates/{id}/payout-method", tag = "Payouts", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 200, body = PayoutMethod), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<Json<PayoutMethod>, Problem> {
    let mut connection = app.postgres.acquire().await?;
    let sealed = sealed(&mut connection, at.tenant, id).await?;
    let sealed = sealed.ok_or_else(|| Problem::not_found("payout method"))?;
    let method = open(&app.settings.sealing, &purpose(AffiliateId(id.0)), &sealed)?;
    Ok(Json(PayoutMethod::of(&method)))
}

async fn sealed(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: Id,
) -> Result<Option<Vec<u8>>, Problem> {
    sqlx::query_scalar("SELECT payout_method FROM affiliates WHERE tenant_id = $1 AND id = $2")
        .bind(tenant)
        .bind(id.0)
        .fetch_optional(connection)
        .await?
        .ok_or_else(|| Problem::not_found("affiliate"))
}

/// Forget how an affiliate is paid
///
/// Until there is another way it gets no payouts.
#[utoipa::path(delete, path = "/v1/affiliates/{id}/payout-method", tag = "Payouts", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    at: Scoped,
    id: Id,
) -> Result<StatusCode, Problem> {
    let forgotten = sqlx::query(
        "UPDATE affiliates SET payout_method = NULL WHERE tenant_id = $1 AND id = $2 AND payout_method IS NOT NULL",
    )
    .bind(at.tenant)
    .bind(id.0)
    .execute(&app.postgres)
    .await?;
    match forgotten.rows_affected() {
        0 => Err(Problem::not_found("payout method")),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}
