//! `GET|POST /postback`: takes a conversion from a merchant's server, and answers 200 only once it
//! is safe.
//!
//! The tenant's postback token stands in `token` or in `Authorization: Bearer`; the parameters of
//! `conversion` stand in the query, in a form body, or both.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request};
use tributary_shared::events::Source;

use crate::conversion::{Refusal, Report};
use crate::resolve::Resolution;
use crate::server::Answer;
use crate::{Edge, intake};

/// The media type of a form.
const FORM: &str = "application/x-www-form-urlencoded";

/// Takes one postback.
pub(crate) async fn postback(edge: &Edge, request: Request<Incoming>) -> Answer {
    let outcome = accept(edge, request).await;
    intake::count(Source::Postback, &outcome);
    intake::answer(&outcome)
}

async fn accept(edge: &Edge, request: Request<Incoming>) -> Result<String, Refusal> {
    let (head, body) = request.into_parts();
    let form = match head.method {
        Method::POST => intake::body(&head.headers, body, &[FORM], FORM).await?,
        _ => Bytes::new(),
    };
    let (report, token) = Report::parse(head.uri.query().unwrap_or_default(), &form, "token")?;
    let token = intake::bearer(&head.headers)
        .map(Cow::Borrowed)
        .or(token)
        .ok_or(Refusal::TokenMissing)?;
    let tenant = match edge.resolver.tenant_of(&token).await {
        Resolution::Found(tenant) => tenant,
        Resolution::Unknown => return Err(Refusal::TokenUnknown),
        Resolution::Unavailable => return Err(Refusal::NotStored),
    };
    intake::store(edge, &report, tenant, Source::Postback).await
}
