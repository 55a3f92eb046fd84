//! Secrets that have to be read again, such as a webhook's signing secret or an account's number, are stored sealed:
//! AES-256-GCM under a key that is in no database.
//!
//! Sealed bytes: key id (1), nonce (12, random), ciphertext with its tag (16). What they are for is authenticated with
//! them, so that sealed bytes moved to another row or column can't be opened there.
//!
//! One key may seal 2^32 times before its nonces could repeat; rotate it long before, by putting a new one in front.

use std::fmt;
use std::str::FromStr;

use aes_gcm::aead::{Aead as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _};

use crate::secrets::{KEY_BYTES, KeyError};

const NONCE_BYTES: usize = 12;

/// Why something can't be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("it was sealed with key {0}, which SEALING_KEYS does not have")]
    UnknownKey(u8),
    #[error("it was changed since it was sealed, or sealed for something else")]
    Damaged,
}

/// Keys by id, `id:hex,id:hex`: the first seals, each opens. Never printed.
#[derive(Clone)]
pub struct SealingKeys {
    keys: Vec<(u8, Aes256Gcm)>,
}

impl SealingKeys {
    /// Seals `plain` for `purpose`, such as `webhook:17`.
    ///
    /// # Panics
    /// Never: what we seal is far shorter than the 64 GiB that the cipher takes.
    #[must_use]
    #[expect(clippy::expect_used, reason = "see above")]
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Vec<u8> {
        let (id, key) = &self.keys[0]; // from_str refuses an empty ring
        let mut nonce = [0_u8; NONCE_BYTES];
        rand::fill(&mut nonce);
        let payload = Payload {
            msg: plain,
            aad: purpose.as_bytes(),
        };
        let sealed = key
            .encrypt(&nonce.into(), payload)
            .expect("it is short enough");
        [&[*id], nonce.as_slice(), &sealed].concat()
    }

    /// Opens what was sealed for `purpose`.
    ///
    /// # Errors
    /// When the key is not there any more, or the bytes are not what was sealed.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (id, rest) = sealed.split_first().ok_or(SealError::Damaged)?;
        let (nonce, text) = rest
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(SealError::Damaged)?;
        let (_, key) = (self.keys.iter())
            .find(|(known, _)| known == id)
            .ok_or(SealError::UnknownKey(*id))?;
        let payload = Payload {
            msg: text,
            aad: purpose.as_bytes(),
        };
        key.decrypt(&(*nonce).into(), payload)
            .map_err(|_| SealError::Damaged)
    }
}

impl FromStr for SealingKeys {
    type Err = KeyError;

    fn from_str(setting: &str) -> Result<Self, KeyError> {
        let mut keys: Vec<(u8, Aes256Gcm)> = Vec::new();
        for item in setting.split(',') {
            let (id, key) = item.split_once(':').ok_or(KeyError::Form)?;
            let id = id.trim().parse().map_err(|_| KeyError::Id)?;
            if keys.iter().any(|(known, _)| *known == id) {
                return Err(KeyError::Twice(id));
            }
            let mut bytes = [0; KEY_BYTES];
            hex::decode_to_slice(key.trim(), &mut bytes).map_err(|_| KeyError::Key)?;
            keys.push((id, Aes256Gcm::new(&bytes.into())));
        }
        Ok(Self { keys })
    }
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKeys(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(setting: &[(u8, u8)]) -> SealingKeys {
        let one = |(id, byte): &(u8, u8)| format!("{id}:{}", hex::encode([*byte; KEY_BYTES]));
        let all: Vec<String> = setting.iter().map(one).collect();
        all.join(",").parse().unwrap()
    }

    #[test]
    fn what_was_sealed_is_opened_also_after_a_rotation() {
        let sealed = keys(&[(1, 7)]).seal("webhook:1", b"whsec_x");
        assert_eq!(
            keys(&[(2, 9), (1, 7)]).open("webhook:1", &sealed).unwrap(),
            b"whsec_x"
        );
        assert_eq!(
            keys(&[(2, 9)]).open("webhook:1", &sealed),
            Err(SealError::UnknownKey(1))
        );
    }

    #[test]
    fn it_is_opened_for_its_own_purpose_and_whole_only() {
        let ring = keys(&[(1, 7)]);
        let sealed = ring.seal("webhook:1", b"whsec_x");
        assert_eq!(ring.open("webhook:2", &sealed), Err(SealError::Damaged));
        for cut in 0..sealed.len() {
            assert!(ring.open("webhook:1", &sealed[..cut]).is_err());
        }
        for place in 1..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(ring.open("webhook:1", &changed), Err(SealError::Damaged));
        }
    }

    #[test]
    fn the_same_is_never_sealed_alike() {
        let ring = keys(&[(1, 7)]);
        assert_ne!(ring.seal("x", b"a"), ring.seal("x", b"a"));
    }

    #[test]
    fn bad_rings_say_what_is_wrong() {
        let parse = |s: &str| s.parse::<SealingKeys>().unwrap_err();
        assert_eq!(parse(""), KeyError::Form);
        assert_eq!(parse("1:abcd"), KeyError::Key);
        assert_eq!(format!("{:?}", keys(&[(1, 7)])), "SealingKeys(secret)");
    }
}
