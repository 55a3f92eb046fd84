//! Who sent a webhook: the signature that its sender made over the body as it came, with a secret that only he and the
//! tenant know.
//!
//! - Stripe: `Stripe-Signature: t=SECONDS,v1=HEX,v1=HEX`, each `v1` the HMAC-SHA-256 of `SECONDS.BODY`; several while a
//!   secret is replaced. `t` must be now, give or take [`TOLERANCE`].
//! - Shopify: `X-Shopify-Hmac-Sha256: BASE64`, the HMAC-SHA-256 of the body. It holds no time, so a body that is sent
//!   again is told by what it says: it is the same report, and counts once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::Kind;

/// How far the time of a signature may be from now.
pub const TOLERANCE: TimeDelta = TimeDelta::minutes(5);
/// Longest header with signatures, in bytes.
const MAX_HEADER_BYTES: usize = 4096;
/// Most signatures of one webhook that are looked at.
const MAX_SIGNATURES: usize = 8;

/// Why a webhook is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    #[error("the webhook has no signature, or one that can't be read: send it as {} does", .0.name())]
    Missing(Kind),
    #[error(
        "the signature is not of this source's secret: enter the secret anew where the source is set up"
    )]
    Wrong,
    #[error("the webhook was signed more than {} minutes ago, or is from the future", TOLERANCE.num_minutes())]
    Stale,
}

impl BadSignature {
    /// A stable name for programs, and for metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing(_) => "signature_missing",
            Self::Wrong => "signature_wrong",
            Self::Stale => "signature_stale",
        }
    }
}

/// Whether one of `secrets` signed `body`; `header` is what [`Kind::signature_header`] holds. In constant time.
///
/// # Errors
/// Why it is not believed.
pub fn check(
    kind: Kind,
    header: Option<&[u8]>,
    secrets: &[Vec<u8>],
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<(), BadSignature> {
    let missing = BadSignature::Missing(kind);
    let header = header.filter(|header| header.len() <= MAX_HEADER_BYTES);
    let header = std::str::from_utf8(header.ok_or(missing)?).map_err(|_| missing)?;
    match kind {
        Kind::Stripe => {
            let signed = Signed::read(header).ok_or(missing)?;
            if !signed.is_by_one_of(secrets, body) {
                return Err(BadSignature::Wrong);
            }
            let at = DateTime::from_timestamp(signed.seconds, 0).ok_or(missing)?;
            if (now - at).abs() > TOLERANCE {
                return Err(BadSignature::Stale);
            }
            Ok(())
        }
        Kind::Shopify => {
            let tag = STANDARD.decode(header.trim()).map_err(|_| missing)?;
            let is_by = |secret: &Vec<u8>| signs(secret, &[body], &tag);
            if secrets.iter().any(is_by) {
                return Ok(());
            }
            Err(BadSignature::Wrong)
        }
    }
}

/// Stripe's header, taken apart.
struct Signed<'h> {
    /// As it is written: that is what is signed.
    time: &'h str,
    seconds: i64,
    tags: Vec<[u8; 32]>,
}

impl<'h> Signed<'h> {
    fn read(header: &'h str) -> Option<Self> {
        let mut time = None;
        let mut tags = Vec::new();
        for part in header.split(',') {
            match part.trim().split_once('=') {
                Some(("t", text)) if time.is_none() => time = Some(text),
                Some(("v1", digits)) if tags.len() < MAX_SIGNATURES => {
                    let mut tag = [0; 32];
                    if hex::decode_to_slice(digits, &mut tag).is_ok() {
                        tags.push(tag);
                    }
                }
                _ => {} // other schemes, which are not Stripe's live one
            }
        }
        let time = time.filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
        let seconds = time.parse().ok()?;
        (!tags.is_empty()).then_some(Self {
            time,
            seconds,
            tags,
        })
    }

    fn is_by_one_of(&self, secrets: &[Vec<u8>], body: &[u8]) -> bool {
        let parts: [&[u8]; 3] = [self.time.as_bytes(), b".", body];
        let is_by = |secret: &Vec<u8>| self.tags.iter().any(|tag| signs(secret, &parts, tag));
        secrets.iter().any(is_by)
    }
}

fn signs(secret: &[u8], parts: &[&[u8]], tag: &[u8]) -> bool {
    // It takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return false;
    };
    for part in parts {
        mac.update(part);
    }
    !secret.is_empty() && mac.verify_slice(tag).is_ok()
}

/// A signature as `kind` makes it: for tests, and for whoever tries a source out.
#[must_use]
pub fn sign(kind: Kind, secret: &[u8], body: &[u8], now: DateTime<Utc>) -> String {
    let tag = |parts: &[&[u8]]| {
        let mac = Hmac::<Sha256>::new_from_slice(secret).map(|mut mac| {
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().to_vec()
        });
        mac.unwrap_or_default()
    };
    match kind {
        Kind::Stripe => {
            let time = now.timestamp().to_string();
            let tag = tag(&[time.as_bytes(), b".", body]);
            format!("t={time},v1={}", hex::encode(tag))
        }
        Kind::Shopify => STANDARD.encode(tag(&[body])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"id":"evt_1"}"#;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn checked(
        kind: Kind,
        header: &str,
        secrets: &[&str],
        seconds: i64,
    ) -> Result<(), BadSignature> {
        let secrets: Vec<Vec<u8>> = secrets.iter().map(|s| s.as_bytes().to_vec()).collect();
        check(kind, Some(header.as_bytes()), &secrets, BODY, at(seconds))
    }

    /// Computed by another program: `printf '1700000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_test`, and
    /// `printf '{"id":"evt_1"}' | openssl dgst -sha256 -hmac shpss_test -binary | base64`.
    #[test]
    fn signatures_are_those_of_their_senders() {
        let stripe = "t=1700000000,v1=c89214b5b5da833daed6f0b8c5bb6bd58cea9022bd80ccc78230f3942d632925,v0=00";
        assert_eq!(checked(Kind::Stripe, stripe, &["whsec_test"], 0), Ok(()));
        let shopify = "63DZ3HlbW3VQ5bJrI5Y1s1KU32pOJnNPShO1/ENl5Kw=";
        assert_eq!(checked(Kind::Shopify, shopify, &["shpss_test"], 0), Ok(()));
        assert_eq!(sign(Kind::Shopify, b"shpss_test", BODY, at(0)), shopify);
    }

    #[test]
    fn while_a_secret_is_replaced_either_counts() {
        let old = sign(Kind::Stripe, b"whsec_old", BODY, at(0));
        let new = sign(Kind::Stripe, b"whsec_new", BODY, at(0));
        let both = format!("{old},{}", new.split_once(',').unwrap().1);
        for header in [&old, &new, &both] {
            let both = ["whsec_new", "whsec_old"];
            assert_eq!(checked(Kind::Stripe, header, &both, 0), Ok(()));
        }
        assert_eq!(checked(Kind::Stripe, &both, &["whsec_new"], 0), Ok(()));
        let gone = checked(Kind::Stripe, &old, &["whsec_new"], 0);
        assert_eq!(gone, Err(BadSignature::Wrong));
        let none = checked(
            Kind::Stripe,
            &sign(Kind::Stripe, b"", BODY, at(0)),
            &[""],
            0,
        );
        assert_eq!(none, Err(BadSignature::Wrong), "an empty secret is none");
    }

    #[test]
    fn a_signature_is_of_this_body_and_moment() {
        let header = sign(Kind::Stripe, b"s", BODY, at(0));
        for (seconds, expected) in [
            (300, Ok(())),
            (-300, Ok(())),
            (301, Err(BadSignature::Stale)),
            (-301, Err(BadSignature::Stale)),
        ] {
            assert_eq!(checked(Kind::Stripe, &header, &["s"], seconds), expected);
        }
        // Another time is another signature, however old the first.
        let moved = header.replace("t=1700000000", "t=1700000900");
        let moved = checked(Kind::Stripe, &moved, &["s"], 900);
        assert_eq!(moved, Err(BadSignature::Wrong));
        let secrets = [b"s".to_vec()];
        let other = check(
            Kind::Stripe,
            Some(header.as_bytes()),
            &secrets,
            b"{}",
            at(0),
        );
        assert_eq!(other, Err(BadSignature::Wrong));
    }

    #[test]
    fn what_can_not_be_read_is_no_signature() {
        let tag = "0".repeat(64);
        for header in [
            "".to_owned(),
            "t=1".to_owned(),
            format!("v1={tag}"),
            format!("t=,v1={tag}"),
            format!("t=-1,v1={tag}"),
            format!("t=99999999999999999999,v1={tag}"),
            format!("t=1,v1={}", &tag[1..]),
            format!("t=1,v1={tag}{}", " ".repeat(5000)),
        ] {
            let refused = checked(Kind::Stripe, &header, &["s"], 0);
            assert_eq!(
                refused,
                Err(BadSignature::Missing(Kind::Stripe)),
                "{header:.90}"
            );
        }
        let shopify = Kind::Shopify;
        assert_eq!(
            checked(shopify, "not base64", &["s"], 0),
            Err(BadSignature::Missing(shopify))
        );
        assert_eq!(
            checked(shopify, "AAAA", &["s"], 0),
            Err(BadSignature::Wrong)
        );
        assert_eq!(
            check(shopify, None, &[], BODY, at(0)),
            Err(BadSignature::Missing(shopify))
        );
    }
}
