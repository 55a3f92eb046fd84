//! Where an address lies, and whose network it is, by the operator's files. Their entries are remembered as
//! columns: addresses are many, but they share few entries.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use ahash::HashSet;
use quick_cache::unsync::Cache;
use smol_str::{SmolStr, format_smolstr};
use tokio_util::sync::CancellationToken;
use tributary_shared::geo::{Entry, EntryId, GeoError, GeoFile};

use crate::config::Config;

const DATA_CENTRES: &str = include_str!("../../data/data_centres.tsv");
/// Entries of one file that are remembered: about 20 MB. Those of a file that was replaced give way.
const REMEMBERED: usize = 100_000;

/// Where an address lies. Empty: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) country: SmolStr,
    pub(crate) region: SmolStr,
    pub(crate) city: SmolStr,
}

/// Whose network an address belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Network {
    /// `AS64496 Name`; empty: not known.
    pub(crate) name: SmolStr,
    pub(crate) is_data_centre: bool,
}

/// One of the operator's files; without one, nothing is known.
struct File<T> {
    file: Option<Arc<GeoFile>>,
    remembered: Cache<EntryId, Arc<T>>,
    nothing: Arc<T>,
}

impl<T: Default> File<T> {
    /// Opens the file and keeps it current until `stop`.
    fn open(
        path: Option<&Path>,
        setting: &'static str,
        stop: &CancellationToken,
    ) -> Result<Self, GeoError> {
        let file = path.map(GeoFile::open).transpose()?.map(Arc::new);
        if let Some(file) = &file {
            let keep = Arc::clone(file).keep_current(setting);
            tokio::spawn(stop.clone().run_until_cancelled_owned(keep));
        }
        Ok(Self {
            file,
            remembered: Cache::new(REMEMBERED),
            nothing: Arc::default(),
        })
    }

    fn of(&mut self, address: Ipv6Addr, read: impl FnOnce(&Entry<'_>) -> T) -> Arc<T> {
        let found = self.file.as_ref().and_then(|file| {
            file.read(address.into(), |entry| {
                if let Some(known) = self.remembered.get(&entry.id()) {
                    return Arc::clone(known);
                }
                let new = Arc::new(read(entry));
                self.remembered.insert(entry.id(), Arc::clone(&new));
                new
            })
        });
        found.unwrap_or_else(|| Arc::clone(&self.nothing))
    }
}

/// The countries of addresses, by the file of cities. Nothing is remembered: it is for orders, which are few.
#[derive(Clone, Default)]
pub(crate) struct Countries(Option<Arc<GeoFile>>);

impl Countries {
    /// ISO 3166-1 alpha-2; none: not known.
    pub(crate) fn of(&self, address: IpAddr) -> Option<String> {
        let country = self
            .0
            .as_ref()?
            .read(address, |entry| entry.place().country);
        country.filter(|country| !country.is_empty())
    }
}

/// The files.
pub(crate) struct Places {
    cities: File<Place>,
    networks: File<Network>,
    data_centres: HashSet<u32>,
}

impl Places {
    /// Opens the files that are configured, and keeps them current until `stop`.
    pub(crate) fn open(config: &Config, stop: &CancellationToken) -> Result<Self, GeoError> {
        let numbers = DATA_CENTRES
            .lines()
            .filter_map(|line| line.split_once('\t')?.0.parse().ok());
        Ok(Self {
            cities: File::open(config.city_file.as_deref(), "CITY_FILE", stop)?,
            networks: File::open(config.network_file.as_deref(), "NETWORK_FILE", stop)?,
            data_centres: numbers.collect(),
        })
    }

    /// Of the same file, which stays current.
    pub(crate) fn countries(&self) -> Countries {
        Countries(self.cities.file.clone())
    }

    pub(crate) fn place(&mut self, address: Ipv6Addr) -> Arc<Place> {
        self.cities.of(address, |entry| {
            let place = entry.place();
            Place {
                country: place.country.into(),
                region: place.region.into(),
                city: place.city.into(),
            }
        })
    }

    pub(crate) fn network(&mut self, address: Ipv6Addr) -> Arc<Network> {
        self.networks.of(address, |entry| {
            let network = entry.network().map(|network| Network {
                name: match network.owner.as_str() {
                    "" => format_smolstr!("AS{}", network.number),
                    owner => format_smolstr!("AS{} {owner}", network.number),
                },
                is_data_centre: self.data_centres.contains(&network.number),
            });
            network.unwrap_or_default()
        })
    }
}
