//! Causal attention over K/V segments, one softmax pass (FlashAttention's running maximum; Dao et al. 2022, alg. 1).
//!
//! Order of operations of one query vector, whatever the chunk it came in: positions are cut into segments of
//! [`SEGMENT_TOKENS`] at absolute boundaries. A segment is one softmax of its own (`AttnSegmentArgs` in `kernels`). Segments
//! that show the vector anything are then merged in ascending order, with exponents of 2: `M' = max(M, m)`,
//! `L = fma(l, 2^(m − M'), L · 2^(M − M'))`, and so the weighted values; `out = values · (1 / L)`. So segments can be computed by
//! different threads (decode over a long context) or one after another (prefill).
//!
//! With i8 keys and values, query vectors and probabilities become integers too (`AttnQuery`, `AttnSegmentArgs`), so that
//! both products are integer dot products.

use crate::{
    CpuError, Ctx, KvSegments, SEGMENT_TOKENS,
    error::check_len,
    kernels::{
        AttnPart, AttnQuery, AttnSegmentArgs, AttnState, AttnVectors, Block, Grid, Kernels, SegmentScratch,
        for_each_block, for_each_block_from_last, for_each_unit,
    },
    kv::{KvDtype, KvPart, KvShape, KvSlice},
};
use parking_lot::Mutex;
use std::{cell::RefCell, ops::Range};

/// Most query vectors of a block, about: they share keys and values that were widened once.
const VECTORS: usize = 288;
/// Fewest query vectors of a block where that gives more blocks.
const LEAST_VECTORS: usize = 96;
/// Blocks that a thread gets, about, where there are enough rows.
const BLOCKS: usize = 6;
/// At most this many query vectors run one by one: registers then hold tokens.
const FEW_VECTORS: usize = 8;
/// Times that a thread of a split attention takes some of its segments, at least.
const TAKES: usize = 4;
/// Segments that a split attention has room for before it allocates.
const ROOM_SEGMENTS: usize = 64;

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

/// Memory of one thread.
#[derive(Debug, Default)]
struct Scratch {
    query: AttnQuery,
    ranges: Vec<(u16, u16)>,
    segment: Vec<f32>,
    total: Vec<f32>,
    kernel: SegmentScratch,
}

/// Memory of a split attention, of the thread that calls it.
#[derive(Debug, Default)]
struct Split {
    queries: Vec<AttnQuery>,
    /// A state per block and segment.
    states: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static SPLIT: RefCell<Split> = RefCell::default();
}

/// What all parts of one call share.
struct Call<'a> {
    kernels: &'static Kernels,
    shape: AttnShape,
    /// `[m, heads · head_dim]`.
    q: &'a [f32],
    start_pos: usize,
    kv: &'a dyn KvSegments,
    dtype: KvDtype,
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
        let seen = self.visible(rows);
        seen.start / SEGMENT_TOKENS..seen.end.div_ceil(SEGMENT_TOKENS)
    }

    /// Vectors of a tile for a block of `rows` rows: 1, or the width that needs the fewest registers, the widest of these.
    fn width(&self, rows: usize) -> usize {
        let vectors = rows * self.group();
        if vectors <= FEW_VECTORS || rows == 1 && vectors < 2 * FEW_VECTORS {
            return 1;
        }
        let widths = self.kernels.attn_widths();
        widths.into_iter().rev().min_by_key(|w| vectors.next_multiple_of(*w)).unwrap_or(1)
    }

    /// Prepares the query vectors of a KV head: `[rows · group]`, row by row.
    fn prepare(&self, rows: &Range<usize>, kv_head: usize, query: &mut AttnQuery) {
        let (hd, group, stride) = (self.shape.head_dim, self.group(), self.shape.heads * self.shape.head_dim);
        let first = rows.start * stride + kv_head * group * hd;
        let vectors = AttnVectors { q: self.q, stride, first, group, count: rows.len() * group };
        query.prepare(self.kernels, (self.dtype, self.width(rows.len())), (hd, self.shape.scale), &vectors);
    }

    /// Runs one segment for prepared query vectors, into `out`. `next`: what this thread will most likely go on with.
    fn segment(
        &self,
        rows: &Range<usize>,
        (kv_head, segment): (usize, usize),
        next: Option<(usize, usize)>,
        query: &AttnQuery,
        (ranges, scratch): (&mut Vec<(u16, u16)>, &mut SegmentScratch),
        out: &mut [f32],
    ) {
        let start = segment * SEGMENT_TOKENS;
        let next = next.filter(|_| query.width == 1);
        let slot = |position: usize| (position.clamp(start, start + SEGMENT_TOKENS) - start) as u16;
        ranges.clear();
        for r in rows.clone() {
            let visible = self.shape.visible(self.start_pos + r);
            let (low, high) = (slot(visible.start), slot(visible.end));
            let range = if low < high { (low, high) } else { (0, 0) };
            ranges.extend(std::iter::repeat_n(range, self.group()));
        }
        // Padding sees what the last vector sees, so that it makes no difference to masks.
        let last = ranges.last().copied().unwrap_or_default();
        ranges.resize(query.vectors, last);
        let shape = KvShape { kv_heads: self.shape.kv_heads, head_dim: self.shape.head_dim };
        let keys = shape.head_elems(KvPart::Keys, self.dtype);
        let values = shape.head_elems(KvPart::Values, self.dtype);
        // The next segment's address first: it usually shares this one's lock.
        let (head, following) = next.unwrap_or((kv_head, segment));
        let mut address = (std::ptr::null(), std::ptr::null());
        self.kv.with_segments(&[following, segment][usize::from(next.is_none())..], &mut |i, data| {
            if i == 0 && next.is_some() {
                address = Self::address(data.k.head(head, keys));
                return;
            }
            let same = data.k.dtype() == self.dtype && data.v.dtype() == self.dtype;
            let (Some(k), Some(v), true) = (data.k.head(kv_head, keys), data.v.head(kv_head, values), same) else {
                let expected = self.shape.kv_heads * keys;
                let got = data.k.len().min(data.v.len());
                self.failure.lock().get_or_insert(CpuError::Shape { what: "attend: KV segment", expected, got });
                return;
            };
            let out = AttnState::of(out, query.vectors);
            self.kernels.attn_segment(&mut AttnSegmentArgs { query, k, v, ranges, out, next: address, scratch });
        });
    }

    /// Where a head's keys and their scales lie.
    fn address(keys: Option<KvSlice<'_>>) -> (*const u8, *const u8) {
        match keys {
            Some(KvSlice::F32(k)) => (k.as_ptr().cast(), std::ptr::null()),
            Some(KvSlice::F16(k)) => (k.as_ptr().cast(), std::ptr::null()),
            Some(KvSlice::I8 { codes, scales }) => (codes.as_ptr().cast(), scales.as_ptr().cast()),
            None => (std::ptr::null(), std::ptr::null()),
        }
    }

    fn merge(&self, total: &mut [f32], part: &[f32], query: &AttnQuery) {
        let mut total = AttnState::of(total, query.vectors);
        self.kernels.attn_merge(&mut total, &AttnPart::of(part, query.vectors), query.width);
    }

    /// Clears a total: nothing seen.
    fn reset(total: &mut Vec<f32>, query: &AttnQuery) {
        total.clear();
        total.resize(query.state_len(), 0.0);
        total[..query.vectors].fill(f32::NEG_INFINITY);
    }

    /// Writes the results of a block.
    fn finish(&self, total: &[f32], query: &AttnQuery, block: &mut Block<'_, f32>) {
        self.kernels.attn_finish(&AttnPart::of(total, query.vectors), query.width, self.group(), block);
    }
}

/// `out[r] = softmax(scale · q_r Kᵀ) V` per head over the positions `0 ..= start_pos + r` (the latest `window` of them), for
/// `q` and `out` `[m, heads · head_dim]`. Keys and values of all these positions must be stored. Query head `h` uses
/// KV head `h / (heads / kv_heads)`. A row's result does not depend on `m`, bit for bit.
///
/// # Errors
/// When the shape makes no sense, a buffer does not fit, or a segment is too short.
pub fn attend(
    ctx: &Ctx<'_>,
    shape: &AttnShape,
    q: &[f32],
    start_pos: usize,
    kv: &dyn KvSegments,
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
    let dtype = kv.dtype();
    let call = Call { kernels: ctx.kernels, shape: *shape, q, start_pos, kv, dtype, failure: Mutex::new(None) };
    let group = call.group();
    let even = (m * shape.kv_heads).div_ceil(BLOCKS * ctx.lanes.max(1)) * group;
    let row_step = (even.clamp(LEAST_VECTORS, VECTORS) / group).clamp(1, m);
    let grid = Grid { rows: m, cols: width, row_step, col_step: group * shape.head_dim, col_lead: 0 };
    let segments = call.segments(&(0..m));
    if ctx.lanes > 1 && segments.len() > 1 && grid.parts() < 4 * ctx.lanes {
        SPLIT.with_borrow_mut(|split| attend_split(ctx, &call, grid, segments, split, out));
    } else {
        attend_blocks(ctx, &call, grid, out);
    }
    call.failure.into_inner().map_or(Ok(()), Err)
}

/// Many rows, or one segment: a thread does a block of rows of a KV head over its whole context, the longest first.
fn attend_blocks(ctx: &Ctx<'_>, call: &Call<'_>, grid: Grid, out: &mut [f32]) {
    for_each_block_from_last(ctx.pool, ctx.lanes, out, grid, &|_, mut block| {
        let (rows, kv_head) = (block.row_range(), block.col_range().start / grid.col_step);
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { query, ranges, segment, total, kernel } = scratch;
            call.prepare(&rows, kv_head, query);
            Call::reset(total, query);
            let needed = call.segments(&rows);
            for i in needed.clone() {
                segment.resize(query.state_len(), 0.0);
                let next = (i + 1 < needed.end).then_some((kv_head, i + 1));
                call.segment(&rows, (kv_head, i), next, query, (ranges, kernel), segment);
                call.merge(total, segment, query);
            }
            call.finish(total, query, &mut block);
        });
    });
}

/// Few rows, long context: segments go to different threads and are merged afterwards, in order.
fn attend_split(
    ctx: &Ctx<'_>,
    call: &Call<'_>,
    grid: Grid,
    segments: Range<usize>,
    split: &mut Split,
    out: &mut [f32],
) {
    let row_blocks = grid.rows.div_ceil(grid.row_step);
    let rows_of = |block: usize| {
        let first = block % row_blocks * grid.row_step;
        first..(first + grid.row_step).min(grid.rows)
    };
    let blocks = call.shape.kv_heads * row_blocks;
    let Split { queries, states } = split;
    if queries.len() < blocks {
        queries.resize_with(blocks, AttnQuery::default);
    }
    for (block, query) in queries[..blocks].iter_mut().enumerate() {
        call.prepare(&rows_of(block), block / row_blocks, query);
    }
    let queries = &queries[..blocks];
    // All blocks have room for the largest. A thread has a contiguous share of the segments of all blocks.
    let room = queries.iter().map(AttnQuery::state_len).max().unwrap_or(0);
    let (count, len) = (segments.len(), room * blocks * segments.len());
    if states.len() < len {
        let wanted = room * blocks * count.next_multiple_of(ROOM_SEGMENTS);
        states.reserve(wanted - states.len());
        states.resize(len, 0.0);
    }
    let grain = blocks * count / (TAKES * ctx.lanes);
    let place = |unit: usize| (unit / count, segments.start + unit % count);
    for_each_unit(ctx, &mut states[..len], (1, len), room, grain, &|_, mut part| {
        let first = part.col_range().start / room;
        SCRATCH.with_borrow_mut(|Scratch { ranges, kernel, .. }| {
            for (i, out) in part.row(0).chunks_exact_mut(room).enumerate() {
                let ((block, segment), (later, next)) = (place(first + i), place(first + i + 1));
                let (rows, query) = (rows_of(block), &queries[block]);
                if call.segments(&rows).contains(&segment) {
                    let next = (later < blocks).then_some((later / row_blocks, next));
                    let out = &mut out[..query.state_len()];
                    call.segment(&rows, (block / row_blocks, segment), next, query, (ranges, kernel), out);
                }
            }
        });
    });
    let states = &states[..len];
    for_each_block(ctx.pool, ctx.lanes, out, grid, &|_, mut out| {
        let (rows, kv_head) = (out.row_range(), out.col_range().start / grid.col_step);
        let block = kv_head * row_blocks + rows.start / grid.row_step;
        let query = &queries[block];
        SCRATCH.with_borrow_mut(|Scratch { total, .. }| {
            Call::reset(total, query);
            for i in call.segments(&rows) {
                let at = (block * count + i - segments.start) * room;
                call.merge(total, &states[at..at + query.state_len()], query);
            }
            call.finish(total, query, &mut out);
        });
    });
}
