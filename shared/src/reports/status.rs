//! How an order stands, in the field's many words.

use crate::events::OrderStatus;

/// Our own words, and what they mean.
pub const STATUSES: [(&str, OrderStatus); 5] = [
    ("lead", OrderStatus::Lead),
    ("pending", OrderStatus::Pending),
    ("approved", OrderStatus::Approved),
    ("rejected", OrderStatus::Rejected),
    ("refunded", OrderStatus::Refunded),
];

/// What others say instead.
const SYNONYMS: [(&str, OrderStatus); 11] = [
    ("hold", OrderStatus::Pending),
    ("new", OrderStatus::Pending),
    ("confirmed", OrderStatus::Approved),
    ("accepted", OrderStatus::Approved),
    ("declined", OrderStatus::Rejected),
    ("cancelled", OrderStatus::Rejected),
    ("canceled", OrderStatus::Rejected),
    ("reversed", OrderStatus::Rejected),
    ("trash", OrderStatus::Rejected),
    ("refund", OrderStatus::Refunded),
    ("chargeback", OrderStatus::Refunded),
];

/// The status that a word means, in upper or lower case; none: it is no word of ours.
#[must_use]
pub fn status(word: &str) -> Option<OrderStatus> {
    STATUSES
        .iter()
        .chain(&SYNONYMS)
        .find_map(|(known, status)| known.eq_ignore_ascii_case(word).then_some(*status))
}

/// Our own word for a status; empty: nothing was said.
#[must_use]
pub fn status_name(status: OrderStatus) -> &'static str {
    STATUSES
        .iter()
        .find_map(|(name, known)| (*known == status).then_some(*name))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_mean_ours() {
        for (word, meant) in [
            ("Approved", "approved"),
            ("CONFIRMED", "approved"),
            ("Canceled", "rejected"),
            ("chargeback", "refunded"),
            ("hold", "pending"),
            ("lead", "lead"),
        ] {
            assert_eq!(status(word).map(status_name), Some(meant), "{word}");
        }
        for word in ["", "paid", "approved ", "unsaid", "0"] {
            assert_eq!(status(word), None, "{word}");
        }
        assert_eq!(status_name(OrderStatus::Unsaid), "");
    }
}
