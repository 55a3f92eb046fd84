//! Where a click goes, through the whole edge: own domains, routes, splits, caps, ends, overrides.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::support::{Edge, TENANT, header};
use reqwest::header::{ACCEPT_LANGUAGE, COOKIE, HOST, USER_AGENT};
use reqwest::{RequestBuilder, Response};
use tributary_shared::events::{Click, Outcome, Topic};
use tributary_shared::links::{Domain, Link, Route, Variant};

const OWN: &str = "go.shop.example";
const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                     Version/17.0 Mobile/15E148 Safari/604.1";

async fn with_link(change: impl FnOnce(&mut Link)) -> Edge {
    let edge = Edge::start().await;
    let mut link = edge.link("https://shop.example/");
    change(&mut link);
    edge.put_link("way", &link).await;
    edge
}

async fn sent_to(request: RequestBuilder) -> String {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 302);
    location(&answer).to_owned()
}

fn location(answer: &Response) -> &str {
    header(answer, "location")[0]
}

fn variant(destination: &str, weight: u32) -> Variant {
    Variant {
        destination: destination.to_owned(),
        weight,
    }
}

#[tokio::test]
async fn a_tenants_own_domain_serves_its_codes_and_its_fallback() {
    let edge = with_link(|link| link.cookie_domain = "shop.example".to_owned()).await;
    edge.put_domain(
        OWN,
        &Domain {
            tenant_id: TENANT.to_wire(),
            fallback_url: "https://shop.example/gone".to_owned(),
        },
    )
    .await;
    let own = |path: &str| {
        edge.get(path)
            .header(HOST, format!("{}:8080", OWN.to_uppercase()))
    };

    let answer = own("/way").send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), location(&answer)),
        (302, "https://shop.example/")
    );
    let cookies = header(&answer, "set-cookie");
    assert!(
        cookies.iter().all(|c| c.contains("; Domain=shop.example;")),
        "{cookies:?}"
    );
    // A browser would throw a cookie away that is for another domain than the host's.
    let shared = edge.get("/r/way").send().await.unwrap();
    assert!(!header(&shared, "set-cookie")[0].contains("Domain"));

    let unknown = own("/nowhere").send().await.unwrap();
    assert_eq!(
        (unknown.status().as_u16(), location(&unknown)),
        (302, "https://shop.example/gone")
    );
    assert!(header(&unknown, "set-cookie").is_empty());
    for path in ["/", "/a/b", "/a.b"] {
        assert_eq!(own(path).send().await.unwrap().status(), 404, "{path}");
    }
    assert_eq!(
        edge.get("/way").send().await.unwrap().status(),
        404,
        "not on a foreign host"
    );
    assert_eq!(edge.events::<Click>(Topic::Clicks, 2).await.len(), 2);
}

#[tokio::test]
async fn routes_are_tried_in_order_and_a_split_sticks() {
    let route = |change: fn(&mut Route), destination: &str| {
        let mut route = Route {
            variants: vec![variant(destination, 1)],
            ..Route::default()
        };
        change(&mut route);
        route
    };
    let edge = with_link(|link| {
        link.routes = vec![
            route(
                |r| r.devices = vec!["mobile".to_owned()],
                "https://shop.example/app",
            ),
            route(
                |r| r.languages = vec!["de".to_owned()],
                "https://shop.example/de",
            ),
        ];
        link.variants = vec![
            variant("https://shop.example/a", 1),
            variant("https://shop.example/b", 1),
        ];
    })
    .await;
    let get = || edge.get("/r/way");
    assert_eq!(
        sent_to(get().header(USER_AGENT, PHONE)).await,
        "https://shop.example/app"
    );
    let german = get().header(ACCEPT_LANGUAGE, "de-AT,en;q=0.5");
    assert_eq!(sent_to(german).await, "https://shop.example/de");

    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut by_visitor: HashMap<String, String> = HashMap::new();
    for n in 0..60_u128 {
        let id = uuid::Uuid::from_u128(n % 20 * 0x1234_5678_9abc_def1);
        let visitor = base64::Engine::encode(
            &base64::engine::general_purpose::URL_SAFE_NO_PAD,
            id.as_bytes(),
        );
        let to = sent_to(get().header(COOKIE, format!("aff_visitor={visitor}"))).await;
        *seen.entry(to.clone()).or_default() += 1;
        match by_visitor.entry(visitor) {
            Entry::Occupied(before) => assert_eq!(*before.get(), to, "it sticks"),
            Entry::Vacant(first) => drop(first.insert(to)),
        }
    }
    assert_eq!(seen.len(), 2, "both variants are used: {seen:?}");
    let clicks: Vec<Click> = edge.events(Topic::Clicks, 62).await;
    assert!(clicks.iter().all(|click| (1..=4).contains(&click.variant)));
}

#[tokio::test]
async fn an_expired_link_leads_to_its_fallback_and_credits_nobody() {
    let edge = with_link(|link| {
        link.expires_at_s = 1;
        link.fallback_url = "https://shop.example/over".to_owned();
    })
    .await;
    let answer = edge.get("/r/way").send().await.unwrap();
    assert_eq!(location(&answer), "https://shop.example/over");
    let cookies = header(&answer, "set-cookie");
    assert!(
        !cookies.iter().any(|c| c.starts_with("aff_click=")),
        "{cookies:?}"
    );
    let click: Click = edge.events(Topic::Clicks, 1).await.remove(0);
    assert_eq!(click.outcome(), Outcome::Expired);
}

#[tokio::test]
async fn a_cap_lets_exactly_so_many_people_through() {
    let edge = with_link(|link| {
        link.click_cap = 5;
        link.fallback_url = "https://shop.example/full".to_owned();
    })
    .await;
    let bot = edge.get("/r/way").header(
        USER_AGENT,
        "Googlebot/2.1 (+http://www.google.com/bot.html)",
    );
    assert_eq!(sent_to(bot).await, "https://shop.example/");
    let clicks = (0..12).map(|_| sent_to(edge.get("/r/way").header(USER_AGENT, PHONE)));
    let to = futures::future::join_all(clicks).await;
    let through = to
        .iter()
        .filter(|to| *to == "https://shop.example/")
        .count();
    assert_eq!(through, 5, "{to:?}");
    // A HEAD is no click and takes nothing.
    let clicks: Vec<Click> = edge.events(Topic::Clicks, 13).await;
    let capped = clicks
        .iter()
        .filter(|c| c.outcome() == Outcome::Capped)
        .count();
    assert_eq!(capped, 7);
}

#[tokio::test]
async fn the_clicks_address_says_more_only_where_it_may() {
    let edge = with_link(|link| {
        link.destination = "https://shop.example/?s={sub1}".to_owned();
        link.pass_query = true;
        link.override_hosts = vec!["*.shop.example".to_owned()];
    })
    .await;
    let to = sent_to(edge.get("/r/way?aff_sub=x&utm_source=mail&color=red%0d%0aA:b&s=mine")).await;
    assert_eq!(
        to,
        "https://shop.example/?s=x&aff_sub=x&utm_source=mail&color=red%0D%0AA%3Ab"
    );
    let over = sent_to(edge.get("/r/way?url=https%3A%2F%2Fwww.shop.example%2Fknife")).await;
    assert!(
        over.starts_with("https://www.shop.example/knife?click_id="),
        "{over}"
    );
    for evil in [
        "https%3A%2F%2Fevil.example%2F",
        "https%3A%2F%2Fwww.shop.example%40evil.example",
        "%2F%2Fevil.example",
        "https%3A%2F%2Fevil.example%5C.shop.example",
        "javascript%3Aalert(1)",
    ] {
        let to = sent_to(edge.get(&format!("/r/way?url={evil}"))).await;
        assert!(to.starts_with("https://shop.example/?s="), "{to}");
    }
    let clicks: Vec<Click> = edge.events(Topic::Clicks, 7).await;
    let first = clicks.iter().find(|c| c.utm_source == "mail").unwrap();
    assert_eq!(first.sub_ids, ["x"]);
}
