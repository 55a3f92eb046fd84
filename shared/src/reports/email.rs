//! Of a customer's e-mail address only the domain is kept: it tells a partner who buys for himself, and
//! nobody's name.

use url::Host;

use crate::links::is_host;

/// Longest address that can be one (RFC 5321), in bytes.
const MAX_ADDRESS_BYTES: usize = 254;

/// The domain of an e-mail address, in lower case and as DNS writes it; none: it is not one.
pub(crate) fn domain(address: &str) -> Option<String> {
    let (local, domain) = address.trim().rsplit_once('@')?;
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    if local.is_empty() || address.len() > MAX_ADDRESS_BYTES || !local.chars().all(plain) {
        return None;
    }
    match Host::parse(domain) {
        Ok(Host::Domain(domain)) => Some(domain).filter(|domain| is_host(domain)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_of_an_address_is_told_in_one_form() {
        for (address, expected) in [
            ("ana@Shop.Example", "shop.example"),
            (" a+b@x.example ", "x.example"),
            ("\"a@b\"@x.example", "x.example"),
            ("ana@müller.example", "xn--mller-kva.example"),
        ] {
            assert_eq!(domain(address).as_deref(), Some(expected), "{address}");
        }
        let long = format!("a@{}.example", "x".repeat(254));
        for address in [
            "",
            "ana",
            "@shop.example",
            "ana@",
            "ana@localhost",
            "ana@192.0.2.1",
            "ana@[2001:db8::1]",
            "ana@a b.example",
            "a b@shop.example",
            "{email}",
            &long,
        ] {
            assert_eq!(domain(address), None, "{address}");
        }
    }
}
