//! Scales of the least squared error: `Σ_k h_k (w_k − ŵ_k)²`, where `h_k ≥ 0` says how much input `k` matters.
//!
//! A few scales around the largest magnitude are tried; for the codes of the best one the scale of least squares follows,
//! which gives new codes. The result is never worse than what the largest magnitude alone gives.

use super::{GROUP, Q4Row, Q4sGroup, Q8Row, absmax, code, nearest, q4_row, q4s_group, q8_row};
use half::f16;

/// Where in a group's code range its extreme is put. Below 8 some codes stay free, above it the extreme is clipped; every
/// code 1…8 has a multiple among the whole numbers, so that a group of few levels is met exactly.
const EXTREME_CODES: [f32; 8] = [4.0, 5.0, 6.0, 7.0, 7.5, 8.0, 8.5, 9.5];
/// Channel scales of `q4` that are tried, relative to the one that lets the widest group reach ±7.5.
const CHANNEL_RATIOS: [f32; 4] = [7.5 / 8.0, 1.0, 7.5 / 7.0, 0.8];
/// Scales of `q8` that are tried, relative to the one of the largest magnitude.
const Q8_RATIOS: [f32; 13] = [1.0, 0.99, 0.98, 0.96, 0.94, 0.92, 0.9, 0.86, 0.82, 0.78, 0.72, 0.66, 0.6];
/// Rounds of "scale of least squares, new codes".
const REFINEMENTS: usize = 2;

/// At most a group of weights and how much they matter, padded with what matters nothing.
#[derive(Clone, Copy)]
struct Group {
    w: [f32; GROUP],
    h: [f32; GROUP],
}

impl Group {
    fn new(w: &[f32], h: Option<&[f32]>) -> Self {
        let mut group = Self { w: [0.0; GROUP], h: [0.0; GROUP] };
        group.w[..w.len()].copy_from_slice(w);
        match h {
            Some(h) => group.h[..w.len()].copy_from_slice(&h[..w.len()]),
            None => group.h[..w.len()].fill(1.0),
        }
        group
    }

    /// `Σ h (w − scale · q)²` with the nearest codes of `low … high`.
    #[inline(always)]
    fn error(&self, scale: f32, low: f32, high: f32) -> f32 {
        let inverse = 1.0 / scale;
        let mut terms = [0.0f32; GROUP];
        for (i, term) in terms.iter_mut().enumerate() {
            let e = self.w[i] - scale * nearest(self.w[i] * inverse, low, high);
            *term = self.h[i] * e * e;
        }
        sum(&terms)
    }

    /// `Σ h w q` and `Σ h q²` with the nearest codes to `scale`.
    #[inline(always)]
    fn moments(&self, scale: f32, low: f32, high: f32) -> (f32, f32) {
        let inverse = 1.0 / scale;
        let (mut wq, mut qq) = ([0.0f32; GROUP], [0.0f32; GROUP]);
        for i in 0..GROUP {
            let q = nearest(self.w[i] * inverse, low, high);
            let hq = self.h[i] * q;
            wq[i] = hq * self.w[i];
            qq[i] = hq * q;
        }
        (sum(&wq), sum(&qq))
    }
}

/// The sum in an order that SIMD can follow.
fn sum(terms: &[f32; GROUP]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for chunk in terms.as_chunks::<8>().0 {
        lanes.iter_mut().zip(chunk).for_each(|(lane, term)| *lane += term);
    }
    ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]))
}

/// Quantises a group of at most 32 weights to `q4s`: a search over scales, signs included.
#[must_use]
pub fn q4s_group_mse(group: &[f32], importance: Option<&[f32]>) -> Q4sGroup {
    let plain = q4s_group(group);
    let scale = q4s_scale(group, importance, plain.scale);
    if scale == plain.scale {
        return plain;
    }
    let s = scale.to_f32();
    Q4sGroup { scale, codes: group.iter().map(|v| code(v / s, -8.0, 7.0)).collect() }
}

/// The scale of [`q4s_group_mse`], no worse than `plain`, which is returned for a group of zeros.
pub(super) fn q4s_scale(group: &[f32], importance: Option<&[f32]>, plain: f16) -> f16 {
    if plain == f16::ZERO {
        return plain;
    }
    let g = Group::new(group, importance);
    let extreme = absmax(group);
    let (mut best_gain, mut start) = (0.0f32, plain.to_f32());
    for at in EXTREME_CODES {
        // Where nothing is clipped, both signs are the same.
        let signs: &[f32] = if at < 7.5 { &[1.0] } else { &[1.0, -1.0] };
        for s in signs.iter().map(|sign| sign * extreme / at) {
            // What the scale of least squares for these codes would take from Σ h w².
            let (wq, qq) = g.moments(s, -8.0, 7.0);
            let gain = wq * wq / qq;
            if gain > best_gain {
                (best_gain, start) = (gain, wq / qq);
            }
        }
    }
    let usable = |s: f16| s.is_finite() && s.to_f32().abs() >= f32::from(f16::MIN_POSITIVE);
    let (mut best, mut best_error) = (plain, g.error(plain.to_f32(), -8.0, 7.0));
    for _ in 0..REFINEMENTS {
        let scale = f16::from_f32(start);
        if !usable(scale) {
            break;
        }
        let error = g.error(scale.to_f32(), -8.0, 7.0);
        if error < best_error {
            (best, best_error) = (scale, error);
        }
        let (wq, qq) = g.moments(scale.to_f32(), -8.0, 7.0);
        let next = wq / qq;
        if !next.is_finite() || f16::from_f32(next) == scale {
            break;
        }
        start = next;
    }
    best
}

/// Quantises a row to `q8`: the channel scale may clip the largest weights where that pays.
#[must_use]
pub fn q8_row_mse(row: &[f32], importance: Option<&[f32]>) -> Q8Row {
    let plain = absmax(row) / 127.0;
    if !(plain.is_finite() && plain >= f32::MIN_POSITIVE) {
        return q8_row(row);
    }
    let groups = groups(row, importance);
    // The error, or `None` as soon as it is beyond `limit`.
    let error = |s: f32, limit: f64| {
        let usable = s.is_finite() && s >= f32::MIN_POSITIVE;
        usable.then(|| sum_below(groups.iter().map(|g| g.error(s, -127.0, 127.0)), limit)).flatten()
    };
    let (mut best, mut best_error) = (plain, f64::INFINITY);
    for ratio in Q8_RATIOS {
        if let Some(e) = error(plain * ratio, best_error).filter(|e| *e < best_error) {
            (best, best_error) = (plain * ratio, e);
        }
    }
    for _ in 0..REFINEMENTS {
        let (wq, qq) = sums(groups.iter().map(|g| g.moments(best, -127.0, 127.0)));
        let scale = (wq / qq) as f32;
        match error(scale, best_error) {
            Some(e) if e < best_error => (best, best_error) = (scale, e),
            _ => break,
        }
    }
    Q8Row { scale: best, codes: row.iter().map(|v| code(v / best, -127.0, 127.0)).collect() }
}

/// Quantises a row to `q4`: channel scale and group scales together.
#[must_use]
pub fn q4_row_mse(row: &[f32], importance: Option<&[f32]>) -> Q4Row {
    let plain = absmax(row) / (7.5 * 15.0);
    if !(plain.is_finite() && plain >= f32::MIN_POSITIVE) {
        return q4_row(row);
    }
    let groups = groups(row, importance);
    let maxima: Vec<f32> = row.chunks(GROUP).map(absmax).collect();
    // Error, channel scale and group scales, where they beat `limit`.
    let better = |scale: f32, limit: f64| {
        let mut group_scales = Vec::with_capacity(groups.len());
        let errors = groups.iter().zip(&maxima).map(|(group, max)| {
            let (e, s) = best_group_scale(group, scale, *max);
            group_scales.push(s);
            e
        });
        let usable = scale.is_finite() && scale >= f32::MIN_POSITIVE;
        let error = if usable { sum_below(errors, limit)? } else { return None };
        (error < limit).then_some((error, scale, group_scales))
    };
    let mut best: Option<(f64, f32, Vec<u8>)> = None;
    for ratio in CHANNEL_RATIOS {
        let limit = best.as_ref().map_or(f64::INFINITY, |(error, ..)| *error);
        best = better(plain * ratio, limit).or(best);
    }
    let Some(mut best) = best else { return q4_row(row) };
    for _ in 0..REFINEMENTS {
        let (wq, qq) = sums(groups.iter().zip(&best.2).map(|(g, s)| {
            let s = f32::from(*s);
            let (wq, qq) = g.moments(best.1 * s, -8.0, 7.0);
            (wq * s, qq * s * s)
        }));
        match better((wq / qq) as f32, best.0) {
            Some(found) => best = found,
            None => break,
        }
    }
    let (_, scale, group_scales) = best;
    let codes = row.chunks(GROUP).zip(&group_scales).flat_map(|(group, g)| {
        let s = scale * f32::from(*g);
        group.iter().map(move |v| code(v / s, -8.0, 7.0))
    });
    Q4Row { scale, codes: codes.collect(), group_scales: group_scales.clone() }
}

/// Error and group scale 1…15 of the least error under a channel scale.
fn best_group_scale(group: &Group, scale: f32, max: f32) -> (f32, u8) {
    // Below 56 % of what puts the extreme at code 7, too much is clipped to win; above that codes only get coarser.
    let wish = max / scale / 7.0;
    let (low, high) = ((wish * 0.56).floor().clamp(1.0, 15.0) as u8, (wish * 0.9999).ceil().clamp(1.0, 15.0) as u8);
    let (mut best, mut best_scale) = (f32::INFINITY, 1);
    for s in (low..=high).rev() {
        let e = group.error(scale * f32::from(s), -8.0, 7.0);
        if e <= best {
            (best, best_scale) = (e, s);
        } else if e > 2.0 * best {
            break;
        }
    }
    (best, best_scale)
}

/// The group scale 1…15 of the least error for a group under a channel scale.
pub(super) fn q4_group_scale(group: &[f32], importance: &[f32], scale: f32) -> u8 {
    best_group_scale(&Group::new(group, Some(importance)), scale, absmax(group)).1
}

fn groups(row: &[f32], importance: Option<&[f32]>) -> Vec<Group> {
    row.chunks(GROUP).enumerate().map(|(g, w)| Group::new(w, importance.map(|h| &h[g * GROUP..]))).collect()
}

/// The sum of what is not negative; `None` as soon as it is beyond `limit`.
fn sum_below(mut terms: impl Iterator<Item = f32>, limit: f64) -> Option<f64> {
    terms.try_fold(0.0, |sum, term| Some(sum + f64::from(term)).filter(|sum| *sum <= limit))
}

fn sums(moments: impl Iterator<Item = (f32, f32)>) -> (f64, f64) {
    moments.fold((0.0, 0.0), |(a, b), (wq, qq)| (a + f64::from(wq), b + f64::from(qq)))
}
