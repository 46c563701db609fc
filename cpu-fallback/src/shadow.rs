//! The shadow of a W8A8 linear: what clipping took away, put back in float (DESIGN, "Arithmetic of a shadowed linear").

use crate::{
    ChannelRows, CpuError, Ctx, TileBuffer,
    error::check_len,
    kernels::{Grid, for_each_block, for_each_item},
};
use parking_lot::Mutex;
use std::ops::Range;

/// Channel rows read at once.
const BATCH: usize = 64;
/// Columns of a part: whole panels, so that a part reads each of its panels once per batch.
const COLUMNS: usize = 256;

/// Residuals `r = x − s·c` of clipped activations, by row (CSR); channels ascend within a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Residuals {
    /// Where each row starts in the other two, and the end: `[m + 1]`, or empty after [`Self::clear`].
    pub row_start: Vec<u32>,
    /// Input channel, ascending within a row.
    pub channel: Vec<u32>,
    /// The residual.
    pub value: Vec<f32>,
}

impl Residuals {
    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.row_start.clear();
        self.channel.clear();
        self.value.clear();
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.row_start.len().saturating_sub(1)
    }

    /// Number of residuals.
    #[must_use]
    pub fn len(&self) -> usize {
        self.value.len()
    }

    /// Whether nothing was clipped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    /// Channels and residuals of row `r`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, r: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let at = self.row_range(r);
        self.channel[at.clone()].iter().copied().zip(self.value[at].iter().copied())
    }

    fn row_range(&self, r: usize) -> Range<usize> {
        self.row_start[r] as usize..self.row_start[r + 1] as usize
    }

    /// Adds what clipping took from a row of activations. Few of them are clipped: most are passed over by their codes.
    fn find(&mut self, x: &[f32], scale: f32, codes: &[u8]) {
        const LOOK: usize = 64;
        for (first, (x, codes)) in x.chunks(LOOK).zip(codes.chunks(LOOK)).enumerate() {
            let ends = codes.iter().fold(false, |any, code| any | (code.wrapping_add(1) <= 1));
            let nan = x.iter().fold(false, |any, v| any | v.is_nan());
            if !(ends || nan) {
                continue;
            }
            for (i, (v, code)) in x.iter().zip(codes).enumerate() {
                if matches!(*code, 1..=254) && !v.is_nan() {
                    continue;
                }
                let q = (v / scale).round_ties_even() + 128.0;
                if !(0.0..=255.0).contains(&q) {
                    self.channel.push((first * LOOK + i) as u32);
                    self.value.push((-scale).mul_add(f32::from(*code) - 128.0, *v));
                }
            }
        }
    }

    /// Quantises a row to little-endian u16 codes and adds what clipping took.
    fn find_u16(&mut self, x: &[f32], scale: f32, codes: &mut [u8]) {
        const LOOK: usize = 64;
        /// 1.5 · 2²³: what is added to it is rounded to the nearest even integer, which its lowest bits then are.
        const ROUND: f32 = 12_582_912.0;
        // In steps, before and after clipping. Clamped first, so that nothing overflows; a NaN becomes 0.
        let steps = |v: f32| {
            let steps = (v / scale).clamp(-40_000.0, 40_000.0);
            let steps = (if steps.is_nan() { 0.0 } else { steps } + ROUND) - ROUND;
            (steps, steps.clamp(-32_768.0, 32_767.0))
        };
        for (first, (x, codes)) in x.chunks(LOOK).zip(codes.chunks_mut(2 * LOOK)).enumerate() {
            let mut any = false;
            for (v, code) in x.iter().zip(codes.as_chunks_mut::<2>().0) {
                let (steps, clipped) = steps(*v);
                any |= (clipped != steps) | v.is_nan();
                let bits = (clipped + ROUND).to_bits().wrapping_sub(ROUND.to_bits());
                *code = (bits.wrapping_add(32_768) as u16).to_le_bytes();
            }
            if !any {
                continue;
            }
            for (i, v) in x.iter().enumerate() {
                let (steps, clipped) = steps(*v);
                if clipped != steps || v.is_nan() {
                    self.channel.push((first * LOOK + i) as u32);
                    self.value.push((-scale).mul_add(clipped, *v));
                }
            }
        }
    }

    /// Takes the channels `hot` (ascending) of `x [m, k]` whole: their `codes` become 128, which stands for zero, and their
    /// residuals the values themselves.
    ///
    /// # Errors
    /// When `x` or `codes` have another size, or a channel is not below `k` or not above the one before.
    pub fn take_channels(&mut self, x: &[f32], k: usize, hot: &[u32], codes: &mut [u8]) -> Result<(), CpuError> {
        check_len("Residuals: x [m, k]", self.rows().checked_mul(k), x.len())?;
        check_len("Residuals: codes like x", Some(x.len()), codes.len())?;
        if hot.last().is_some_and(|c| *c as usize >= k) || !hot.is_sorted_by(|a, b| a < b) {
            let why = "ascending, below k";
            return Err(CpuError::Argument { what: "Residuals: channels", value: format!("{hot:?}"), why });
        }
        let mut all = Self { row_start: vec![0], ..Self::default() };
        let size = self.value.len() + self.rows() * hot.len();
        all.channel.reserve(size);
        all.value.reserve(size);
        for (r, (x, codes)) in x.chunks_exact(k.max(1)).zip(codes.chunks_exact_mut(k.max(1))).enumerate() {
            let mut clipped = self.row(r).peekable();
            for channel in hot {
                while let Some((c, v)) = clipped.next_if(|(c, _)| c < channel) {
                    all.channel.push(c);
                    all.value.push(v);
                }
                clipped.next_if(|(c, _)| c == channel);
                all.channel.push(*channel);
                all.value.push(x[*channel as usize]);
                codes[*channel as usize] = 128;
            }
            for (c, v) in clipped {
                all.channel.push(c);
                all.value.push(v);
            }
            all.row_start.push(all.value.len() as u32);
        }
        *self = all;
        Ok(())
    }

    /// Ends the current row.
    fn end_row(&mut self) {
        if self.row_start.is_empty() {
            self.row_start.push(0);
        }
        self.row_start.push(self.value.len() as u32);
    }

    /// Refuses CSR data that does not hold together.
    fn check(&self) -> Result<(), CpuError> {
        check_len("Residuals: value like channel", Some(self.channel.len()), self.value.len())?;
        let ends = self.row_start.last().map_or(0, |e| *e as usize);
        check_len("Residuals: end of the last row", Some(self.channel.len()), ends)?;
        let ascending = self.row_start.first().is_none_or(|s| *s == 0)
            && self.row_start.is_sorted()
            && (0..self.rows()).all(|r| self.channel[self.row_range(r)].is_sorted_by(|a, b| a < b));
        if ascending {
            Ok(())
        } else {
            Err(CpuError::Argument {
                what: "Residuals",
                value: format!("{} rows", self.rows()),
                why: "rows in order, channels ascending within each",
            })
        }
    }
}

/// How wide codes of activations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeWidth {
    /// A byte, zero point 128.
    U8,
    /// Two bytes, little-endian, zero point 32768.
    U16,
}

impl CodeWidth {
    /// Bytes of a code.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
        }
    }
}

/// Quantises `x [m, k]` with the static scale `s` (`z` is the zero point, `top` the largest code):
/// `code = clip(round_ties_even(x / s) + z, 0, top)`, and replaces the contents of `residuals` by `r = x − s·(code − z)`
/// (one rounding) wherever the value was clipped. A NaN gets code `z` and residual NaN, so the shadow hands it on.
///
/// # Errors
/// When `x` is not `[m, k]`, `codes` is not as many codes, or `scale` is not a positive number.
pub fn quantize(
    ctx: &Ctx<'_>,
    x: &[f32],
    k: usize,
    scale: f32,
    width: CodeWidth,
    codes: &mut [u8],
    residuals: &mut Residuals,
) -> Result<(), CpuError> {
    let m = x.len().checked_div(k).unwrap_or(0);
    check_len("quantize: x [m, k]", m.checked_mul(k), x.len())?;
    quantize_with(ctx, m, k, Source::Given(x), scale, width, codes, residuals)
}

/// As [`quantize`], of rows that do not lie in memory: `row(r, x)` makes row `r` `[k]`, which is quantised while it is in the
/// caches.
///
/// # Errors
/// As [`quantize`].
#[allow(clippy::too_many_arguments, reason = "those of `quantize`, with two for `x`")]
pub fn quantize_rows(
    ctx: &Ctx<'_>,
    m: usize,
    k: usize,
    row: &(dyn Fn(usize, &mut [f32]) + Sync),
    scale: f32,
    width: CodeWidth,
    codes: &mut [u8],
    residuals: &mut Residuals,
) -> Result<(), CpuError> {
    quantize_with(ctx, m, k, Source::Made(row), scale, width, codes, residuals)
}

/// Where rows of activations come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Given(&'a [f32]),
    Made(&'a (dyn Fn(usize, &mut [f32]) + Sync)),
}

#[allow(clippy::too_many_arguments, reason = "those of `quantize_rows`")]
fn quantize_with(
    ctx: &Ctx<'_>,
    m: usize,
    k: usize,
    source: Source<'_>,
    scale: f32,
    width: CodeWidth,
    codes: &mut [u8],
    residuals: &mut Residuals,
) -> Result<(), CpuError> {
    let code_bytes = width.bytes();
    residuals.clear();
    let elems = m.checked_mul(k);
    check_len("quantize: codes like x", elems.and_then(|n| n.checked_mul(code_bytes)), codes.len())?;
    if !(scale.is_finite() && scale >= f32::MIN_POSITIVE) || elems.is_none_or(|n| u32::try_from(n).is_err()) {
        return Err(CpuError::Argument {
            what: "quantize: scale",
            value: scale.to_string(),
            why: "a positive normal number (and less than 2^32 activations)",
        });
    }
    const STEP: usize = 8;
    let mut parts: Vec<(&mut [u8], Residuals)> =
        codes.chunks_mut((STEP * k * code_bytes).max(1)).map(|codes| (codes, Residuals::default())).collect();
    let workers = worker_scratch(ctx);
    for_each_item(ctx.pool, ctx.lanes, &mut parts, &|index, worker, (codes, residuals)| {
        let mut made = workers[worker].lock();
        for (i, codes) in codes.chunks_mut(k * code_bytes).enumerate() {
            let r = index * STEP + i;
            let x = match source {
                Source::Given(x) => &x[r * k..(r + 1) * k],
                Source::Made(row) => {
                    made.resize(k, 0.0);
                    row(r, &mut made);
                    &made[..]
                }
            };
            match width {
                CodeWidth::U8 if ctx.kernels.quantize_u8(x, scale, codes) => residuals.find(x, scale, codes),
                CodeWidth::U8 => {}
                CodeWidth::U16 => residuals.find_u16(x, scale, codes),
            }
            residuals.end_row();
        }
    });
    for (_, part) in &parts {
        let before = residuals.value.len() as u32;
        residuals.channel.extend_from_slice(&part.channel);
        residuals.value.extend_from_slice(&part.value);
        if residuals.row_start.is_empty() {
            residuals.row_start.push(0);
        }
        residuals.row_start.extend(part.row_start[1..].iter().map(|end| before + end));
    }
    Ok(())
}

/// `y2[r, :] = Σ r_k · W[k, :]` over the residuals of row `r`, channels ascending, one fma each; `y2 [m, n]` is zeroed first.
/// Every column of a channel's row is read once.
///
/// # Errors
/// When `y2` does not fit, the residuals do not hold together, or a row cannot be read or has another length than `n`.
pub fn shadow(
    ctx: &Ctx<'_>,
    residuals: &Residuals,
    rows: &dyn ChannelRows,
    n: usize,
    y2: &mut [f32],
) -> Result<(), CpuError> {
    check_len("shadow: y2 [m, n]", residuals.rows().checked_mul(n), y2.len())?;
    residuals.check()?;
    if residuals.is_empty() || n == 0 {
        y2.fill(0.0);
        return Ok(());
    }
    let mut channels = residuals.channel.clone();
    channels.sort_unstable();
    channels.dedup();
    // Where each residual's channel is in that list: it ascends along a row, as the channels do.
    let mut places = Vec::with_capacity(residuals.len());
    for r in 0..residuals.rows() {
        let mut at = 0;
        for channel in &residuals.channel[residuals.row_range(r)] {
            at += channels[at..].partition_point(|c| c < channel);
            places.push(at);
        }
    }
    let (failure, workers) = (Mutex::new(None), worker_scratch(ctx));
    // Blocks of columns of all tokens: a block's rows of weights are read once and stay in a cache while tokens use them.
    let (m, col_step) = (residuals.rows(), rows.column_step().unwrap_or(COLUMNS));
    let grid = Grid { rows: m, cols: n, row_step: m, col_step, col_lead: 0 };
    for_each_block(ctx.pool, ctx.lanes, y2, grid, &|worker, mut block| {
        let (cols, weights) = (block.col_range(), &mut *workers[worker].lock());
        let mut tile = TileBuffer::default();
        let mut next: Vec<usize> = (0..block.rows()).map(|r| residuals.row_range(r).start).collect();
        for r in 0..block.rows() {
            block.row(r).fill(0.0);
        }
        for (first, batch) in channels.chunks(BATCH).enumerate() {
            let places_end = first * BATCH + batch.len();
            weights.resize(batch.len() * cols.len(), 0.0);
            if failure.lock().is_some() {
                return;
            }
            if let Err(error) = rows.read(batch, cols.clone(), &mut tile, weights) {
                failure.lock().get_or_insert(error);
                return;
            }
            for (r, next) in next.iter_mut().enumerate() {
                let end = residuals.row_range(r).end;
                while *next < end && places[*next] < places_end {
                    let row = &weights[(places[*next] - first * BATCH) * cols.len()..][..cols.len()];
                    ctx.kernels.axpy(residuals.value[*next], row, block.row(r));
                    *next += 1;
                }
            }
        }
    });
    failure.into_inner().map_or(Ok(()), |error| Err(error.into()))
}

/// A buffer per thread.
fn worker_scratch(ctx: &Ctx<'_>) -> Vec<Mutex<Vec<f32>>> {
    (0..ctx.lanes.max(1)).map(|_| Mutex::default()).collect()
}
