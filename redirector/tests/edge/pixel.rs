//! Conversions by an image, over real sockets, Redis and Kafka.

use crate::support::{Edge, TENANT, click_id, forged_click_id, header};
use reqwest::Response;
use tributary_shared::customers::customer_hash;
use tributary_shared::events::{Click, Conversion, Source, Topic};
use tributary_shared::ids::conversion_id;

const SHOP: &str = "https://shop.example";

/// Status and error of an answer that must be the image.
async fn image(answer: Response) -> (u16, Option<String>) {
    let status = answer.status().as_u16();
    assert_eq!(header(&answer, "content-type"), ["image/gif"]);
    assert_eq!(header(&answer, "cache-control"), ["no-store"]);
    let policy = header(&answer, "cross-origin-resource-policy");
    assert_eq!(policy, ["cross-origin"]);
    let error = header(&answer, "tributary-error");
    let error = error.first().map(|code| (*code).to_owned());
    let gif = answer.bytes().await.unwrap();
    assert_eq!((gif.len(), &gif[..6]), (43, b"GIF89a".as_slice()));
    (status, error)
}

#[tokio::test]
async fn a_conversion_is_taken_by_image() {
    let edge = Edge::start().await;
    let key = edge.publishable_key(&[SHOP]).await;
    let (named, kept) = (click_id(), click_id());
    let path = format!("/pixel.gif?key={key}&amount=49.90&currency=USD");

    // The click that is named counts before the one of the cookie, which counts before none.
    let requests = [
        (format!("&order_id=A&click_id={named}"), &kept),
        ("&order_id=B&event=lead&click_id=".to_owned(), &kept),
        (
            "&order_id=C&customer_id=C-7&new_customer=false".to_owned(),
            &forged_click_id(),
        ),
    ];
    for (rest, cookie) in requests {
        let request = edge
            .get(&format!("{path}{rest}"))
            .header("Referer", format!("{SHOP}/thanks"))
            .header("Cookie", format!("a=b; aff_click={cookie}"));
        let answer = request.send().await.unwrap();
        assert_eq!(image(answer).await, (200, None), "{rest}");
    }

    let mut events = edge.events::<Conversion>(Topic::Conversions, 3).await;
    events.sort_by(|a, b| a.order_id.cmp(&b.order_id));
    let clicks: Vec<&str> = events.iter().map(|e| e.click_id.as_str()).collect();
    assert_eq!(clicks, [named.as_str(), kept.as_str(), ""]);
    assert!(events.iter().all(|e| e.source() == Source::Pixel));
    assert_eq!(events[1].customer_id, b"");
    assert_eq!(events[2].customer_id, customer_hash(TENANT, "C-7"));
    assert_eq!(events[2].new_customer, Some(false));
    assert!(events.iter().all(|e| e.tenant_id == TENANT.to_wire()));
    assert_eq!(
        events[1].conversion_id,
        conversion_id(TENANT, "B", "lead").to_string()
    );
    let (_, metrics) = edge.operations("/metrics").await;
    assert!(metrics.contains("tributary_click_cookies_ignored_total"));
}

#[tokio::test]
async fn a_browser_that_reports_is_known_as_the_one_that_clicked() {
    let edge = Edge::start().await;
    let key = edge.publishable_key(&[SHOP]).await;
    let as_shopper = |path: &str| {
        edge.get(path)
            .header("User-Agent", "Firefox")
            .header("Accept-Language", "de")
            .header("X-Forwarded-For", "203.0.113.9")
    };
    let clicked = as_shopper("/r/demo").send().await.unwrap();
    let cookies = header(&clicked, "set-cookie");
    let pairs = cookies.iter().map(|c| c.split(';').next().unwrap());
    let cookies = pairs.collect::<Vec<_>>().join("; ");
    let click: Click = edge.events(Topic::Clicks, 1).await.remove(0);

    let order = format!("amount=1&currency=USD&ip=192.0.2.1&user_agent=forged&key={key}");
    let pixel = as_shopper(&format!("/pixel.gif?{order}&order_id=A"));
    let pixel = pixel.header("Cookie", &cookies).send().await.unwrap();
    assert_eq!(image(pixel).await, (200, None));
    let event = edge.post("/v1/events").header("Cookie", &cookies);
    let event = event
        .header("User-Agent", "Firefox")
        .header("Accept-Language", "de")
        .header("X-Forwarded-For", "203.0.113.9")
        .body(format!(
            r#"{{"key":"{key}","order_id":"B","revenue":1,"currency":"USD"}}"#
        ));
    assert_eq!(event.send().await.unwrap().status(), 200);
    let untracked = as_shopper(&format!("/pixel.gif?{order}&order_id=C"));
    let untracked = untracked.header("Cookie", &cookies).header("Sec-GPC", "1");
    assert_eq!(image(untracked.send().await.unwrap()).await, (200, None));

    let mut events: Vec<Conversion> = edge.events(Topic::Conversions, 3).await;
    events.sort_by(|a, b| a.order_id.cmp(&b.order_id));
    for event in &events[..2] {
        assert_eq!(event.click_id, click.click_id);
        assert_eq!(event.visitor_id, click.visitor_id);
        assert_eq!(event.fingerprint, click.fingerprint);
        assert_eq!(event.address, click.address);
        assert_eq!(event.user_agent, "Firefox");
    }
    assert_eq!(click.visitor_id.len(), 16);
    assert_eq!(events[2].click_id, click.click_id);
    let unknown = (events[2].visitor_id.len(), events[2].fingerprint.len());
    assert_eq!(unknown, (0, 0));
    assert_eq!((events[2].address.len(), &*events[2].user_agent), (0, ""));
}

#[tokio::test]
async fn a_refused_image_is_an_image_that_says_why() {
    let edge = Edge::start().await;
    let key = edge.publishable_key(&[SHOP]).await;
    let other = tributary_shared::secrets::new_token("trk_pub_");
    let order = "order_id=A&amount=1&currency=USD";
    let forged = forged_click_id();
    for (query, status, error) in [
        (order.to_owned(), 401, "key_missing"),
        (format!("{order}&key={other}"), 401, "key_unknown"),
        (format!("{order}&key=%0A"), 401, "key_unknown"),
        (
            format!("{order}&key={key}&key={key}"),
            400,
            "parameter_repeated",
        ),
        (
            format!("amount=1&currency=USD&key={key}"),
            400,
            "parameter_missing",
        ),
        (
            format!("{order}&key={key}&customer_id=%0A"),
            400,
            "customer_id_invalid",
        ),
        (
            format!("{order}&key={key}&click_id=x"),
            400,
            "click_id_malformed",
        ),
        (
            format!("{order}&key={key}&click_id={forged}"),
            400,
            "click_id_foreign",
        ),
    ] {
        let answer = edge
            .get(&format!("/pixel.gif?{query}"))
            .send()
            .await
            .unwrap();
        let refused = (status, Some(error.to_owned()));
        assert_eq!(image(answer).await, refused, "{query}");
    }
    let elsewhere = edge
        .get(&format!("/pixel.gif?{order}&key={key}"))
        .header("Referer", "https://elsewhere.example/");
    let refused = (403, Some("origin_unknown".to_owned()));
    assert_eq!(image(elsewhere.send().await.unwrap()).await, refused);
    let post = edge.post(&format!("/pixel.gif?{order}&key={key}"));
    assert_eq!(post.send().await.unwrap().status(), 405);
    edge.events::<Conversion>(Topic::Conversions, 0).await;
}
