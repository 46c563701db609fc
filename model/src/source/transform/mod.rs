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

/// SplitMix64: the same numbers on every machine.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// True or false.
    fn bit(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// 0 … 1, 1 excluded.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal values, nearly: twelve uniforms added.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}
