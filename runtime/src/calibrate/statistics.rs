//! Statistics of activations, made on all threads. None of them depends on how many there are: rows are cut into the same
//! blocks, whose sums are added up in order.

use coexec_cpu::Ctx;
use std::{ops::Range, sync::OnceLock};

/// Rows that a thread looks at together.
const BLOCK_ROWS: usize = 128;
/// Elements that are passed over together when none of them counts.
const LOOK: usize = 64;

/// `f` of `0..parts`, in order, on all threads.
pub(crate) fn map_parts<T: Send + Sync>(ctx: &Ctx<'_>, parts: usize, f: &(dyn Fn(usize) -> T + Sync)) -> Vec<T> {
    let done: Vec<OnceLock<T>> = (0..parts).map(|_| OnceLock::new()).collect();
    ctx.pool.run(ctx.lanes, parts, &|part, _| _ = done[part].set(f(part)));
    done.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// `f` of every block of rows of `x` `[rows, k]`, in order.
fn map_rows<T: Send + Sync>(ctx: &Ctx<'_>, x: &[f32], k: usize, f: &(dyn Fn(&[f32]) -> T + Sync)) -> Vec<T> {
    let block = BLOCK_ROWS * k.max(1);
    map_parts(ctx, x.len().div_ceil(block), &|i| f(&x[i * block..x.len().min((i + 1) * block)]))
}

/// Sum of squares per column of rows of `k`.
pub(crate) fn column_energies(ctx: &Ctx<'_>, x: &[f32], k: usize) -> Vec<f64> {
    let blocks = map_rows(ctx, x, k, &|rows| {
        let mut sums = vec![0.0f64; k];
        for row in rows.chunks_exact(k.max(1)) {
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(v * v));
        }
        sums
    });
    sum_columns(k, blocks)
}

fn sum_columns(k: usize, blocks: Vec<Vec<f64>>) -> Vec<f64> {
    let mut sums = vec![0.0; k];
    for block in blocks {
        sums.iter_mut().zip(block).for_each(|(sum, v)| *sum += v);
    }
    sums
}

/// Mean square per column of rows of `k`.
pub(crate) fn mean_squares(ctx: &Ctx<'_>, x: &[f32], k: usize) -> Vec<f32> {
    let tokens = (x.len() / k.max(1)).max(1) as f64;
    column_energies(ctx, x, k).into_iter().map(|sum| (sum / tokens) as f32).collect()
}

/// What a threshold takes from rows of `k`: elements of each column beyond it, and the energy of what they have too much.
pub(crate) fn column_losses(ctx: &Ctx<'_>, x: &[f32], k: usize, threshold: f32) -> (Vec<u64>, Vec<f64>) {
    let blocks = map_rows(ctx, x, k, &|rows| {
        let (mut clips, mut lost) = (vec![0u64; k], vec![0.0f64; k]);
        for row in rows.chunks_exact(k.max(1)) {
            for (first, chunk) in row.chunks(LOOK).enumerate() {
                if absmax(chunk) <= threshold {
                    continue;
                }
                for (c, v) in (first * LOOK..).zip(chunk).filter(|(_, v)| v.abs() > threshold) {
                    let too_much = f64::from(v.abs() - threshold);
                    clips[c] += 1;
                    lost[c] += too_much * too_much;
                }
            }
        }
        (clips, lost)
    });
    let mut clips = vec![0; k];
    for (block, _) in &blocks {
        clips.iter_mut().zip(block).for_each(|(sum, v)| *sum += v);
    }
    (clips, sum_columns(k, blocks.into_iter().map(|(_, lost)| lost).collect()))
}

/// The largest magnitude.
pub(crate) fn absmax(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            let v = v.abs();
            *lane = if v > *lane { v } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(0.0f32, |max, v| max.max(v.abs()))
}

/// The largest magnitude of rows of `k`, on all threads.
pub(crate) fn absmax_rows(ctx: &Ctx<'_>, x: &[f32], k: usize) -> f32 {
    map_rows(ctx, x, k, &|rows| absmax(rows)).into_iter().fold(0.0, f32::max)
}

/// Finds the smallest magnitude that at most a share of many values exceed, while it sees them once and in any order: it keeps
/// the largest only.
#[derive(Clone, Debug)]
pub(crate) struct Quantile {
    keep: usize,
    /// Nothing below it, or equal to it, changes the result.
    floor: f32,
    largest: Vec<f32>,
}

impl Quantile {
    /// Of `count` values, of which at most `share` may exceed the result.
    pub(crate) fn new(count: usize, share: f64) -> Self {
        let above = ((count as f64 * share) as usize).min(count.saturating_sub(1));
        Self { keep: above + 1, floor: -1.0, largest: Vec::new() }
    }

    /// Takes more of the values.
    pub(crate) fn add(&mut self, values: &[f32]) {
        for chunk in values.chunks(LOOK) {
            if absmax(chunk) <= self.floor {
                continue;
            }
            let floor = self.floor;
            self.largest.extend(chunk.iter().map(|v| v.abs()).filter(|v| *v > floor));
            if self.largest.len() >= 2 * self.keep + LOOK {
                self.trim();
            }
        }
    }

    fn trim(&mut self) {
        if self.largest.len() >= self.keep {
            let (_, floor, _) = self.largest.select_nth_unstable_by(self.keep - 1, |a, b| b.total_cmp(a));
            self.floor = *floor;
            self.largest.truncate(self.keep);
        }
    }

    /// Takes what another one kept, which was made for the same count and share.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.add(&other.largest);
    }

    /// The result; 0 of no values.
    pub(crate) fn get(&mut self) -> f32 {
        self.trim();
        if self.largest.len() < self.keep { 0.0 } else { self.floor.max(0.0) }
    }
}

/// The smallest magnitude that at most `share` of the values of rows of `k` exceed; columns in `left_out` `[k]` do not count.
pub(crate) fn quantile_of_rows(ctx: &Ctx<'_>, x: &[f32], k: usize, left_out: &[bool], share: f64) -> f32 {
    // Runs of columns that count.
    let mut runs: Vec<Range<usize>> = Vec::new();
    for c in (0..k).filter(|c| !left_out[*c]) {
        match runs.last_mut() {
            Some(run) if run.end == c => run.end = c + 1,
            _ => runs.push(c..c + 1),
        }
    }
    let columns: usize = runs.iter().map(ExactSizeIterator::len).sum();
    let all = Quantile::new(x.len() / k.max(1) * columns, share);
    let blocks = map_rows(ctx, x, k, &|rows| {
        let mut block = all.clone();
        for row in rows.chunks_exact(k.max(1)) {
            runs.iter().for_each(|run| block.add(&row[run.clone()]));
        }
        block
    });
    let mut all = all;
    blocks.iter().for_each(|block| all.merge(block));
    all.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coexec_cpu::Pool;
    use coexec_model::SplitMix64;

    fn noise(n: usize) -> Vec<f32> {
        let mut random = SplitMix64::new(3);
        (0..n).map(|_| (random.below(20_001) as f32 - 10_000.0) / 7.0).collect()
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let pool = Pool::new(2);
        let (k, tokens) = (77, 301);
        let x = noise(k * tokens);
        for out in [vec![], vec![0, 5, 6, 76], (0..k).collect()] {
            let left_out: Vec<bool> = (0..k).map(|c| out.contains(&c)).collect();
            let mut sorted: Vec<f32> =
                x.iter().enumerate().filter(|(i, _)| !left_out[i % k]).map(|(_, v)| v.abs()).collect();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for share in [0.0, 0.0005, 0.003, 0.1, 0.5, 1.0] {
                let above = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
                let expected = sorted.get(above).copied().unwrap_or(0.0);
                for lanes in [1, 2] {
                    let ctx = Ctx { lanes, ..Ctx::new(&pool) };
                    assert_eq!(quantile_of_rows(&ctx, &x, k, &left_out, share), expected, "{share} {lanes}");
                }
            }
        }
    }

    #[test]
    fn columns_are_added_up_alike_on_any_number_of_threads() {
        let pool = Pool::new(3);
        let (k, tokens) = (130, 517);
        let x = noise(k * tokens);
        let ctx = |lanes| Ctx { lanes, ..Ctx::new(&pool) };
        let energies = column_energies(&ctx(1), &x, k);
        let of = |c: usize| x.iter().skip(c).step_by(k).map(|v| f64::from(v * v)).sum::<f64>();
        assert!((0..k).all(|c| (energies[c] / of(c) - 1.0).abs() < 1e-12));
        assert_eq!(column_energies(&ctx(3), &x, k), energies);
        let (clips, lost) = column_losses(&ctx(1), &x, k, 1400.0);
        assert_eq!(column_losses(&ctx(3), &x, k, 1400.0), (clips.clone(), lost.clone()));
        for c in 0..k {
            let too_much = x.iter().skip(c).step_by(k).map(|v| v.abs() - 1400.0).filter(|r| *r > 0.0);
            assert_eq!(clips[c], too_much.clone().count() as u64);
            assert!((lost[c] - too_much.map(|r| f64::from(r).powi(2)).sum::<f64>()).abs() < 1e-6);
        }
        assert_eq!(absmax_rows(&ctx(2), &x, k), x.iter().fold(0.0, |m, v| f32::max(m, v.abs())));
        assert_eq!((absmax(&[]), absmax(&[-3.0, 2.0]), absmax_rows(&ctx(2), &[], k)), (0.0, 3.0, 0.0));
    }
}
