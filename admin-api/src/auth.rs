//! Who is asking, and for which tenant.
//!
//! A credential is the platform owner's key, an API key (`trk_…`) or a session token (`trs_…`, also
//! as the cookie of the page at `/`). An extractor stands for each kind of route:
//!
//! | extractor | route | who may |
//! |---|---|---|
//! | [`Owner`] | `/v1/tenants` | the platform owner |
//! | [`InPath`] | `/v1/tenants/{tenant_id}/…` | the owner; that tenant's admins; its analysts to read |
//! | [`Scoped`] | everything else | a tenant's admins; its analysts to read; the owner with `X-Tenant-Id` |
//! | [`Asking`] | a POST that asks and changes nothing | like the one above, analysts as well |
//! | [`Actor`] | beside one of these, where it is kept who it was | |
//!
//! What belongs to another tenant is answered like what does not exist. Analysts may read only.

use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tributary_shared::ids::TenantId;
use tributary_shared::secrets::token_hash;
use utoipa::ToSchema;

use crate::error::Problem;
use crate::extract::path_id;
use crate::state::App;

/// How tokens begin.
pub(crate) const API_KEY_PREFIX: &str = "trk_";
pub(crate) const SESSION_PREFIX: &str = "trs_";
pub(crate) const POSTBACK_PREFIX: &str = "trp_";

/// The cookie that holds a session token.
pub(crate) const SESSION_COOKIE: &str = "tributary_session";

/// Names the tenant that the platform owner acts for.
pub(crate) const TENANT_HEADER: &str = "x-tenant-id";

/// Longest credential that is looked at, in characters.
const MAX_CREDENTIAL_CHARS: usize = 512;

/// What a member of a tenant may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Role {
    /// Everything in the tenant.
    Admin,
    /// Reading only.
    Analyst,
}

/// Whose credential it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Owner,
    Member { tenant: TenantId, role: Role },
}

impl Caller {
    /// Whether he may decide about orders, and so see what a decision rests on.
    pub(crate) fn may_decide(self) -> bool {
        !matches!(
            self,
            Self::Member {
                role: Role::Analyst,
                ..
            }
        )
    }
}

/// The platform owner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner;

/// The tenant of a path under `/v1/tenants/{tenant_id}`, with a caller who may act for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InPath {
    pub tenant: TenantId,
    pub caller: Caller,
}

/// The tenant that a request is about, with a caller who may act for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scoped {
    pub tenant: TenantId,
    pub caller: Caller,
}

/// Who it was, in words that are kept: whoever reads a decision later asks whose it was.
#[derive(Debug, Clone)]
pub(crate) struct Actor(pub String);

/// Like [`Scoped`], of a POST that changes nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking {
    pub tenant: TenantId,
}

impl FromRequestParts<App> for Owner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match authenticate(parts, app).await? {
            Caller::Owner => Ok(Self),
            Caller::Member { .. } => Err(Problem::forbidden("only the platform owner may do this")),
        }
    }
}

impl FromRequestParts<App> for InPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = authenticate(parts, app).await?;
        let tenant = TenantId(path_id(parts, app, "tenant_id").await?);
        match caller {
            Caller::Owner => must_exist(&app.postgres, tenant).await?,
            Caller::Member { tenant: own, .. } if own == tenant => {}
            Caller::Member { .. } => return Err(Problem::not_found("tenant")),
        }
        may_write(parts, caller)?;
        Ok(Self { tenant, caller })
    }
}

impl FromRequestParts<App> for Scoped {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let (tenant, caller) = scope(parts, app).await?;
        may_write(parts, caller)?;
        Ok(Self { tenant, caller })
    }
}

impl FromRequestParts<App> for Asking {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let (tenant, _) = scope(parts, app).await?;
        Ok(Self { tenant })
    }
}

impl FromRequestParts<App> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if authenticate(parts, app).await? == Caller::Owner {
            return Ok(Self("the platform owner".to_owned()));
        }
        let token = credential(&parts.headers).map(|credential| credential.token);
        let hash = token_hash(&token.unwrap_or_default());
        let name: Option<String> = sqlx::query_scalar(
            "SELECT 'API key ' || id || ' (' || name || ')' FROM api_keys WHERE sha256 = $1
             UNION ALL
             SELECT u.email FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.sha256 = $1 LIMIT 1",
        )
        .bind(hash.as_slice())
        .fetch_optional(&app.postgres)
        .await?;
        let name = name.ok_or_else(|| {
            Problem::unauthorized("this key or session is unknown, revoked or expired")
        })?;
        Ok(Self(name))
    }
}

/// The tenant that a request is about, and who asks.
async fn scope(parts: &Parts, app: &App) -> Result<(TenantId, Caller), Problem> {
    let caller = authenticate(parts, app).await?;
    let named = named_tenant(&parts.headers)?;
    let tenant = match (caller, named) {
        (Caller::Owner, Some(tenant)) => {
            must_exist(&app.postgres, tenant).await?;
            tenant
        }
        (Caller::Owner, None) => {
            return Err(Problem::bad_request(
                "the platform owner says which tenant it acts for: send X-Tenant-Id",
            ));
        }
        (Caller::Member { tenant, .. }, named) if named.is_none_or(|n| n == tenant) => tenant,
        (Caller::Member { .. }, _) => return Err(Problem::not_found("tenant")),
    };
    Ok((tenant, caller))
}

fn may_write(parts: &Parts, caller: Caller) -> Result<(), Problem> {
    match caller {
        Caller::Member {
            role: Role::Analyst,
            ..
        } if !is_safe(&parts.method) => Err(Problem::forbidden("an analyst may read, not change")),
        _ => Ok(()),
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn named_tenant(headers: &HeaderMap) -> Result<Option<TenantId>, Problem> {
    let Some(value) = headers.get(TENANT_HEADER) else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|id: &i64| *id > 0)
        .map(|id| Some(TenantId(id)))
        .ok_or_else(|| {
            Problem::bad_request("X-Tenant-Id is a tenant's id, a positive whole number")
        })
}

async fn must_exist(postgres: &PgPool, tenant: TenantId) -> Result<(), Problem> {
    let found: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM tenants WHERE id = $1)")
        .bind(tenant)
        .fetch_one(postgres)
        .await?;
    if found {
        Ok(())
    } else {
        Err(Problem::not_found("tenant"))
    }
}

async fn authenticate(parts: &Parts, app: &App) -> Result<Caller, Problem> {
    let credential = credential(&parts.headers).ok_or_else(|| {
        Problem::unauthorized("send a key or a session token as Authorization: Bearer …")
    })?;
    if credential.from_cookie && !is_safe(&parts.method) && is_cross_site(&parts.headers) {
        return Err(Problem::forbidden(
            "another site may not act with your session",
        ));
    }
    who(app, &credential.token)
        .await?
        .ok_or_else(|| Problem::unauthorized("this key or session is unknown, revoked or expired"))
}

/// Whose token it is.
pub(crate) async fn who(app: &App, token: &str) -> Result<Option<Caller>, Problem> {
    let hash = token_hash(token);
    if same(&hash, &app.settings.owner_key_hash) {
        return Ok(Some(Caller::Owner));
    }
    let member: Option<(TenantId, Role)> = if token.starts_with(API_KEY_PREFIX) {
        sqlx::query_as(
            "SELECT tenant_id, role FROM api_keys WHERE sha256 = $1 AND revoked_at IS NULL",
        )
        .bind(hash.as_slice())
        .fetch_optional(&app.postgres)
        .await?
    } else if token.starts_with(SESSION_PREFIX) {
        sqlx::query_as(
            "SELECT u.tenant_id, u.role FROM sessions s JOIN users u ON u.id = s.user_id
             WHERE s.sha256 = $1 AND s.expires_at > $2",
        )
        .bind(hash.as_slice())
        .bind(app.clock.now())
        .fetch_optional(&app.postgres)
        .await?
    } else {
        None
    };
    Ok(member.map(|(tenant, role)| Caller::Member { tenant, role }))
}

/// Two hashes, compared without saying where they differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let differing = a.iter().zip(b).fold(0, |acc, (a, b)| acc | (a ^ b));
    std::hint::black_box(differing) == 0
}

/// A token that a request carries.
#[derive(Debug)]
pub(crate) struct Credential {
    pub token: String,
    pub from_cookie: bool,
}

/// The bearer token, or else the session cookie.
pub(crate) fn credential(headers: &HeaderMap) -> Option<Credential> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        let token = token.trim();
        let bearer = scheme.eq_ignore_ascii_case("bearer")
            && !token.is_empty()
            && token.len() <= MAX_CREDENTIAL_CHARS;
        return bearer.then(|| Credential {
            token: token.to_owned(),
            from_cookie: false,
        });
    }
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, token)| *name == SESSION_COOKIE && token.len() <= MAX_CREDENTIAL_CHARS)
        .map(|(_, token)| Credential {
            token: token.to_owned(),
            from_cookie: true,
        })
}

/// Whether a browser says that another site made this request. Other clients say nothing, and
/// carry no cookies that they were not given.
pub(crate) fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &axum::http::HeaderValue| value.to_str().ok())
    };
    if let Some(site) = text("sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    match headers.get(ORIGIN) {
        None => false,
        Some(_) => {
            let origin = text(ORIGIN.as_str()).and_then(|origin| origin.split_once("://"));
            origin.map(|(_, host)| host) != text(HOST.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn a_token_comes_as_bearer_or_as_the_cookie() {
        let token = |pairs: &[(&'static str, &'static str)]| {
            credential(&headers(pairs)).map(|c| (c.token, c.from_cookie))
        };
        assert_eq!(
            token(&[("authorization", "bearer  abc")]),
            Some(("abc".into(), false))
        );
        assert_eq!(
            token(&[("cookie", "a=b; tributary_session=trs_x; c=d")]),
            Some(("trs_x".into(), true))
        );
        assert_eq!(
            token(&[
                ("authorization", "Basic abc"),
                ("cookie", "tributary_session=x")
            ]),
            None
        );
        assert_eq!(token(&[("authorization", "Bearer")]), None);
        assert_eq!(token(&[]), None);
    }

    #[test]
    fn other_sites_are_noticed() {
        let cross = |pairs: &[(&'static str, &'static str)]| is_cross_site(&headers(pairs));
        assert!(!cross(&[]));
        assert!(!cross(&[
            ("sec-fetch-site", "same-origin"),
            ("origin", "null")
        ]));
        assert!(cross(&[("sec-fetch-site", "cross-site")]));
        assert!(cross(&[("sec-fetch-site", "same-site")]));
        assert!(!cross(&[
            ("origin", "http://127.0.0.1:8081"),
            ("host", "127.0.0.1:8081")
        ]));
        assert!(cross(&[
            ("origin", "http://evil.example"),
            ("host", "127.0.0.1:8081")
        ]));
        assert!(cross(&[("origin", "null"), ("host", "127.0.0.1:8081")]));
    }
}
