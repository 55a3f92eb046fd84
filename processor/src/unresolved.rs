//! Clicks whose link the redirector could not look up, because Redis was away: PostgreSQL says whose
//! the code is.

use ahash::HashMap;
use sqlx::PgPool;
use tributary_shared::ids::{AffiliateId, LinkId, ProgramId, TenantId};

/// A link, as a click carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Link {
    pub(crate) tenant_id: TenantId,
    pub(crate) program_id: ProgramId,
    pub(crate) affiliate_id: AffiliateId,
    #[sqlx(rename = "id")]
    pub(crate) link_id: LinkId,
}

/// The links of these codes, whoever's they are; none for a code that there is not.
pub(crate) async fn links(
    pool: &PgPool,
    codes: &[String],
) -> Result<HashMap<String, Link>, sqlx::Error> {
    #[derive(sqlx::FromRow)]
    struct Row {
        code: String,
        #[sqlx(flatten)]
        link: Link,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT code, id, tenant_id, program_id, affiliate_id FROM links WHERE code = ANY($1)",
    )
    .bind(codes)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.code, row.link)).collect())
}
