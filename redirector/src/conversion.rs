//! A conversion on its way in: why a door does not take it, and how it becomes safe. It counts as taken
//! only once it is on the disk or Kafka holds it. What a report may say stands in
//! `tributary_shared::reports`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use prost::Message as _;
use tributary_shared::events::Conversion;
use tributary_shared::reports;
use tributary_shared::reports::webhooks::BadSignature;

use crate::journal::Lane;

/// How long the disk or Kafka may take to make it safe.
const SAFE_TIMEOUT: Duration = Duration::from_secs(8);

/// Why a report was not taken: the `error` and `message` of the answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("send the tenant's postback token as token= or as Authorization: Bearer")]
    TokenMissing,
    #[error("this postback token is unknown or was revoked")]
    TokenUnknown,
    #[error("send the tenant's publishable key as key= or as Authorization: Bearer")]
    KeyMissing,
    #[error("this publishable key is unknown or was revoked")]
    KeyUnknown,
    #[error("there is no webhook source of this address, or it was deleted")]
    SourceUnknown,
    #[error(transparent)]
    Signature(#[from] BadSignature),
    #[error("{0} is not among the origins of this publishable key")]
    OriginUnknown(String),
    #[error("too many reports by this publishable key; send it again in {} s", .0.as_secs())]
    TooMany(Duration),
    #[error("the body must be {0}")]
    BodyType(&'static str),
    #[error("the body must be at most {0} bytes")]
    BodyTooLarge(usize),
    #[error("the body did not arrive whole within {} s", .0.as_secs())]
    BodyIncomplete(Duration),
    #[error(transparent)]
    Report(#[from] reports::Refusal),
    #[error("the conversion could not be stored; send it again, it will be counted once")]
    NotStored,
}

impl Refusal {
    /// A stable name for programs, and for the metric.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::TokenMissing => "token_missing",
            Self::TokenUnknown => "token_unknown",
            Self::KeyMissing => "key_missing",
            Self::KeyUnknown => "key_unknown",
            Self::SourceUnknown => "source_unknown",
            Self::Signature(bad) => bad.code(),
            Self::OriginUnknown(_) => "origin_unknown",
            Self::TooMany(_) => "too_many",
            Self::BodyType(_) => "body_type",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::BodyIncomplete(_) => "body_incomplete",
            Self::Report(refusal) => refusal.code(),
            Self::NotStored => "not_stored",
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::TokenMissing
            | Self::TokenUnknown
            | Self::KeyMissing
            | Self::KeyUnknown
            | Self::Signature(_) => StatusCode::UNAUTHORIZED,
            Self::SourceUnknown => StatusCode::NOT_FOUND,
            Self::OriginUnknown(_) => StatusCode::FORBIDDEN,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyIncomplete(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Report(_) => StatusCode::BAD_REQUEST,
            Self::NotStored => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Writes conversions into the journal and waits until they are safe.
pub(crate) struct ConversionPublisher(Mutex<Lane>);

impl ConversionPublisher {
    /// All workers share one lane, so that what is said about one order stays in order.
    pub(crate) fn new(lane: Lane) -> Self {
        Self(Mutex::new(lane))
    }

    /// Returns once the conversion is on the disk or with Kafka.
    ///
    /// # Errors
    /// [`Refusal::NotStored`]; it may be stored all the same.
    pub(crate) async fn publish(&self, conversion: &Conversion) -> Result<(), Refusal> {
        let safety = {
            let mut lane = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let appended = lane.append(conversion.encoded_len(), |mut out| {
                conversion.encode_raw(&mut out);
            });
            appended.ok().and_then(|appended| appended.safety())
        };
        let safe = match safety {
            Some(safety) => safety.within(SAFE_TIMEOUT).await,
            None => false,
        };
        if safe {
            return Ok(());
        }
        tracing::warn!("a conversion was not safe in time; its sender was asked to repeat it");
        Err(Refusal::NotStored)
    }
}
