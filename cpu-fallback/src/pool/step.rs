//! Steps: many short jobs in a row, for one submission to the pool.
//!
//! A decode step is about a hundred linears of some microseconds. [`Pool::step`](super::Pool::step) posts *one* job, in which
//! workers [`serve`](Team::serve) the jobs that the step's caller runs: they watch one word and join without a lock.
//!
//! Protocol. `Team::gate` is one word: number of the job, whether it is open, how many workers it wants, how many are in.
//! * The caller writes a job only while the gate is shut and nobody is in; it then opens the gate with a store (release).
//! * A worker comes in by a compare-and-swap that finds the gate open and raises the count, so it reads the job only while the
//!   caller must wait for it; it leaves by lowering the count (release), and never touches the job after.
//! * The caller works along; then it shuts the gate, after which the count can only fall, and waits until it is 0. A worker
//!   that sleeps, or that the system has taken off its core, is not waited for: it has not come in.
//! * A worker that finds no job for a while sleeps in `parked`. It counts itself there (under the lock) before it looks at the gate
//!   for the last time; the caller opens the gate before it reads the count; both are sequentially consistent, so at
//!   least one of them sees the other.
//!
//! Parts are handed out in one of two ways: from one counter in ascending order, or from a range per thread, contiguous so
//! that each thread streams through its own memory; who has finished steals from the end of another's range.

use super::{SPIN_TURNS, Task};
use crossbeam_utils::CachePadded;
use parking_lot::{Condvar, Mutex};
use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

const OPEN: u64 = 1 << 31;
const OVER: u64 = 1 << 30;
const HELPERS_SHIFT: u32 = 15;
const FIELD: u64 = (1 << 15) - 1;
const NUMBER_SHIFT: u32 = 32;

/// How the parts of a job are shared out.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// One counter, ascending.
    Ascending,
    /// A range per thread; at most so many parts at a time.
    Ranges { grain: u32 },
}

/// What workers read of a job.
#[derive(Clone, Copy)]
struct Work {
    /// Called with a range of parts and the number of the thread.
    task: *const RangeTask<'static>,
    parts: u32,
    order: Order,
    threads: u32,
}

/// A job's closure: a range of parts, the thread's number.
pub(super) type RangeTask<'a> = dyn Fn(Range<usize>, usize) + Sync + 'a;

/// The parts of one thread, `start` in the high half, `end` in the low.
#[derive(Debug, Default)]
struct Share(AtomicU64);

impl Share {
    fn set(&self, start: u32, end: u32) {
        self.0.store(u64::from(start) << 32 | u64::from(end), Ordering::Relaxed);
    }

    /// Takes from the front: a quarter of what is left, `grain` at most.
    fn take(&self, grain: u32) -> Option<Range<usize>> {
        self.change(|start, end| {
            let count = ((end - start) / 4).clamp(1, grain);
            ((start, start + count), (start + count, end))
        })
    }

    /// Takes from the end, as [`Self::take`].
    fn steal(&self, grain: u32) -> Option<Range<usize>> {
        self.change(|start, end| {
            let count = ((end - start) / 4).clamp(1, grain);
            ((end - count, end), (start, end - count))
        })
    }

    /// `f(start, end)` gives what is taken and what stays.
    fn change(&self, f: impl Fn(u32, u32) -> ((u32, u32), (u32, u32))) -> Option<Range<usize>> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (start, end) = ((word >> 32) as u32, word as u32);
            if start >= end {
                return None;
            }
            let (taken, left) = f(start, end);
            let new = u64::from(left.0) << 32 | u64::from(left.1);
            match self.0.compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken.0 as usize..taken.1 as usize),
                Err(now) => word = now,
            }
        }
    }
}

/// The threads of a step, and the job they work on.
pub(super) struct Team {
    gate: CachePadded<AtomicU64>,
    next: CachePadded<AtomicU32>,
    shares: Vec<CachePadded<Share>>,
    work: UnsafeCell<Work>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    parked: Mutex<()>,
    wake: Condvar,
    sleepers: AtomicUsize,
    busy: AtomicBool,
}

// SAFETY: `work` is written only by the step's caller while the gate is shut and nobody is in, and read only by that caller and
// by workers that are in; the gate's release and acquire order these. `task` is `Sync`, so any thread may call it.
unsafe impl Sync for Team {}
// SAFETY: as above; the pointer in `work` is not used outside of a job.
unsafe impl Send for Team {}

thread_local! {
    /// The team of the step that this thread runs, while it is not itself inside a part.
    static STEP: Cell<*const Team> = const { Cell::new(std::ptr::null()) };
}

impl Team {
    pub(super) fn new(threads: usize) -> Self {
        let nothing: &'static RangeTask<'static> = &|_, _| {};
        Self {
            gate: CachePadded::new(AtomicU64::new(OVER)),
            next: CachePadded::new(AtomicU32::new(0)),
            shares: (0..threads).map(|_| CachePadded::default()).collect(),
            work: UnsafeCell::new(Work { task: nothing, parts: 0, order: Order::Ascending, threads: 1 }),
            panic: Mutex::new(None),
            parked: Mutex::new(()),
            wake: Condvar::new(),
            sleepers: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
        }
    }

    /// Whether the calling thread runs a step of this team (and is not inside a part).
    pub(super) fn is_mine(&self) -> bool {
        STEP.get() == std::ptr::from_ref(self)
    }

    /// Claims the team for a step of the calling thread. `None` when another thread has it, or this thread is in a step.
    pub(super) fn claim(&self) -> Option<Claim<'_>> {
        if !STEP.get().is_null() || self.busy.swap(true, Ordering::Acquire) {
            return None;
        }
        self.gate.store(0, Ordering::SeqCst);
        STEP.set(self);
        Some(Claim { team: self })
    }

    /// What a worker does in a step: comes into one job after another until the step is over.
    pub(super) fn serve(&self, worker: usize) {
        let mut done = u64::MAX;
        let mut turns = 0;
        loop {
            let gate = self.gate.load(Ordering::Acquire);
            if gate & OVER != 0 {
                return;
            }
            let wanted = gate & OPEN != 0 && gate >> NUMBER_SHIFT != done;
            if wanted && (gate >> HELPERS_SHIFT & FIELD) >= worker as u64 {
                if self.gate.compare_exchange_weak(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    done = gate >> NUMBER_SHIFT;
                    self.run_parts(worker);
                    self.gate.fetch_sub(1, Ordering::Release);
                }
                turns = 0;
                continue;
            }
            turns += 1;
            if turns < SPIN_TURNS {
                std::hint::spin_loop();
                continue;
            }
            turns = 0;
            let mut guard = self.parked.lock();
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            // The number may have moved on by any count: compare with the word last seen.
            if self.gate.load(Ordering::SeqCst) == gate {
                self.wake.wait(&mut guard);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = self.parked.lock();
            self.wake.notify_all();
        }
    }

    /// Works on the job that the gate is open for, as thread `me`.
    fn run_parts(&self, me: usize) {
        // SAFETY: the caller of the step has written the job before it opened the gate, and waits for this thread.
        let work = unsafe { *self.work.get() };
        let result = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the closure lives until the caller has waited for everybody that is in.
            let task = unsafe { &*work.task };
            match work.order {
                Order::Ascending => loop {
                    let part = self.next.fetch_add(1, Ordering::Relaxed);
                    if part >= work.parts {
                        return;
                    }
                    task(part as usize..part as usize + 1, me);
                },
                Order::Ranges { grain } => {
                    while let Some(parts) = self.shares[me].take(grain) {
                        task(parts, me);
                    }
                    let threads = work.threads as usize;
                    for other in (1..threads).map(|i| (me + i) % threads) {
                        while let Some(parts) = self.shares[other].steal(grain) {
                            task(parts, me);
                        }
                    }
                }
            }
        }));
        if let Err(payload) = result {
            self.next.store(work.parts, Ordering::Relaxed);
            self.shares[..work.threads as usize].iter().for_each(|share| share.set(0, 0));
            self.panic.lock().get_or_insert(payload);
        }
    }

    /// Runs a job on the calling thread and at most `helpers` workers; returns when all parts are done.
    ///
    /// Only for the thread whose step this is ([`Self::is_mine`]).
    fn run(&self, helpers: usize, parts: u32, order: Order, task: &RangeTask<'_>) {
        let helpers = helpers.min(self.shares.len() - 1).min((parts as usize).saturating_sub(1));
        let threads = helpers as u32 + 1;
        self.next.store(0, Ordering::Relaxed);
        if let Order::Ranges { .. } = order {
            for (i, share) in (0..u64::from(threads)).zip(&self.shares) {
                let at = |i: u64| (u64::from(parts) * i / u64::from(threads)) as u32;
                share.set(at(i), at(i + 1));
            }
        }
        // SAFETY: only the lifetime changes: this function does not end, by return or panic, before every thread that could use
        // the task has left (`run_parts` catches panics).
        let task = unsafe { std::mem::transmute::<*const RangeTask<'_>, *const RangeTask<'static>>(task) };
        let shut = self.gate.load(Ordering::Relaxed);
        debug_assert!(shut & (OPEN | OVER | FIELD) == 0, "the last job has ended");
        // SAFETY: the gate is shut and nobody is in, and only this thread opens it.
        unsafe { *self.work.get() = Work { task, parts, order, threads } };
        let number = (shut >> NUMBER_SHIFT).wrapping_add(1) << NUMBER_SHIFT;
        if helpers > 0 {
            self.gate.store(number | OPEN | (helpers as u64) << HELPERS_SHIFT, Ordering::SeqCst);
            self.wake();
        }
        // Inside a part this thread runs no job of the step: nested jobs go the pool's way.
        STEP.set(std::ptr::null());
        self.run_parts(0);
        STEP.set(self);
        if helpers > 0 {
            self.gate.fetch_and(!OPEN, Ordering::AcqRel);
            let mut turns = 0;
            while self.gate.load(Ordering::Acquire) & FIELD != 0 {
                turns += 1;
                if turns < SPIN_TURNS { std::hint::spin_loop() } else { std::thread::yield_now() }
            }
            self.gate.store(number, Ordering::Relaxed);
        }
        let payload = self.panic.lock().take();
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }

    /// Parts in ascending order, one at a time.
    pub(super) fn run_ascending(&self, helpers: usize, parts: usize, task: &Task<'_>) -> bool {
        // The counter runs past the end by one per thread.
        let Some(count) = u32::try_from(parts).ok().filter(|count| *count < u32::MAX / 2) else { return false };
        self.run(helpers, count, Order::Ascending, &|parts, worker| task(parts.start, worker));
        true
    }

    /// Contiguous ranges of parts.
    pub(super) fn run_ranges(&self, helpers: usize, parts: usize, grain: usize, task: &RangeTask<'_>) -> bool {
        let Ok(count) = u32::try_from(parts) else { return false };
        let grain = u32::try_from(grain.max(1)).unwrap_or(u32::MAX);
        self.run(helpers, count, Order::Ranges { grain }, task);
        true
    }
}

/// A claimed team; the step is over when it is dropped.
pub(super) struct Claim<'a> {
    team: &'a Team,
}

impl Claim<'_> {
    pub(super) fn team(&self) -> &Team {
        self.team
    }
}

/// Sends the workers of a step home when it is dropped; the team stays claimed.
pub(super) struct End<'a>(pub(super) &'a Claim<'a>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.team.gate.store(OVER, Ordering::SeqCst);
        self.0.team.wake();
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        STEP.set(std::ptr::null());
        self.team.busy.store(false, Ordering::Release);
    }
}
