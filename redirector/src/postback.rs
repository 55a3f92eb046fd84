//! `GET|POST /postback`: takes a conversion from a merchant's server, and answers 200 only once it
//! is safe.
//!
//! The tenant's postback token stands in `token` or in `Authorization: Bearer`; the parameters of a report
//! (`tributary_shared::reports`) stand in the query, in a form body, or both.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request};
use tributary_shared::events::Source;
use tributary_shared::ids::TenantId;
use tributary_shared::reports::Report;

use crate::author::Author;
use crate::conversion::Refusal;
use crate::resolve::Resolution;
use crate::server::Answer;
use crate::{Edge, intake};

/// The media type of a form.
const FORM: &str = "application/x-www-form-urlencoded";

/// Takes one postback that `peer` sent.
pub(crate) async fn postback(edge: &Edge, request: Request<Incoming>, peer: IpAddr) -> Answer {
    let outcome = accept(edge, request, peer).await;
    intake::count(Source::Postback, &outcome);
    intake::answer(&outcome)
}

async fn accept(edge: &Edge, request: Request<Incoming>, peer: IpAddr) -> Result<String, Refusal> {
    let (head, body) = request.into_parts();
    let form = match head.method {
        Method::POST => intake::body(&head.headers, body, &[FORM], FORM).await,
        _ => Ok(Bytes::new()),
    };
    let (form, unread) = match form {
        Ok(form) => (form, None),
        Err(refusal) => (Bytes::new(), Some(refusal)),
    };
    let query = head.uri.query().unwrap_or_default();
    let (report, token) = Report::from_form(query, &form, "token");
    let token = intake::bearer(&head.headers).map(Cow::Borrowed).or(token);
    let (tenant, token) = match tenant(edge, token).await {
        Ok(known) => known,
        // Where the body was not read, what is wrong with it says more.
        Err(refusal) => return Err(unread.unwrap_or(refusal)),
    };
    let author = Author {
        tenant,
        credential: &token,
        source: Source::Postback,
        headers: &head.headers,
        peer,
    };
    intake::take(edge, &author, &report, unread).await
}

/// Whose token it is.
async fn tenant<'t>(
    edge: &Edge,
    token: Option<Cow<'t, str>>,
) -> Result<(TenantId, Cow<'t, str>), Refusal> {
    let token = token.ok_or(Refusal::TokenMissing)?;
    match edge.resolver.tenant_of(&token).await {
        Resolution::Found(tenant) => Ok((tenant, token)),
        Resolution::Unknown => Err(Refusal::TokenUnknown),
        Resolution::Unavailable => Err(Refusal::NotStored),
    }
}
