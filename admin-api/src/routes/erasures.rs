//! Erasures: a visitor of whom nothing may be kept. The processor carries them out
//! (processor/src/erase.rs); his clicks stay as clicks of nobody, so that counts and money stay.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{IdempotencyHeader, TenantHeader};
use crate::auth::Scoped;
use crate::error::Problem;
use crate::extract::{Body, Format, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::state::App;
use crate::validate::Checks;

/// Most erasures of one tenant: processors hold them all in memory.
const MAX_ERASURES: i64 = 1_000_000;
/// Characters of a visitor's cookie.
const COOKIE_CHARS: usize = 22;
/// Characters of a visitor's id in the facts.
const ID_CHARS: usize = 16;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewErasure {
    /// The visitor, as analytics names him (16 hexadecimal digits), or the value of the cookie
    /// `aff_visitor` in his browser (22 characters).
    #[schema(examples("9df00d0123456789"))]
    visitor_id: String,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Erasure {
    id: i64,
    /// 16 hexadecimal digits.
    #[schema(examples("9df00d0123456789"))]
    visitor_id: String,
    requested_at: DateTime<Utc>,
    /// When the stored clicks were changed; null: not yet.
    erased_at: Option<DateTime<Utc>>,
}

/// Erase a visitor
///
/// From his clicks are removed: visitor id, fingerprint, address, region, city, network, User-Agent,
/// language, referrer, sub ids, `utm_term` and `utm_content`; also from those that arrive later. The clicks are
/// counted on. It is done within two minutes or so, longer while ClickHouse is busy; `erased_at` says when. The events
/// in Kafka are deleted by its retention.
#[utoipa::path(post, path = "/v1/erasures", tag = "Tenants", request_body = NewErasure, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = Erasure), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    idempotency: IdempotencyKey,
    body: Body<NewErasure>,
) -> Result<Response, Problem> {
    let mut checks = Checks::default();
    let visitor = visitor(&body.value.visitor_id);
    if visitor.is_none() {
        checks.wrong(
            "visitor_id",
            "must be 16 hexadecimal digits, or the 22 characters of the cookie aff_visitor",
        );
    }
    checks.finish()?;
    let mut creation = match Creation::begin(&app, at, idempotency, &body.bytes).await? {
        Begun::Before(answer) => return Ok(answer),
        Begun::Now(creation) => creation,
    };
    let erasures: i64 = sqlx::query_scalar("SELECT count(*) FROM erasures WHERE tenant_id = $1")
        .bind(at.tenant)
        .fetch_one(creation.connection())
        .await?;
    if erasures >= MAX_ERASURES {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            format!("a tenant has at most {MAX_ERASURES} erasures"),
        ));
    }
    // Who is erased already stays so.
    let erasure: Erasure = sqlx::query_as(
        "INSERT INTO erasures (tenant_id, visitor_id) VALUES ($1, $2)
         ON CONFLICT (tenant_id, visitor_id) DO UPDATE SET visitor_id = excluded.visitor_id
         RETURNING id, visitor_id, requested_at, erased_at",
    )
    .bind(at.tenant)
    .bind(&visitor)
    .fetch_one(creation.connection())
    .await?;
    creation.finish(&erasure, &[]).await
}

/// List erasures
#[utoipa::path(get, path = "/v1/erasures", tag = "Tenants", params(TenantHeader, ListQuery),
    responses((status = 200, body = Page<Erasure>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(app): State<App>,
    at: Scoped,
    Query(query): Query<ListQuery>,
    format: Format,
) -> Result<Response, Problem> {
    let asked = Asked::<AfterId>::new(query.limit, query.cursor.as_deref())?;
    let rows: Vec<Erasure> = sqlx::query_as(
        "SELECT id, visitor_id, requested_at, erased_at FROM erasures
         WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(at.tenant)
    .bind(asked.after.map_or(0, |after| after.0))
    .bind(asked.rows())
    .fetch_all(&app.postgres)
    .await?;
    asked
        .page(rows, |erasure| AfterId(erasure.id), |erasure| erasure)
        .respond(format)
}

/// The visitor as the facts name him: the last 8 of the cookie's 16 bytes.
fn visitor(text: &str) -> Option<String> {
    let bytes = match text.len() {
        ID_CHARS => hex::decode(text).ok()?,
        COOKIE_CHARS => URL_SAFE_NO_PAD.decode(text).ok()?.split_off(8),
        _ => return None,
    };
    (bytes != [0; 8]).then(|| hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visitor_is_named_in_two_ways() {
        let expected = Some("0809".to_owned() + "0a0b0c0d0e0f");
        let cookie = URL_SAFE_NO_PAD.encode((0..16).collect::<Vec<u8>>());
        assert_eq!(visitor(&cookie), expected);
        assert_eq!(visitor("08090A0B0C0D0E0F"), expected);
        for wrong in [
            "",
            "0000000000000000",
            "08090a0b0c0d0e0",
            "zzzzzzzzzzzzzzzz",
            "!!!!!!!!!!!!!!!!!!!!!!",
            "é0901a0b0c0d0e0",
        ] {
            assert_eq!(visitor(wrong), None, "{wrong}");
        }
    }
}
