//! What PostgreSQL says, and the keys and values that the index should hold for it.

use prost::Message as _;
use sqlx::PgConnection;
use sqlx::types::JsonValue;
use sqlx::types::chrono::{DateTime, Utc};
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};
use tributary_shared::links::{
    CapPeriod, Domain, EdgeKeys, Link, PublishableKey, SealedSecret, WebhookSource,
};
use tributary_shared::reports::webhooks::Kind;

use super::Change;
use crate::routing::{Routing, seconds};

/// Selects [`LinkRow`]s; what of them stands behind it.
macro_rules! select_links {
    ($which:literal) => {
        concat!(
            "SELECT l.id, l.tenant_id, l.program_id, l.affiliate_id, l.code, l.destination, l.active,
                    l.routing, l.pass_query, l.expires_at, l.click_cap, l.click_cap_period = 'day' AS cap_is_daily,
                    COALESCE(l.fallback_url, t.fallback_url) AS fallback_url,
                    p.window_seconds, p.override_hosts, t.cookie_domain
             FROM links l
             JOIN programs p ON p.tenant_id = l.tenant_id AND p.id = l.program_id
             JOIN tenants t ON t.id = l.tenant_id
             WHERE ",
            $which
        )
    };
}

/// Which links a page is of.
#[derive(Debug, Clone, Copy)]
pub(super) enum PartOf {
    All(Capped),
    Program(i64),
    Tenant(i64),
}

/// Whether links have a click cap.
#[derive(Debug, Clone, Copy)]
pub(super) enum Capped {
    Yes,
    No,
}

/// Keys of one kind, in the order of their ids.
pub(super) struct Page {
    pub(super) changes: Vec<Change>,
    /// The last one's id.
    pub(super) last: i64,
}

impl Page {
    /// How many of them the index should hold.
    pub(super) fn held(&self) -> u64 {
        let held = |change: &&Change| !change.value.is_empty();
        u64::try_from(self.changes.iter().filter(held).count()).unwrap_or(u64::MAX)
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct LinkRow {
    pub(super) id: LinkId,
    tenant_id: TenantId,
    program_id: ProgramId,
    affiliate_id: AffiliateId,
    code: String,
    destination: String,
    pub(super) active: bool,
    routing: JsonValue,
    pass_query: bool,
    expires_at: Option<DateTime<Utc>>,
    click_cap: Option<i64>,
    cap_is_daily: bool,
    fallback_url: Option<String>,
    window_seconds: i64,
    override_hosts: Vec<String>,
    cookie_domain: Option<String>,
}

impl LinkRow {
    pub(super) fn changes(&self, keys: &EdgeKeys) -> [Change; 2] {
        let code = keys.code(&self.code);
        let link = keys.link(self.tenant_id, &self.code);
        if !self.active {
            return [Change::remove(code), Change::remove(link)];
        }
        // The link first: a reader that finds the code finds the link as well.
        [
            Change::put(link, self.to_edge().encode_to_vec()),
            Change::put(code, self.tenant_id.to_string()),
        ]
    }

    fn to_edge(&self) -> Link {
        let routing = self.routing();
        let cap_period = if self.cap_is_daily {
            CapPeriod::Day
        } else {
            CapPeriod::Total
        };
        let click_cap = self.click_cap.and_then(|cap| u64::try_from(cap).ok());
        Link {
            link_id: self.id.to_wire(),
            tenant_id: self.tenant_id.to_wire(),
            program_id: self.program_id.to_wire(),
            affiliate_id: self.affiliate_id.to_wire(),
            destination: self.destination.clone(),
            window_seconds: u64::try_from(self.window_seconds).unwrap_or(0),
            variants: routing.variants(),
            routes: routing.routes(),
            pass_query: self.pass_query,
            override_hosts: self.override_hosts.clone(),
            expires_at_s: seconds(self.expires_at),
            click_cap: click_cap.unwrap_or(0),
            cap_period: cap_period.into(),
            fallback_url: self.fallback_url.clone().unwrap_or_default(),
            cookie_domain: self.cookie_domain.clone().unwrap_or_default(),
        }
    }

    /// A routing that can't be read was not written by the API: one such row must not hold up the
    /// index of everybody.
    fn routing(&self) -> Routing {
        serde_json::from_value(self.routing.clone()).unwrap_or_else(|error| {
            tracing::error!(link = %self.id, %error, "links.routing can't be read and is left out");
            Routing::default()
        })
    }
}

/// What the index should hold of these links.
pub(super) async fn links(
    postgres: &mut PgConnection,
    keys: &EdgeKeys,
    ids: &[i64],
) -> Result<Vec<Change>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<LinkRow> = sqlx::query_as(select_links!("l.id = ANY($1)"))
        .bind(ids)
        .fetch_all(postgres)
        .await?;
    Ok(rows.iter().flat_map(|row| row.changes(keys)).collect())
}

/// The next links after an id.
pub(super) async fn page(
    postgres: &mut PgConnection,
    part_of: PartOf,
    after: i64,
    limit: i64,
) -> Result<Vec<LinkRow>, sqlx::Error> {
    let (query, id) = match part_of {
        PartOf::All(Capped::No) => (
            select_links!("$1 = 0 AND l.click_cap IS NULL AND l.id > $2 ORDER BY l.id LIMIT $3"),
            0,
        ),
        PartOf::All(Capped::Yes) => (
            select_links!(
                "$1 = 0 AND l.click_cap IS NOT NULL AND l.id > $2 ORDER BY l.id LIMIT $3"
            ),
            0,
        ),
        PartOf::Program(id) => (
            select_links!("l.program_id = $1 AND l.id > $2 ORDER BY l.id LIMIT $3"),
            id,
        ),
        PartOf::Tenant(id) => (
            select_links!("l.tenant_id = $1 AND l.id > $2 ORDER BY l.id LIMIT $3"),
            id,
        ),
    };
    sqlx::query_as(query)
        .bind(id)
        .bind(after)
        .bind(limit)
        .fetch_all(postgres)
        .await
}

#[derive(sqlx::FromRow)]
struct TokenRow {
    id: i64,
    tenant_id: TenantId,
    sha256: Vec<u8>,
    active: bool,
}

impl TokenRow {
    fn change(&self, keys: &EdgeKeys) -> Change {
        let key = keys.postback(&self.sha256);
        if self.active {
            Change::put(key, self.tenant_id.to_string())
        } else {
            Change::remove(key)
        }
    }
}

/// What the index should hold of these postback tokens.
pub(super) async fn tokens(
    postgres: &mut PgConnection,
    keys: &EdgeKeys,
    ids: &[i64],
) -> Result<Vec<Change>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<TokenRow> = sqlx::query_as(
        "SELECT id, tenant_id, sha256, revoked_at IS NULL AS active FROM postback_tokens WHERE id = ANY($1)",
    )
    .bind(ids)
    .fetch_all(postgres)
    .await?;
    Ok(rows.iter().map(|row| row.change(keys)).collect())
}

/// The next postback tokens after an id; none behind the last.
pub(super) async fn token_page(
    postgres: &mut PgConnection,
    keys: &EdgeKeys,
    after: i64,
    limit: i64,
) -> Result<Option<Page>, sqlx::Error> {
    let rows: Vec<TokenRow> = sqlx::query_as(
        "SELECT id, tenant_id, sha256, revoked_at IS NULL AS active FROM postback_tokens
         WHERE id > $1 ORDER BY id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(postgres)
    .await?;
    Ok(rows.last().map(|last| Page {
        last: last.id,
        changes: rows.iter().map(|row| row.change(keys)).collect(),
    }))
}

#[derive(sqlx::FromRow)]
struct PublishableRow {
    id: i64,
    tenant_id: TenantId,
    key: String,
    origins: Vec<String>,
    active: bool,
}

impl PublishableRow {
    fn change(&self, keys: &EdgeKeys) -> Change {
        let key = keys.publishable(&self.key);
        if !self.active {
            return Change::remove(key);
        }
        let value = PublishableKey {
            tenant_id: self.tenant_id.to_wire(),
            origins: self.origins.clone(),
        };
        Change::put(key, value.encode_to_vec())
    }
}

/// What the index should hold of these publishable keys.
pub(super) async fn publishable(
    postgres: &mut PgConnection,
    keys: &EdgeKeys,
    ids: &[i64],
) -> Result<Vec<Change>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<PublishableRow> = sqlx::query_as(
        "SELECT id, tenant_id, key, origins, revoked_at IS NULL AS active FROM publishable_keys WHERE id = ANY($1)",
    )
    .bind(ids)
    .fetch_all(postgres)
    .await?;
    Ok(rows.iter().map(|row| row.change(keys)).collect())
}

/// The next publishable keys after an id; none behind the last.
pub(super) async fn publishable_page(
    postgres: &mut PgConnection,
    keys: &EdgeKeys,
    after: i64,
    limit: i64,
) -> Result<Option<Page>, sqlx::Error> {
    let rows: Vec<PublishableRow> = sqlx::query_as(
        "SELECT id, tenant_id, key, origins, revoked_at IS NULL AS active FROM publishable_keys
         WHERE id > $1 ORDER BY id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(postgres)
    .await?;
    Ok(rows.last().map(|last| Page {
        last: last.id,
        changes: rows.iter().map(|row| row.change(keys)).collect(),
    }))
}

/// Selects [`SourceRow`]s; what of them stands behind it.
macro_rules! select_sources {
    ($which:literal) => {
        concat!(
            "SELECT id, tenant_id, kind, public_id, secret, old_secret, old_secret_ends_at, revoked_at IS NULL AS active
             FROM sources WHERE ",
            $which
        )
    };
}

#[derive(sqlx::FromRow)]
struct SourceRow {
    id: i64,
    tenant_id: TenantId,
    kind: String,
    public_id: String,
    secret: Vec<u8>,
    old_secret: Option<Vec<u8>>,
    old_secret_ends_at: Option<DateTime<Utc>>,
    active: bool,
}

impl SourceRow {
    fn change(&self, keys: &EdgeKeys) -> Change {
        let key = keys.webhook(&self.public_id);
        let Some(kind) = Kind::named(&self.kind).filter(|_| self.active) else {
            return Change::remove(key);
        };
        let secret = SealedSecret {
            sealed: self.secret.clone(),
            ends_at_s: 0,
        };
        let old = self.old_secret.clone().map(|sealed| SealedSecret {
            sealed,
            ends_at_s: seconds(self.old_secret_ends_at),
        });
        let value = WebhookSource {
            tenant_id: self.tenant_id.to_wire(),
            kind: kind.to_wire().into(),
            secrets: [secret].into_iter().chain(old).collect(),
        };
        Change::put(key, value.encode_to_vec())
    }
}

/// What the index should hold of these sources.
pub(super) async fn sources(
    postgres: &mut PgConnection,
    keys: &EdgeKeys,
    ids: &[i64],
) -> Result<Vec<Change>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<SourceRow> = sqlx::query_as(select_sources!("id = ANY($1)"))
        .bind(ids)
        .fetch_all(postgres)
        .await?;
    Ok(rows.iter().map(|row| row.change(keys)).collect())
}

/// The next sources after an id; none behind the last.
pub(super) async fn source_page(
    postgres: &mut PgConnection,
    keys: &EdgeKeys,
    after: i64,
    limit: i64,
) -> Result<Option<Page>, sqlx::Error> {
    let rows: Vec<SourceRow> = sqlx::query_as(select_sources!("id > $1 ORDER BY id LIMIT $2"))
        .bind(after)
        .bind(limit)
        .fetch_all(postgres)
        .await?;
    Ok(rows.last().map(|last| Page {
        last: last.id,
        changes: rows.iter().map(|row| row.change(keys)).collect(),
    }))
}

#[derive(sqlx::FromRow)]
struct DomainRow {
    id: i64,
    tenant_id: TenantId,
    host: String,
    fallback_url: Option<String>,
}

impl DomainRow {
    fn change(&self, keys: &EdgeKeys) -> Change {
        let value = Domain {
            tenant_id: self.tenant_id.to_wire(),
            fallback_url: self.fallback_url.clone().unwrap_or_default(),
        };
        Change::put(keys.domain(&self.host), value.encode_to_vec())
    }
}

/// What the index should hold of these hosts; one that nobody has any more is removed.
pub(super) async fn domains(
    postgres: &mut PgConnection,
    keys: &EdgeKeys,
    hosts: &[&str],
) -> Result<Vec<Change>, sqlx::Error> {
    if hosts.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<DomainRow> = sqlx::query_as(
        "SELECT d.id, d.tenant_id, d.host, t.fallback_url
         FROM domains d JOIN tenants t ON t.id = d.tenant_id WHERE d.host = ANY($1)",
    )
    .bind(hosts)
    .fetch_all(postgres)
    .await?;
    let gone = hosts
        .iter()
        .filter(|host| !rows.iter().any(|row| row.host == **host))
        .map(|host| Change::remove(keys.domain(host)));
    Ok(gone
        .chain(rows.iter().map(|row| row.change(keys)))
        .collect())
}

/// The next domains after an id; none behind the last.
pub(super) async fn domain_page(
    postgres: &mut PgConnection,
    keys: &EdgeKeys,
    after: i64,
    limit: i64,
) -> Result<Option<Page>, sqlx::Error> {
    let rows: Vec<DomainRow> = sqlx::query_as(
        "SELECT d.id, d.tenant_id, d.host, t.fallback_url
         FROM domains d JOIN tenants t ON t.id = d.tenant_id WHERE d.id > $1 ORDER BY d.id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(postgres)
    .await?;
    Ok(rows.last().map(|last| Page {
        last: last.id,
        changes: rows.iter().map(|row| row.change(keys)).collect(),
    }))
}
