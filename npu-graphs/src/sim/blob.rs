//! The simulated device's context binary.
//!
//! ```text
//! magic 8 | version u32 | header length u32 | header: ContextSpec as JSON
//!         | per weight, in the order of ContextSpec::weights: n·k codes i8, n scales f32 | XXH3-64 of all before
//! ```
//! Little-endian. Lengths follow from the header; a binary of any other length or checksum is refused, whatever the manifest
//! says.

use super::{MemoryLease, linear::LinearWeights, prepared::Prepared};
use crate::{ContextSpec, NpuError};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"coexsim\0";
const VERSION: u32 = 1;
const FIXED_BYTES: usize = 16;

/// A checked binary.
#[derive(Debug)]
pub(super) struct Blob<'a> {
    pub(super) spec: ContextSpec,
    weights: &'a [u8],
}

pub(super) fn write(prepared: &Prepared) -> Result<Vec<u8>, NpuError> {
    let bad = |reason: String| NpuError::Blob { reason };
    let header = serde_json::to_vec(&prepared.spec).map_err(|e| bad(format!("spec as JSON: {e}")))?;
    let header_len = u32::try_from(header.len()).map_err(|_| bad("the spec is too large".to_owned()))?;
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&header_len.to_le_bytes());
    out.extend_from_slice(&header);
    for weights in &prepared.weights {
        out.extend(weights.codes.iter().map(|c| *c as u8));
        out.extend(weights.scales.iter().flat_map(|s| s.to_le_bytes()));
    }
    out.extend_from_slice(&xxh3_64(&out).to_le_bytes());
    Ok(out)
}

pub(super) fn read(bytes: &[u8]) -> Result<Blob<'_>, NpuError> {
    let bad = |reason: String| NpuError::Blob { reason };
    let (body, sum) = bytes.split_last_chunk::<8>().ok_or_else(|| bad("truncated".to_owned()))?;
    if body.len() < FIXED_BYTES || !body.starts_with(MAGIC) {
        return Err(bad("not a binary of the simulated device".to_owned()));
    }
    let word = |at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    if word(8) != VERSION {
        return Err(bad(format!("format version {}, this build reads {VERSION}", word(8))));
    }
    if xxh3_64(body) != u64::from_le_bytes(*sum) {
        return Err(bad("the checksum differs: damaged or truncated".to_owned()));
    }
    let header_len = word(12) as usize;
    let rest = &body[FIXED_BYTES..];
    if header_len > rest.len() {
        return Err(bad("the header is longer than the binary".to_owned()));
    }
    let (header, weights) = rest.split_at(header_len);
    let spec: ContextSpec = serde_json::from_slice(header).map_err(|e| bad(format!("header: {e}")))?;
    spec.validate()?;
    let size = |n: usize, k: usize| n.checked_mul(k)?.checked_add(n.checked_mul(4)?);
    let total = spec.weights().iter().try_fold(0usize, |sum, w| sum.checked_add(size(w.n(), w.k)?));
    if total != Some(weights.len()) {
        return Err(bad(format!("{} bytes of weights, the spec takes {total:?}", weights.len())));
    }
    Ok(Blob { spec, weights })
}

impl Blob<'_> {
    pub(super) fn prepare(self, lease: MemoryLease) -> Result<Prepared, NpuError> {
        let mut rest = self.weights;
        let mut weights = Vec::new();
        for wanted in self.spec.weights() {
            let (n, k) = (wanted.n(), wanted.k);
            // `read` made sure that the lengths add up.
            let (codes, after) = rest.split_at(n * k);
            let (scales, after) = after.split_at(n * 4);
            rest = after;
            let scales: Vec<f32> =
                scales.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            let codes = codes.iter().map(|c| *c as i8).collect();
            let packed = LinearWeights::new(n, k, codes, scales);
            weights.push(Arc::new(packed.map_err(|e| NpuError::Blob { reason: e.to_string() })?));
        }
        Prepared::new(self.spec, weights, lease)
    }
}
