//! A link, ready to be answered with.

use prost::Message as _;
use tributary_shared::ids::{LinkId, TenantId};
use tributary_shared::links::Link;
use tributary_shared::template::Template;

/// A link as the redirect needs it.
pub(crate) struct ActiveLink {
    pub(crate) link_id: LinkId,
    pub(crate) tenant_id: TenantId,
    pub(crate) program_id: u64,
    pub(crate) affiliate_id: u64,
    pub(crate) destination: Template,
    pub(crate) window_seconds: u64,
    /// The ids as macros need them.
    pub(crate) link_text: String,
    pub(crate) affiliate_text: String,
}

impl ActiveLink {
    /// Reads a link as Redis holds it. None when it is not one, or not this tenant's.
    pub(crate) fn compile(stored: &[u8], tenant: TenantId) -> Option<Self> {
        let link = Link::decode(stored).ok()?;
        let tenant_id = TenantId::from_wire(link.tenant_id).filter(|owner| *owner == tenant)?;
        let link_id = LinkId::from_wire(link.link_id)?;
        Some(Self {
            link_id,
            tenant_id,
            program_id: link.program_id,
            affiliate_id: link.affiliate_id,
            destination: Template::parse(&link.destination).ok()?,
            window_seconds: link.window_seconds,
            link_text: link_id.to_string(),
            affiliate_text: link.affiliate_id.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(tenant_id: u64, destination: &str) -> Vec<u8> {
        Link {
            link_id: 3,
            tenant_id,
            program_id: 4,
            affiliate_id: 5,
            destination: destination.to_owned(),
            window_seconds: 60,
            ..Link::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn a_link_is_used_only_for_its_own_tenant() {
        let value = stored(7, "https://shop.example/?c={click_id}");
        assert_eq!(
            ActiveLink::compile(&value, TenantId(7)).unwrap().link_id,
            LinkId(3)
        );
        assert!(ActiveLink::compile(&value, TenantId(8)).is_none());
    }

    #[test]
    fn an_unreadable_link_is_none() {
        assert!(ActiveLink::compile(b"\xff\xff\xff", TenantId(7)).is_none());
        assert!(ActiveLink::compile(&stored(7, "javascript:alert(1)"), TenantId(7)).is_none());
    }
}
