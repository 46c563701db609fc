//! Parallel writes into one buffer, each part to its own block of rows and columns.

use crate::{Ctx, Pool};
use std::{marker::PhantomData, ops::Range};

/// How a row-major `[rows, cols]` buffer is cut into blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Rows of a block.
    pub(crate) row_step: usize,
    /// Columns of a block.
    pub(crate) col_step: usize,
    /// By how many columns the first block is narrower (less than `col_step`).
    pub(crate) col_lead: usize,
}

impl Grid {
    fn row_blocks(&self) -> usize {
        self.rows.div_ceil(self.row_step)
    }

    fn col_blocks(&self) -> usize {
        if self.cols == 0 { 0 } else { (self.cols + self.col_lead).div_ceil(self.col_step) }
    }

    /// Number of blocks.
    pub(crate) fn parts(&self) -> usize {
        self.row_blocks() * self.col_blocks()
    }

    /// Panics unless a buffer of `len` elements is cut like this.
    fn check(&self, len: usize) {
        assert!(self.rows.checked_mul(self.cols) == Some(len) && self.row_step > 0 && self.col_step > self.col_lead);
    }

    /// Rows and columns of block `part`; blocks of the same columns follow each other.
    fn block(&self, part: usize) -> (Range<usize>, Range<usize>) {
        let (r, c) = (part % self.row_blocks(), part / self.row_blocks());
        let col = |i: usize| (i * self.col_step).saturating_sub(self.col_lead).min(self.cols);
        (r * self.row_step..((r + 1) * self.row_step).min(self.rows), col(c)..col(c + 1))
    }
}

/// Exclusive access to a block of rows and columns of a row-major buffer.
#[derive(Debug)]
pub(crate) struct Block<'a, T> {
    first: *mut T,
    stride: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    _exclusive: PhantomData<&'a mut T>,
}

impl<'a, T> Block<'a, T> {
    /// A whole buffer `[rows, cols]`, which stands for these rows and columns of something larger.
    pub(crate) fn over(data: &'a mut [T], rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.len().checked_mul(cols.len()) == Some(data.len()));
        Self { first: data.as_mut_ptr(), stride: cols.len(), rows, cols, _exclusive: PhantomData }
    }
}

impl<T> Block<'_, T> {
    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Number of columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols.len()
    }

    /// Whether its rows lie so near each other that it stays in the caches: less than a page apart.
    pub(crate) fn is_narrow(&self) -> bool {
        self.stride * size_of::<T>() < 4096
    }

    /// Where the block's rows lie in the buffer.
    pub(crate) fn row_range(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Where the block's columns lie in the buffer.
    pub(crate) fn col_range(&self) -> Range<usize> {
        self.cols.clone()
    }

    /// Row `r` of the block.
    #[inline(always)]
    pub(crate) fn row(&mut self, r: usize) -> &mut [T] {
        assert!(r < self.rows.len());
        // SAFETY: inside the buffer by construction, and this block alone may touch these columns of this row.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(r * self.stride), self.cols.len()) }
    }

    /// The part of the block with these columns (counted in the block).
    pub(crate) fn columns(&mut self, cols: Range<usize>) -> Block<'_, T> {
        assert!(cols.start <= cols.end && cols.end <= self.cols.len());
        let at = self.cols.start;
        Block {
            // SAFETY: stays inside this block's columns.
            first: unsafe { self.first.add(cols.start) },
            stride: self.stride,
            rows: self.rows.clone(),
            cols: at + cols.start..at + cols.end,
            _exclusive: PhantomData,
        }
    }
}

/// The buffer's start, for threads that each touch another block.
struct Start<T>(*mut T);

// SAFETY: every part gets a block that no other part gets, so `T` only moves between threads as `&mut T` would.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    /// All `rows` and some columns of a buffer with `stride` columns.
    ///
    /// # Safety
    /// The columns lie inside the buffer, and nobody else has them.
    unsafe fn columns<'a>(&self, rows: usize, stride: usize, cols: Range<usize>) -> Block<'a, T> {
        // SAFETY: the caller's.
        let first = unsafe { self.0.add(cols.start) };
        Block { first, stride, rows: 0..rows, cols, _exclusive: PhantomData }
    }

    /// Block `part`; none when it is empty.
    ///
    /// # Safety
    /// The buffer is cut by `grid`, and nobody else has this part.
    unsafe fn block<'a>(&self, grid: Grid, part: usize) -> Option<Block<'a, T>> {
        let (rows, cols) = grid.block(part);
        if rows.is_empty() || cols.is_empty() {
            return None;
        }
        // SAFETY: row and column lie inside the buffer; blocks of different parts share no element.
        let first = unsafe { self.0.add(rows.start * grid.cols + cols.start) };
        Some(Block { first, stride: grid.cols, rows, cols, _exclusive: PhantomData })
    }
}

/// Calls `f(worker, block)` for every block of `data` on at most `lanes` threads of `pool`.
pub(crate) fn for_each_block<T: Send>(
    pool: &Pool,
    lanes: usize,
    data: &mut [T],
    grid: Grid,
    f: &(dyn Fn(usize, Block<'_, T>) + Sync),
) {
    blocks(pool, lanes, data, grid, |part| part, f);
}

/// As [`for_each_block`], for threads that take turns to work far apart: next to each other they would share the lines of the
/// output, and each would ask for the weights that the other one takes next.
pub(crate) fn for_each_block_apart<T: Send>(
    pool: &Pool,
    lanes: usize,
    data: &mut [T],
    grid: Grid,
    f: &(dyn Fn(usize, Block<'_, T>) + Sync),
) {
    blocks(pool, lanes, data, grid, |part| apart(part, grid.parts(), lanes), f);
}

/// A permutation of `0..parts`: every `lanes`-th part follows the one before.
fn apart(part: usize, parts: usize, lanes: usize) -> usize {
    let lanes = lanes.max(1);
    let (lane, turn) = (part % lanes, part / lanes);
    lane * (parts / lanes) + lane.min(parts % lanes) + turn
}

/// As [`for_each_block`], beginning with the last block: for work that grows with the rows.
pub(crate) fn for_each_block_from_last<T: Send>(
    pool: &Pool,
    lanes: usize,
    data: &mut [T],
    grid: Grid,
    f: &(dyn Fn(usize, Block<'_, T>) + Sync),
) {
    let parts = grid.parts();
    blocks(pool, lanes, data, grid, |part| parts - 1 - part, f);
}

/// Calls `f` for every block in the order that `nth`, a permutation, says.
fn blocks<T: Send>(
    pool: &Pool,
    lanes: usize,
    data: &mut [T],
    grid: Grid,
    nth: impl Fn(usize) -> usize + Sync,
    f: &(dyn Fn(usize, Block<'_, T>) + Sync),
) {
    grid.check(data.len());
    let start = Start(data.as_mut_ptr());
    pool.run(lanes, grid.parts(), &|part, worker| {
        // SAFETY: the buffer was checked against the grid, and the pool runs each part once.
        if let Some(block) = unsafe { start.block(grid, nth(part)) } {
            f(worker, block);
        }
    });
}

/// A buffer and how it is cut.
pub(crate) type Cut<'a, T> = (&'a mut [T], Grid);

/// A block of each of three buffers.
pub(crate) type Blocks3<'a, A, B, C> = (Block<'a, A>, Block<'a, B>, Block<'a, C>);

/// As [`for_each_block_apart`], for three buffers that are cut into the same number of blocks: `f` gets a block of each.
pub(crate) fn for_each_block3<A: Send, B: Send, C: Send>(
    pool: &Pool,
    lanes: usize,
    ((a, grid_a), (b, grid_b), (c, grid_c)): (Cut<'_, A>, Cut<'_, B>, Cut<'_, C>),
    f: &(impl Fn(usize, Blocks3<'_, A, B, C>) + Sync),
) {
    grid_a.check(a.len());
    grid_b.check(b.len());
    grid_c.check(c.len());
    assert!(grid_a.parts() == grid_b.parts() && grid_a.parts() == grid_c.parts());
    let (a, b, c) = (Start(a.as_mut_ptr()), Start(b.as_mut_ptr()), Start(c.as_mut_ptr()));
    let parts = grid_a.parts();
    pool.run(lanes, parts, &|part, worker| {
        let part = apart(part, parts, lanes);
        // SAFETY: each buffer was checked against its grid, and the pool runs each part once.
        let blocks = unsafe { (a.block(grid_a, part), b.block(grid_b, part), c.block(grid_c, part)) };
        if let (Some(a), Some(b), Some(c)) = blocks {
            f(worker, (a, b, c));
        }
    });
}

/// Calls `f(worker, block)` with blocks of all rows and `unit` columns, or several times that (up to `grain`), that make up `data`
/// `[rows, cols]`; each thread gets columns that follow each other ([`Pool::run_ranges`]).
pub(crate) fn for_each_unit<T: Send>(
    ctx: &Ctx<'_>,
    data: &mut [T],
    (rows, cols): (usize, usize),
    unit: usize,
    grain: usize,
    f: &(dyn Fn(usize, Block<'_, T>) + Sync),
) {
    assert!(rows.checked_mul(cols) == Some(data.len()) && unit > 0);
    if rows == 0 {
        return;
    }
    let start = Start(data.as_mut_ptr());
    ctx.pool.run_ranges(ctx.lanes, cols.div_ceil(unit), grain, &|units, worker| {
        // SAFETY: the buffer's size was checked, and the pool hands each unit out once.
        f(worker, unsafe { start.columns(rows, cols, units.start * unit..cols.min(units.end * unit)) });
    });
}

/// Calls `f(index, worker, item)` for every item on at most `lanes` threads of `pool`.
pub(crate) fn for_each_item<T: Send>(
    pool: &Pool,
    lanes: usize,
    items: &mut [T],
    f: &(dyn Fn(usize, usize, &mut T) + Sync),
) {
    let grid = Grid { rows: items.len(), cols: 1, row_step: 1, col_step: 1, col_lead: 0 };
    for_each_block(pool, lanes, items, grid, &|worker, mut block| {
        let index = block.row_range().start;
        f(index, worker, &mut block.row(0)[0]);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apart_is_a_permutation_of_runs() {
        for lanes in 0..6 {
            for parts in 0..40 {
                let order: Vec<usize> = (0..parts).map(|part| apart(part, parts, lanes)).collect();
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..parts), "{parts} {lanes}");
                let mut turns = order.iter().zip(order.iter().skip(lanes.max(1)));
                assert!(turns.all(|(now, next)| now + 1 == *next), "{parts} {lanes}");
            }
        }
    }

    #[test]
    fn blocks_cover_every_element_once() {
        let pool = Pool::new(2);
        for (rows, cols) in [(0, 5), (3, 0), (1, 1), (4, 7), (9, 50)] {
            for (row_step, col_step, col_lead) in [(1, 1, 0), (2, 3, 0), (4, 16, 5), (100, 10, 9)] {
                let mut data = vec![0u32; rows * cols];
                let grid = Grid { rows, cols, row_step, col_step, col_lead };
                for_each_block(&pool, 2, &mut data, grid, &|_, mut block| {
                    let (at_row, at_col) = (block.row_range().start, block.col_range().start);
                    assert!(block.rows() <= row_step && block.cols() <= col_step);
                    assert!(at_col == 0 || (at_col + col_lead) % col_step == 0);
                    for r in 0..block.rows() {
                        for (c, v) in block.row(r).iter_mut().enumerate() {
                            *v += 1 + ((at_row + r) * cols + at_col + c) as u32;
                        }
                    }
                });
                assert!(data.iter().enumerate().all(|(i, v)| *v == i as u32 + 1), "{grid:?}");
            }
        }
    }
}
