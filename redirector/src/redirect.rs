//! `GET /r/{code}`, and `GET /{code}` on a tenant's own domain: answers a shopper with a 302 and
//! records the click.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_LANGUAGE, CACHE_CONTROL, HeaderName, HeaderValue, LOCATION, REFERER, REFERRER_POLICY,
    SET_COOKIE, USER_AGENT,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tributary_shared::bots::Verdict;
use tributary_shared::click_token::ClickToken;
use tributary_shared::events::{Click, Outcome};
use tributary_shared::ids::{TenantId, new_uuid_v7};
use tributary_shared::links::{Domain, is_code};
use uuid::Uuid;

use crate::link::ActiveLink;
use crate::query::ClickQuery;
use crate::record::record;
use crate::resolve::{CapAnswer, Resolution, Space};
use crate::route::{Choice, Visit, choose};
use crate::server::{Answer, Worker};
use crate::{Edge, client, cookies, destination, pages};

/// Longest User-Agent, referrer and Accept-Language that are stored, in bytes.
const MAX_USER_AGENT_BYTES: usize = 512;
const MAX_REFERRER_BYTES: usize = 1024;
const MAX_ACCEPT_LANGUAGE_BYTES: usize = 128;
/// How long a shopper waits for the disk, where the settings say that shoppers do.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);

const ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");
const HINT_MOBILE: HeaderName = HeaderName::from_static("sec-ch-ua-mobile");
const HINT_PLATFORM: HeaderName = HeaderName::from_static("sec-ch-ua-platform");

/// Through which door a shopper came.
pub(crate) struct Door<'r> {
    space: Space,
    /// In normal form; none when an old client names none.
    host: Option<&'r str>,
    /// Where to send whom we can't send anywhere else; empty: nowhere.
    fallback: &'r str,
}

impl<'r> Door<'r> {
    /// `/r/{code}`, on whichever host.
    pub(crate) fn shared(host: Option<&'r str>) -> Self {
        Self {
            space: Space::Shared,
            host,
            fallback: "",
        }
    }

    fn own(host: Option<&'r str>, domain: &'r Domain) -> Option<Self> {
        Some(Self {
            space: Space::Tenant(TenantId::from_wire(domain.tenant_id)?),
            host,
            fallback: &domain.fallback_url,
        })
    }
}

/// Answers a path that is no other handler's: a code, where the host is a tenant's own.
pub(crate) async fn on_own_domain(
    worker: &Worker,
    request: &Request<Incoming>,
    path: &str,
    host: Option<&str>,
    client: IpAddr,
) -> Answer {
    let Some(name) = host else {
        return pages::not_found();
    };
    let resolver = &worker.edge().resolver;
    let domain: Arc<Domain> = match resolver.domain_in_memory(name) {
        Some(domain) => domain,
        None => match resolver.domain(name).await {
            Resolution::Found(domain) => domain,
            Resolution::Unknown => return pages::not_found(),
            Resolution::Unavailable => {
                let code = path.strip_prefix('/').filter(|code| is_code(code));
                let Some(code) = code else {
                    return pages::not_found();
                };
                return unresolved(worker, request, code, &Door::shared(host), client).await;
            }
        },
    };
    match Door::own(host, &domain) {
        Some(door) => redirect(worker, request, &path[1..], door, client).await,
        None => pages::not_found(),
    }
}

/// Answers a click on `code`. A `HEAD` is answered alike and is not a click.
pub(crate) async fn redirect(
    worker: &Worker,
    request: &Request<Incoming>,
    code: &str,
    door: Door<'_>,
    peer: IpAddr,
) -> Answer {
    let edge = worker.edge();
    let headers = request.headers();
    if client::is_prefetch(headers) {
        return pages::prefetch_refused();
    }
    let link = match edge.resolver.in_memory(door.space, code) {
        Some(link) => link,
        None => match edge.resolver.link(door.space, code).await {
            Resolution::Found(link) => link,
            Resolution::Unknown => return nowhere(&door).unwrap_or_else(pages::not_found),
            Resolution::Unavailable => {
                return unresolved(worker, request, code, &door, peer).await;
            }
        },
    };
    let now = edge.clock.now();
    let query = ClickQuery::read(request.uri().query());
    let visitor = Visitor::of(edge, headers, peer, now);
    let mut choice = route(edge, &link, headers, &visitor, now);
    if request.method() == Method::HEAD {
        let location = destination::location(&link, &choice, &query, "");
        return location.map_or_else(pages::not_found, found);
    }
    if let Some(cap) = link.cap()
        && choice.outcome == Outcome::Destination
        && is_person(edge, headers)
    {
        let answer = edge.resolver.take(link.link_id, cap.limit, cap.period, now);
        match answer.await {
            CapAnswer::Allowed => {}
            CapAnswer::Reached => choice = Choice::fallback(&link, Outcome::Capped),
            CapAnswer::Unknown => choice = Choice::fallback(&link, Outcome::CapUnknown),
        }
    }

    let token = ClickToken::mint(&edge.keys, link.link_id, now);
    let Some(location) = destination::location(&link, &choice, &query, token.as_str()) else {
        return pages::not_found();
    };
    let mut answer = found(location);
    set_cookies(edge, &mut answer, &link, &choice, &token, &visitor, &door);
    let safety = {
        let mut click = worker.scratch.borrow_mut();
        let click = &mut *click;
        click.tenant_id = link.tenant_id.to_wire();
        click.program_id = link.program_id;
        click.affiliate_id = link.affiliate_id;
        click.link_id = link.link_id.to_wire();
        click.outcome = choice.outcome.into();
        click.variant = choice.variant;
        replace(&mut click.click_id, token.as_str());
        click.code.clear();
        click.host.clear();
        describe(click, edge, headers, &query, &visitor, now);
        record(&mut worker.clicks.borrow_mut(), click)
    };
    if let Some(safety) = safety {
        // What is late is in the journal all the same; only a power loss could take it.
        safety.within(SYNC_TIMEOUT).await;
    }
    answer
}

/// Who clicks, as far as may be known.
struct Visitor {
    /// None: opted out. A visitor who did is not given a name to be recognised by.
    id: Option<Uuid>,
    /// None: opted out, and it must not be stored.
    address: Option<IpAddr>,
    /// To route by, never stored.
    seen_at: IpAddr,
}

impl Visitor {
    fn of(edge: &Edge, headers: &HeaderMap, peer: IpAddr, now: DateTime<Utc>) -> Self {
        let seen_at = edge.proxies.client_address(peer, headers);
        let opted_out = client::opted_out(headers);
        Self {
            id: (!opted_out).then(|| cookies::visitor(headers).unwrap_or_else(|| new_uuid_v7(now))),
            address: (!opted_out).then_some(seen_at),
            seen_at,
        }
    }
}

fn route<'l>(
    edge: &Edge,
    link: &'l ActiveLink,
    headers: &HeaderMap,
    visitor: &Visitor,
    now: DateTime<Utc>,
) -> Choice<'l> {
    if link.extras.is_none() {
        return Choice::plain(link);
    }
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let country = || edge.countries.as_ref()?.lookup(visitor.seen_at);
    let visit = Visit {
        now,
        // Without a name there is nothing to stick to: each click is drawn anew.
        visitor: visitor.id.unwrap_or_else(|| new_uuid_v7(now)).as_u128(),
        user_agent: text(&USER_AGENT).unwrap_or_default(),
        hint_mobile: text(&HINT_MOBILE),
        hint_platform: text(&HINT_PLATFORM),
        accept_language: text(&ACCEPT_LANGUAGE).unwrap_or_default(),
        country: &country,
    };
    choose(link, &visit)
}

/// Bots don't use up a cap.
fn is_person(edge: &Edge, headers: &HeaderMap) -> bool {
    let user_agent = headers.get(USER_AGENT).map_or(Cow::Borrowed(""), |value| {
        String::from_utf8_lossy(value.as_bytes())
    });
    edge.bots
        .judge(client::cut(&user_agent, MAX_USER_AGENT_BYTES))
        == Verdict::Person
}

/// A code that can't be looked up: the click is kept for the processor to resolve, and the shopper goes
/// to the tenant's fallback or is asked to come back.
async fn unresolved(
    worker: &Worker,
    request: &Request<Incoming>,
    code: &str,
    door: &Door<'_>,
    peer: IpAddr,
) -> Answer {
    let answer = nowhere(door).unwrap_or_else(pages::unavailable);
    if request.method() == Method::HEAD {
        return answer;
    }
    let edge = worker.edge();
    let headers = request.headers();
    let now = edge.clock.now();
    let visitor = Visitor {
        id: None, // no cookie goes out
        ..Visitor::of(edge, headers, peer, now)
    };
    let safety = {
        let mut click = worker.scratch.borrow_mut();
        let click = &mut *click;
        *click = Click {
            tenant_id: match door.space {
                Space::Shared => 0,
                Space::Tenant(tenant) => tenant.to_wire(),
            },
            outcome: Outcome::Unresolved.into(),
            code: code.to_owned(),
            host: door.host.unwrap_or_default().to_owned(),
            ..Click::default()
        };
        let query = ClickQuery::read(request.uri().query());
        describe(click, edge, headers, &query, &visitor, now);
        record(&mut worker.clicks.borrow_mut(), click)
    };
    if let Some(safety) = safety {
        safety.within(SYNC_TIMEOUT).await;
    }
    answer
}

/// The tenant's fallback, if it has one.
fn nowhere(door: &Door<'_>) -> Option<Answer> {
    if door.fallback.is_empty() {
        return None;
    }
    HeaderValue::from_str(door.fallback).ok().map(found)
}

fn set_cookies(
    edge: &Edge,
    answer: &mut Answer,
    link: &ActiveLink,
    choice: &Choice<'_>,
    token: &ClickToken,
    visitor: &Visitor,
    door: &Door<'_>,
) {
    let host = door.host.unwrap_or_default();
    let domain = link.cookie_domain().and_then(|domain| domain.of_host(host));
    let set = answer.headers_mut();
    // A click that did not reach the merchant's offer earns nothing later.
    if choice.outcome == Outcome::Destination {
        let window = u64::from(link.window_seconds);
        set.append(SET_COOKIE, edge.cookies.click(token, window, domain));
    }
    if let Some(id) = visitor.id {
        set.append(SET_COOKIE, edge.cookies.visitor(id, domain));
    }
}

/// What is known of a click beside its link and outcome.
fn describe(
    click: &mut Click,
    edge: &Edge,
    headers: &HeaderMap,
    query: &ClickQuery<'_>,
    visitor: &Visitor,
    now: DateTime<Utc>,
) {
    click.received_at_us = now.timestamp_micros();
    client::read(
        headers,
        USER_AGENT,
        MAX_USER_AGENT_BYTES,
        &mut click.user_agent,
    );
    client::read(headers, REFERER, MAX_REFERRER_BYTES, &mut click.referrer);
    client::read(
        headers,
        ACCEPT_LANGUAGE,
        MAX_ACCEPT_LANGUAGE_BYTES,
        &mut click.accept_language,
    );
    click.sub_ids = query.stored_sub_ids();
    let [source, medium, campaign, term, content] = query.utm();
    replace(&mut click.utm_source, source);
    replace(&mut click.utm_medium, medium);
    replace(&mut click.utm_campaign, campaign);
    replace(&mut click.utm_term, term);
    replace(&mut click.utm_content, content);
    click.privacy_opt_out = visitor.address.is_none();
    click.visitor_id.clear();
    if let Some(id) = visitor.id {
        click.visitor_id.extend_from_slice(id.as_bytes());
    }
    click.fingerprint.clear();
    click.address.clear();
    if let Some(address) = visitor.address {
        let fingerprint = edge
            .fingerprinter
            .of(address, &click.user_agent, &click.accept_language);
        click.fingerprint.extend_from_slice(&fingerprint);
        match address {
            IpAddr::V4(v4) => click.address.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => click.address.extend_from_slice(&v6.octets()),
        }
    }
}

/// Replaces a text and keeps its memory.
fn replace(text: &mut String, with: &str) {
    text.clear();
    text.push_str(with);
}

fn found(location: HeaderValue) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = StatusCode::FOUND;
    let headers = answer.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        REFERRER_POLICY,
        HeaderValue::from_static("strict-origin-when-cross-origin"),
    );
    headers.insert(ROBOTS_TAG, HeaderValue::from_static("noindex"));
    answer
}
