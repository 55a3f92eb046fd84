//! The routes, one file a resource, and the description of the API made from them.

pub(crate) mod affiliates;
pub(crate) mod analytics;
pub(crate) mod api_keys;
pub(crate) mod audit_log;
pub(crate) mod blocked;
pub(crate) mod clicks;
pub(crate) mod commissions;
pub(crate) mod conversions;
pub(crate) mod coupons;
pub(crate) mod domains;
pub(crate) mod erasures;
pub(crate) mod evidence;
pub(crate) mod exchange_rates;
pub(crate) mod home;
pub(crate) mod ledger;
pub(crate) mod links;
pub(crate) mod payout_accounts;
pub(crate) mod payout_actions;
pub(crate) mod payout_files;
pub(crate) mod payout_methods;
pub(crate) mod payout_providers;
pub(crate) mod payout_runs;
pub(crate) mod payout_terms;
pub(crate) mod payouts;
pub(crate) mod postback_tokens;
pub(crate) mod postbacks;
pub(crate) mod preview;
pub(crate) mod programs;
pub(crate) mod publishable_keys;
pub(crate) mod rules;
pub(crate) mod sessions;
pub(crate) mod sources;
pub(crate) mod statements;
pub(crate) mod tax_totals;
pub(crate) mod tenants;
pub(crate) mod users;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::error::Problem;
use crate::state::App;

/// A header that the platform owner adds; nobody else needs it.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes a header that auth.rs reads")]
pub(crate) struct TenantHeader {
    /// The tenant that the platform owner acts for. Members act for their own tenant without it.
    #[param(rename = "X-Tenant-Id", value_type = Option<i64>)]
    x_tenant_id: Option<i64>,
}

/// A header that makes a creating request safe to repeat.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes a header that extract.rs reads")]
pub(crate) struct IdempotencyHeader {
    /// Any text of up to 255 characters, new for each thing to create. The same request with the
    /// same key within 24 hours gets the same answer (secrets are null) and creates nothing.
    #[param(rename = "Idempotency-Key", value_type = Option<String>)]
    idempotency_key: Option<String>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tributary",
        description = "Tracks affiliate clicks at the edge and pays affiliates exactly what they earned.\n\n\
            Send a key or a session token as `Authorization: Bearer …`. Money is a decimal string with its \
            currency; times are RFC 3339 in UTC. Lists answer `{items, next_cursor}`; send `next_cursor` back \
            as `cursor`, or `Accept: text/csv` for a table (the cursor is then in the header `Next-Cursor`; lists that \
            take `all=true` give all of it). \
            Errors are `application/problem+json`.",
    ),
    security(("bearer" = [])),
    modifiers(&Bearer),
    tags(
        (name = "Tenants", description = "Workspaces, and who may act in them"),
        (name = "Sessions", description = "Signing in with an e-mail address and a password"),
        (name = "Programs", description = "What affiliates earn: programs, their commission rules, exchange rates, what is blocked"),
        (name = "Affiliates", description = "Partners, their coupons, and what they are owed"),
        (name = "Links", description = "Tracking links"),
        (name = "Domains", description = "A tenant's own hosts, and the keys of its pages"),
        (name = "Money", description = "Reports of orders, conversions and what was decided about them, the commissions they earned, and the ledger"),
        (name = "Payouts", description = "Paying affiliates: the tenant's terms, how each is paid, runs, payouts, what people do with them, and files for banks"),
        (name = "Analytics", description = "What happened: one question for all, and named reports"),
    ),
    components(schemas(Problem))
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut Document) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "The platform owner's key, an API key (trk_…) or a session token (trs_…)",
            ))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(tenants::create, tenants::list))
        .routes(routes!(tenants::read, tenants::change))
        .routes(routes!(api_keys::create, api_keys::list))
        .routes(routes!(api_keys::revoke))
        .routes(routes!(postback_tokens::create, postback_tokens::list))
        .routes(routes!(postback_tokens::revoke))
        .routes(routes!(users::create, users::list))
        .routes(routes!(sessions::create, sessions::end))
        .routes(routes!(programs::create, programs::list))
        .routes(routes!(programs::read, programs::change))
        .routes(routes!(rules::list))
        .routes(routes!(rules::put))
        .routes(routes!(preview::preview))
        .routes(routes!(exchange_rates::create, exchange_rates::list))
        .routes(routes!(affiliates::create, affiliates::list))
        .routes(routes!(affiliates::read, affiliates::change))
        .routes(routes!(affiliates::balance))
        .routes(routes!(statements::read))
        .routes(routes!(tax_totals::list))
        .routes(routes!(tax_totals::of_affiliate))
        .routes(routes!(coupons::create, coupons::list))
        .routes(routes!(coupons::read, coupons::change))
        .routes(routes!(blocked::create, blocked::list))
        .routes(routes!(blocked::delete))
        .routes(routes!(links::create, links::list))
        .routes(routes!(links::read, links::change))
        .routes(routes!(domains::create, domains::list))
        .routes(routes!(domains::delete))
        .routes(routes!(publishable_keys::create, publishable_keys::list))
        .routes(routes!(publishable_keys::change, publishable_keys::revoke))
        .routes(routes!(sources::create, sources::list))
        .routes(routes!(sources::change, sources::revoke))
        .routes(routes!(erasures::create, erasures::list))
        .routes(routes!(conversions::list))
        .routes(routes!(conversions::decide_many))
        .routes(routes!(conversions::read))
        .routes(routes!(conversions::decide))
        .routes(routes!(audit_log::list))
        .routes(routes!(commissions::list))
        .routes(routes!(postbacks::list))
        .routes(routes!(postbacks::test))
        .routes(routes!(commissions::read))
        .routes(routes!(ledger::list))
        .routes(routes!(payout_terms::read, payout_terms::put))
        .routes(routes!(
            payout_methods::put,
            payout_methods::read,
            payout_methods::delete
        ))
        .routes(routes!(
            payout_providers::put,
            payout_providers::read,
            payout_providers::delete
        ))
        .routes(routes!(payout_runs::create, payout_runs::list))
        .routes(routes!(payout_runs::read))
        .routes(routes!(payouts::list))
        .routes(routes!(payouts::read))
        .routes(routes!(payout_actions::act_many))
        .routes(routes!(payout_actions::act))
        .routes(routes!(
            payout_accounts::read,
            payout_accounts::put,
            payout_accounts::delete
        ))
        .routes(routes!(payout_files::create, payout_files::list))
        .routes(routes!(payout_files::read))
        .routes(routes!(payout_files::content))
        .routes(routes!(analytics::query))
        .routes(routes!(analytics::overview))
        .routes(routes!(analytics::time_series))
        .routes(routes!(analytics::breakdown))
        .routes(routes!(analytics::funnel))
        .routes(routes!(analytics::conversion_delay))
        .routes(routes!(analytics::traffic_quality))
        .routes(routes!(analytics::cohorts))
        .routes(routes!(analytics::lifetime_value))
        .routes(routes!(clicks::list))
        .routes(routes!(clicks::read))
        .routes(routes!(clicks::live))
        .routes(routes!(analytics::by_day))
        .routes(routes!(analytics::by_link))
}

/// The API's description, OpenAPI 3.1, as indented JSON.
#[expect(clippy::expect_used, reason = "the description is plain data")]
pub fn openapi_json() -> String {
    let mut text = described()
        .into_openapi()
        .to_pretty_json()
        .expect("plain data is JSON");
    text.push('\n');
    text
}

/// Every route.
pub(crate) fn all() -> Router<App> {
    let (api, _) = described().split_for_parts();
    let description: &'static str = Box::leak(openapi_json().into_boxed_str()); // once a process
    let docs = SwaggerUi::new("/docs").config(Config::from("/openapi.json"));
    api.merge(home::routes())
        .route(
            "/openapi.json",
            get(async move || ([(CONTENT_TYPE, "application/json")], description)),
        )
        .merge(Router::<App>::from(docs))
}
