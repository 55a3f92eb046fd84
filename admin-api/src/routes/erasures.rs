//! Erasures: a visitor or a customer of whom nothing may be kept. The processor carries them out
//! (processor/src/erase.rs); clicks and conversions stay as nobody's, so that counts and money stay.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tributary_shared::customers::{CustomerHash, customer_hash, is_customer_id};
use tributary_shared::ids::TenantId;
use utoipa::ToSchema;

use super::{IdempotencyHeader, TenantHeader};
use crate::auth::Scoped;
use crate::error::{FieldError, Problem};
use crate::extract::{Body, Format, IdempotencyKey, Query};
use crate::idempotency::{Begun, Creation};
use crate::pages::{AfterId, Asked, ListQuery, Page};
use crate::state::App;

/// Most erasures of one tenant: processors hold them all in memory.
const MAX_ERASURES: i64 = 1_000_000;
/// Characters of a visitor's cookie.
const COOKIE_CHARS: usize = 22;
/// Characters of a visitor's id in the facts.
const ID_CHARS: usize = 16;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewErasure {
    /// Either this or `customer_id`. The visitor, as analytics names him (16 hexadecimal digits), or the value
    /// of the cookie `aff_visitor` in his browser (22 characters).
    #[schema(examples("9df00d0123456789"))]
    visitor_id: Option<String>,
    /// The customer, as the merchant's reports of orders name him, letter by letter. Only its hash is kept.
    #[schema(examples("C-1001"))]
    customer_id: Option<String>,
}

#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Erasure {
    id: i64,
    /// 16 hexadecimal digits; null: a customer is erased.
    #[schema(examples("9df00d0123456789"))]
    visitor_id: Option<String>,
    /// The hash that stands for the customer, 32 hexadecimal digits; null: a visitor is erased.
    customer_hash: Option<String>,
    requested_at: DateTime<Utc>,
    /// When what is stored was changed; null: not yet.
    erased_at: Option<DateTime<Utc>>,
}

/// Erase a visitor or a customer
///
/// From a visitor's clicks are removed: visitor id, fingerprint, address, region, city, network, User-Agent,
/// language, referrer, sub ids, `utm_term` and `utm_content`; also from those that arrive later. The clicks are
/// counted on. From a customer's conversions is removed whose they are, also from those that are reported later;
/// orders and money stay. The visitors whose clicks led to his conversions are erased as well: an erasure of each
/// is added to the list. It is done within two minutes or so, longer while ClickHouse is busy; `erased_at` says when. The events
/// in Kafka are deleted by its retention.
#[utoipa::path(post, path = "/v1/erasures", tag = "Tenants", request_body = NewErasure, params(TenantHeader, IdempotencyHeader),
    responses((status = 201, body = Erasure), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(app): State<App>,
    at: Scoped,
    idempotency: IdempotencyKey,
    body: Body<NewErasure>,
) -> Result<Response, Problem> {
    let (visitor, customer) = person(at.tenant, &body.value)?;
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
    sqlx::query(
        "INSERT INTO erasures (tenant_id, visitor_id, customer_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(at.tenant)
    .bind(&visitor)
    .bind(customer)
    .execute(creation.connection())
    .await?;
    let erasure: Erasure = sqlx::query_as(
        "SELECT id, visitor_id, encode(customer_id, 'hex') AS customer_hash, requested_at, erased_at FROM erasures
         WHERE tenant_id = $1 AND (visitor_id = $2 OR customer_id = $3)",
    )
    .bind(at.tenant)
    .bind(&visitor)
    .bind(customer)
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
        "SELECT id, visitor_id, encode(customer_id, 'hex') AS customer_hash, requested_at, erased_at FROM erasures
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

/// Whom a request names, as it is stored: a visitor or a customer.
fn person(
    tenant: TenantId,
    asked: &NewErasure,
) -> Result<(Option<String>, Option<CustomerHash>), Problem> {
    let wrong = |field: &str, message: &str| {
        Err(Problem::invalid(vec![FieldError {
            field: field.to_owned(),
            message: message.to_owned(),
        }]))
    };
    match (&asked.visitor_id, &asked.customer_id) {
        (Some(name), None) => match visitor(name) {
            Some(visitor) => Ok((Some(visitor), None)),
            None => wrong(
                "visitor_id",
                "must be 16 hexadecimal digits, or the 22 characters of the cookie aff_visitor",
            ),
        },
        (None, Some(name)) if is_customer_id(name) => Ok((None, Some(customer_hash(tenant, name)))),
        (None, Some(_)) => wrong(
            "customer_id",
            "must be 1 to 128 characters without control characters",
        ),
        _ => wrong("visitor_id", "name either visitor_id or customer_id"),
    }
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
