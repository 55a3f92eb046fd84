//! `data/run.json`: every address and process id of what runs, for scripts.
//!
//! It holds what is up at this moment, and the process ids of what is on its way there; it is complete
//! only when everything is ready. It is replaced as a whole at each change, is readable by its owner only (it holds the demo's password), and is
//! removed at a clean stop.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::data_dir::{DataDir, write_private};

/// Which part of the file an entry belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Services,
    Engines,
}

/// One process: its id and its addresses by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    /// `null` for an engine that the launcher found in its environment and did not start.
    pub(crate) pid: Option<u32>,
    #[serde(flatten)]
    pub(crate) fields: BTreeMap<String, String>,
}

/// An [`Address`] and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) section: Section,
    pub(crate) key: &'static str,
    pub(crate) address: Address,
}

impl Entry {
    pub(crate) fn new<const N: usize>(
        section: Section,
        key: &'static str,
        fields: [(&str, String); N],
    ) -> Self {
        let fields = fields.map(|(name, value)| (name.to_owned(), value));
        Self {
            section,
            key,
            address: Address {
                pid: None,
                fields: fields.into(),
            },
        }
    }

    pub(crate) fn with_pid(mut self, pid: u32) -> Self {
        self.address.pid = Some(pid);
        self
    }
}

/// What a script needs to act as the demo tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DemoAccess {
    pub(crate) tenant: String,
    pub(crate) admin_email: String,
    pub(crate) admin_password: String,
    pub(crate) api_key: String,
    pub(crate) link_url: String,
    pub(crate) postback_token: String,
}

/// The file's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) launcher_pid: u32,
    pub(crate) services: BTreeMap<String, Address>,
    pub(crate) engines: BTreeMap<String, Address>,
    /// Process ids of what was started and is not ready yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) starting: BTreeMap<String, u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) demo: Option<DemoAccess>,
}

impl Running {
    /// An address of an engine or a service, such as `("redis", "url")`.
    pub(crate) fn address(&self, name: &str, field: &str) -> Option<&str> {
        let entry = self.engines.get(name).or_else(|| self.services.get(name))?;
        entry.fields.get(field).map(String::as_str)
    }
}

/// The file of one launcher.
#[derive(Debug)]
pub(crate) struct RunFile {
    path: PathBuf,
    content: Running,
}

impl RunFile {
    pub(crate) fn path_in(data: &DataDir) -> PathBuf {
        data.join("run.json")
    }

    /// Replaces what a killed launcher may have left.
    pub(crate) fn create(data: &DataDir) -> Result<Self, Error> {
        let file = Self {
            path: Self::path_in(data),
            content: Running {
                launcher_pid: std::process::id(),
                services: BTreeMap::new(),
                engines: BTreeMap::new(),
                starting: BTreeMap::new(),
                demo: None,
            },
        };
        file.write()?;
        Ok(file)
    }

    /// What another launcher wrote; nothing if there is no file, or it is being changed.
    pub(crate) fn read(data: &DataDir) -> Option<Running> {
        serde_json::from_slice(&std::fs::read(Self::path_in(data)).ok()?).ok()
    }

    pub(crate) fn content(&self) -> &Running {
        &self.content
    }

    /// Notes what is not ready yet; `name` as in messages (`admin-api`).
    pub(crate) fn starts(&mut self, name: &str, pid: u32) -> Result<(), Error> {
        self.content.starting.insert(key(name), pid);
        self.write()
    }

    pub(crate) fn add(&mut self, entry: Entry) -> Result<(), Error> {
        self.content.starting.remove(entry.key);
        let section = match entry.section {
            Section::Services => &mut self.content.services,
            Section::Engines => &mut self.content.engines,
        };
        section.insert(entry.key.to_owned(), entry.address);
        self.write()
    }

    /// Takes out what is not up any more; `name` as in messages (`admin-api`).
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), Error> {
        let key = key(name);
        self.content.starting.remove(&key);
        self.content.services.remove(&key);
        self.content.engines.remove(&key);
        self.write()
    }

    pub(crate) fn set_demo(&mut self, demo: DemoAccess) -> Result<(), Error> {
        self.content.demo = Some(demo);
        self.write()
    }

    pub(crate) fn delete(&self) -> Result<(), Error> {
        std::fs::remove_file(&self.path)
            .map_err(Error::io(format!("remove {}", self.path.display())))
    }

    fn write(&self) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(&self.content)
            .map_err(|why| Error::io("write run.json")(std::io::Error::other(why)))?;
        write_private(&self.path, &text)
    }
}

/// What is called `name` in messages, as the file has it.
fn key(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(key: &'static str, pid: u32, port: u16) -> Entry {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let fields = [("url", url(port)), ("metrics", url(port + 1000))];
        Entry::new(Section::Services, key, fields).with_pid(pid)
    }

    #[test]
    fn the_complete_file_has_the_shape_that_scripts_rely_on() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let mut file = RunFile::create(&data).unwrap();
        file.content.launcher_pid = 1;
        file.add(service("redirector", 2, 8080)).unwrap();
        file.add(service("admin_api", 3, 8081)).unwrap();
        let clickhouse = [
            ("url", String::from("http://127.0.0.1:8123")),
            ("database", String::from("tributary")),
        ];
        file.add(Entry::new(Section::Engines, "clickhouse", clickhouse))
            .unwrap();
        file.set_demo(DemoAccess {
            tenant: String::from("demo"),
            admin_email: String::from("admin@demo.example"),
            admin_password: String::from("p"),
            api_key: String::from("trk_1"),
            link_url: String::from("http://127.0.0.1:8080/r/demo"),
            postback_token: String::from("t"),
        })
        .unwrap();
        let text = std::fs::read_to_string(RunFile::path_in(&data)).unwrap();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_went_down_is_not_in_the_file_until_it_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let mut file = RunFile::create(&data).unwrap();
        file.add(service("admin_api", 3, 8081)).unwrap();
        file.remove("admin-api").unwrap();
        let read = RunFile::read(&data).unwrap();
        assert_eq!(read.address("admin_api", "url"), None);
        file.starts("admin-api", 4).unwrap();
        let read = RunFile::read(&data).unwrap();
        assert_eq!(read.starting["admin_api"], 4);
        file.add(service("admin_api", 4, 8081)).unwrap();
        let read = RunFile::read(&data).unwrap();
        assert_eq!(read.services["admin_api"].pid, Some(4));
        assert!(read.starting.is_empty());
        file.starts("admin-api", 5).unwrap();
        file.remove("admin-api").unwrap();
        assert!(RunFile::read(&data).unwrap().starting.is_empty());
        file.delete().unwrap();
        assert!(RunFile::read(&data).is_none());
    }
}
