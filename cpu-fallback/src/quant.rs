//! Activations for integer linears: per row, groups of 32 along K, codes −127…127 with one f32 scale per group.
//!
//! `scale = absmax / 127`, `code = round_ties_even(x · (127 / absmax))`. A group smaller than [`GROUP_ABSMAX_MIN`] counts as
//! zero. A group with a NaN or an infinity gets scale NaN and codes 0: it makes the outputs NaN instead of plausible.

use crate::{
    Ctx,
    kernels::{QuantView, for_each_item},
};
use coexec_model::layout::{GROUP, padded_k};

/// Groups whose largest magnitude is below this are stored as zeros: their scale would not be a normal float.
pub const GROUP_ABSMAX_MIN: f32 = f32::MIN_POSITIVE * 128.0;

/// Quantised rows; buffers are reused.
#[derive(Debug, Default)]
pub(crate) struct QuantRows {
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl QuantRows {
    /// Quantises `x [m, k]`.
    pub(crate) fn quantize(&mut self, ctx: &Ctx<'_>, x: &[f32], m: usize, k: usize) {
        let (k_pad, groups) = (padded_k(k), padded_k(k) / GROUP);
        self.codes.resize(m * k_pad, 0);
        self.scales.resize(m * groups, 0.0);
        self.sums.resize(m * groups, 0);
        if groups == 0 {
            return;
        }
        if m == 1 || ctx.lanes <= 1 {
            for r in 0..m {
                ctx.kernels.quantize_groups(
                    &x[r * k..(r + 1) * k],
                    &mut self.codes[r * k_pad..(r + 1) * k_pad],
                    &mut self.scales[r * groups..(r + 1) * groups],
                    &mut self.sums[r * groups..(r + 1) * groups],
                );
            }
            return;
        }
        // Rows go to threads in slices of all three buffers.
        const STEP: usize = 8;
        let mut slices: Vec<_> = self
            .codes
            .chunks_mut(STEP * k_pad)
            .zip(self.scales.chunks_mut(STEP * groups))
            .zip(self.sums.chunks_mut(STEP * groups))
            .collect();
        for_each_item(ctx.pool, ctx.lanes, &mut slices, &|index, _, ((codes, scales), sums)| {
            for (i, codes) in codes.chunks_mut(k_pad).enumerate() {
                let r = index * STEP + i;
                ctx.kernels.quantize_groups(
                    &x[r * k..(r + 1) * k],
                    codes,
                    &mut scales[i * groups..(i + 1) * groups],
                    &mut sums[i * groups..(i + 1) * groups],
                );
            }
        });
    }

    /// The rows of the last [`Self::quantize`].
    pub(crate) fn view(&self) -> QuantView<'_> {
        QuantView { codes: &self.codes, scales: &self.scales, sums: &self.sums }
    }
}
