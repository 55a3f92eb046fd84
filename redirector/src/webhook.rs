//! `POST /webhooks/{source}`: takes the webhooks of a tenant's shop or payment system, on any host, and answers 200 only once
//! all that they say of orders is safe.
//!
//! The source's public id says whose they are and nothing more: what counts is the signature over the body
//! (`tributary_shared::reports::webhooks`). The secrets stand sealed in the edge index, and are opened for
//! one request. What a webhook says that has nothing to do with orders is answered with 200 as well, so that it is
//! not sent again.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, StatusCode};
use serde_json::json;
use tributary_shared::events::Source;
use tributary_shared::ids::TenantId;
use tributary_shared::links::{WebhookSource, webhook_purpose};
use tributary_shared::names;
use tributary_shared::reports::Report;
use tributary_shared::reports::webhooks::{self, Kind, MAX_WEBHOOK_BYTES, Nothing, Said};
use tributary_shared::sealing::SealingKeys;

use crate::author::Author;
use crate::conversion::Refusal;
use crate::postback_log::Became;
use crate::resolve::Resolution;
use crate::server::Answer;
use crate::{Edge, intake};

/// Where webhooks come; the source's public id follows.
pub(crate) const PATH: &str = "/webhooks/";
/// How long a body may take to arrive: their senders give up after 5 to 30 s, and send it again.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of a webhook.
enum Outcome {
    /// The conversions that it is about, but those that only the processor can tell.
    Taken(Vec<String>),
    Ignored(Nothing),
}

/// Takes one webhook that `peer` sent.
pub(crate) async fn webhook(edge: &Edge, request: Request<Incoming>, peer: IpAddr) -> Answer {
    match accept(edge, request, peer).await {
        Ok(Outcome::Taken(conversion_ids)) => intake::json_answer(
            StatusCode::OK,
            &json!({"status": "accepted", "conversion_ids": conversion_ids}),
        ),
        Ok(Outcome::Ignored(why)) => intake::json_answer(
            StatusCode::OK,
            &json!({"status": "ignored", "reason": why.code(), "message": why.to_string()}),
        ),
        Err(refusal) => intake::answer(&Err(refusal)),
    }
}

async fn accept(edge: &Edge, request: Request<Incoming>, peer: IpAddr) -> Result<Outcome, Refusal> {
    let (head, body) = request.into_parts();
    let id = head.uri.path().strip_prefix(PATH).unwrap_or_default();
    let known = match edge.resolver.webhook(id).await {
        Resolution::Found(known) => Some(known),
        Resolution::Unknown => None,
        Resolution::Unavailable => return Err(counted(Refusal::NotStored)),
    };
    // The resolver hands out sources of tenants only.
    let known = known.and_then(|source| Some((TenantId::from_wire(source.tenant_id)?, source)));
    let (tenant, source) = known.ok_or_else(|| counted(Refusal::SourceUnknown))?;
    let author = Author {
        tenant,
        credential: id,
        source: Source::Webhook,
        headers: &head.headers,
        peer,
    };
    let body = intake::collect(body, MAX_WEBHOOK_BYTES, BODY_TIMEOUT).await;
    let read = body.and_then(|body| {
        let signed = Signed {
            id,
            source: &source,
            headers: &head.headers,
            body,
        };
        signed.read(&edge.sealing, edge.clock.now())
    });
    match read {
        Err(refusal) => {
            let outcome = Became::Refused(&refusal);
            edge.log.write(edge, &author, &Report::default(), outcome);
            Err(counted(refusal))
        }
        Ok(Said::Nothing(report, why)) => {
            edge.log.write(edge, &author, &report, Became::Ignored(why));
            metrics::counter!(names::CONVERSIONS_REPORTED, "source" => "webhook", "outcome" => why.code())
                .increment(1);
            Ok(Outcome::Ignored(why))
        }
        Ok(Said::Orders(reports)) => take(edge, &author, &reports).await,
    }
}

/// Takes each report; what was taken before one that is refused comes again, and counts once.
async fn take(
    edge: &Edge,
    author: &Author<'_>,
    reports: &[Report<'_>],
) -> Result<Outcome, Refusal> {
    let mut conversions = Vec::with_capacity(reports.len());
    let mut refused = None;
    for report in reports {
        let outcome = intake::take(edge, author, report, None).await;
        intake::count(Source::Webhook, &outcome);
        match outcome {
            Ok(conversion) => conversions.extend(Some(conversion).filter(|id| !id.is_empty())),
            Err(refusal) => refused = refused.or(Some(refusal)),
        }
    }
    match refused {
        Some(refusal) => Err(refusal),
        None => Ok(Outcome::Taken(conversions)),
    }
}

fn counted(refusal: Refusal) -> Refusal {
    intake::count::<()>(Source::Webhook, &Err(refusal.clone()));
    refusal
}

/// A webhook with the signature that it claims.
struct Signed<'r> {
    id: &'r str,
    source: &'r WebhookSource,
    headers: &'r HeaderMap,
    body: Bytes,
}

impl Signed<'_> {
    /// What it says, if its sender signed it.
    fn read(&self, keys: &SealingKeys, now: DateTime<Utc>) -> Result<Said, Refusal> {
        let Some(kind) = Kind::from_wire(self.source.kind()) else {
            tracing::error!("a webhook's source is of a kind that this redirector does not know");
            return Err(Refusal::NotStored);
        };
        let header = |name: &str| self.headers.get(name).map(|value| value.as_bytes());
        let secrets = self.secrets(keys, now)?;
        let signature = header(kind.signature_header());
        webhooks::check_signature(kind, signature, &secrets, &self.body, now)?;
        let topic = kind.topic_header().and_then(header);
        let topic = topic.and_then(|topic| std::str::from_utf8(topic).ok());
        Ok(webhooks::read(kind, topic, &self.body)?)
    }

    /// The secrets that count now.
    fn secrets(&self, keys: &SealingKeys, now: DateTime<Utc>) -> Result<Vec<Vec<u8>>, Refusal> {
        let counts = |ends_at_s: i64| ends_at_s == 0 || now.timestamp() < ends_at_s;
        let valid = self.source.secrets.iter();
        let valid = valid.filter(|secret| counts(secret.ends_at_s));
        let opened = valid.map(|secret| keys.open(&webhook_purpose(self.id), &secret.sealed));
        let mut secrets = Vec::new();
        let mut closed = None;
        for opened in opened {
            match opened {
                Ok(secret) => secrets.push(secret),
                Err(error) => closed = Some(error),
            }
        }
        if let Some(error) = closed {
            tracing::error!(%error, "a webhook's secret can't be opened; its sender was asked to repeat it");
            if secrets.is_empty() {
                return Err(Refusal::NotStored); // ours to mend: it comes again
            }
        }
        Ok(secrets)
    }
}
