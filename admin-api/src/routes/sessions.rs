//! Sessions: signing in with an e-mail address and a password, and signing out.

use axum::Json;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::ids::TenantId;
use tributary_shared::secrets::{new_token, token_hash};
use utoipa::ToSchema;

use crate::auth::{Role, SESSION_COOKIE, SESSION_PREFIX, credential, is_cross_site};
use crate::error::Problem;
use crate::extract::Body;
use crate::state::App;
use crate::validate::{MAX_EMAIL_CHARS, PASSWORD_CHARS};

/// How long a session lasts.
pub(crate) const SESSION_TIME: TimeDelta = TimeDelta::hours(12);

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignIn {
    #[schema(examples("ana@example.com"))]
    pub email: String,
    pub password: String,
}

impl std::fmt::Debug for SignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignIn")
            .field("email", &self.email)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Session {
    /// Send it as `Authorization: Bearer …`; the cookie `tributary_session` holds it as well.
    pub token: String,
    pub expires_at: DateTime<Utc>,
    #[schema(value_type = i64)]
    pub tenant_id: TenantId,
    pub role: Role,
}

/// Sign in
///
/// Each call makes another session of 12 hours, so it takes no Idempotency-Key. After several
/// failures an e-mail address has to wait a little (429).
#[utoipa::path(post, path = "/v1/sessions", tag = "Sessions", request_body = SignIn, security(()),
    responses((status = 201, body = Session), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body<SignIn>,
) -> Result<Response, Problem> {
    if is_cross_site(&headers) {
        return Err(Problem::forbidden("another site may not sign you in"));
    }
    let session = sign_in(&app, body.value).await?;
    let cookie = session_cookie(&app, &session.token, SESSION_TIME);
    Ok((StatusCode::CREATED, [(SET_COOKIE, cookie)], Json(session)).into_response())
}

/// Checks the password and makes a session.
pub(crate) async fn sign_in(app: &App, form: SignIn) -> Result<Session, Problem> {
    let email = form.email.trim();
    let wrong = || Problem::unauthorized("the e-mail address or the password is wrong");
    // What can't be a user's costs no look-up; it is as wrong as any.
    if email.len() > MAX_EMAIL_CHARS * 4
        || email.contains('\0')
        || form.password.len() > PASSWORD_CHARS.1 * 4
    {
        return Err(wrong());
    }
    app.passwords.may_try(email)?;
    let user: Option<(i64, TenantId, Role, String)> = sqlx::query_as(
        "SELECT id, tenant_id, role, password_hash FROM users WHERE lower(email) = lower($1)",
    )
    .bind(email)
    .fetch_optional(&app.postgres)
    .await?;
    let stored = user.as_ref().map(|(_, _, _, hash)| hash.clone());
    let right = app.passwords.check(email, form.password, stored).await?;
    let Some((user, tenant_id, role, _)) = user.filter(|_| right) else {
        return Err(wrong());
    };
    let token = new_token(SESSION_PREFIX);
    let now = app.clock.now();
    let expires_at = now + SESSION_TIME;
    sqlx::query(
        "INSERT INTO sessions (sha256, user_id, created_at, expires_at) VALUES ($1, $2, $3, $4)",
    )
    .bind(token_hash(&token).as_slice())
    .bind(user)
    .bind(now)
    .bind(expires_at)
    .execute(&app.postgres)
    .await?;
    Ok(Session {
        token,
        expires_at,
        tenant_id,
        role,
    })
}

/// Sign out
///
/// Ends the session whose token or cookie this request carries.
#[utoipa::path(delete, path = "/v1/sessions", tag = "Sessions",
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn end(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    if !sign_out(&app, &headers).await? {
        return Err(Problem::unauthorized(
            "this request carries no session that could end",
        ));
    }
    let cookie = session_cookie(&app, "", TimeDelta::zero());
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response())
}

/// Ends the request's session. Returns whether there was one.
pub(crate) async fn sign_out(app: &App, headers: &HeaderMap) -> Result<bool, Problem> {
    let Some(credential) = credential(headers) else {
        return Ok(false);
    };
    if credential.from_cookie && is_cross_site(headers) {
        return Err(Problem::forbidden("another site may not sign you out"));
    }
    let ended = sqlx::query("DELETE FROM sessions WHERE sha256 = $1 AND expires_at > $2")
        .bind(token_hash(&credential.token).as_slice())
        .bind(app.clock.now())
        .execute(&app.postgres)
        .await?;
    Ok(ended.rows_affected() > 0)
}

/// The cookie's header; it ends after `time`.
pub(crate) fn session_cookie(app: &App, token: &str, time: TimeDelta) -> String {
    let secure = if app.settings.cookie_secure {
        "; Secure"
    } else {
        ""
    };
    format!(
        "{SESSION_COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={}{secure}",
        time.num_seconds()
    )
}
