//! How an ISA folder instantiates portable functions with its target features.

/// The row operations of a set.
macro_rules! portable {
    ($features:literal) => {
        /// See [`generic::quantize_u8`].
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn quantize_u8(x: &[f32], scale: f32, codes: &mut [u8]) -> bool {
            crate::kernels::generic::quantize_u8(x, scale, codes)
        }

        /// See [`generic::dequantize_u8`].
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn dequantize_u8(
            codes: &[u8],
            scale: f32,
            add: Option<&[f32]>,
            out: &mut [f32],
        ) -> bool {
            crate::kernels::generic::dequantize_u8(codes, scale, add, out)
        }

        /// See [`generic::axpy`].
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
            crate::kernels::generic::axpy(a, x, y);
        }

        /// See [`generic::rms_norm`].
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
            crate::kernels::generic::rms_norm(x, gain, eps, out);
        }

        /// See [`generic::rope`].
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn rope(head: &mut [f32], cos: &[f32], sin: &[f32]) {
            crate::kernels::generic::rope(head, cos, sin);
        }

        /// See [`generic::read_sum`].
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn read_sum(data: &[u64]) -> u64 {
            crate::kernels::generic::read_sum(data)
        }
    };
}

/// The activation of a set that has none of its own.
macro_rules! portable_activation {
    ($features:literal) => {
        /// See [`generic::silu_mul`].
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
            crate::kernels::generic::silu_mul(gate, up, out);
        }
    };
}

/// A set's attention: the portable algorithms over the set's own registers, a [`Lanes`](crate::kernels::lanes::Lanes).
macro_rules! attention {
    ($features:literal, $lanes:ty) => {
        /// See [`AttnSegmentArgs`](crate::kernels::AttnSegmentArgs).
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn attn_segment(args: &mut crate::kernels::AttnSegmentArgs<'_>) {
            // SAFETY: this function has the features that the lanes need, and its callers checked the arguments.
            unsafe { crate::kernels::generic::attention::attn_segment_with::<$lanes>(args) }
        }

        /// See [`attn_merge_with`](crate::kernels::generic::attention::attn_merge_with).
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn attn_merge(
            total: &mut crate::kernels::AttnState<'_>,
            part: &crate::kernels::AttnPart<'_>,
            width: usize,
        ) {
            // SAFETY: this function has the features that the lanes need.
            unsafe { crate::kernels::generic::attention::attn_merge_with::<$lanes>(total, part, width) }
        }

        /// See [`columns_with`](crate::kernels::generic::attention::columns_with).
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn attn_columns(
            vectors: &crate::kernels::AttnVectors<'_>,
            head_dim: usize,
            width: usize,
            to: &mut [f32],
        ) {
            // SAFETY: this function has the features that the lanes need, and its callers checked the arguments.
            unsafe { crate::kernels::generic::attention::columns_with::<$lanes>(vectors, head_dim, width, to) }
        }

        /// See [`finish_with`](crate::kernels::generic::attention::finish_with).
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn attn_finish(
            total: &crate::kernels::AttnPart<'_>,
            width: usize,
            group: usize,
            block: &mut crate::kernels::Block<'_, f32>,
        ) {
            // SAFETY: this function has the features that the lanes need, and its callers checked the arguments.
            unsafe { crate::kernels::generic::attention::finish_with::<$lanes>(total, width, group, block) }
        }

        /// Floats in a register of attention.
        pub(in crate::kernels) const ATTN_LANES: usize = <$lanes as crate::kernels::lanes::Lanes>::N;
    };
}

/// Sums to codes, where a set has nothing better.
macro_rules! portable_requantize {
    ($features:literal) => {
        /// See [`generic::requantize_u8`].
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn requantize_u8(
            acc: &[i32],
            args: &crate::kernels::RequantArgs<'_>,
            block: &mut crate::kernels::Block<'_, u8>,
        ) {
            crate::kernels::generic::requantize_u8(acc, args, block);
        }
    };
}
