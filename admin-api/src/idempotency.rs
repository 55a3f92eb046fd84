//! A creating POST that is sent twice creates once.
//!
//! With an `Idempotency-Key` the answer is stored in the transaction that creates. The same key and
//! the same request get that answer again, without its secrets and with `Idempotent-Replayed: true`;
//! the same key and another request get 422; the same key while the first request is still under way
//! waits a moment for it, then gets 409. A request that failed stored nothing, so it can be tried again.

use std::time::{Duration, Instant};

use axum::Json;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, Postgres, Transaction};
use tributary_shared::config::Secret;
use tributary_shared::ids::TenantId;
use tributary_shared::secrets::{Key, token_hash};

use crate::auth::{Caller, InPath, Owner, Scoped};
use crate::error::Problem;
use crate::extract::IdempotencyKey;
use crate::state::App;

/// How long an answer is kept.
pub(crate) const KEEP_ANSWERS: TimeDelta = TimeDelta::hours(24);

/// How long a request waits for another one with its key, and how often it looks. A request that
/// failed lets go of its key a moment after its answer, so a caller that mends and repeats it at once
/// needs this.
const BUSY_WAIT: Duration = Duration::from_millis(300);
const BUSY_POLL: Duration = Duration::from_millis(10);
/// What a caller waits before it asks again while its first request is under way, in seconds.
const BUSY_RETRY_SECONDS: u32 = 1;

/// Recognises a request that comes again. Keyed, because a request can hold a password and a plain
/// hash of it could be searched.
#[derive(Debug)]
pub(crate) struct Fingerprints(Key);

impl Fingerprints {
    #[expect(clippy::expect_used, reason = "64 hex digits are a key")]
    pub(crate) fn new(owner_key: &Secret) -> Self {
        let derived = token_hash(&format!("idempotency fingerprints:{}", owner_key.expose()));
        let digits: String = derived.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(digits.parse().expect("64 hex digits"))
    }

    fn of(&self, path: &str, tenant: Option<TenantId>, body: &[u8]) -> [u8; 32] {
        let tenant = tenant.map_or(0, |t| t.0).to_be_bytes();
        self.0.sign(&[path.as_bytes(), b"\n", &tenant, body])
    }
}

/// In whose name something is created: keys of different scopes never meet.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    name: String,
    tenant: Option<TenantId>,
}

impl From<Owner> for Scope {
    fn from(_: Owner) -> Self {
        Self {
            name: "owner".to_owned(),
            tenant: None,
        }
    }
}

impl From<InPath> for Scope {
    fn from(at: InPath) -> Self {
        Self::of(at.tenant, at.caller)
    }
}

impl From<Scoped> for Scope {
    fn from(at: Scoped) -> Self {
        Self::of(at.tenant, at.caller)
    }
}

impl Scope {
    fn of(tenant: TenantId, caller: Caller) -> Self {
        let name = match caller {
            Caller::Owner => "owner".to_owned(),
            Caller::Member { tenant, .. } => tenant.to_string(),
        };
        Self {
            name,
            tenant: Some(tenant),
        }
    }
}

/// What to do with a creating request.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It was answered before: this was the answer.
    Before(Response),
    /// Create, and finish with the answer.
    Now(Creation),
}

/// A transaction that creates something and keeps the answer.
#[derive(Debug)]
pub(crate) struct Creation {
    transaction: Transaction<'static, Postgres>,
    keep: Option<Keep>,
}

#[derive(Debug)]
struct Keep {
    scope: String,
    key: String,
    fingerprint: [u8; 32],
    at: chrono::DateTime<chrono::Utc>,
}

impl Creation {
    /// Begins a transaction, unless the request was answered before.
    pub(crate) async fn begin(
        app: &App,
        scope: impl Into<Scope>,
        idempotency: IdempotencyKey,
        body: &[u8],
    ) -> Result<Begun, Problem> {
        let mut transaction = app.postgres.begin().await?;
        let Some(key) = idempotency.key else {
            return Ok(Begun::Now(Self {
                transaction,
                keep: None,
            }));
        };
        let scope = scope.into();
        let keep = Keep {
            fingerprint: app
                .settings
                .fingerprints
                .of(&idempotency.path, scope.tenant, body),
            scope: scope.name,
            key,
            at: app.clock.now(),
        };
        let first_try = Instant::now();
        while !lock(&mut transaction, &keep).await? {
            if first_try.elapsed() > BUSY_WAIT {
                return Err(Problem::new(
                    StatusCode::CONFLICT,
                    "a request with this Idempotency-Key is under way; ask again",
                )
                .retry_after(BUSY_RETRY_SECONDS));
            }
            tokio::time::sleep(BUSY_POLL).await;
        }
        let stored: Option<(Vec<u8>, i16, Value)> = sqlx::query_as(
            "SELECT request_sha256, status, response FROM idempotency_keys
             WHERE scope = $1 AND key = $2 AND created_at > $3",
        )
        .bind(&keep.scope)
        .bind(&keep.key)
        .bind(keep.at - KEEP_ANSWERS)
        .fetch_optional(&mut *transaction)
        .await?;
        let answered = match stored {
            None => {
                return Ok(Begun::Now(Self {
                    transaction,
                    keep: Some(keep),
                }));
            }
            Some((fingerprint, status, answer)) if fingerprint == keep.fingerprint => {
                Ok(Begun::Before(replayed(status, answer)))
            }
            Some(_) => Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this Idempotency-Key was used for another request; use a new one",
            )),
        };
        // Now, not some time after the answer: the caller may ask again at once.
        transaction.rollback().await?;
        answered
    }

    /// Where the new rows go.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Commits and answers 201 with `answer`; the fields `secrets` are not kept for a replay.
    pub(crate) async fn finish(
        mut self,
        answer: &impl Serialize,
        secrets: &[&str],
    ) -> Result<Response, Problem> {
        let status = StatusCode::CREATED;
        if let Some(keep) = self.keep {
            let mut kept = serde_json::to_value(answer).map_err(|error| {
                tracing::error!(%error, "an answer could not be written as JSON");
                Problem::internal()
            })?;
            for secret in secrets {
                kept.as_object_mut()
                    .map(|fields| fields.insert((*secret).to_owned(), Value::Null));
            }
            // A row that is there is older than KEEP_ANSWERS.
            sqlx::query(
                "INSERT INTO idempotency_keys (scope, key, request_sha256, status, response, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (scope, key) DO UPDATE SET request_sha256 = excluded.request_sha256,
                     status = excluded.status, response = excluded.response, created_at = excluded.created_at",
            )
            .bind(&keep.scope)
            .bind(&keep.key)
            .bind(keep.fingerprint.as_slice())
            .bind(i16::try_from(status.as_u16()).unwrap_or(0))
            .bind(&kept)
            .bind(keep.at)
            .execute(&mut *self.transaction)
            .await?;
        }
        self.transaction.commit().await?;
        Ok((status, Json(answer)).into_response())
    }
}

/// Takes the key for this transaction, until it ends: a second request can't slip between look and
/// store. False while another one has it.
async fn lock(transaction: &mut PgConnection, keep: &Keep) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtextextended($1 || chr(10) || $2, 0))")
        .bind(&keep.scope)
        .bind(&keep.key)
        .fetch_one(transaction)
        .await
}

fn replayed(status: i16, answer: Value) -> Response {
    let status = u16::try_from(status)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::CREATED);
    let mut response = (status, Json(answer)).into_response();
    response
        .headers_mut()
        .insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}
