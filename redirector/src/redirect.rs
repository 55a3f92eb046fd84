//! `GET /r/{code}`: answers a shopper with a 302 and records the click.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_LANGUAGE, CACHE_CONTROL, HeaderName, HeaderValue, LOCATION, REFERER, REFERRER_POLICY,
    SET_COOKIE, USER_AGENT,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tributary_shared::click_token::ClickToken;
use tributary_shared::events::Click;
use tributary_shared::ids::new_uuid_v7;
use tributary_shared::template::Macro;
use uuid::Uuid;

use crate::record::record;
use crate::resolve::{ActiveLink, Resolution, Space};
use crate::server::{Answer, Worker};
use crate::{Edge, client, cookies, pages};

/// Longest User-Agent, referrer, Accept-Language and sub id that are stored, in bytes.
const MAX_USER_AGENT_BYTES: usize = 512;
const MAX_REFERRER_BYTES: usize = 1024;
const MAX_ACCEPT_LANGUAGE_BYTES: usize = 128;
const MAX_SUB_ID_BYTES: usize = 128;

/// How long a shopper waits for the disk, where the settings say that shoppers do.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);

const SUB_IDS: [&str; 5] = ["sub1", "sub2", "sub3", "sub4", "sub5"];
const ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");

/// Answers a click on `code`. A `HEAD` is answered alike and is not a click.
pub(crate) async fn redirect(
    worker: &Worker,
    request: &Request<Incoming>,
    code: &str,
    peer: IpAddr,
) -> Answer {
    let edge = &*worker.edge;
    let headers = request.headers();
    if client::is_prefetch(headers) {
        return pages::prefetch_refused();
    }
    let link = match edge.resolver.link(Space::Shared, code).await {
        Resolution::Found(link) => link,
        Resolution::Unknown => return pages::not_found(),
        Resolution::Unavailable => return pages::unavailable(),
    };
    let sub_ids = sub_ids(request.uri().query());
    if request.method() == Method::HEAD {
        return found(location(&link, "", &sub_ids));
    }

    let now = edge.clock.now();
    let token = ClickToken::mint(&edge.keys, link.link_id, now);
    let mut answer = found(location(&link, token.as_str(), &sub_ids));
    let set = answer.headers_mut();
    set.append(SET_COOKIE, edge.cookies.click(&token, link.window_seconds));
    // A visitor who opted out is not given a name to be recognised by.
    let opted_out = client::opted_out(headers);
    let visitor =
        (!opted_out).then(|| cookies::visitor(headers).unwrap_or_else(|| new_uuid_v7(now)));
    if let Some(visitor) = visitor {
        set.append(SET_COOKIE, edge.cookies.visitor(visitor));
    }

    let address = (!opted_out).then(|| edge.proxies.client_address(peer, headers));
    let safety = {
        let mut click = worker.scratch.borrow_mut();
        click.received_at_us = now.timestamp_micros();
        replace(&mut click.click_id, token.as_str());
        describe(&mut click, edge, &link, headers, address, visitor);
        click.sub_ids = trimmed(sub_ids);
        record(&mut worker.clicks.borrow_mut(), &click)
    };
    if let Some(safety) = safety {
        // What is late is in the journal all the same; only a power loss could take it.
        safety.within(SYNC_TIMEOUT).await;
    }
    answer
}

/// What is known of a click but its identity. `address` is none when it must not be stored.
fn describe(
    click: &mut Click,
    edge: &Edge,
    link: &ActiveLink,
    headers: &HeaderMap,
    address: Option<IpAddr>,
    visitor: Option<Uuid>,
) {
    click.tenant_id = link.tenant_id.to_wire();
    click.program_id = link.program_id;
    click.affiliate_id = link.affiliate_id;
    click.link_id = link.link_id.to_wire();
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
    click.privacy_opt_out = address.is_none();
    click.visitor_id.clear();
    if let Some(visitor) = visitor {
        click.visitor_id.extend_from_slice(visitor.as_bytes());
    }
    click.fingerprint.clear();
    click.address.clear();
    if let Some(address) = address {
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

#[expect(clippy::expect_used, reason = "a template renders visible ASCII only")]
fn location(link: &ActiveLink, click_id: &str, sub_ids: &[String; 5]) -> HeaderValue {
    let mut location = String::with_capacity(256);
    link.destination
        .render(&mut location, |wanted| match wanted {
            Macro::ClickId => click_id,
            Macro::AffiliateId => &link.affiliate_text,
            Macro::LinkId => &link.link_text,
            Macro::Sub(n) => &sub_ids[n],
        });
    HeaderValue::try_from(location).expect("visible ASCII")
}

/// `sub1`..`sub5` of the query; the first of several counts.
fn sub_ids(query: Option<&str>) -> [String; 5] {
    let mut found: [String; 5] = Default::default();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if let Some(n) = SUB_IDS.iter().position(|sub| *sub == name)
            && found[n].is_empty()
        {
            found[n] = client::cut(&value, MAX_SUB_ID_BYTES).to_owned();
        }
    }
    found
}

/// Without the empty ones at the end.
fn trimmed(sub_ids: [String; 5]) -> Vec<String> {
    let used = sub_ids
        .iter()
        .rposition(|s| !s.is_empty())
        .map_or(0, |last| last + 1);
    sub_ids.into_iter().take(used).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_ids_are_read_and_cut() {
        let query = format!("sub2=a%20b&x=1&sub2=later&sub4={}", "é".repeat(100));
        let subs = sub_ids(Some(&query));
        assert_eq!(subs[1], "a b");
        assert_eq!(subs[3], "é".repeat(64));
        assert_eq!(trimmed(subs).len(), 4);
        assert!(trimmed(sub_ids(None)).is_empty());
    }

    #[test]
    fn a_malformed_query_is_read_as_far_as_it_goes() {
        let subs = sub_ids(Some("sub1=%zz%ff&&=&sub3=%F0%9F%98%80"));
        assert_eq!(subs[0], "%zz\u{fffd}");
        assert_eq!(subs[2], "😀");
    }
}
