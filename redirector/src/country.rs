//! In which country does an address lie? By a file in MaxMind's format that the operator provides and
//! may replace while the edge runs.
//!
//! Taken are the layouts of GeoLite2 and DB-IP (`country.iso_code`, Country and City alike) and the
//! flat one of ip-location-db and IPinfo (`country_code`). The file is held in memory: a memory map
//! would end the process if somebody wrote over the file in place.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;

use maxminddb::{MaxMindDbError, Reader, path};

/// Largest file that is taken, in bytes: it is held in memory.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CountriesError {
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
}

/// Countries by address. Threads may share one.
pub(crate) struct Countries {
    path: PathBuf,
    loaded: RwLock<Loaded>,
}

impl Countries {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it can't be read or is none.
    pub(crate) fn open(path: &Path) -> Result<Self, CountriesError> {
        let version = version(path)?;
        Ok(Self {
            loaded: RwLock::new(load(path, version)?),
            path: path.to_owned(),
        })
    }

    /// Reads the file again if it was replaced; whether it was. Blocks on the disk, so not for a
    /// thread that answers requests, which go on with the old file meanwhile.
    ///
    /// # Errors
    /// When the new file can't be used: the old one stays in use, and the next call tries again.
    pub(crate) fn reload_if_changed(&self) -> Result<bool, CountriesError> {
        let version = version(&self.path)?;
        let known = self
            .loaded
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .version;
        if version == known {
            return Ok(false);
        }
        let new = load(&self.path, version)?;
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *loaded, new);
        drop(loaded); // so that nobody waits while the old file's memory is given back
        drop(old);
        Ok(true)
    }

    /// The country (ISO 3166-1 alpha-2, upper case) of `address`; none when the file doesn't say.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<[u8; 2]> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let record = loaded.reader.lookup(address.to_canonical()).ok()?;
        let nested = record.decode_path(&path!["country", "iso_code"]);
        let code: &str = match nested {
            Ok(Some(code)) => code,
            _ => record.decode_path(&path!["country_code"]).ok()??,
        };
        let code: [u8; 2] = code.as_bytes().try_into().ok()?;
        code.iter()
            .all(u8::is_ascii_alphabetic)
            .then(|| code.map(|letter| letter.to_ascii_uppercase()))
    }
}

impl fmt::Debug for Countries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Countries").field(&self.path).finish()
    }
}

fn version(path: &Path) -> Result<Version, CountriesError> {
    let file = fs::metadata(path).map_err(|source| CountriesError::Read {
        path: path.to_owned(),
        source,
    })?;
    if file.len() > MAX_FILE_BYTES {
        return Err(CountriesError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok((file.modified().ok(), file.len()))
}

fn load(path: &Path, version: Version) -> Result<Loaded, CountriesError> {
    let bytes = fs::read(path).map_err(|source| CountriesError::Read {
        path: path.to_owned(),
        source,
    })?;
    let reader = Reader::from_source(bytes).map_err(|source| CountriesError::Format {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok(Loaded { reader, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by tests/data/countries.py.
    const NESTED: &[u8] = include_bytes!("../tests/data/nested.mmdb");
    const FLAT: &[u8] = include_bytes!("../tests/data/flat.mmdb");

    struct File(PathBuf);

    impl File {
        fn new(content: &[u8]) -> Self {
            let name = format!("countries-{}.mmdb", uuid::Uuid::new_v4());
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

    fn country(countries: &Countries, address: &str) -> Option<String> {
        let code = countries.lookup(address.parse().unwrap())?;
        Some(String::from_utf8(code.to_vec()).unwrap())
    }

    #[test]
    fn both_layouts_are_read() {
        for content in [NESTED, FLAT] {
            let file = File::new(content);
            let countries = Countries::open(&file.0).unwrap();
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
    fn a_replaced_file_is_read_again_and_a_broken_one_is_not_used() {
        let file = File::new(NESTED);
        let countries = Countries::open(&file.0).unwrap();
        assert!(!countries.reload_if_changed().unwrap());
        file.replace(FLAT);
        assert!(countries.reload_if_changed().unwrap());
        assert!(!countries.reload_if_changed().unwrap());

        file.replace(&NESTED[..NESTED.len() / 2]);
        for _ in 0..2 {
            let error = countries.reload_if_changed().unwrap_err();
            assert!(matches!(error, CountriesError::Format { .. }), "{error}");
        }
        assert_eq!(country(&countries, "203.0.113.9").as_deref(), Some("DE"));
        fs::remove_file(&file.0).unwrap();
        assert!(countries.reload_if_changed().is_err());
        assert_eq!(country(&countries, "203.0.113.9").as_deref(), Some("DE"));
        assert!(Countries::open(&file.0).is_err());
    }
}
