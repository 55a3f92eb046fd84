//! ClickHouse's own HTTP server out of `libchdb.so`, until standard input ends.
//!
//! It runs in a process of its own: the library takes a process over (threads, memory limits, signals).

use std::ffi::{CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL, Symbol};

use crate::Error;

/// Reading standard input to its end is what keeps the server up.
const SERVE: &str = "SYSTEM START LISTEN HTTP; \
     SELECT * FROM file('-', 'LineAsString', 'line String') FORMAT Null";

/// Serves HTTP on `127.0.0.1:http_port` from the data in `path`; returns the exit status.
///
/// The library answers 0 also when the port is taken or the path locked; the launcher tells that by
/// the probe.
#[allow(unsafe_code)] // A C library has no other door.
pub(crate) fn serve(library: &Path, path: &Path, http_port: u16) -> Result<c_int, Error> {
    let mut folder = b"--path=".to_vec();
    folder.extend_from_slice(path.as_os_str().as_bytes());
    let arguments = [
        b"clickhouse".to_vec(),
        folder,
        b"--listen_host=127.0.0.1".to_vec(),
        format!("--http_port={http_port}").into_bytes(),
        b"--log-level=warning".to_vec(),
        b"--logger.console=1".to_vec(),
        // An insert is answered when it is stored.
        b"--async_insert=0".to_vec(),
        b"--query".to_vec(),
        SERVE.as_bytes().to_vec(),
    ];
    let bad = |why: String| {
        Error::io(format!("serve ClickHouse from {}", library.display()))(std::io::Error::other(
            why,
        ))
    };
    let arguments = arguments
        .into_iter()
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|why| bad(why.to_string()))?;
    let mut pointers: Vec<*mut c_char> = arguments
        .iter()
        .map(|argument| argument.as_ptr().cast_mut())
        .chain([std::ptr::null_mut()])
        .collect();
    let count = c_int::try_from(arguments.len()).unwrap_or_default();

    // SAFETY: the two functions have these C signatures in chDB's header; setup.sh pins the library
    // by its checksum. `pointers` is an argv as `main` gets one: `count` strings that end in
    // NUL and a null pointer; both live until the call returns. No other thread runs yet, so
    // the library's initialisers disturb nobody, and it is never unloaded while in use.
    unsafe {
        let library = Library::open(Some(library), RTLD_LAZY | RTLD_LOCAL)
            .map_err(|why| bad(why.to_string()))?;
        let set_signal_handlers_enabled: Symbol<unsafe extern "C" fn(c_int)> = library
            .get(b"chdb_set_signal_handlers_enabled\0")
            .map_err(|why| bad(why.to_string()))?;
        let query_cmdline: Symbol<unsafe extern "C" fn(c_int, *mut *mut c_char) -> c_int> = library
            .get(b"chdb_query_cmdline\0")
            .map_err(|why| bad(why.to_string()))?;
        set_signal_handlers_enabled(0);
        let status = query_cmdline(count, pointers.as_mut_ptr());
        // Its threads may still run the library's code: leave it mapped until the process ends.
        std::mem::forget(library);
        Ok(status)
    }
}
