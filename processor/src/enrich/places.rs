//! Where an address lies, and whose network it is, by the operator's files; remembered, because few
//! addresses make most clicks.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use ahash::HashSet;
use quick_cache::sync::Cache;
use smol_str::{SmolStr, format_smolstr};
use tokio_util::sync::CancellationToken;
use tributary_shared::geo::{GeoError, GeoFile, Place};

use crate::config::Config;

const DATA_CENTRES: &str = include_str!("../../data/data_centres.tsv");
/// Addresses that are remembered: about 20 MB. Forgotten when a file is replaced.
const REMEMBERED: usize = 100_000;

/// What the files say of an address. Empty: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) country: SmolStr,
    pub(crate) region: SmolStr,
    pub(crate) city: SmolStr,
    /// `AS64496 Name`.
    pub(crate) network: SmolStr,
    pub(crate) is_data_centre: bool,
}

/// The files; without one, nothing is known.
pub(crate) struct Places {
    cities: Option<Arc<GeoFile>>,
    networks: Option<Arc<GeoFile>>,
    data_centres: HashSet<u32>,
    remembered: Cache<Ipv6Addr, Arc<Located>>,
    nowhere: Arc<Located>,
    /// The files' versions that what is remembered comes from.
    versions: (u64, u64),
}

impl Places {
    /// Opens the files that are configured, and keeps them current until `stop`.
    pub(crate) fn open(config: &Config, stop: &CancellationToken) -> Result<Self, GeoError> {
        let open = |path: &Option<PathBuf>, setting| -> Result<Option<Arc<GeoFile>>, GeoError> {
            let Some(path) = path else { return Ok(None) };
            let file = Arc::new(GeoFile::open(path)?);
            let keep = Arc::clone(&file).keep_current(setting);
            tokio::spawn(stop.clone().run_until_cancelled_owned(keep));
            Ok(Some(file))
        };
        let numbers = DATA_CENTRES
            .lines()
            .filter_map(|line| line.split_once('\t')?.0.parse().ok());
        Ok(Self {
            cities: open(&config.city_file, "CITY_FILE")?,
            networks: open(&config.network_file, "NETWORK_FILE")?,
            data_centres: numbers.collect(),
            remembered: Cache::new(REMEMBERED),
            nowhere: Arc::default(),
            versions: (0, 0),
        })
    }

    pub(crate) fn locate(&mut self, address: Ipv6Addr) -> Arc<Located> {
        if (self.cities.is_none() && self.networks.is_none()) || address.is_unspecified() {
            return Arc::clone(&self.nowhere);
        }
        let version = |file: &Option<Arc<GeoFile>>| file.as_ref().map_or(0, |f| f.reloads());
        let versions = (version(&self.cities), version(&self.networks));
        if self.versions != versions {
            self.remembered.clear();
            self.versions = versions;
        }
        if let Some(located) = self.remembered.get(&address) {
            return located;
        }
        let located = Arc::new(self.look_up(IpAddr::V6(address)));
        self.remembered.insert(address, Arc::clone(&located));
        located
    }

    fn look_up(&self, address: IpAddr) -> Located {
        let place = self.cities.as_ref().map(|file| file.place(address));
        let Place {
            country,
            region,
            city,
        } = place.unwrap_or_default();
        let network = self
            .networks
            .as_ref()
            .and_then(|file| file.network(address));
        let name = |(number, owner): &(u32, String)| match owner.as_str() {
            "" => format_smolstr!("AS{number}"),
            owner => format_smolstr!("AS{number} {owner}"),
        };
        Located {
            country: country.into(),
            region: region.into(),
            city: city.into(),
            is_data_centre: network
                .as_ref()
                .is_some_and(|(number, _)| self.data_centres.contains(number)),
            network: network.as_ref().map(name).unwrap_or_default(),
        }
    }
}
