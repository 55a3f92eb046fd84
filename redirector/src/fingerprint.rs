//! The fingerprint: a keyed hash over what a browser cannot help showing. It is evidence of last
//! resort: two browsers in one household can share it, and it ends when the key is replaced.

use std::net::IpAddr;

use tributary_shared::secrets::Key;

/// Bytes of a fingerprint.
pub(crate) const BYTES: usize = 16;

/// Computes fingerprints under a secret, so that nobody can test guesses against a stored one.
pub(crate) struct Fingerprinter(Key);

impl Fingerprinter {
    pub(crate) fn new(key: Key) -> Self {
        Self(key)
    }

    /// Over the network (not the host) of the address, the User-Agent and the Accept-Language.
    pub(crate) fn of(
        &self,
        address: IpAddr,
        user_agent: &str,
        accept_language: &str,
    ) -> [u8; BYTES] {
        // A length before each part: no two different inputs run together into one.
        let length = |part: &str| u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes();
        let whole = self.0.sign(&[
            &network(address),
            &length(user_agent),
            user_agent.as_bytes(),
            &length(accept_language),
            accept_language.as_bytes(),
        ]);
        let mut fingerprint = [0; BYTES];
        fingerprint.copy_from_slice(&whole[..BYTES]);
        fingerprint
    }
}

/// The part of an address that a household keeps: /24 of IPv4, /48 of IPv6, and which of the two.
fn network(address: IpAddr) -> [u8; 7] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            [4, a, b, c, 0, 0, 0]
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, ..] = v6.octets();
            [6, a, b, c, d, e, f]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str, user_agent: &str, language: &str) -> [u8; BYTES] {
        let key = "07".repeat(32).parse().unwrap();
        Fingerprinter::new(key).of(address.parse().unwrap(), user_agent, language)
    }

    #[test]
    fn one_network_and_browser_is_one_fingerprint() {
        let one = of("203.0.113.9", "Firefox", "en");
        assert_eq!(one, of("203.0.113.77", "Firefox", "en"));
        assert_ne!(one, of("203.0.114.9", "Firefox", "en"));
        assert_ne!(one, of("203.0.113.9", "Chrome", "en"));
        assert_ne!(one, of("203.0.113.9", "Firefox", "de"));
        assert_ne!(one, of("203.0.113.9", "Firefoxe", "n"));
        assert_eq!(
            of("2001:db8:1:2::3", "Firefox", "en"),
            of("2001:db8:1:ff::9", "Firefox", "en")
        );
    }

    #[test]
    fn another_key_is_another_fingerprint() {
        let other = Fingerprinter::new("08".repeat(32).parse().unwrap());
        let address = "203.0.113.9".parse().unwrap();
        assert_ne!(
            other.of(address, "Firefox", "en"),
            of("203.0.113.9", "Firefox", "en")
        );
    }
}
