//! Secrets: signing keys that rotate by id, and random tokens that are stored only as a hash.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Bytes of a signing key.
pub const KEY_BYTES: usize = 32;

/// Random bytes in a token that we hand out.
const TOKEN_BYTES: usize = 24;

/// Why a key setting can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    #[error("write keys as id:hex, for example 1:{}…, several separated by commas", "0f".repeat(4))]
    Form,
    #[error("a key id is a number from 0 to 255")]
    Id,
    #[error("a key is {KEY_BYTES} bytes in hex, {} digits (try: openssl rand -hex {KEY_BYTES})", KEY_BYTES * 2)]
    Key,
    #[error("key id {0} is given twice")]
    Twice(u8),
}

/// One secret key. Never printed.
#[derive(Clone)]
pub struct Key {
    bytes: [u8; KEY_BYTES],
    /// The key already taken in: half of what a short signature costs.
    begun: Hmac<Sha256>,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Key {}

impl Key {
    /// HMAC-SHA-256 over `parts`, one after the other. Where their lengths vary, the caller
    /// separates them.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.begun.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Whether `tag` (at least one byte, possibly truncated) signs `parts`; in constant time.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        let signed = self.sign(parts);
        let differing = signed.iter().zip(tag).fold(0, |acc, (a, b)| acc | (a ^ b));
        !tag.is_empty() && tag.len() <= signed.len() && std::hint::black_box(differing) == 0
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(hex_digits: &str) -> Result<Self, KeyError> {
        let mut bytes = [0; KEY_BYTES];
        hex::decode_to_slice(hex_digits.trim(), &mut bytes).map_err(|_| KeyError::Key)?;
        let begun = Hmac::new_from_slice(&bytes).map_err(|_| KeyError::Key)?;
        Ok(Self { bytes, begun })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

/// Keys by id: the first signs, each verifies. To rotate, put a new key in front and take the old
/// one away once nothing that it signed matters any more (the longest window of a program).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    keys: Vec<(u8, Key)>,
}

impl KeyRing {
    /// The key that signs, with its id.
    #[must_use]
    pub fn signing(&self) -> (u8, &Key) {
        let (id, key) = &self.keys[0]; // from_str refuses an empty ring
        (*id, key)
    }

    /// The key of that id, if it is still trusted.
    #[must_use]
    pub fn get(&self, id: u8) -> Option<&Key> {
        self.keys.iter().find(|(i, _)| *i == id).map(|(_, key)| key)
    }
}

impl FromStr for KeyRing {
    type Err = KeyError;

    fn from_str(setting: &str) -> Result<Self, KeyError> {
        let mut keys: Vec<(u8, Key)> = Vec::new();
        for item in setting.split(',') {
            let (id, key) = item.split_once(':').ok_or(KeyError::Form)?;
            let id = id.trim().parse().map_err(|_| KeyError::Id)?;
            if keys.iter().any(|(known, _)| *known == id) {
                return Err(KeyError::Twice(id));
            }
            keys.push((id, key.parse()?));
        }
        Ok(Self { keys })
    }
}

/// A new random token such as `trk_9vX…`: 192 bits that cannot be guessed.
#[must_use]
pub fn new_token(prefix: &str) -> String {
    let mut random = [0_u8; TOKEN_BYTES];
    rand::fill(&mut random);
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random))
}

/// What is stored instead of a token. A token is random, so a plain hash can't be turned back.
#[must_use]
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex_key(byte: u8) -> String {
        hex::encode([byte; KEY_BYTES])
    }

    #[test]
    fn the_first_key_signs_and_every_key_is_found() {
        let ring: KeyRing = format!("7:{},3:{}", hex_key(1), hex_key(2))
            .parse()
            .unwrap();
        assert_eq!(ring.signing().0, 7);
        assert!(ring.get(3).is_some());
        assert!(ring.get(4).is_none());
    }

    #[test]
    fn bad_rings_say_what_is_wrong() {
        let parse = |s: &str| s.parse::<KeyRing>().unwrap_err();
        assert_eq!(parse(""), KeyError::Form);
        assert_eq!(parse(&format!("256:{}", hex_key(1))), KeyError::Id);
        assert_eq!(parse("1:abcd"), KeyError::Key);
        assert_eq!(
            parse(&format!("1:{0},1:{0}", hex_key(1))),
            KeyError::Twice(1)
        );
    }

    #[test]
    fn a_truncated_tag_verifies_and_a_changed_one_does_not() {
        let key: Key = hex_key(9).parse().unwrap();
        let tag = key.sign(&[b"ab", b"c"]);
        assert!(key.verify(&[b"abc"], &tag[..11]));
        let mut wrong = tag;
        wrong[10] ^= 1;
        assert!(!key.verify(&[b"abc"], &wrong[..11]));
        assert!(!key.verify(&[b"abc"], &[]));
    }

    #[test]
    fn a_key_is_not_printed() {
        let key: Key = hex_key(9).parse().unwrap();
        assert_eq!(format!("{key:?}"), "Key(secret)");
    }
}
