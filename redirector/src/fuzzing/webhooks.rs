//! Webhooks: no signature but the right one is believed, and what is read of a body is bounded.

use chrono::{DateTime, Utc};
use prost::Message as _;
use tributary_shared::events::Source;
use tributary_shared::ids::TenantId;
use tributary_shared::orders::is_order_id;
use tributary_shared::reports::Report;
use tributary_shared::reports::webhooks::{
    Kind, MAX_NAMES, MAX_REPORTS, Said, check_signature, read, sign,
};

/// What signs in the corpus.
const SECRET: &[u8] = b"whsec_fuzz";
/// When the corpus was signed, in seconds since 1970.
const NOW: i64 = 1_763_000_000;
/// Longest conversion of a webhook, in bytes: half of what the journal takes.
const MAX_CONVERSION_BYTES: usize = 32 * 1024;

/// A topic of Shopify's (none: Stripe), the header with the signature, and then the body.
pub fn webhooks(input: &[u8]) {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let topic = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let header = lines.next().unwrap_or_default();
    let body = lines.next().unwrap_or_default();
    let kind = match &*topic {
        "" => Kind::Stripe,
        _ => Kind::Shopify,
    };
    signature(kind, header, body);
    said(kind, &topic, body);
}

fn signature(kind: Kind, header: &[u8], body: &[u8]) {
    let now = DateTime::from_timestamp(NOW, 0).unwrap_or_default();
    let secrets = [SECRET.to_vec()];
    if check_signature(kind, Some(header), &secrets, body, now).is_ok() {
        let header = String::from_utf8_lossy(header);
        let time = header
            .split(',')
            .find_map(|part| part.trim().strip_prefix("t="));
        let time = time.and_then(|time| time.parse().ok());
        let at = DateTime::from_timestamp(time.unwrap_or(NOW), 0).unwrap_or_default();
        let right = sign(kind, SECRET, body, at);
        let tag = right.rsplit_once("v1=").map_or(&*right, |(_, tag)| tag);
        assert!(
            header.to_lowercase().contains(&tag.to_lowercase()),
            "{header}"
        );
    }
    let right = sign(kind, SECRET, body, now);
    let check = |secrets: &[Vec<u8>], body: &[u8]| {
        check_signature(kind, Some(right.as_bytes()), secrets, body, now).is_ok()
    };
    assert!(check(&secrets, body));
    assert!(!check(&[b"another".to_vec()], body) && !check(&[], body));
    assert!(!check(&secrets, &[body, b" "].concat()));
}

fn said(kind: Kind, topic: &str, body: &[u8]) {
    let now = DateTime::from_timestamp(NOW, 0).unwrap_or_default();
    match read(kind, Some(topic), body) {
        Ok(Said::Orders(reports)) => {
            assert!((1..=MAX_REPORTS).contains(&reports.len()));
            reports.iter().for_each(|report| checked(report, now));
        }
        Ok(Said::Nothing(_, why)) => assert!(!why.code().is_empty()),
        Err(refusal) => assert_eq!(refusal.code(), "body_invalid"),
    }
}

fn checked(report: &Report<'_>, now: DateTime<Utc>) {
    let checked = report.check_with(|_| Ok(()), TenantId(7), Source::Webhook, now);
    let Ok(conversion) = checked else {
        return;
    };
    assert!(conversion.encoded_len() <= MAX_CONVERSION_BYTES);
    assert!(conversion.names.len() <= MAX_NAMES);
    assert!(conversion.names.iter().all(|name| is_order_id(name)));
    assert!(conversion.order_id.is_empty() == conversion.event.is_empty());
    assert!(!conversion.order_id.is_empty() || !conversion.names.is_empty());
    assert!(conversion.accepted_at_us <= now.timestamp_micros());
}
