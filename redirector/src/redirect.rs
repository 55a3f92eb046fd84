//! `GET /r/{code}`: answers a shopper with a 302 and records the click.

use std::net::IpAddr;

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

use crate::resolve::{ActiveLink, Resolution};
use crate::server::Answer;
use crate::{Edge, client, cookies, pages};

/// Longest User-Agent, referrer, Accept-Language and sub id that are stored, in bytes.
const MAX_USER_AGENT_BYTES: usize = 512;
const MAX_REFERRER_BYTES: usize = 1024;
const MAX_ACCEPT_LANGUAGE_BYTES: usize = 128;
const MAX_SUB_ID_BYTES: usize = 128;

const SUB_IDS: [&str; 5] = ["sub1", "sub2", "sub3", "sub4", "sub5"];
const ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");

/// Answers a click on `code`. A `HEAD` is answered alike and is not a click.
pub(crate) async fn redirect(
    edge: &Edge,
    request: &Request<Incoming>,
    code: &str,
    peer: IpAddr,
) -> Answer {
    let headers = request.headers();
    if client::is_prefetch(headers) {
        return pages::prefetch_refused();
    }
    let link = match edge.resolver.resolve(code).await {
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
    set.append(
        SET_COOKIE,
        edge.cookies.click(&token, link.window_seconds, None),
    );
    // A visitor who opted out is not given a name to be recognised by.
    let opted_out = client::opted_out(headers);
    let visitor =
        (!opted_out).then(|| cookies::visitor(headers).unwrap_or_else(|| new_uuid_v7(now)));
    if let Some(visitor) = visitor {
        set.append(SET_COOKIE, edge.cookies.visitor(visitor, None));
    }

    let address = edge.proxies.client_address(peer, headers);
    let click = Click {
        click_id: token.to_string(),
        received_at_us: now.timestamp_micros(),
        sub_ids: trimmed(sub_ids),
        ..describe(
            edge,
            &link,
            headers,
            (!opted_out).then_some(address),
            visitor,
        )
    };
    edge.clicks.record(&click);
    answer
}

/// What is known of a click but its identity. `address` is none when it must not be stored.
fn describe(
    edge: &Edge,
    link: &ActiveLink,
    headers: &HeaderMap,
    address: Option<IpAddr>,
    visitor: Option<Uuid>,
) -> Click {
    let user_agent = client::text(headers, USER_AGENT, MAX_USER_AGENT_BYTES);
    let accept_language = client::text(headers, ACCEPT_LANGUAGE, MAX_ACCEPT_LANGUAGE_BYTES);
    let fingerprint = address.map(|a| edge.fingerprinter.of(a, &user_agent, &accept_language));
    Click {
        tenant_id: link.tenant_id.to_wire(),
        program_id: link.program_id,
        affiliate_id: link.affiliate_id,
        link_id: link.link_id.to_wire(),
        visitor_id: visitor.map_or_else(Vec::new, |v| v.as_bytes().to_vec()),
        fingerprint: fingerprint.map_or_else(Vec::new, |f| f.to_vec()),
        address: match address {
            Some(IpAddr::V4(v4)) => v4.octets().to_vec(),
            Some(IpAddr::V6(v6)) => v6.octets().to_vec(),
            None => Vec::new(),
        },
        user_agent,
        referrer: client::text(headers, REFERER, MAX_REFERRER_BYTES),
        accept_language,
        privacy_opt_out: address.is_none(),
        ..Click::default()
    }
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
