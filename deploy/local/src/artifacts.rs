//! Where the engines' programs are: what `setup.sh` brought, and what Debian's packages hold.

use std::path::{Path, PathBuf};

use crate::Error;

/// The folder that `deploy/local/setup.sh` fills, in the checkout.
const FOLDER: &str = ".engines";

/// The launcher's own file name, which a test process looks for.
const LAUNCHER: &str = "tributary-local";

fn missing(what: &str) -> Error {
    Error::Missing {
        what: what.to_owned(),
        bring_it: "make setup",
    }
}

/// `TRIBUTARY_ENGINES`, or the nearest `.engines` above the working directory, the crate under
/// test, or this program.
pub(crate) fn folder() -> Result<PathBuf, Error> {
    if let Some(given) = std::env::var_os("TRIBUTARY_ENGINES") {
        let given = PathBuf::from(given);
        return if given.is_dir() {
            Ok(given)
        } else {
            Err(missing(&format!("TRIBUTARY_ENGINES={}", given.display())))
        };
    }
    let starts = [
        std::env::current_dir().ok(),
        std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from),
        std::env::current_exe().ok(),
    ];
    starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .map(|above| above.join(FOLDER))
        .find(|folder| folder.is_dir())
        .ok_or_else(|| missing("the engines' folder .engines"))
}

/// ClickHouse as a library.
pub(crate) fn libchdb() -> Result<PathBuf, Error> {
    existing(folder()?.join("libchdb.so"), "ClickHouse (libchdb.so)")
}

/// The folder with Kafka's jars.
pub(crate) fn kafka_jars() -> Result<PathBuf, Error> {
    existing(folder()?.join("kafka"), "Apache Kafka (.engines/kafka)")
}

fn existing(path: PathBuf, what: &str) -> Result<PathBuf, Error> {
    if path.exists() {
        Ok(path)
    } else {
        Err(missing(what))
    }
}

/// A program on `PATH`.
pub(crate) fn on_path(name: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .ok_or_else(|| missing(name))
}

/// The folder with `postgres`, `initdb` and `psql`: of the version that wrote `cluster`, or else the
/// newest. Debian keeps them off `PATH`.
pub(crate) fn postgres_programs(cluster: &Path) -> Result<PathBuf, Error> {
    let debian = Path::new("/usr/lib/postgresql");
    if let Ok(version) = std::fs::read_to_string(cluster.join("PG_VERSION")) {
        let of_cluster = debian.join(version.trim()).join("bin");
        if of_cluster.join("postgres").is_file() {
            return Ok(of_cluster);
        }
    }
    let newest = std::fs::read_dir(debian)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<u32>().ok()?,
                entry.path(),
            ))
        })
        .filter(|(_, folder)| folder.join("bin/postgres").is_file())
        .max();
    if let Some((_, folder)) = newest {
        return Ok(folder.join("bin"));
    }
    let postgres = on_path("postgres").map_err(|_| missing("PostgreSQL"))?;
    Ok(postgres
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf))
}

/// The launcher's program, for the ClickHouse child: the launcher's own file; a test process looks
/// beside and above itself.
pub(crate) fn launcher() -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(Error::io("find this program's file"))?;
    if own.file_name().is_some_and(|name| name == LAUNCHER) {
        return Ok(own);
    }
    own.ancestors()
        .skip(1)
        .take(4)
        .flat_map(|above| [above.join(LAUNCHER), above.join("release").join(LAUNCHER)])
        .find(|program| program.is_file())
        .ok_or_else(|| Error::Missing {
            what: format!("the program {LAUNCHER}, which runs ClickHouse,"),
            bring_it: "make build",
        })
}

/// A service's program, beside the launcher's.
pub(crate) fn service(name: &str) -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(Error::io("find this program's file"))?;
    let program = own.with_file_name(name);
    if program.is_file() {
        Ok(program)
    } else {
        Err(Error::Missing {
            what: format!("the program {}", program.display()),
            bring_it: "make build",
        })
    }
}
