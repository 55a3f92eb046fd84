//! `GET /pixel.gif`: takes a conversion from a shopper's browser by an image.
//!
//! The tenant's publishable key stands in `key`, the parameters of a report in the query. Without
//! `click_id` the click is the one of the cookie `aff_click`, which a browser sends when the image
//! comes from the host (or a host under the domain) that redirected the shopper.
//!
//! The answer is always the image, so that no page breaks: browsers show one whatever its status.
//! The status is the true one, 200 only once the conversion is safe; the header `Tributary-Error` and
//! the metric say why a report was refused. An image is asked for without `Origin`; where the
//! browser names the page in `Referer`, it must be one of the tenant's.

use std::net::IpAddr;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use tributary_shared::events::Source;
use tributary_shared::reports::Report;

use crate::author::Author;
use crate::conversion::Refusal;
use crate::server::Answer;
use crate::{Edge, cors, intake, pages};

/// One transparent dot.
const GIF: &[u8; 43] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff\
    !\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

const ERROR: HeaderName = HeaderName::from_static("tributary-error");

/// Takes one conversion from a browser at `peer`, and answers with the image.
pub(crate) async fn pixel(edge: &Edge, request: &Request<Incoming>, peer: IpAddr) -> Answer {
    let outcome = accept(edge, request, peer).await;
    intake::count(Source::Pixel, &outcome);
    let status = outcome
        .as_ref()
        .map_or_else(Refusal::status, |_| StatusCode::OK);
    let mut answer = pages::answer(status, "image/gif", Bytes::from_static(GIF));
    cors::embeddable(&mut answer);
    if let Err(refusal) = outcome {
        let headers = answer.headers_mut();
        headers.insert(ERROR, HeaderValue::from_static(refusal.code()));
        intake::explain(&mut answer, &refusal);
    }
    answer
}

async fn accept(edge: &Edge, request: &Request<Incoming>, peer: IpAddr) -> Result<String, Refusal> {
    let headers = request.headers();
    let query = request.uri().query().unwrap_or_default();
    let (mut report, key) = Report::from_form(query, b"", "key");
    let key = key.ok_or(Refusal::KeyMissing)?;
    let (tenant, owner) = intake::publishable(edge, &key).await?;
    let foreign = match cors::referring_origin(headers) {
        Some(origin) => cors::check(&origin, &owner).err(),
        None => None,
    };
    report.remember_click(intake::remembered_click(edge, headers));
    let author = Author {
        tenant,
        credential: &key,
        source: Source::Pixel,
        headers,
        peer,
    };
    intake::take(edge, &author, &report, foreign).await
}
