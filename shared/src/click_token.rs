//! The click token: a `click_id` that anybody may carry and only we can make.
//!
//! ```text
//! byte  0..16   UUIDv7: unique, and the click's time in its first 48 bits; the others are random, or
//!               told by the click's place in a journal (Place::random)
//! byte 16..24   link id, big-endian
//! byte 24       id of the key that signed
//! byte 25..36   HMAC-SHA-256 over bytes 0..25, truncated to 88 bits
//! ```
//!
//! 36 bytes are 48 characters of base64url without padding. The token alone says which link was
//! clicked and when, so a conversion is attributed without a look-up of the click.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use siphasher::sip128::SipHasher24;
use uuid::Uuid;

use crate::ids::{LinkId, new_uuid_v7, uuid_v7};
use crate::secrets::KeyRing;

/// Characters of a token.
pub const CHARS: usize = 48;

const BYTES: usize = 36;
const SIGNED: usize = 25;

/// Why something is not one of our click tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not of a token's form: truncated on its way, a macro left unexpanded, another system's id.
    #[error("not a click id: {CHARS} characters of base64url are expected")]
    Malformed,
    /// Of the right form, but signed by no key that we trust: forged, or from another installation.
    #[error("this click id was not issued here")]
    Foreign,
}

/// What a verified token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Click {
    pub id: Uuid,
    pub link: LinkId,
    /// When the link was clicked, to the millisecond.
    pub at: DateTime<Utc>,
}

/// A click's name: the segment of a journal that it stands in, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub segment: Uuid,
    pub sequence: u32,
}

impl Place {
    /// The random part of the token of the click that stands here, as it stands in a UUIDv7: SipHash-2-4 with 128
    /// bits of the sequence (four bytes, little-endian), its key being the segment's id. Whoever knows the name
    /// reckons it, as table `clicks` does instead of storing ten bytes of noise; whoever does not know the id, 122
    /// random bits that never leave our own systems, learns nothing from tokens about it or about other clicks.
    #[must_use]
    pub fn random(self) -> [u8; 10] {
        let hasher = SipHasher24::new_with_key(self.segment.as_bytes());
        let hash = hasher.hash(&self.sequence.to_le_bytes());
        let [mut random @ .., _, _, _, _, _, _] = hash.as_bytes();
        random[0] = 0x70 | random[0] & 0x0f; // version
        random[2] = 0x80 | random[2] & 0x3f; // variant
        random
    }
}

/// A token's text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClickToken([u8; CHARS]);

impl ClickToken {
    /// A new token for a click on `link` at `now` that stands in no journal.
    #[must_use]
    pub fn mint(keys: &KeyRing, link: LinkId, now: DateTime<Utc>) -> Self {
        Self::signed(keys, link, new_uuid_v7(now))
    }

    /// The token of the click on `link` at `now` that stands at `place`.
    #[must_use]
    pub fn of(keys: &KeyRing, link: LinkId, now: DateTime<Utc>, place: Place) -> Self {
        let millis = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        Self::signed(keys, link, uuid_v7(millis, place.random()))
    }

    fn signed(keys: &KeyRing, link: LinkId, id: Uuid) -> Self {
        let (key_id, key) = keys.signing();
        let mut bytes = [0_u8; BYTES];
        bytes[..16].copy_from_slice(id.as_bytes());
        bytes[16..24].copy_from_slice(&link.to_wire().to_be_bytes());
        bytes[24] = key_id;
        let tag = key.sign(&[&bytes[..SIGNED]]);
        bytes[SIGNED..].copy_from_slice(&tag[..BYTES - SIGNED]);

        let mut text = [0_u8; CHARS];
        #[expect(clippy::expect_used, reason = "36 bytes are 48 characters")]
        URL_SAFE_NO_PAD
            .encode_slice(bytes, &mut text)
            .expect("36 bytes are 48 characters");
        Self(text)
    }

    /// The 48 characters.
    #[must_use]
    #[expect(clippy::expect_used, reason = "base64url is ASCII")]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base64url is ASCII")
    }
}

impl fmt::Display for ClickToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ClickToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A token's bytes by their meaning, unverified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The rest of the UUID.
    pub random: [u8; 10],
    /// The link id.
    pub link: u64,
    pub key_id: u8,
    pub tag: [u8; BYTES - SIGNED],
}

/// Takes a token apart without verifying it: for who only stores tokens of our own.
#[must_use]
pub fn parts(token: &str) -> Option<Parts> {
    let bytes = decode(token)?;
    let number = |range: std::ops::Range<usize>| {
        bytes[range]
            .iter()
            .fold(0_u64, |n, b| (n << 8) | u64::from(*b))
    };
    Some(Parts {
        at_ms: number(0..6),
        random: bytes[6..16].try_into().ok()?,
        link: number(16..24),
        key_id: bytes[24],
        tag: bytes[SIGNED..].try_into().ok()?,
    })
}

fn decode(token: &str) -> Option<[u8; BYTES]> {
    let mut bytes = [0_u8; BYTES];
    let whole =
        token.len() == CHARS && URL_SAFE_NO_PAD.decode_slice(token, &mut bytes) == Ok(BYTES);
    whole.then_some(bytes)
}

/// Reads a token that came from outside.
///
/// # Errors
/// [`TokenError::Malformed`] or [`TokenError::Foreign`]; a caller that got none at all has neither.
pub fn verify(keys: &KeyRing, token: &str) -> Result<Click, TokenError> {
    let bytes = decode(token).ok_or(TokenError::Malformed)?;
    let key = keys.get(bytes[24]).ok_or(TokenError::Foreign)?;
    if !key.verify(&[&bytes[..SIGNED]], &bytes[SIGNED..]) {
        return Err(TokenError::Foreign);
    }
    let field = |range: std::ops::Range<usize>| {
        bytes[range]
            .iter()
            .fold(0_u64, |n, b| (n << 8) | u64::from(*b))
    };
    // Both can only fail on a token that we signed wrongly ourselves.
    let link = LinkId::from_wire(field(16..24)).ok_or(TokenError::Malformed)?;
    let at = i64::try_from(field(0..6))
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .ok_or(TokenError::Malformed)?;
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[..16]);
    Ok(Click {
        id: Uuid::from_bytes(id),
        link,
        at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(ids: &[u8]) -> KeyRing {
        let keys: Vec<String> = ids
            .iter()
            .map(|id| format!("{id}:{}", hex::encode([*id; 32])))
            .collect();
        keys.join(",").parse().unwrap()
    }

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(millis).unwrap()
    }

    proptest! {
        #[test]
        fn what_was_minted_is_read_back(link in 1..i64::MAX, millis in 0..4_102_444_800_000_i64) {
            let token = ClickToken::mint(&ring(&[5]), LinkId(link), at(millis));
            let click = verify(&ring(&[6, 5]), token.as_str()).unwrap();
            prop_assert_eq!(click.link, LinkId(link));
            prop_assert_eq!(click.at, at(millis));
        }

        #[test]
        fn one_changed_character_is_noticed(position in 0..CHARS, replacement in "[A-Za-z0-9_-]") {
            let token = ClickToken::mint(&ring(&[5]), LinkId(77), at(1_700_000_000_000)).to_string();
            let mut changed = token.clone();
            changed.replace_range(position..=position, &replacement);
            prop_assume!(changed != token);
            prop_assert_eq!(verify(&ring(&[5]), &changed), Err(TokenError::Foreign));
        }

        #[test]
        fn anything_else_is_refused(text in ".{0,80}") {
            prop_assert!(verify(&ring(&[5]), &text).is_err());
        }
    }

    #[test]
    fn a_clicks_token_is_told_by_its_place() {
        let place = |segment, sequence| Place {
            segment: Uuid::from_u128(segment),
            sequence,
        };
        let token = |place| ClickToken::of(&ring(&[5]), LinkId(4), at(1_700_000_000_000), place);
        let said = parts(token(place(5, 11)).as_str()).unwrap();
        assert_eq!(said.random, place(5, 11).random());
        assert_eq!(token(place(5, 11)), token(place(5, 11)));
        assert_ne!(token(place(5, 11)), token(place(5, 12)));
        assert_ne!(token(place(5, 11)), token(place(6, 11)));
        let click = verify(&ring(&[5]), token(place(5, 11)).as_str()).unwrap();
        assert_eq!(click.id.get_version_num(), 7);
        assert_eq!(click.id.get_variant(), uuid::Variant::RFC4122);
        assert_eq!((click.link, click.at), (LinkId(4), at(1_700_000_000_000)));
    }

    #[test]
    fn a_key_that_was_taken_away_is_not_trusted() {
        let token = ClickToken::mint(&ring(&[5]), LinkId(1), at(0));
        assert_eq!(
            verify(&ring(&[6]), token.as_str()),
            Err(TokenError::Foreign)
        );
    }

    #[test]
    fn an_unexpanded_macro_is_malformed() {
        assert_eq!(
            verify(&ring(&[5]), "{click_id}"),
            Err(TokenError::Malformed)
        );
    }

    #[test]
    fn tokens_sort_by_time() {
        let early = ClickToken::mint(&ring(&[5]), LinkId(9), at(1_700_000_000_000));
        let late = ClickToken::mint(&ring(&[5]), LinkId(1), at(1_700_000_600_000));
        // base64url does not keep the order of bytes in general; the decoded ids do.
        let id = |t: &ClickToken| verify(&ring(&[5]), t.as_str()).unwrap().id;
        assert!(id(&early) < id(&late));
    }
}
