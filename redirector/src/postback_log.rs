//! The log of reports: each one whose author is known, taken or refused, for its tenant to read.
//!
//! Best effort, so that it costs no conversion anything: a lane of its own in the journal, for which nobody waits
//! and which never takes room from clicks and conversions, and of what one token or key has refused only
//! so much a second. What is left out is counted.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use prost::Message as _;
use tributary_shared::events::postback_logged::{Door, Verdict};
use tributary_shared::events::{PostbackLogged, Source};
use tributary_shared::ids::new_uuid_v7;
use tributary_shared::names;
use tributary_shared::reports::webhooks::Nothing;
use tributary_shared::reports::{Parameter, Report, status, status_name};

use crate::Edge;
use crate::author::Author;
use crate::client::cut;
use crate::conversion::Refusal;
use crate::journal::Lane;
use crate::limits::ReportLimits;

/// Reports by one token, key or source that were not taken and are logged, a second.
const MAX_REFUSED_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
/// Longest text of a parameter and of a message that is logged, in bytes; longer ones are cut.
const MAX_TEXT_BYTES: usize = 512;

/// What became of a report.
#[derive(Clone, Copy)]
pub(crate) enum Became<'o> {
    /// The conversion's id; empty where only the processor can tell which one it is.
    Taken(&'o str),
    Refused(&'o Refusal),
    Ignored(Nothing),
}

impl<'o> Became<'o> {
    pub(crate) fn of(outcome: &'o Result<String, Refusal>) -> Self {
        match outcome {
            Ok(conversion_id) => Self::Taken(conversion_id),
            Err(refusal) => Self::Refused(refusal),
        }
    }

    fn why(self) -> (&'static str, String) {
        match self {
            Self::Taken(_) => ("", String::new()),
            Self::Refused(refusal) => (refusal.code(), refusal.to_string()),
            Self::Ignored(nothing) => (nothing.code(), nothing.to_string()),
        }
    }
}

/// Writes the log.
pub(crate) struct PostbackLog {
    lane: Mutex<Lane>,
    refused: ReportLimits,
}

impl PostbackLog {
    pub(crate) fn new(lane: Lane) -> Self {
        Self {
            lane: Mutex::new(lane),
            refused: ReportLimits::new(MAX_REFUSED_PER_SECOND),
        }
    }

    /// Writes down what became of a report, and waits for nothing.
    pub(crate) fn write(
        &self,
        edge: &Edge,
        author: &Author<'_>,
        report: &Report<'_>,
        became: Became<'_>,
    ) {
        if !matches!(became, Became::Taken(_)) && self.refused.take(author.credential).is_err() {
            return left_out("rate");
        }
        let (address, user_agent) = author.for_log(edge);
        let logged = PostbackLogged {
            address,
            user_agent,
            ..logged(author, report, became, edge.clock.now())
        };
        let mut lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        let appended = lane.append(logged.encoded_len(), |mut out| logged.encode_raw(&mut out));
        if appended.is_err() {
            left_out("journal");
        }
    }
}

fn left_out(reason: &'static str) {
    metrics::counter!(names::POSTBACKS_UNLOGGED, "reason" => reason).increment(1);
}

fn logged(
    author: &Author<'_>,
    report: &Report<'_>,
    became: Became<'_>,
    now: DateTime<Utc>,
) -> PostbackLogged {
    let text = |text: &str| cut(text, MAX_TEXT_BYTES).to_owned();
    let said = |parameter| text(report.get(parameter).unwrap_or_default());
    let door = match author.source {
        Source::Postback => Door::Postback,
        Source::Pixel => Door::Pixel,
        Source::Event => Door::Event,
        Source::Webhook => Door::Webhook,
    };
    let (verdict, conversion_id) = match became {
        Became::Taken(id) => (Verdict::Taken, id),
        Became::Refused(_) => (Verdict::Refused, ""),
        Became::Ignored(_) => (Verdict::Ignored, ""),
    };
    let (reason, message) = became.why();
    PostbackLogged {
        id: new_uuid_v7(now).to_string(),
        received_at_us: now.timestamp_micros(),
        tenant_id: author.tenant.to_wire(),
        door: door.into(),
        verdict: verdict.into(),
        reason: reason.to_owned(),
        message: text(&message),
        conversion_id: conversion_id.to_owned(),
        order_id: said(Parameter::OrderId),
        event: match conversion_id {
            "" => said(Parameter::Event),
            _ => report.event().to_owned(),
        },
        status: match report.get(Parameter::Status).and_then(status) {
            Some(status) => status_name(status).to_owned(),
            None => said(Parameter::Status),
        },
        click_id: said(Parameter::ClickId),
        query: report.received().to_owned(),
        ..PostbackLogged::default()
    }
}
