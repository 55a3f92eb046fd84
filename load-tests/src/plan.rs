//! What will be clicked: which visitor, which link, with what headers.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::Error;
use crate::access_log::Request;
use crate::agents::Labels;
use crate::api::{Link, Program};
use crate::dice::stable_hash;

/// Every click of a replay, in the order of time.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) clicks: Vec<Click>,
    /// How many pairs of address and User-Agent there are.
    pub(crate) visitors: usize,
}

#[derive(Debug)]
pub(crate) struct Click {
    pub(crate) request: Request,
    /// Which visitor clicks, from 0.
    pub(crate) visitor: usize,
    pub(crate) link: Link,
    /// By the label, not by the product.
    pub(crate) is_bot: bool,
}

/// Spreads `requests` over the links. Whoever asked for the same path in the log gets the same link, so
/// that a few links take most of the clicks, as the log's pages did.
pub(crate) fn plan(
    requests: Vec<Request>,
    program: &Program,
    labels: &Labels,
) -> Result<Plan, Error> {
    let links = u64::try_from(program.links.len()).unwrap_or(u64::MAX);
    let mut visitors: HashMap<(IpAddr, Option<Vec<u8>>), usize> = HashMap::new();
    let mut clicks = Vec::with_capacity(requests.len());
    for request in requests {
        let chosen = stable_hash(&request.path)
            .checked_rem(links)
            .ok_or(Error::NoLinks)?;
        let link = usize::try_from(chosen)
            .ok()
            .and_then(|n| program.links.get(n));
        let next = visitors.len();
        let visitor = *visitors
            .entry((request.address, request.agent.clone()))
            .or_insert(next);
        clicks.push(Click {
            is_bot: labels.is_bot(request.agent.as_deref())?,
            link: link.ok_or(Error::NoLinks)?.clone(),
            visitor,
            request,
        });
    }
    Ok(Plan {
        clicks,
        visitors: visitors.len(),
    })
}
