//! What this machine can do at most, measured: the numbers that a kernel's speed is a share of.
//!
//! Reads stream through a buffer that no cache holds; dot products and multiply-adds stay in registers. Every number is the
//! best of several short runs, since other programs only ever make one slower.

use crate::{Kernels, Pool};
use coexec_model::align::AlignedBytes;
use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// Bytes that the reads stream through, far more than caches hold.
const READ_BYTES: usize = 256 << 20;
/// Bytes that a thread takes at once.
const PART_BYTES: usize = 1 << 20;
/// Runs of each measurement.
const RUNS: usize = 8;
/// How long a run in registers takes, about.
const RUN_NS: u64 = 20_000_000;

/// A rate per second, with one thread and with all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// One thread.
    pub one: f64,
    /// All threads of the pool.
    pub all: f64,
}

/// The limits of a machine under one kernel set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Threads that `all` stands for.
    pub threads: usize,
    /// Streaming read from pages of the system's usual size, bytes/s.
    pub read: Rate,
    /// Streaming read from the pages that weights get ([`AlignedBytes`]: huge ones where the system grants them), bytes/s.
    pub read_weights: Rate,
    /// INT8 multiply-adds in registers, operations/s (two each).
    pub int8: Rate,
    /// f32 multiply-adds in registers, operations/s (two each).
    pub f32: Rate,
}

impl Limits {
    /// Measures everything: about two seconds and 256 MiB of memory.
    #[must_use]
    pub fn measure(kernels: &'static Kernels, pool: &Pool) -> Self {
        Self {
            threads: pool.threads(),
            read: read_rate(kernels, pool, &vec![1u64; READ_BYTES / 8]),
            read_weights: {
                let mut bytes = AlignedBytes::zeroed(READ_BYTES);
                // Written once, so that every page is there.
                bytes.as_mut_slice().fill(1);
                read_rate(kernels, pool, bytemuck::cast_slice(&bytes))
            },
            int8: peak_int8(kernels, pool),
            f32: register_rate(pool, &|turns| kernels.peak_f32(turns)),
        }
    }
}

/// The int8 part of [`Limits::measure`] alone, for benchmarks: a fraction of a second.
#[must_use]
pub fn peak_int8(kernels: &'static Kernels, pool: &Pool) -> Rate {
    register_rate(pool, &|turns| kernels.peak_int8(turns))
}

fn read_rate(kernels: &Kernels, pool: &Pool, data: &[u64]) -> Rate {
    let step = PART_BYTES / 8;
    both(pool, &|lanes| {
        pool.run(lanes, data.len().div_ceil(step), &|part, _| {
            black_box(kernels.read_sum(&data[part * step..data.len().min((part + 1) * step)]));
        });
        data.len() as u64 * 8
    })
}

fn register_rate(pool: &Pool, work: &(dyn Fn(u64) -> u64 + Sync)) -> Rate {
    // As many rounds as take long enough for the clock, and for all threads to be there at once.
    let start = Instant::now();
    let mut turns = 1;
    while (start.elapsed().as_nanos() as u64) < RUN_NS {
        work(turns);
        turns *= 2;
    }
    both(pool, &|lanes| {
        let done = AtomicU64::new(0);
        // Parts that are small against the whole: threads end together.
        pool.run(lanes, 16 * lanes, &|_, _| {
            done.fetch_add(work(turns.div_ceil(16)), Ordering::Relaxed);
        });
        done.into_inner()
    })
}

/// The best rate of several runs of `work`, which is given a number of threads and returns what it did.
fn both(pool: &Pool, work: &dyn Fn(usize) -> u64) -> Rate {
    let best = |lanes: usize| {
        (0..RUNS).fold(0.0f64, |best, _| {
            let start = Instant::now();
            let done = work(lanes);
            best.max(done as f64 / start.elapsed().as_secs_f64())
        })
    };
    Rate { one: best(1), all: best(pool.threads()) }
}
