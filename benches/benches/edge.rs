//! What one click costs the edge, piece by piece, without sockets: CPU time of one thread.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark whose set-up fails has nothing to measure"
)]

use std::hint::black_box;

use chrono::{DateTime, Utc};
use criterion::{Criterion, criterion_group, criterion_main};
use prost::Message as _;
use tributary_shared::click_token::{ClickToken, Place, verify};
use tributary_shared::events::{Click, Link};
use tributary_shared::ids::{LinkId, TenantId, conversion_id};
use tributary_shared::money::Money;
use tributary_shared::secrets::KeyRing;
use tributary_shared::template::Template;

const DESTINATION: &str =
    "https://shop.example/knives/chef?click_id={click_id}&partner={affiliate_id}&s={sub1}";
const USER_AGENT: &str = "Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/32.0.1700.107 Safari/537.36";

fn keys() -> KeyRing {
    format!("1:{}", hex::encode([7; 32])).parse().unwrap()
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_795_000_000_000).unwrap()
}

fn tokens(c: &mut Criterion) {
    let (keys, now) = (keys(), now());
    let token = ClickToken::mint(&keys, LinkId(42), now);
    c.bench_function("click token, mint", |b| {
        b.iter(|| ClickToken::mint(black_box(&keys), LinkId(42), now));
    });
    let segment = "a1b2c3d4-e5f6-4711-8a9b-0c1d2e3f4a5b".parse().unwrap();
    let mut sequence = 0;
    c.bench_function("click token, of its place", |b| {
        b.iter(|| {
            sequence += 1;
            let place = Place { segment, sequence };
            ClickToken::of(black_box(&keys), LinkId(42), now, black_box(place))
        });
    });
    c.bench_function("click token, verify", |b| {
        b.iter(|| verify(black_box(&keys), black_box(token.as_str())));
    });
}

fn destinations(c: &mut Criterion) {
    let template = Template::parse(DESTINATION).unwrap();
    let token = ClickToken::mint(&keys(), LinkId(42), now());
    c.bench_function("destination, compile", |b| {
        b.iter(|| Template::parse(black_box(DESTINATION)));
    });
    c.bench_function("destination, render", |b| {
        b.iter(|| {
            let mut out = String::with_capacity(256);
            black_box(&template).render(&mut out, |_| token.as_str());
            out
        });
    });
}

fn events(c: &mut Criterion) {
    let link = Link {
        link_id: 42,
        tenant_id: 1,
        program_id: 1,
        affiliate_id: 7,
        destination: DESTINATION.to_owned(),
        window_seconds: 2_592_000,
        ..Link::default()
    };
    let encoded = link.encode_to_vec();
    c.bench_function("link, decode", |b| {
        b.iter(|| Link::decode(black_box(encoded.as_slice())))
    });

    let click = Click {
        click_id: ClickToken::mint(&keys(), LinkId(42), now()).to_string(),
        received_at_us: now().timestamp_micros(),
        tenant_id: 1,
        program_id: 1,
        affiliate_id: 7,
        link_id: 42,
        visitor_id: vec![1; 16],
        fingerprint: vec![2; 16],
        address: vec![203, 0, 113, 9],
        user_agent: USER_AGENT.to_owned(),
        referrer: "https://blog.example/the-ten-best-knives".to_owned(),
        accept_language: "en-US,en;q=0.8".to_owned(),
        sub_ids: vec!["newsletter".to_owned()],
        ..Click::default()
    };
    c.bench_function("click event, encode", |b| {
        b.iter(|| black_box(&click).encode_to_vec())
    });
}

fn conversions(c: &mut Criterion) {
    c.bench_function("amount, parse", |b| {
        b.iter(|| Money::parse(black_box("1249.95"), "USD"))
    });
    let (amount, percent) = (
        Money::parse("1249.95", "USD").unwrap(),
        "12.5".parse().unwrap(),
    );
    c.bench_function("commission, percent", |b| {
        b.iter(|| black_box(amount).percent(percent))
    });
    c.bench_function("conversion id", |b| {
        b.iter(|| conversion_id(TenantId(1), black_box("A-2026-000123"), "sale"));
    });
}

criterion_group!(edge, tokens, destinations, events, conversions);
criterion_main!(edge);
