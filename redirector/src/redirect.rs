//! `GET /r/{code}`, and `GET /{code}` on a tenant's own domain: answers a shopper with a 302 and
//! records the click.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tributary_shared::bots::Verdict;
use tributary_shared::click_token::ClickToken;
use tributary_shared::events::{Click, Outcome};
use tributary_shared::ids::{TenantId, new_uuid_v7};
use tributary_shared::links::{Domain, is_code};
use tributary_shared::reports::MAX_USER_AGENT_BYTES;
use uuid::Uuid;

use crate::client::cut;
use crate::cookies::visitor;
use crate::found::Found;
use crate::link::ActiveLink;
use crate::query::ClickQuery;
use crate::record::{next_place, record};
use crate::resolve::{CapAnswer, Resolution, Space};
use crate::route::{Choice, Visit, choose};
use crate::server::{Answer, Worker};
use crate::shopper::{Shopper, put_text};
use crate::{Edge, destination, pages};

/// Longest referrer and Accept-Language that are stored, in bytes; a User-Agent as in reports of orders.
const MAX_REFERRER_BYTES: usize = 1024;
pub(crate) const MAX_ACCEPT_LANGUAGE_BYTES: usize = 128;
/// How long a shopper waits for the disk, where the settings say that shoppers do.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);

/// The paths that are not links'.
const OTHERS: [&str; 4] = ["/postback", "/pixel.gif", "/v1/events", "/t.js"];

/// Whether a path is a link's, as far as it can be told by the path alone.
pub(crate) fn is_link(path: &str) -> bool {
    path.starts_with("/r/") || !OTHERS.contains(&path)
}

/// A request for a link.
#[derive(Debug)]
pub(crate) struct Ask<'r> {
    pub(crate) path: &'r str,
    pub(crate) query: Option<&'r str>,
    /// Answered alike, and not a click.
    pub(crate) is_head: bool,
    /// In normal form; none when an old client names none.
    pub(crate) host: Option<&'r str>,
    pub(crate) shopper: &'r Shopper<'r>,
    /// The connection's other end.
    pub(crate) peer: IpAddr,
}

/// What a shopper gets.
pub(crate) enum Reply {
    Found(Found),
    Page(Answer),
}

/// Through which door a shopper came.
struct Door<'r> {
    space: Space,
    /// Where to send whom we can't send anywhere else; empty: nowhere.
    fallback: &'r str,
}

impl<'r> Door<'r> {
    /// `/r/{code}`, on whichever host.
    const SHARED: Self = Self {
        space: Space::Shared,
        fallback: "",
    };

    fn own(domain: &'r Domain) -> Option<Self> {
        Some(Self {
            space: Space::Tenant(TenantId::from_wire(domain.tenant_id)?),
            fallback: &domain.fallback_url,
        })
    }
}

/// Answers a request for a link: `/r/{code}` on any host, `/{code}` where the host is a tenant's own.
pub(crate) async fn redirect(worker: &Worker, ask: &Ask<'_>) -> Reply {
    if let Some(code) = ask.path.strip_prefix("/r/") {
        return click(worker, ask, code, Door::SHARED).await;
    }
    let code = ask.path.strip_prefix('/').filter(|code| is_code(code));
    let (Some(code), Some(host)) = (code, ask.host) else {
        return Reply::Page(pages::not_found());
    };
    let resolver = &worker.edge().resolver;
    let domain: Arc<Domain> = match resolver.domain_in_memory(host) {
        Some(domain) => domain,
        None => match resolver.domain(host).await {
            Resolution::Found(domain) => domain,
            Resolution::Unknown => return Reply::Page(pages::not_found()),
            Resolution::Unavailable => return unresolved(worker, ask, code, &Door::SHARED).await,
        },
    };
    match Door::own(&domain) {
        Some(door) => click(worker, ask, code, door).await,
        None => Reply::Page(pages::not_found()),
    }
}

/// Answers a click on `code`.
async fn click(worker: &Worker, ask: &Ask<'_>, code: &str, door: Door<'_>) -> Reply {
    let edge = worker.edge();
    let shopper = ask.shopper;
    if shopper.looks_ahead {
        return Reply::Page(pages::prefetch_refused());
    }
    let link = match edge.resolver.in_memory(door.space, code) {
        Some(link) => link,
        None => match edge.resolver.link(door.space, code).await {
            Resolution::Found(link) => link,
            Resolution::Unknown => return elsewhere(&door, pages::not_found),
            Resolution::Unavailable => return unresolved(worker, ask, code, &door).await,
        },
    };
    let now = edge.clock.now();
    let query = ClickQuery::read(ask.query);
    let visitor = Visitor::of(edge, ask, now);
    let mut choice = route(edge, &link, shopper, &visitor, now);
    if ask.is_head {
        return found(destination::location(&link, &choice, &query, ""));
    }
    if let Some(cap) = link.cap()
        && choice.outcome == Outcome::Destination
        && is_person(edge, shopper)
    {
        let answer = edge.resolver.take(link.link_id, cap.limit, cap.period, now);
        match answer.await {
            CapAnswer::Allowed => {}
            CapAnswer::Reached => choice = Choice::fallback(&link, Outcome::Capped),
            CapAnswer::Unknown => choice = Choice::fallback(&link, Outcome::CapUnknown),
        }
    }

    // From here until the click is recorded nothing waits, so no other click takes its place.
    let place = next_place(&mut worker.clicks.borrow_mut());
    let token = match place {
        Some(place) => ClickToken::of(&edge.keys, link.link_id, now, place),
        None => ClickToken::mint(&edge.keys, link.link_id, now),
    };
    let token = token.as_str();
    let mut reply = found(destination::location(&link, &choice, &query, token));
    let Reply::Found(found) = &mut reply else {
        return reply; // it leads nowhere
    };
    set_cookies(found, edge, &link, &choice, token, &visitor, ask.host);
    let safety = {
        let mut click = worker.scratch.borrow_mut();
        let click = &mut *click;
        click.tenant_id = link.tenant_id.to_wire();
        click.program_id = link.program_id;
        click.affiliate_id = link.affiliate_id;
        click.link_id = link.link_id.to_wire();
        click.outcome = choice.outcome.into();
        click.variant = choice.variant;
        replace(&mut click.click_id, token);
        click.code.clear();
        click.host.clear();
        describe(click, edge, shopper, &query, &visitor, now);
        record(&mut worker.clicks.borrow_mut(), click)
    };
    if let Some(safety) = safety {
        // What is late is in the journal all the same; only a power loss could take it.
        safety.within(SYNC_TIMEOUT).await;
    }
    reply
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
    fn of(edge: &Edge, ask: &Ask<'_>, now: DateTime<Utc>) -> Self {
        let shopper = ask.shopper;
        let seen_at = edge.proxies.client_address(ask.peer, &shopper.forwarding);
        let opted_out = shopper.opted_out;
        Self {
            id: (!opted_out)
                .then(|| visitor(shopper.cookies()).unwrap_or_else(|| new_uuid_v7(now))),
            address: (!opted_out).then_some(seen_at),
            seen_at,
        }
    }
}

fn route<'l>(
    edge: &Edge,
    link: &'l ActiveLink,
    shopper: &Shopper<'_>,
    visitor: &Visitor,
    now: DateTime<Utc>,
) -> Choice<'l> {
    if link.extras.is_none() {
        return Choice::plain(link);
    }
    let text = |value| std::str::from_utf8(value).unwrap_or_default();
    let country = || {
        (edge
            .countries
            .as_ref()?
            .read(visitor.seen_at, |entry| entry.country()))?
    };
    let visit = Visit {
        now,
        // Without a name there is nothing to stick to: each click is drawn anew.
        visitor: visitor.id.unwrap_or_else(|| new_uuid_v7(now)).as_u128(),
        user_agent: text(shopper.user_agent),
        hint_mobile: shopper.hint_mobile,
        hint_platform: shopper.hint_platform,
        accept_language: text(shopper.accept_language),
        country: &country,
    };
    choose(link, &visit)
}

/// Bots don't use up a cap.
fn is_person(edge: &Edge, shopper: &Shopper<'_>) -> bool {
    let user_agent = String::from_utf8_lossy(shopper.user_agent);
    edge.bots.judge(cut(&user_agent, MAX_USER_AGENT_BYTES)) == Verdict::Person
}

/// A code that can't be looked up: the click is kept for the processor to resolve, and the shopper goes
/// to the tenant's fallback or is asked to come back.
async fn unresolved(worker: &Worker, ask: &Ask<'_>, code: &str, door: &Door<'_>) -> Reply {
    let reply = elsewhere(door, pages::unavailable);
    if ask.is_head {
        return reply;
    }
    let edge = worker.edge();
    let shopper = ask.shopper;
    let now = edge.clock.now();
    let visitor = Visitor {
        id: None, // no cookie goes out
        ..Visitor::of(edge, ask, now)
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
            host: ask.host.unwrap_or_default().to_owned(),
            ..Click::default()
        };
        let query = ClickQuery::read(ask.query);
        describe(click, edge, shopper, &query, &visitor, now);
        record(&mut worker.clicks.borrow_mut(), click)
    };
    if let Some(safety) = safety {
        safety.within(SYNC_TIMEOUT).await;
    }
    reply
}

/// To the tenant's fallback; where it has none, a page.
fn elsewhere(door: &Door<'_>, page: fn() -> Answer) -> Reply {
    let found = match door.fallback {
        "" => None,
        fallback => Found::new(fallback.to_owned()),
    };
    found.map_or_else(|| Reply::Page(page()), Reply::Found)
}

/// A location that leads nowhere is a page.
fn found(location: Option<String>) -> Reply {
    match location.and_then(Found::new) {
        Some(found) => Reply::Found(found),
        None => Reply::Page(pages::not_found()),
    }
}

fn set_cookies(
    found: &mut Found,
    edge: &Edge,
    link: &ActiveLink,
    choice: &Choice<'_>,
    token: &str,
    visitor: &Visitor,
    host: Option<&str>,
) {
    let domain = link.cookie_domain();
    let domain = domain.and_then(|domain| domain.of_host(host.unwrap_or_default()));
    let window = link.window_seconds;
    // A click that did not reach the merchant's offer earns nothing later.
    if choice.outcome == Outcome::Destination {
        found.set_cookie(|out| edge.cookies.click(token, window, domain, out));
    }
    if let Some(id) = visitor.id {
        found.set_cookie(|out| edge.cookies.visitor(id, domain, out));
    }
}

/// What is known of a click beside its link and outcome.
fn describe(
    click: &mut Click,
    edge: &Edge,
    shopper: &Shopper<'_>,
    query: &ClickQuery<'_>,
    visitor: &Visitor,
    now: DateTime<Utc>,
) {
    click.received_at_us = now.timestamp_micros();
    put_text(
        shopper.user_agent,
        MAX_USER_AGENT_BYTES,
        &mut click.user_agent,
    );
    put_text(shopper.referrer, MAX_REFERRER_BYTES, &mut click.referrer);
    let language = &mut click.accept_language;
    put_text(shopper.accept_language, MAX_ACCEPT_LANGUAGE_BYTES, language);
    click.sub_ids = query.stored_sub_ids();
    let [source, medium, campaign, term, content] = query.utm();
    replace(&mut click.utm_source, source);
    replace(&mut click.utm_medium, medium);
    replace(&mut click.utm_campaign, campaign);
    replace(&mut click.utm_term, term);
    replace(&mut click.utm_content, content);
    click.fetch_dest = shopper.fetch_dest.into();
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
