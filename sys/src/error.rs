//! What can go wrong between a file name and a function table.

use crate::{Version, find::Candidate};
use std::path::PathBuf;

/// A library that cannot be used, with the reason and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The library is in none of the places looked at.
    #[error(
        "cannot find {name}; looked at {}{}; give the folder of Qualcomm's libraries or set COEXEC_QNN_LIB_DIR (`cargo xtask \
         qnn` gets them for x86-64)",
        list(places), linker.as_deref().map(|l| format!(" ({l})")).unwrap_or_default()
    )]
    NotFound {
        /// File name.
        name: &'static str,
        /// Every place, in order.
        places: Vec<Candidate>,
        /// The dynamic linker's words, when its path was tried.
        linker: Option<String>,
    },
    /// The dynamic linker refused the file.
    #[error("cannot load {}: {reason}; {advice}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The dynamic linker's words.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// A library, but not this one.
    #[error("{} has no symbol {symbol}; it is not {expected}, give the path of the one from Qualcomm's package", path.display())]
    Symbol {
        /// The file.
        path: PathBuf,
        /// Entry point looked for.
        symbol: &'static str,
        /// Name of the library that has it.
        expected: &'static str,
    },
    /// The library answered an error when asked for its function tables, or a null list.
    #[error("{} gave no function tables (code {code}); the file is damaged or its dependencies are of another version", path.display())]
    Providers {
        /// The file.
        path: PathBuf,
        /// The library's code, 0 when it reported success.
        code: u32,
    },
    /// No function table of the library is one we know.
    #[error("{} offers {found}; accepted is {accepted}; {advice}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Every provider with its versions.
        found: String,
        /// The versions accepted.
        accepted: String,
        /// What to do.
        advice: &'static str,
    },
    /// The library's table has no such function.
    #[error("{} (API {version}) has no function `{name}`; use a newer Qualcomm library", path.display())]
    MissingEntry {
        /// Entry of the table.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// API version of the library.
        version: Version,
    },
}

fn list(places: &[Candidate]) -> String {
    let places: Vec<String> = places.iter().map(|c| format!("{} ({})", c.path.display(), c.origin)).collect();
    places.join(", ")
}
