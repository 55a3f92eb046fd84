//! What a conversion may be called. The edge refuses anything else, the processor takes it for a
//! message that can't be read, the database has the same bounds.

/// Longest order id, in characters.
pub const MAX_ORDER_ID_CHARS: usize = 128;
/// Longest event name, in characters.
pub const MAX_EVENT_CHARS: usize = 32;

/// Whether `order_id` can be a merchant's order id: 1 to 128 characters, none a control character.
#[must_use]
pub fn is_order_id(order_id: &str) -> bool {
    (1..=MAX_ORDER_ID_CHARS).contains(&order_id.chars().count())
        && !order_id.chars().any(char::is_control)
}

/// Whether `event` can be an event's name: 1 to 32 of `a-z 0-9 _`.
#[must_use]
pub fn is_event(event: &str) -> bool {
    (1..=MAX_EVENT_CHARS).contains(&event.len())
        && event
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_ids_and_events_are_bounded() {
        assert!(is_order_id("Nr. 4711 / ü"));
        assert!(is_order_id(&"ü".repeat(128)));
        for order_id in ["", "a\nb", "a\0", &"x".repeat(129)] {
            assert!(!is_order_id(order_id), "{order_id:?}");
        }
        assert!(is_event("sale_2"));
        for event in ["", "Sale", "a b", "sale\n", &"x".repeat(33)] {
            assert!(!is_event(event), "{event:?}");
        }
    }
}
