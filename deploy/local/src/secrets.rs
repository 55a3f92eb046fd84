//! `data/secrets.json`: keys and passwords of this installation, made once, readable by its owner only.

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::data_dir::{DataDir, write_private};

/// What the services and engines of one data folder share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// The platform owner's bearer key for the admin API.
    pub(crate) owner_key: String,
    /// `id:hex` of 32 bytes, comma-separated; the first signs click tokens.
    pub(crate) click_token_keys: String,
    /// Hex of 32 bytes.
    pub(crate) fingerprint_key: String,
    /// `id:hex` of 32 bytes, comma-separated; the first seals. Empty: the file is older than these keys.
    #[serde(default)]
    pub(crate) sealing_keys: String,
    pub(crate) admin_password: String,
    pub(crate) postgres_password: String,
}

impl Secrets {
    pub(crate) fn load_or_create(data: &DataDir) -> Result<Self, Error> {
        let path = data.join("secrets.json");
        let damaged = |why: serde_json::Error| Error::Damaged {
            file: path.clone(),
            why: why.to_string(),
        };
        let mut secrets: Self = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(damaged)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self {
                owner_key: format!("tro_{}", random_hex::<32>()),
                click_token_keys: format!("1:{}", random_hex::<32>()),
                fingerprint_key: random_hex::<32>(),
                sealing_keys: String::new(),
                admin_password: random_hex::<8>(),
                postgres_password: random_hex::<16>(),
            },
            Err(error) => return Err(Error::io(format!("read {}", path.display()))(error)),
        };
        if secrets.sealing_keys.is_empty() {
            secrets.sealing_keys = format!("1:{}", random_hex::<32>());
            let text = serde_json::to_vec_pretty(&secrets).map_err(damaged)?;
            write_private(&path, &text)?;
        }
        Ok(secrets)
    }
}

/// `BYTES` random bytes from the process's cryptographic generator, in hexadecimal.
pub(crate) fn random_hex<const BYTES: usize>() -> String {
    rand::random::<[u8; BYTES]>()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_the_same_from_one_start_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let first = Secrets::load_or_create(&data).unwrap();
        let second = Secrets::load_or_create(&data).unwrap();
        assert_eq!(first.owner_key, second.owner_key);
        assert_eq!(first.sealing_keys, second.sealing_keys);
        assert_eq!(first.fingerprint_key.len(), 64);
        std::fs::write(data.join("secrets.json"), "{").unwrap();
        assert!(
            Secrets::load_or_create(&data).is_err(),
            "a damaged file is not replaced by new keys"
        );
    }
}
