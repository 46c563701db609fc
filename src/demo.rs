//! The demo model that travels inside the binary: ours, small, packed as `q8` and calibrated (see `models/demo/README.md`).

use coexec_model::packed::{PackedError, PackedFile};

/// Bytes on a cache line's edge, so that tiles stored raw can be read in place.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!("../models/demo/demo.coexec"));

/// The prompt that `coexec` runs when none is given.
pub const PROMPT: &str = "Once upon a time";

/// The embedded model.
///
/// # Errors
/// Never with an intact binary.
pub fn packed() -> Result<PackedFile, PackedError> {
    PackedFile::from_static(&BYTES.0)
}
