//! The simulated device's context binary.
//!
//! ```text
//! magic 8 | version u32 | header length u32 | header: ContextSpec as JSON
//!         | per weight, in the order of ContextSpec::weights: n·k codes i8, n scales f32
//!         | per float vector (gain, bias), in order of first use: its elements f32 | XXH3-64 of all before
//! ```
//! Little-endian. Lengths follow from the header; a binary of any other length or checksum is refused, whatever the manifest
//! says.

use super::{
    MemoryLease,
    linear::LinearWeights,
    prepared::Prepared,
    statics::{Statics, integer_weights, vectors},
};
use crate::{ContextSpec, NpuError};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"coexsim\0";
const VERSION: u32 = 2;
const FIXED_BYTES: usize = 16;

/// A checked binary.
#[derive(Debug)]
pub(super) struct Blob<'a> {
    pub(super) spec: ContextSpec,
    statics: &'a [u8],
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
    for weights in &prepared.statics.weights {
        out.extend(weights.codes.iter().map(|c| *c as u8));
        out.extend(weights.scales.iter().flat_map(|s| s.to_le_bytes()));
    }
    for vector in &prepared.statics.vectors {
        out.extend(vector.iter().flat_map(|v| v.to_le_bytes()));
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
    let (header, statics) = rest.split_at(header_len);
    let spec: ContextSpec = serde_json::from_slice(header).map_err(|e| bad(format!("header: {e}")))?;
    spec.validate()?;
    let size = |n: usize, k: usize| n.checked_mul(k)?.checked_add(n.checked_mul(4)?);
    let weights = spec.weights().iter().try_fold(0usize, |sum, w| sum.checked_add(size(w.n(), w.k)?));
    let vectors = vectors(&spec);
    let total = vectors.iter().try_fold(weights, |sum, (_, r)| Some(sum?.checked_add(r.len().checked_mul(4)?)));
    let total = total.flatten();
    if total != Some(statics.len()) {
        return Err(bad(format!("{} bytes of static data, the spec takes {total:?}", statics.len())));
    }
    Ok(Blob { spec, statics })
}

impl Blob<'_> {
    pub(super) fn prepare(self, lease: MemoryLease) -> Result<Prepared, NpuError> {
        let mut rest = self.statics;
        // `read` made sure that the lengths add up.
        let mut take = |len: usize| {
            let (head, tail) = rest.split_at(len);
            rest = tail;
            head
        };
        let floats =
            |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>();
        let integer = integer_weights(&self.spec);
        let mut weights = Vec::new();
        for wanted in self.spec.weights() {
            let (n, k) = (wanted.n(), wanted.k);
            let codes = take(n * k).iter().map(|c| *c as i8).collect();
            let scales = floats(take(n * 4));
            let packed = LinearWeights::new(n, k, codes, scales, integer.contains(wanted));
            weights.push(Arc::new(packed.map_err(|e| NpuError::Blob { reason: e.to_string() })?));
        }
        let vectors = vectors(&self.spec).iter().map(|(_, range)| Arc::new(floats(take(range.len() * 4)))).collect();
        drop(integer);
        Prepared::new(self.spec, Statics { weights, vectors }, Some(lease))
    }
}
