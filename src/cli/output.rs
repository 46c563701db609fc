//! Files that commands write: claimed before the work begins, so that none is lost to a name that cannot be, and none that is
//! read is written.

use coexec::model::output::{OutputError, OutputFile, ReadFiles};
use std::path::Path;

/// Claims the files of options that were given; `read` are the files that the command reads.
pub(crate) fn claim<const N: usize>(
    paths: [Option<&Path>; N],
    read: &ReadFiles,
) -> Result<[Option<OutputFile>; N], OutputError> {
    let mut claimed = [const { None }; N];
    for (place, path) in claimed.iter_mut().zip(paths) {
        *place = path.map(|path| OutputFile::create(path, read)).transpose()?;
    }
    Ok(claimed)
}

/// Files that are there of those that may be.
pub(crate) fn read_files<'a>(paths: impl IntoIterator<Item = Option<&'a Path>>) -> ReadFiles {
    paths.into_iter().flatten().collect()
}
