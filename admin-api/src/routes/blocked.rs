//! What a tenant wants nothing of: affiliates, addresses, networks, sites, customers, e-mail domains. An order that has to
//! do with one of them is rejected by its signal `blocked`, unless the program says otherwise.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

use super::{IdempotencyHeader, TenantHeader};
use crate::audit::{self, Action, Audit, Change};
use crate::auth::{Actor, Scoped};
use crate::error::Problem;
use crate::extract::{Body, Format, Id, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::state::App;
use crate::validate::{Checks, MAX_REASON_CHARS};

/// Longest value.
const MAX_VALUE_CHARS: usize = 253;
/// Most entries of a tenant.
const MAX_BLOCKED: i64 = 100_000;

/// What an entry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum Kind {
    /// By its id.
    Affiliate,
    /// An address, or a range such as 198.51.100.0/24.
    Address,
    /// As the facts write it, such as `AS64496 Example`.
    Network,
    /// A referring site, such as coupons.example.
    Referrer,
    /// By the hash that stands for him, 32 hexadecimal digits.
    Customer,
    /// The domain of customers' e-mail addresses.
    EmailDomain,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBlocked {
    kind: Kind,
    #[schema(examples("198.51.100.0/24"))]
    value: String,
    /// Stands in the signal's text.
    #[serde(default)]
    #[schema(examples("forged orders in May"))]
    reason: String,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Blocked {
    id: i64,
    kind: Kind,
    value: String,
    reason: String,
    created_at: DateTime<Utc>,
}

/// The value as the processor compares it.
fn value(checks: &mut Checks, kind: Kind, value: &str) -> String {
    let text = checks.text("value", value, MAX_VALUE_CHARS);
    let (read, what) = match kind {
        Kind::Network => return text,
        Kind::Affiliate => (
            text.parse::<i64>()
                .ok()
                .filter(|id| *id > 0)
                .map(|id| id.to_string()),
            "an affiliate's id",
        ),
        Kind::Address => {
            let net = text.parse::<IpNet>().map(|net| net.trunc());
            let net = net.or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            (
                net.ok().map(|net| net.to_string()),
                "an address, or a range such as 198.51.100.0/24",
            )
        }
        Kind::Customer => {
            let is_hash = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
            (
                is_hash.then(|| text.to_lowercase()),
                "a customer's hash, 32 hexadecimal digits",
            )
        }
        Kind::Referrer | Kind::EmailDomain => {
            let host = text.to_lowercase();
            let is_host = tributary_shared::links::is_host(&host);
            (is_host.then_some(host), "a host such as coupons.example")
        }
    };
    read.unwrap_or_else(|| {
        checks.wrong("value", format!("must be {what}"));
        text
    })
}

/// Block something
///
/// Orders follow when they are settled the next time; decide about those that are settled already.
#[utoipa::path(post, path = "/v1/blocked", tag = "Programs", request_body = NewBlocked, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = Blocked), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    actor: Actor,
    idempotency: IdempotencyKey,
    body: Body<NewBlocked>,
) -> Result<Response, Problem> {
    let new = body.value;
    let mut checks = Checks::default();
    let value = value(&mut checks, new.kind, &new.value);
    let reason = match new.reason.trim() {
        "" => String::new(),
        reason => checks.text("reason", reason, MAX_REASON_CHARS),
    };
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM blocked WHERE tenant_id = $1")
        .bind(at.tenant)
        .fetch_one(creation.connection())
        .await?;
    if there >= MAX_BLOCKED {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            format!("a tenant has at most {MAX_BLOCKED} entries: delete one first"),
        ));
    }
    let blocked: Blocked = sqlx::query_as(
        "INSERT INTO blocked (tenant_id, kind, value, reason, created_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id, kind, value) DO NOTHING RETURNING id, kind, value, reason, created_at",
    )
    .bind(at.tenant)
    .bind(new.kind)
    .bind(&value)
    .bind(&reason)
    .bind(app.clock.now())
    .fetch_optional(creation.connection())
    .await?
    .ok_or_else(|| Problem::taken("value", "this is blocked already"))?;
    let change = Change {
        kind: "blocked",
        id: blocked.id.to_string(),
        before: None,
        after: Some(audit::shown(&blocked)?),
    };
    let audit = Audit {
        tenant: at.tenant,
        actor: &actor,
        at: blocked.created_at,
    };
    audit
        .note(creation.connection(), Action::Created, &[change])
        .await?;
    creation.finish(&blocked, &[]).await
}

/// List what is blocked
#[utoipa::path(get, path = "/v1/blocked", tag = "Programs", params(TenantHeader, ListQuery),
    responses((status = 200, body = Page<Blocked>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<Blocked> = sqlx::query_as(
        "SELECT id, kind, value, reason, created_at FROM blocked WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |row| AfterId(row.id), |row| row)
        .respond(format)
}

/// Block something no longer
#[utoipa::path(delete, path = "/v1/blocked/{id}", tag = "Programs", params(TenantHeader, ("id" = i64, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(app): State<App>,
    at: Scoped,
    actor: Actor,
    id: Id,
) -> Result<StatusCode, Problem> {
    let mut transaction = app.postgres.begin().await?;
    let blocked: Blocked = sqlx::query_as(
        "DELETE FROM blocked WHERE tenant_id = $1 AND id = $2 RETURNING id, kind, value, reason, created_at",
    )
    .bind(at.tenant)
    .bind(id.0)
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| Problem::not_found("entry"))?;
    let change = Change {
        kind: "blocked",
        id: blocked.id.to_string(),
        before: Some(audit::shown(&blocked)?),
        after: None,
    };
    let audit = Audit {
        tenant: at.tenant,
        actor: &actor,
        at: app.clock.now(),
    };
    audit
        .note(&mut transaction, Action::Deleted, &[change])
        .await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_they_are_compared() {
        let read = |kind, text: &str| {
            let mut checks = Checks::default();
            let value = value(&mut checks, kind, text);
            checks.finish().map(|()| value).map_err(|_| ())
        };
        assert_eq!(
            read(Kind::Address, "198.51.100.7/24"),
            Ok("198.51.100.0/24".into())
        );
        assert_eq!(
            read(Kind::Address, "2001:DB8::1"),
            Ok("2001:db8::1/128".into())
        );
        assert_eq!(
            read(Kind::EmailDomain, "Mail.Example"),
            Ok("mail.example".into())
        );
        assert_eq!(read(Kind::Affiliate, "07"), Ok("7".into()));
        assert_eq!(
            read(Kind::Network, "AS64496 Example"),
            Ok("AS64496 Example".into())
        );
        for (kind, text) in [
            (Kind::Address, "198.51.100"),
            (Kind::Affiliate, "ana"),
            (Kind::Customer, "ana@mail.example"),
            (Kind::Referrer, "https://coupons.example/"),
            (Kind::Network, ""),
        ] {
            assert_eq!(read(kind, text), Err(()), "{text}");
        }
    }
}
