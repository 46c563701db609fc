//! Row operations on floats.

/// Below this `exp` is 0: `exp(EXP_LOW)` is the smallest normal float.
pub(in crate::kernels) const EXP_LOW: f32 = -87.336_54;

/// Above this `exp` is infinite.
pub(in crate::kernels) const EXP_HIGH: f32 = 88.722_83;

/// `ln 2` in two parts: the first has zeros at the end, so `n · LN2_HIGH` is exact for the `n` that occur.
pub(in crate::kernels) const LN2_HIGH: f32 = 0.693_359_4;

/// The rest of `ln 2`.
pub(in crate::kernels) const LN2_LOW: f32 = -2.121_944_4e-4;

/// `1/7! … 1/1!, 1`.
pub(in crate::kernels) const EXP_TERMS: [f32; 8] =
    [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// [`reference::exp`](crate::kernels::reference::exp) without branches.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // NaN passes both comparisons and is put back at the end.
    let low = if x < EXP_LOW { EXP_LOW } else { x };
    let y = if low > EXP_HIGH { EXP_HIGH } else { low };
    let n = (y * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, y));
    let mut p = 0.0f32;
    for term in EXP_TERMS {
        p = p.mul_add(r, term);
    }
    // The magic addition puts the integer n into the low bits of the float: no conversion instruction is needed.
    let i = (n + 12_582_912.0).to_bits().wrapping_sub(12_582_912.0f32.to_bits()) as i32;
    let half = i >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let value = p * power(half) * power(i.wrapping_sub(half));
    let value = if x < EXP_LOW { 0.0 } else { value };
    let value = if x > EXP_HIGH { f32::INFINITY } else { value };
    if x.is_nan() { x } else { value }
}

/// Adds 16 lanes as a tree of halves.
#[inline(always)]
pub(in crate::kernels) fn tree(lanes: &[f32; 16]) -> f32 {
    let mut a = [0.0f32; 8];
    for i in 0..8 {
        a[i] = lanes[i] + lanes[i + 8];
    }
    let b = [a[0] + a[4], a[1] + a[5], a[2] + a[6], a[3] + a[7]];
    (b[0] + b[2]) + (b[1] + b[3])
}

/// `y[i] = fma(a, x[i], y[i])`.
#[inline(always)]
pub(in crate::kernels) fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = a.mul_add(*x, *y);
    }
}

/// RMSNorm of one row.
#[inline(always)]
pub(in crate::kernels) fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] = chunk[i].mul_add(chunk[i], lanes[i]);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane = v.mul_add(*v, *lane);
    }
    let inverse = 1.0 / (tree(&lanes) / x.len() as f32 + eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * inverse * gain;
    }
}

/// `out[i] = silu(gate[i]) · up[i]`.
#[inline(always)]
pub(in crate::kernels) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// Rotates one head in place.
#[inline(always)]
pub(in crate::kernels) fn rope(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = x.mul_add(*cos, -(y * sin));
        *b = y.mul_add(*cos, x * sin);
    }
}
