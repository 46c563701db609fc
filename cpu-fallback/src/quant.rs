//! Activations for integer linears: per row, groups of 32 along K, codes −127…127 with one f32 scale per group.
//!
//! `scale = absmax / 127`, `code = round_ties_even(x · (127 / absmax))`. A group smaller than [`GROUP_ABSMAX_MIN`] counts as
//! zero. A group with a NaN or an infinity gets scale NaN and codes 0: it makes the outputs NaN instead of plausible.

use crate::{
    Ctx, Kernels,
    kernels::{QuantView, for_each_item},
};
use coexec_model::{
    layout::{GROUP, padded_k},
    memory::{self, OutOfMemory},
};

/// Groups whose largest magnitude is below this are stored as zeros: their scale would not be a normal float.
pub const GROUP_ABSMAX_MIN: f32 = f32::MIN_POSITIVE * 128.0;

/// Quantised rows; buffers are reused.
#[derive(Debug, Default)]
pub(crate) struct QuantRows {
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
    k_pad: usize,
}

/// Some of the rows, writable.
#[derive(Debug)]
pub(crate) struct QuantPart<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    k_pad: usize,
}

impl QuantPart<'_> {
    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.codes.len() / self.k_pad
    }

    /// Quantises `x [k]` into row `r`.
    pub(crate) fn set(&mut self, kernels: &Kernels, r: usize, x: &[f32]) {
        let (k_pad, groups) = (self.k_pad, self.k_pad / GROUP);
        kernels.quantize_groups(
            x,
            &mut self.codes[r * k_pad..(r + 1) * k_pad],
            &mut self.scales[r * groups..(r + 1) * groups],
            &mut self.sums[r * groups..(r + 1) * groups],
        );
    }
}

/// Codes, scales and sums of rows.
pub(crate) type QuantSlices<'a> = (&'a mut [i8], &'a mut [f32], &'a mut [i32]);

impl QuantRows {
    /// Makes room for `m` rows of `k`, whose contents are then anything.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(crate) fn resize(&mut self, m: usize, k: usize) -> Result<(), OutOfMemory> {
        const WHAT: &str = "quantised activations";
        let (k_pad, groups) = (padded_k(k), padded_k(k) / GROUP);
        self.k_pad = k_pad;
        memory::resize(&mut self.codes, m * k_pad, 0, WHAT)?;
        memory::resize(&mut self.scales, m * groups, 0.0, WHAT)?;
        memory::resize(&mut self.sums, m * groups, 0, WHAT)
    }

    /// Codes, scales and sums of all rows.
    pub(crate) fn all_mut(&mut self) -> QuantSlices<'_> {
        (&mut self.codes, &mut self.scales, &mut self.sums)
    }

    /// All rows in parts of `step` rows; none for rows of no elements.
    pub(crate) fn parts(&mut self, step: usize) -> impl Iterator<Item = QuantPart<'_>> {
        let (k_pad, groups) = (self.k_pad, self.k_pad / GROUP);
        let codes = self.codes.chunks_mut((step * k_pad).max(1));
        let scales = self.scales.chunks_mut((step * groups).max(1));
        let sums = self.sums.chunks_mut((step * groups).max(1));
        codes.zip(scales).zip(sums).map(move |((codes, scales), sums)| QuantPart { codes, scales, sums, k_pad })
    }

    /// Quantises `x [m, k]`.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub(crate) fn quantize(&mut self, ctx: &Ctx<'_>, x: &[f32], m: usize, k: usize) -> Result<(), OutOfMemory> {
        /// Rows that a thread takes at once.
        const STEP: usize = 8;
        self.resize(m, k)?;
        let set = |first: usize, part: &mut QuantPart<'_>| {
            for i in 0..part.rows() {
                let r = first + i;
                part.set(ctx.kernels, i, &x[r * k..(r + 1) * k]);
            }
        };
        if m == 1 || ctx.lanes <= 1 {
            self.parts(m.max(1)).for_each(|mut part| set(0, &mut part));
            return Ok(());
        }
        let mut parts: Vec<_> = self.parts(STEP).collect();
        for_each_item(ctx.pool, ctx.lanes, &mut parts, &|index, _, part| set(index * STEP, part));
        Ok(())
    }

    /// The rows, `[m]`.
    pub(crate) fn view(&self) -> QuantView<'_> {
        QuantView { codes: &self.codes, scales: &self.scales, sums: &self.sums }
    }
}
