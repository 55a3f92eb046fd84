//! Who reports an order: the tenant by its token or key, and, where the report comes from the shopper's own
//! browser, the shopper in the terms of his clicks.

use std::net::IpAddr;

use hyper::HeaderMap;
use tributary_shared::events::{Conversion, Source};
use tributary_shared::ids::TenantId;
use tributary_shared::reports::{MAX_USER_AGENT_BYTES, address_bytes};

use crate::Edge;
use crate::client::TrustedProxies;
use crate::cookies::visitor;
use crate::fingerprint::Fingerprinter;
use crate::redirect::MAX_ACCEPT_LANGUAGE_BYTES;
use crate::shopper::{Shopper, put_text};

/// The author of a report.
pub(crate) struct Author<'r> {
    pub(crate) tenant: TenantId,
    /// The token, key or source that says so.
    pub(crate) credential: &'r str,
    pub(crate) source: Source,
    pub(crate) headers: &'r HeaderMap,
    /// The connection's other end.
    pub(crate) peer: IpAddr,
}

impl Author<'_> {
    /// Whether the shopper's own browser reports, not a server of the merchant's.
    fn is_browser(&self) -> bool {
        matches!(self.source, Source::Pixel | Source::Event)
    }

    /// Adds the shopper's browser to what he reports, unless he wants no tracking. A merchant's server is
    /// no shopper.
    pub(crate) fn sign(&self, edge: &Edge, conversion: &mut Conversion) {
        if !self.is_browser() {
            return;
        }
        let shopper = read(self.headers, &edge.proxies);
        sign(
            conversion,
            &shopper,
            edge.proxies.client_address(self.peer, &shopper.forwarding),
            &edge.fingerprinter,
        );
    }

    /// What the tenant's log says of it: the address of a merchant's server, and its User-Agent or that of
    /// a shopper who did not opt out. A shopper's address is not the log's business.
    pub(crate) fn for_log(&self, edge: &Edge) -> (Vec<u8>, String) {
        let shopper = read(self.headers, &edge.proxies);
        let mut user_agent = String::new();
        if !self.is_browser() {
            put_text(shopper.user_agent, MAX_USER_AGENT_BYTES, &mut user_agent);
            let address = edge.proxies.client_address(self.peer, &shopper.forwarding);
            return (address_bytes(address), user_agent);
        }
        if !shopper.opted_out {
            put_text(shopper.user_agent, MAX_USER_AGENT_BYTES, &mut user_agent);
        }
        (Vec::new(), user_agent)
    }
}

/// The same reading as of a click's headers.
fn read<'r>(headers: &'r HeaderMap, proxies: &TrustedProxies) -> Shopper<'r> {
    let fields = headers.iter();
    Shopper::read(
        fields.map(|(n, v)| (n.as_str().as_bytes(), v.as_bytes())),
        proxies,
    )
}

fn sign(
    conversion: &mut Conversion,
    shopper: &Shopper<'_>,
    address: IpAddr,
    fingerprinter: &Fingerprinter,
) {
    if shopper.opted_out {
        return;
    }
    let user_agent = &mut conversion.user_agent;
    put_text(shopper.user_agent, MAX_USER_AGENT_BYTES, user_agent);
    let mut language = String::new();
    put_text(
        shopper.accept_language,
        MAX_ACCEPT_LANGUAGE_BYTES,
        &mut language,
    );
    let fingerprint = fingerprinter.of(address, user_agent, &language);
    conversion.fingerprint = fingerprint.to_vec();
    conversion.address = address_bytes(address);
    conversion.visitor_id = visitor(shopper.cookies())
        .map(|id| id.as_bytes().to_vec())
        .unwrap_or_default();
}
