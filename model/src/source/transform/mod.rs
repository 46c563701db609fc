//! Sources that are another source with an exact transform: the same function in float, with weights or activations
//! that quantise better (or, for tests, worse).
//!
//! Every transform wraps a [`ModelSource`](crate::source::ModelSource) and is one itself, so they chain, and import,
//! calibration and export see plain models. None of them adds an operation at run time.

pub mod outliers;
mod rotate;
mod scale;

pub use rotate::{Rotated, Rotation};
pub use scale::{ChannelScales, Scaled};

use crate::TensorName;
use crate::source::SourceError;
use std::ops::Range;

/// The shape of a tensor that is there and has these rows.
fn check_rows(
    name: TensorName,
    shape: Option<(usize, usize)>,
    rows: &Range<usize>,
) -> Result<(usize, usize), SourceError> {
    let (n, k) = shape.ok_or(SourceError::NoSuchTensor(name))?;
    if rows.end > n || rows.start > rows.end {
        return Err(SourceError::RowRange { tensor: name, rows: n, start: rows.start, end: rows.end });
    }
    Ok((n, k))
}
