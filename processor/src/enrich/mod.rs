//! What is known of a click beyond what it says: off the request path, from its own words, the operator's
//! files and the clicks around it.

mod agents;
mod places;
mod referrers;
mod windows;

use tokio_util::sync::CancellationToken;
use tributary_shared::events::{Click, FetchDest};
use tributary_shared::geo::GeoError;
use tributary_shared::signals;

pub(crate) use agents::Agents;
pub use agents::AgentsError;
pub(crate) use places::{Countries, Places};
pub(crate) use referrers::Referrers;
pub(crate) use windows::Windows;

use crate::config::Config;

/// Why enrichment can't begin.
#[derive(Debug, thiserror::Error)]
pub enum EnrichError {
    #[error(transparent)]
    Agents(#[from] AgentsError),
    #[error("cannot tell places: {0} (see CITY_FILE, NETWORK_FILE)")]
    Geo(#[from] GeoError),
}

/// What enriches clicks.
pub(crate) struct Enricher {
    pub(crate) agents: Agents,
    pub(crate) referrers: Referrers,
    pub(crate) places: Places,
    pub(crate) windows: Windows,
}

impl Enricher {
    pub(crate) fn new(config: &Config, stop: &CancellationToken) -> Result<Self, EnrichError> {
        Ok(Self {
            agents: Agents::new()?,
            referrers: Referrers::new(),
            places: Places::open(config, stop)?,
            windows: Windows::new(),
        })
    }

    /// Without files.
    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        use clap::Parser as _;
        let keys = "1:abababababababababababababababababababababababababababababababab";
        let keys = ["--click-token-keys", keys, "--sealing-keys", keys];
        let config = Config::parse_from(["processor"].into_iter().chain(keys));
        Self::new(&config, &CancellationToken::new()).unwrap()
    }
}

/// What is known of where a click came from and of its circumstances.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances {
    pub(crate) is_duplicate: bool,
    pub(crate) is_flood: bool,
    pub(crate) is_data_centre: bool,
}

/// What speaks against a click, as the column's bits.
pub(crate) fn signals(click: &Click, circumstances: Circumstances) -> u16 {
    let fetched = FetchDest::try_from(click.fetch_dest).unwrap_or(FetchDest::NotSaid);
    let found = [
        (circumstances.is_duplicate, signals::DUPLICATE),
        (circumstances.is_flood, signals::FLOODING),
        (circumstances.is_data_centre, signals::DATA_CENTRE),
        (
            matches!(
                fetched,
                FetchDest::Frame | FetchDest::Image | FetchDest::Resource
            ),
            signals::COOKIE_STUFFING,
        ),
        (fetched == FetchDest::Empty, signals::PREFETCH),
    ];
    found
        .into_iter()
        .filter(|(is_there, _)| *is_there)
        .fold(0, |bits, (_, signal)| bits | signal.mask())
}
