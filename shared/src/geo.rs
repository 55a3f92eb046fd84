//! Where does an address lie, and whose network is it? By files in MaxMind's format that the operator
//! provides and may replace while a service runs.
//!
//! Taken are the layouts of GeoLite2 and DB-IP (`country.iso_code`, `subdivisions`, `city.names.en`,
//! `autonomous_system_number`) and the flat ones of ip-location-db and IPinfo (`country_code`, `state1` or
//! `region`, `city`, `asn`). A file is held in memory: a memory map would end the process if somebody
//! wrote over the file in place.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, path};

/// Largest file that is taken, in bytes: it is held in memory.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// Longest name that is taken from a file.
const MAX_NAME_CHARACTERS: usize = 100;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge { path: PathBuf },
    #[error("{path} is not a file in MaxMind's format: {source}")]
    Format {
        path: PathBuf,
        source: Box<MaxMindDbError>,
    },
}

/// Tells one state of a file from another.
type Version = (Option<SystemTime>, u64);

struct Loaded {
    reader: Reader<Vec<u8>>,
    version: Version,
    /// How often the file was replaced before.
    reloads: u64,
}

/// How often a file is looked at: was it replaced?
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Where an address lies; empty: the file doesn't say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// ISO 3166-1 alpha-2, upper case.
    pub country: String,
    /// By its English name.
    pub region: String,
    /// By its English name.
    pub city: String,
}

/// Whose network an address belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Of the autonomous system.
    pub number: u32,
    /// May be empty.
    pub owner: String,
}

/// Which entry of a file, in which of its states: many addresses share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryId {
    reloads: u64,
    offset: usize,
}

/// What a file says of an address.
pub struct Entry<'f> {
    id: EntryId,
    record: LookupResult<'f, Vec<u8>>,
}

/// One file, asked by address. Threads may share one.
pub struct GeoFile {
    path: PathBuf,
    loaded: RwLock<Loaded>,
}

impl GeoFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it can't be read or is none.
    pub fn open(path: &Path) -> Result<Self, GeoError> {
        let version = version(path)?;
        Ok(Self {
            loaded: RwLock::new(load(path, version, 0)?),
            path: path.to_owned(),
        })
    }

    /// Reads the file again if it was replaced; whether it was. Blocks on the disk, so not for a
    /// thread that answers requests, which go on with the old file meanwhile.
    ///
    /// # Errors
    /// When the new file can't be used: the old one stays in use, and the next call tries again.
    pub fn reload_if_changed(&self) -> Result<bool, GeoError> {
        let version = version(&self.path)?;
        let (known, reloads) = {
            let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
            (loaded.version, loaded.reloads)
        };
        if version == known {
            return Ok(false);
        }
        let new = load(&self.path, version, reloads + 1)?;
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *loaded, new);
        drop(loaded); // so that nobody waits while the old file's memory is given back
        drop(old);
        Ok(true)
    }

    /// Reads the file again whenever it is replaced; never returns. `setting` names it to the operator.
    pub async fn keep_current(self: Arc<Self>, setting: &'static str) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let file = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || file.reload_if_changed()).await {
                Ok(Ok(true)) => tracing::info!(setting, "the new file is used"),
                Ok(Err(error)) => {
                    tracing::error!(%error, setting, "the old file stays in use; replace it");
                }
                Ok(Ok(false)) | Err(_) => {}
            }
        }
    }

    /// What `read` makes of the file's entry for `address`; none when there is no entry.
    pub fn read<T>(&self, address: IpAddr, read: impl FnOnce(&Entry<'_>) -> T) -> Option<T> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let record = loaded.reader.lookup(address.to_canonical()).ok()?;
        let id = EntryId {
            reloads: loaded.reloads,
            offset: record.offset()?,
        };
        Some(read(&Entry { id, record }))
    }
}

impl Entry<'_> {
    #[must_use]
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// ISO 3166-1 alpha-2, upper case; none when the entry doesn't say.
    #[must_use]
    pub fn country(&self) -> Option<[u8; 2]> {
        let nested = self.record.decode_path(&path!["country", "iso_code"]);
        let code: &str = match nested {
            Ok(Some(code)) => code,
            _ => self.record.decode_path(&path!["country_code"]).ok()??,
        };
        let code: [u8; 2] = code.as_bytes().try_into().ok()?;
        code.iter()
            .all(u8::is_ascii_alphabetic)
            .then(|| code.map(|letter| letter.to_ascii_uppercase()))
    }

    /// Country, region and city, as far as the entry says.
    #[must_use]
    pub fn place(&self) -> Place {
        let country = self.country();
        let region = self
            .text(&path!["subdivisions", 0, "names", "en"])
            .or_else(|| self.text(&path!["state1"]))
            .or_else(|| self.text(&path!["region"]));
        let city = self
            .text(&path!["city", "names", "en"])
            .or_else(|| self.text(&path!["city"]));
        Place {
            country: country.map_or_else(String::new, |code| {
                String::from_utf8_lossy(&code).into_owned()
            }),
            region: region.unwrap_or_default(),
            city: city.unwrap_or_default(),
        }
    }

    /// Whose network it is; none when the entry doesn't say.
    #[must_use]
    pub fn network(&self) -> Option<Network> {
        let number = self.record.decode_path(&path!["autonomous_system_number"]);
        let number = match number {
            Ok(Some(number)) => number,
            // Some write it as text, with or without AS before it.
            _ => self
                .text(&path!["asn"])?
                .trim_start_matches("AS")
                .parse()
                .ok()?,
        };
        let owner = self
            .text(&path!["autonomous_system_organization"])
            .or_else(|| self.text(&path!["as_name"]));
        Some(Network {
            number,
            owner: owner.unwrap_or_default(),
        })
    }

    fn text(&self, path: &[PathElement<'_>]) -> Option<String> {
        let text: &str = self.record.decode_path(path).ok()??;
        Some(text.chars().take(MAX_NAME_CHARACTERS).collect())
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.id).finish()
    }
}

impl fmt::Debug for GeoFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GeoFile").field(&self.path).finish()
    }
}

fn version(path: &Path) -> Result<Version, GeoError> {
    let file = fs::metadata(path).map_err(|source| GeoError::Read {
        path: path.to_owned(),
        source,
    })?;
    if file.len() > MAX_FILE_BYTES {
        return Err(GeoError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok((file.modified().ok(), file.len()))
}

fn load(path: &Path, version: Version, reloads: u64) -> Result<Loaded, GeoError> {
    let bytes = fs::read(path).map_err(|source| GeoError::Read {
        path: path.to_owned(),
        source,
    })?;
    let reader = Reader::from_source(bytes).map_err(|source| GeoError::Format {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok(Loaded {
        reader,
        version,
        reloads,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by tests/data/geo.py.
    const NESTED: &[u8] = include_bytes!("../tests/data/nested.mmdb");
    const FLAT: &[u8] = include_bytes!("../tests/data/flat.mmdb");

    struct File(PathBuf);

    impl File {
        fn new(content: &[u8]) -> Self {
            let name = format!("geo-{}.mmdb", uuid::Uuid::new_v4());
            let file = Self(std::env::temp_dir().join(name));
            file.replace(content);
            file
        }

        fn replace(&self, content: &[u8]) {
            let new = self.0.with_extension("new");
            fs::write(&new, content).unwrap();
            fs::rename(new, &self.0).unwrap();
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn country(countries: &GeoFile, address: &str) -> Option<String> {
        let code = (countries.read(address.parse().unwrap(), |entry| entry.country()))??;
        Some(String::from_utf8(code.to_vec()).unwrap())
    }

    #[test]
    fn both_layouts_are_read() {
        for content in [NESTED, FLAT] {
            let file = File::new(content);
            let countries = GeoFile::open(&file.0).unwrap();
            let is = |address, code: &str| {
                assert_eq!(country(&countries, address).as_deref(), Some(code));
            };
            is("203.0.113.9", "DE");
            is("::ffff:203.0.113.9", "DE");
            is("198.51.100.1", "AT");
            is("2001:db8::1", "US");
            // Not listed; listed without a country; with one that is none.
            for address in ["10.0.0.1", "2001:4860::1", "192.0.2.1", "192.0.2.129"] {
                assert_eq!(country(&countries, address), None, "{address}");
            }
        }
    }

    #[test]
    fn places_and_networks_are_read() {
        let file = File::new(include_bytes!("../tests/data/places.mmdb"));
        let places = GeoFile::open(&file.0).unwrap();
        let place = |address: &str| {
            let Place {
                country,
                region,
                city,
            } = (places.read(address.parse().unwrap(), |entry| entry.place())).unwrap_or_default();
            [country, region, city]
        };
        assert_eq!(place("203.0.113.9"), ["DE", "Bavaria", "Munich"]);
        assert_eq!(
            place("::ffff:198.51.100.1"),
            ["AT", "Vienna", "Vienna"],
            "the flat layout"
        );
        assert_eq!(place("10.0.0.1"), ["", "", ""]);
        let file = File::new(include_bytes!("../tests/data/networks.mmdb"));
        let networks = GeoFile::open(&file.0).unwrap();
        let network = |address: &str| {
            let network = (networks.read(address.parse().unwrap(), |entry| entry.network()))??;
            Some((network.number, network.owner))
        };
        assert_eq!(
            network("203.0.113.9"),
            Some((64496, "Example Telecom".to_owned()))
        );
        assert_eq!(
            network("198.51.100.1"),
            Some((24940, "Hetzner Online GmbH".to_owned()))
        );
        assert_eq!(network("10.0.0.1"), None);
    }

    #[test]
    fn a_replaced_file_is_read_again_and_a_broken_one_is_not_used() {
        let file = File::new(NESTED);
        let countries = GeoFile::open(&file.0).unwrap();
        assert!(!countries.reload_if_changed().unwrap());
        file.replace(FLAT);
        let id = || countries.read("203.0.113.9".parse().unwrap(), |entry| entry.id());
        let before = id();
        assert!(before.is_some() && before == id());
        assert!(countries.reload_if_changed().unwrap());
        assert_ne!(before, id());
        assert!(!countries.reload_if_changed().unwrap());

        file.replace(&NESTED[..NESTED.len() / 2]);
        for _ in 0..2 {
            let error = countries.reload_if_changed().unwrap_err();
            assert!(matches!(error, GeoError::Format { .. }), "{error}");
        }
        assert_eq!(country(&countries, "203.0.113.9").as_deref(), Some("DE"));
        fs::remove_file(&file.0).unwrap();
        assert!(countries.reload_if_changed().is_err());
        assert_eq!(country(&countries, "203.0.113.9").as_deref(), Some("DE"));
        assert!(GeoFile::open(&file.0).is_err());
    }
}
