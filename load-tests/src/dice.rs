//! Numbers that look random and are the same for the same seed, on every machine and version.

/// What is decided is told apart by `what`, so that one decision doesn't lean on another.
pub(crate) fn roll(seed: u64, what: &str, which: usize) -> u64 {
    let which = u64::try_from(which).unwrap_or(u64::MAX);
    mix(mix(seed ^ stable_hash(what.as_bytes())).wrapping_add(which))
}

/// FNV-1a, 64 bits.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finisher of splitmix64.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_stay() {
        // From the descriptions of FNV-1a and splitmix64 (seed 0, first output).
        assert_eq!(stable_hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn decisions_are_told_apart() {
        assert_ne!(roll(1, "a", 1), roll(1, "b", 1));
        assert_ne!(roll(1, "a", 1), roll(2, "a", 1));
        assert_ne!(roll(1, "a", 1), roll(1, "a", 2));
    }
}
