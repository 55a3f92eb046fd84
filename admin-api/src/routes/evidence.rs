//! What a person looks at before deciding about a conversion: how soon the order followed the click, from where both came, and
//! other conversions that share something with it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use tributary_shared::ids::{AffiliateId, TenantId};
use utoipa::ToSchema;
use uuid::Uuid;

/// Most siblings of each kind: the latest.
const MAX_SIBLINGS: i64 = 20;
/// Reports that are looked through for siblings of one kind: the latest. A domain of e-mail addresses may have very many.
const MAX_LOOKED_THROUGH: i64 = 500;

/// Grounds for a decision.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Evidence {
    /// From the credited click to the order; null: no click is credited.
    #[schema(examples(312))]
    pub seconds_since_click: Option<i64>,
    /// The shopper's, as the order was reported, as far as the tenant keeps addresses. Shown to who may decide.
    #[schema(examples("203.0.113.7"))]
    pub order_address: Option<String>,
    /// Where that address lies.
    #[schema(examples("DE"))]
    pub order_country: Option<String>,
    /// The credited click's, as it is stored. Shown to who may decide; null as well while the facts can't be asked.
    #[schema(examples("203.0.113.7"))]
    pub click_address: Option<String>,
    /// Other conversions that share an address, a customer, a visitor, a fingerprint or an e-mail domain with this one:
    /// the 20 latest of each.
    pub siblings: Vec<Sibling>,
}

/// A conversion that shares something with another.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(crate) struct Sibling {
    /// address, customer, visitor, fingerprint or email_domain.
    #[schema(examples("address"))]
    shares: String,
    id: Uuid,
    order_id: String,
    #[schema(value_type = Option<i64>)]
    affiliate_id: Option<AffiliateId>,
    status: String,
    verdict: String,
    accepted_at: DateTime<Utc>,
}

/// Selects conversions whose reports share a value with those of conversion $2.
macro_rules! siblings {
    ($name:literal, $column:literal) => {
        concat!(
            "SELECT '",
            $name,
            "' AS shares, c.id, c.order_id, c.affiliate_id, c.status, c.verdict, c.accepted_at FROM conversions c
             WHERE c.tenant_id = $1 AND c.id IN (
                 SELECT r.conversion_id FROM conversion_reports r WHERE r.tenant_id = $1 AND r.conversion_id <> $2 AND ",
            $column,
            " IN (SELECT ",
            $column,
            " FROM conversion_reports WHERE tenant_id = $1 AND conversion_id = $2 AND ",
            $column,
            " IS NOT NULL)
                 ORDER BY r.reported_at DESC LIMIT $3)
             ORDER BY c.accepted_at DESC, c.id DESC LIMIT $4"
        )
    };
}

const SIBLINGS: [&str; 5] = [
    siblings!("address", "address"),
    siblings!("customer", "customer_id"),
    siblings!("visitor", "substring(visitor_id FROM 9)"),
    siblings!("fingerprint", "fingerprint"),
    siblings!("email_domain", "email_domain"),
];

/// What PostgreSQL knows of it. `path` and `click` are the conversion's. Addresses only where `sees_addresses`.
pub(crate) async fn of(
    connection: &mut PgConnection,
    tenant: TenantId,
    conversion: Uuid,
    sees_addresses: bool,
) -> Result<Evidence, sqlx::Error> {
    let from: Option<(Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT CASE WHEN $3 THEN CASE t.address_kept WHEN 'whole' THEN host(r.address)
                    WHEN 'truncated' THEN host(network(set_masklen(r.address, CASE family(r.address) WHEN 4 THEN 24 ELSE 48 END))) END END,
                r.country
         FROM conversion_reports r JOIN tenants t ON t.id = r.tenant_id
         WHERE r.tenant_id = $1 AND r.conversion_id = $2 AND (r.address IS NOT NULL OR r.country IS NOT NULL)
         ORDER BY r.source <> 'postback', r.reported_at, r.id LIMIT 1",
    )
    .bind(tenant)
    .bind(conversion)
    .bind(sees_addresses)
    .fetch_optional(&mut *connection)
    .await?;
    let (order_address, order_country) = from.unwrap_or_default();
    let mut siblings = Vec::new();
    for sql in SIBLINGS {
        let rows: Vec<Sibling> = sqlx::query_as(sql)
            .bind(tenant)
            .bind(conversion)
            .bind(MAX_LOOKED_THROUGH)
            .bind(MAX_SIBLINGS)
            .fetch_all(&mut *connection)
            .await?;
        siblings.extend(rows);
    }
    Ok(Evidence {
        seconds_since_click: None,
        order_address,
        order_country,
        click_address: None,
        siblings,
    })
}

/// Seconds from a click of the path to the order; none: it is no click of the path.
pub(crate) fn seconds_since(
    path: &Value,
    click: Option<&str>,
    converted_at: DateTime<Utc>,
) -> Option<i64> {
    let click = click?;
    let mut steps = path.as_array()?.iter();
    let step = steps.find(|step| step["click_id"].as_str() == Some(click))?;
    let at: DateTime<Utc> = step["at"].as_str()?.parse().ok()?;
    Some((converted_at - at).num_seconds())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_time_is_that_since_the_credited_click() {
        let path = json!([{"click_id": null, "at": "2026-01-01T00:00:00Z"}, {"click_id": "a", "at": "2026-01-01T00:00:10Z"}]);
        let at = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(seconds_since(&path, Some("a"), at), Some(50));
        assert_eq!(seconds_since(&path, Some("b"), at), None);
        assert_eq!(seconds_since(&path, None, at), None);
        assert_eq!(seconds_since(&json!({}), Some("a"), at), None);
    }
}
