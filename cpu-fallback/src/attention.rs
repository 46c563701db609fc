//! Causal attention over K/V pages, one softmax pass (FlashAttention's running maximum; Dao et al. 2022, alg. 1).
//!
//! Order of operations of one query vector, whatever the chunk it came in: positions are cut into segments of
//! [`SEGMENT_PAGES`] pages at absolute boundaries. In a segment, pages ascend; each is one step of `AttnPageArgs` in
//! `kernels`. Segments that show the vector anything are then merged in ascending order:
//! `M' = max(M, m)`, `L = fma(l, exp(m − M'), L · exp(M − M'))`, and so the weighted values; `out = values / L`.
//! So segments can be computed by different threads (decode over a long context) or one after another (prefill).

use crate::{
    CpuError, Ctx, KvPages, PAGE_TOKENS,
    error::check_len,
    kernels::{AttnPageArgs, Grid, for_each_block, for_each_item},
    kernels::{Kernels, PageScratch, exp},
};
use parking_lot::Mutex;
use std::{cell::RefCell, ops::Range};

/// Pages of a segment.
pub const SEGMENT_PAGES: usize = 16;
/// Query vectors that share a page, about.
const VECTORS: usize = 48;

/// Sizes and rules of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttnShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A token sees at most this many latest positions, itself included.
    pub window: Option<usize>,
}

impl AttnShape {
    /// Positions that a token at `position` sees.
    fn visible(&self, position: usize) -> Range<usize> {
        (position + 1).saturating_sub(self.window.unwrap_or(usize::MAX))..position + 1
    }

    fn check(&self) -> Result<(), CpuError> {
        if self.kv_heads == 0 || self.head_dim == 0 || self.heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(CpuError::Argument {
                what: "attend: shape",
                value: format!("{self:?}"),
                why: "heads a multiple of kv_heads, nothing zero",
            });
        }
        if self.window == Some(0) {
            return Err(CpuError::Argument { what: "attend: window", value: "0".into(), why: "at least 1 token" });
        }
        Ok(())
    }
}

/// Softmax state of some query vectors.
#[derive(Debug, Default)]
struct State {
    max: Vec<f32>,
    sum: Vec<f32>,
    /// `[vectors, head_dim]`.
    acc: Vec<f32>,
}

impl State {
    fn reset(&mut self, vectors: usize, head_dim: usize) {
        self.max.clear();
        self.max.resize(vectors, f32::NEG_INFINITY);
        self.sum.clear();
        self.sum.resize(vectors, 0.0);
        self.acc.clear();
        self.acc.resize(vectors * head_dim, 0.0);
    }
}

/// Merges one vector's segment `(max, sum, acc)` into its total.
fn merge(total: (&mut f32, &mut f32, &mut [f32]), (max, sum, acc): (f32, f32, &[f32])) {
    let (old, total_sum, total_acc) = total;
    // A vector that saw nothing of the segment has no sum. (A NaN sum is merged.)
    if sum == 0.0 && max == f32::NEG_INFINITY {
        return;
    }
    let new = if max > *old { max } else { *old };
    let (a, b) = (exp(*old - new), exp(max - new));
    *old = new;
    *total_sum = sum.mul_add(b, *total_sum * a);
    for (total, v) in total_acc.iter_mut().zip(acc) {
        *total = v.mul_add(b, *total * a);
    }
}

/// Memory of one thread.
#[derive(Debug, Default)]
struct Scratch {
    q: Vec<f32>,
    ranges: Vec<(u8, u8)>,
    segment: State,
    total: State,
    page: PageScratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What all parts of one call share.
struct Call<'a> {
    kernels: &'static Kernels,
    shape: AttnShape,
    /// `[m, heads · head_dim]`.
    q: &'a [f32],
    start_pos: usize,
    kv: &'a dyn KvPages,
    failure: Mutex<Option<CpuError>>,
}

impl Call<'_> {
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Positions that rows `rows` see together.
    fn visible(&self, rows: &Range<usize>) -> Range<usize> {
        self.shape.visible(self.start_pos + rows.start).start..self.start_pos + rows.end
    }

    /// Segments that rows `rows` need.
    fn segments(&self, rows: &Range<usize>) -> Range<usize> {
        let (seen, tokens) = (self.visible(rows), SEGMENT_PAGES * PAGE_TOKENS);
        seen.start / tokens..seen.end.div_ceil(tokens)
    }

    /// Gathers the query vectors of a KV head: `[rows · group, head_dim]`.
    fn gather(&self, rows: &Range<usize>, kv_head: usize, q: &mut Vec<f32>) {
        let width = self.group() * self.shape.head_dim;
        q.clear();
        for r in rows.clone() {
            q.extend_from_slice(&self.q[r * self.shape.heads * self.shape.head_dim + kv_head * width..][..width]);
        }
    }

    /// Runs one segment for gathered query vectors, into `scratch.segment`.
    fn segment(&self, rows: &Range<usize>, kv_head: usize, segment: usize, scratch: &mut Scratch) {
        let (hd, group) = (self.shape.head_dim, self.group());
        scratch.segment.reset(rows.len() * group, hd);
        let seen = self.visible(rows);
        let first = (segment * SEGMENT_PAGES).max(seen.start / PAGE_TOKENS);
        let last = ((segment + 1) * SEGMENT_PAGES).min(seen.end.div_ceil(PAGE_TOKENS));
        for page in first..last {
            let start = page * PAGE_TOKENS;
            let slot = |position: usize| position.clamp(start, start + PAGE_TOKENS) - start;
            scratch.ranges.clear();
            for r in rows.clone() {
                let visible = self.shape.visible(self.start_pos + r);
                let (low, high) = (slot(visible.start), slot(visible.end));
                let range = if low < high { (low as u8, high as u8) } else { (0, 0) };
                scratch.ranges.extend(std::iter::repeat_n(range, group));
            }
            self.kv.with_page(page, &mut |data| {
                let (Some(k), Some(v)) = (data.k.head(kv_head, hd), data.v.head(kv_head, hd)) else {
                    let expected = self.shape.kv_heads * PAGE_TOKENS * hd;
                    let got = data.k.len().min(data.v.len());
                    self.failure.lock().get_or_insert(CpuError::Shape { what: "attend: KV page", expected, got });
                    return;
                };
                self.kernels.attn_page(&mut AttnPageArgs {
                    head_dim: hd,
                    scale: self.shape.scale,
                    k,
                    v,
                    q: &scratch.q,
                    ranges: &scratch.ranges,
                    max: &mut scratch.segment.max,
                    sum: &mut scratch.segment.sum,
                    acc: &mut scratch.segment.acc,
                    scratch: &mut scratch.page,
                });
            });
        }
    }
}

/// `out[r] = softmax(scale · q_r Kᵀ) V` per head over the positions `0 ..= start_pos + r` (the latest `window` of them), for
/// `q` and `out` `[m, heads · head_dim]`. Keys and values of all these positions must be stored. Query head `h` uses
/// KV head `h / (heads / kv_heads)`. A row's result does not depend on `m`, bit for bit.
///
/// # Errors
/// When the shape makes no sense, a buffer does not fit, or a page is too short.
pub fn attend(
    ctx: &Ctx<'_>,
    shape: &AttnShape,
    q: &[f32],
    start_pos: usize,
    kv: &dyn KvPages,
    out: &mut [f32],
) -> Result<(), CpuError> {
    shape.check()?;
    let width = shape.heads * shape.head_dim;
    let m = q.len() / width;
    check_len("attend: q [m, heads · head_dim]", m.checked_mul(width), q.len())?;
    check_len("attend: out like q", Some(q.len()), out.len())?;
    if start_pos.checked_add(m).is_none_or(|end| end > usize::MAX / 2) {
        return Err(CpuError::Argument {
            what: "attend: start_pos",
            value: start_pos.to_string(),
            why: "a position in reach of memory",
        });
    }
    if m == 0 {
        return Ok(());
    }
    let call = Call { kernels: ctx.kernels, shape: *shape, q, start_pos, kv, failure: Mutex::new(None) };
    let group = call.group();
    let row_step = VECTORS.div_ceil(group).min(m);
    let grid = Grid { rows: m, cols: width, row_step, col_step: group * shape.head_dim, col_lead: 0 };
    let segments = call.segments(&(0..m));
    if ctx.lanes > 1 && segments.len() > 1 && grid.parts() < 2 * ctx.lanes {
        attend_split(ctx, &call, grid, out);
    } else {
        for_each_block(ctx.pool, ctx.lanes, out, grid, &|_, mut block| {
            let (rows, kv_head) = (block.row_range(), block.col_range().start / (group * shape.head_dim));
            SCRATCH.with_borrow_mut(|scratch| {
                call.gather(&rows, kv_head, &mut scratch.q);
                let vectors = rows.len() * group;
                scratch.total.reset(vectors, shape.head_dim);
                for segment in call.segments(&rows) {
                    call.segment(&rows, kv_head, segment, scratch);
                    for i in 0..vectors {
                        merge_vector(&mut scratch.total, i, &scratch.segment, i, shape.head_dim);
                    }
                }
                for i in 0..vectors {
                    let at = i % group * shape.head_dim;
                    finish(&scratch.total, i, &mut block.row(i / group)[at..at + shape.head_dim]);
                }
            });
        });
    }
    call.failure.into_inner().map_or(Ok(()), Err)
}

fn merge_vector(total: &mut State, i: usize, segment: &State, j: usize, hd: usize) {
    merge(
        (&mut total.max[i], &mut total.sum[i], &mut total.acc[i * hd..(i + 1) * hd]),
        (segment.max[j], segment.sum[j], &segment.acc[j * hd..(j + 1) * hd]),
    );
}

/// Writes the result of vector `i`.
fn finish(total: &State, i: usize, out: &mut [f32]) {
    let (hd, inverse) = (out.len(), 1.0 / total.sum[i]);
    for (out, v) in out.iter_mut().zip(&total.acc[i * hd..(i + 1) * hd]) {
        *out = v * inverse;
    }
}

/// Few rows, long context: segments go to different threads and are merged afterwards, in order.
fn attend_split(ctx: &Ctx<'_>, call: &Call<'_>, grid: Grid, out: &mut [f32]) {
    let (hd, group) = (call.shape.head_dim, call.group());
    let mut parts = Vec::new();
    for kv_head in 0..call.shape.kv_heads {
        for first in (0..grid.rows).step_by(grid.row_step) {
            let rows = first..(first + grid.row_step).min(grid.rows);
            parts.extend(call.segments(&rows).map(|segment| (kv_head, rows.clone(), segment, State::default())));
        }
    }
    for_each_item(ctx.pool, ctx.lanes, &mut parts, &|_, _, (kv_head, rows, segment, state)| {
        SCRATCH.with_borrow_mut(|scratch| {
            call.gather(rows, *kv_head, &mut scratch.q);
            call.segment(rows, *kv_head, *segment, scratch);
            std::mem::swap(state, &mut scratch.segment);
        });
    });
    for_each_block(ctx.pool, ctx.lanes, out, grid, &|_, mut block| {
        let (rows, kv_head) = (block.row_range(), block.col_range().start / (group * hd));
        let vectors = rows.len() * group;
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.total.reset(vectors, hd);
            // Parts are in ascending order of segments.
            for (_, _, _, state) in parts.iter().filter(|part| part.0 == kv_head && part.1 == rows) {
                for i in 0..vectors {
                    merge_vector(&mut scratch.total, i, state, i, hd);
                }
            }
            for i in 0..vectors {
                finish(&scratch.total, i, &mut block.row(i / group)[i % group * hd..][..hd]);
            }
        });
    });
}
