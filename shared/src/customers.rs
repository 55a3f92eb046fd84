//! A merchant's own customers. What the merchant calls a customer is often an e-mail address, so it is stored
//! nowhere: its place takes a hash, made where it arrives.

use sha2::{Digest, Sha256};

use crate::ids::TenantId;

/// Longest customer id, in characters.
pub const MAX_CUSTOMER_ID_CHARS: usize = 128;

/// Bytes of a customer's hash.
pub const CUSTOMER_HASH_BYTES: usize = 16;

/// Separates these hashes from any other. Changing it would make every customer a new one.
const DOMAIN: &[u8] = b"tributary customer\n";

/// What is stored of a customer.
pub type CustomerHash = [u8; CUSTOMER_HASH_BYTES];

/// Whether `customer_id` can be a merchant's name for a customer: 1 to 128 characters, none a control
/// character.
#[must_use]
pub fn is_customer_id(customer_id: &str) -> bool {
    (1..=MAX_CUSTOMER_ID_CHARS).contains(&customer_id.chars().count())
        && !customer_id.chars().any(char::is_control)
}

/// The hash of what a tenant calls a customer. It is the same for years, as a customer's worth is asked for after
/// years; so it has no key, for every key of ours rotates. It holds the tenant, so that the same
/// person is another customer to each. Who has the hashes can check a guess, but can't read a name from them.
#[must_use]
pub fn customer_hash(tenant: TenantId, customer_id: &str) -> CustomerHash {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update(tenant.0.to_be_bytes()); // of one length: no two pairs read alike
    hash.update(customer_id);
    let hash: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|place| hash[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn customer_ids_are_bounded() {
        assert!(is_customer_id("ana@shop.example"));
        assert!(is_customer_id(&"ü".repeat(128)));
        for customer_id in ["", "a\nb", "a\0", &"x".repeat(129)] {
            assert!(!is_customer_id(customer_id), "{customer_id:?}");
        }
    }

    /// The value is fixed: another one would cut every customer off from his history.
    #[test]
    fn a_hash_is_the_tenants_own_and_stays() {
        let hash = customer_hash(TenantId(1), "ana@shop.example");
        assert_eq!(hex::encode(hash), "b268658fd242278fd79cf34a55500a9b");
        assert_ne!(hash, customer_hash(TenantId(2), "ana@shop.example"));
        assert_ne!(hash, customer_hash(TenantId(1), "Ana@shop.example"));
    }
}
