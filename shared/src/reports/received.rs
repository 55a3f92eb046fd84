//! A report's parameters as they came, for the tenant's log: what helps to find a mistake, and nothing that
//! must not be written down.

use url::form_urlencoded;

use super::email;

/// Longest text of all parameters, in bytes; a longer one is cut.
pub const MAX_RECEIVED_BYTES: usize = 2048;

/// What is left out whole, in whichever place it was sent.
const SECRETS: [&str; 9] = [
    "token",
    "key",
    "signature",
    "sig",
    "hmac",
    "hash",
    "secret",
    "password",
    "api_key",
];
/// Stands in place of what says who the customer is.
const HIDDEN: &str = "*";

/// The text, as a query.
#[derive(Debug, Default)]
pub(super) struct Received(String);

impl Received {
    /// Writes one parameter down. An e-mail address is hidden wherever it stands.
    pub(super) fn note(&mut self, name: &str, value: &str, is_personal: bool) {
        let is = |secret: &&str| name.eq_ignore_ascii_case(secret);
        if self.0.len() >= MAX_RECEIVED_BYTES || SECRETS.iter().any(is) {
            return;
        }
        let hide = !value.is_empty() && (is_personal || email::domain(value).is_some());
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0
            .extend(form_urlencoded::byte_serialize(name.as_bytes()));
        self.0.push('=');
        let value = if hide { HIDDEN } else { value };
        self.0
            .extend(form_urlencoded::byte_serialize(value.as_bytes()));
        self.0.truncate(MAX_RECEIVED_BYTES); // it is ASCII
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(pairs: &[(&str, &str)]) -> String {
        let mut received = Received::default();
        for (name, value) in pairs {
            received.note(name, value, *name == "customer_id");
        }
        received.text().to_owned()
    }

    #[test]
    fn secrets_and_customers_are_not_written_down() {
        let text = noted(&[
            ("Token", "trp_x"),
            ("order_id", "A 1"),
            ("key", "trk_pub_x"),
            ("customer_id", "C-7"),
            ("buyer", "ana@shop.example"),
            ("signature", "0f"),
            ("x", "é"),
            ("empty", ""),
        ]);
        assert_eq!(text, "order_id=A+1&customer_id=*&buyer=*&x=%C3%A9&empty=");
    }

    #[test]
    fn a_long_text_is_cut() {
        let long = "é".repeat(2000);
        let text = noted(&[("a", &long), ("b", "c")]);
        assert_eq!(text.len(), MAX_RECEIVED_BYTES);
        assert!(!text.contains("b=c"));
    }
}
