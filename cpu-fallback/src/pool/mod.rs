//! The thread pool: parts of a job are stolen one by one from a counter; the caller works along.
//!
//! Protocol. A job lives on its caller's stack. The caller posts a pointer to it in `State::jobs`, works on parts itself,
//! takes the pointer out again and waits until `Job::active` is 0; only then does [`Pool::run`] return.
//! * A worker finds a job only under the lock, while it is posted, and counts itself in `active` under the same lock. So
//!   once the pointer is out, `active` can only fall, and a worker that is counted keeps the caller waiting.
//! * Leaving is one `fetch_sub` on `active`; after it a worker never touches the job again.
//! * No wake-up is lost: `epoch` changes under the lock with every posted job, a worker sleeps only if it reads the same
//!   `epoch` under the lock as before it last searched. A waiting caller announces itself in `waiting_callers` before it
//!   reads `active`; a leaving worker lowers `active` before it reads `waiting_callers`; both are sequentially consistent,
//!   so at least one of them sees the other.
//! * No deadlock: a caller never waits for parts that nobody works on, since it works on them itself until none is left;
//!   this also holds when a part calls [`Pool::run`] again.
//!
//! Several callers may run jobs at once; a worker joins the oldest job that has a free lane and parts left.
//!
//! Short jobs in a row are run as one [`Pool::step`] (`pool/step.rs`), inside which a job costs well under a microsecond.

mod step;

use parking_lot::{Condvar, Mutex};
use std::{
    any::Any,
    marker::PhantomData,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};
use step::Team;

/// Most threads a pool takes.
pub const MAX_THREADS: usize = 256;
/// Turns a thread spins for before it sleeps: some tens of microseconds, longer than the gaps between two linears.
const SPIN_TURNS: usize = 2000;

/// A job's closure: part, number of the thread.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

struct Job {
    task: *const Task<'static>,
    parts: usize,
    /// Workers that may join beside the caller.
    helpers: usize,
    /// Next part to do.
    next: AtomicUsize,
    /// Workers that ever joined; changed under the pool's lock.
    joined: AtomicUsize,
    /// Workers inside; raised under the pool's lock.
    active: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job {
    /// A job of `task`. The caller keeps it where it is, and the task alive, until it is posted no more.
    fn new(task: &Task<'_>, parts: usize, helpers: usize) -> Self {
        // SAFETY: only the lifetime changes. The pointer is used by threads inside the job only, and `Posting` does not let its
        // function end, by return or by panic, before all of them have left.
        let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        Self {
            task,
            parts,
            helpers,
            next: AtomicUsize::new(0),
            joined: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            panic: Mutex::new(None),
        }
    }

    fn work(&self, worker: usize) {
        loop {
            let part = self.next.fetch_add(1, Ordering::Relaxed);
            if part >= self.parts {
                return;
            }
            // SAFETY: the caller of `run` keeps the task alive until `active` is 0, and whoever is here is that caller
            // or a worker counted in `active`.
            let task = unsafe { &*self.task };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(part, worker))) {
                self.next.store(self.parts, Ordering::Relaxed);
                self.panic.lock().get_or_insert(payload);
                return;
            }
        }
    }
}

/// A posted job.
struct Posted(*const Job);

// SAFETY: `Job` is shared between threads only through its atomics and its mutex, and `task` is `Sync`.
unsafe impl Send for Posted {}

struct State {
    jobs: Vec<Posted>,
    sleepers: usize,
    shutdown: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Workers sleep here.
    work: Condvar,
    /// Callers sleep here.
    done: Condvar,
    epoch: AtomicUsize,
    waiting_callers: AtomicUsize,
}

/// A worker's stay in a job.
struct Stay<'a> {
    job: *const Job,
    worker: usize,
    shared: &'a Shared,
}

impl Shared {
    /// Joins a posted job that has a free lane.
    fn join(&self) -> Option<Stay<'_>> {
        let state = self.state.lock();
        state.jobs.iter().find_map(|posted| {
            // SAFETY: a posted job is alive: its caller takes it out under this lock before it returns.
            let job = unsafe { &*posted.0 };
            let joined = job.joined.load(Ordering::Relaxed);
            if joined >= job.helpers || job.next.load(Ordering::Relaxed) >= job.parts {
                return None;
            }
            job.joined.store(joined + 1, Ordering::Relaxed);
            job.active.fetch_add(1, Ordering::SeqCst);
            Some(Stay { job: posted.0, worker: joined + 1, shared: self })
        })
    }

    fn worker(&self) {
        loop {
            let seen = self.epoch.load(Ordering::SeqCst);
            if let Some(stay) = self.join() {
                stay.work();
                continue;
            }
            for _ in 0..SPIN_TURNS {
                if self.epoch.load(Ordering::Relaxed) != seen {
                    break;
                }
                std::hint::spin_loop();
            }
            let mut state = self.state.lock();
            if state.shutdown {
                return;
            }
            if self.epoch.load(Ordering::SeqCst) == seen {
                state.sleepers += 1;
                self.work.wait(&mut state);
                state.sleepers -= 1;
            }
        }
    }
}

impl Stay<'_> {
    fn work(self) {
        // SAFETY: this stay is counted in `active`, so the caller keeps the job alive.
        unsafe { &*self.job }.work(self.worker);
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `work`; this is the last access.
        unsafe { &*self.job }.active.fetch_sub(1, Ordering::SeqCst);
        if self.shared.waiting_callers.load(Ordering::SeqCst) > 0 {
            let _state = self.shared.state.lock();
            self.shared.done.notify_all();
        }
    }
}

/// A posted job that is taken out again, and waited for, whatever happens.
struct Posting<'a> {
    job: &'a Job,
    shared: &'a Shared,
    _borrows_task: PhantomData<&'a Task<'a>>,
}

impl<'a> Posting<'a> {
    fn new(shared: &'a Shared, job: &'a Job) -> Self {
        let posting = Self { job, shared, _borrows_task: PhantomData };
        let mut state = shared.state.lock();
        state.jobs.push(Posted(std::ptr::from_ref(job)));
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for _ in 0..job.helpers.min(state.sleepers) {
            shared.work.notify_one();
        }
        drop(state);
        posting
    }
}

impl Drop for Posting<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().jobs.retain(|posted| !std::ptr::eq(posted.0, self.job));
        for _ in 0..SPIN_TURNS {
            if self.job.active.load(Ordering::SeqCst) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        self.shared.waiting_callers.fetch_add(1, Ordering::SeqCst);
        let mut state = self.shared.state.lock();
        while self.job.active.load(Ordering::SeqCst) > 0 {
            self.shared.done.wait(&mut state);
        }
        drop(state);
        self.shared.waiting_callers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A fixed set of threads that do the parts of jobs.
pub struct Pool {
    shared: Arc<Shared>,
    team: Team,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Pool {
    /// A pool of `threads` threads (1 to [`MAX_THREADS`]), the caller of [`Self::run`] counted: `threads − 1` are started.
    /// When the system refuses a thread, the pool is smaller and the log says so.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self::on_cores(threads, None)
    }

    /// As [`Self::new`], with the started threads bound to `cores` together: which of them runs on which is the system's
    /// matter. Callers of [`Self::run`] stay where they are.
    #[must_use]
    pub fn on_cores(threads: usize, cores: Option<&[usize]>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { jobs: Vec::with_capacity(8), sleepers: 0, shutdown: false }),
            work: Condvar::new(),
            done: Condvar::new(),
            epoch: AtomicUsize::new(0),
            waiting_callers: AtomicUsize::new(0),
        });
        let mut workers = Vec::new();
        for i in 1..threads.clamp(1, MAX_THREADS) {
            let (shared, cores) = (Arc::clone(&shared), cores.map(<[usize]>::to_vec));
            let body = move || {
                if let Some(cores) = &cores {
                    crate::cores::bind(cores);
                }
                shared.worker();
            };
            match std::thread::Builder::new().name(format!("coexec-cpu-{i}")).spawn(body) {
                Ok(handle) => workers.push(handle),
                Err(error) => {
                    tracing::warn!(%error, started = i, wanted = threads, "the system refuses more threads");
                    break;
                }
            }
        }
        Self { shared, team: Team::new(workers.len() + 1), workers }
    }

    /// Threads that can work at once, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(part, worker)` once for every `part < parts`, on at most `lanes` threads, the caller among them, and
    /// returns when all calls have. `worker < max(lanes, 1)` is unique among the threads of this run (0 is the caller), so
    /// it can index scratch memory. Parts are started in ascending order.
    ///
    /// # Panics
    /// When `f` panics: parts not yet started are dropped, and the first panic continues here.
    pub fn run(&self, lanes: usize, parts: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        let helpers = lanes.saturating_sub(1).min(self.workers.len()).min(parts.saturating_sub(1));
        if helpers == 0 {
            for part in 0..parts {
                f(part, 0);
            }
            return;
        }
        if self.team.is_mine() && self.team.run_ascending(helpers, parts, f) {
            return;
        }
        let job = Job::new(f, parts, helpers);
        {
            let _posting = Posting::new(&self.shared, &job);
            job.work(0);
        }
        if let Some(payload) = job.panic.into_inner() {
            resume_unwind(payload);
        }
    }

    /// Calls `f(parts, worker)` with ranges that make up `0..parts`, none longer than `grain`. In a [`Self::step`] each
    /// thread gets a contiguous share, so that it streams through its own memory, and steals when that is done; elsewhere
    /// ranges are handed out in ascending order. Otherwise as [`Self::run`].
    ///
    /// # Panics
    /// As [`Self::run`].
    pub fn run_ranges(&self, lanes: usize, parts: usize, grain: usize, f: &(dyn Fn(Range<usize>, usize) + Sync)) {
        let grain = grain.max(1);
        let helpers = lanes.saturating_sub(1).min(self.workers.len());
        if helpers > 0 && parts > 1 && self.team.is_mine() && self.team.run_ranges(helpers, parts, grain, f) {
            return;
        }
        self.run(lanes, parts.div_ceil(grain), &|i, worker| f(i * grain..parts.min((i + 1) * grain), worker));
    }

    /// Runs `f` on this thread with up to `lanes − 1` workers standing by: a job that `f` runs on this pool then reaches
    /// them without a lock or a system call. For many short jobs in a row (a decode step). Steps do not nest, and one
    /// thread at a time has one; others, and jobs started inside a part, go the usual way.
    pub fn step<R>(&self, lanes: usize, f: impl FnOnce() -> R) -> R {
        let helpers = lanes.saturating_sub(1).min(self.workers.len());
        let Some(claim) = (helpers > 0).then(|| self.team.claim()).flatten() else { return f() };
        let serve = |_: usize, worker: usize| claim.team().serve(worker);
        let job = Job::new(&serve, helpers, helpers);
        // Dropped in reverse order: workers are sent home, then waited for, then the team is free.
        let _posting = Posting::new(&self.shared, &job);
        let _end = step::End(&claim);
        f()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.shutdown = true;
            self.shared.epoch.fetch_add(1, Ordering::SeqCst);
            self.shared.work.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker runs nothing that can panic outside `catch_unwind`.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashSet, sync::Barrier};

    #[test]
    fn every_part_runs_once_and_worker_numbers_are_unique() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for lanes in [0, 1, 2, 5, 100] {
                for parts in [0, 1, 2, 7, 300] {
                    let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                    let owners = Mutex::new(vec![None; lanes.max(1)]);
                    pool.run(lanes, parts, &|part, worker| {
                        counts[part].fetch_add(1, Ordering::Relaxed);
                        let me = std::thread::current().id();
                        let owner = *owners.lock()[worker].get_or_insert(me);
                        assert_eq!(owner, me, "two threads are worker {worker}");
                    });
                    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} {lanes} {parts}");
                }
            }
        }
    }

    #[test]
    fn lanes_are_really_used_and_never_exceeded() {
        let pool = Pool::new(4);
        // Three parts that wait for each other can only end when three threads are in.
        let barrier = Barrier::new(3);
        let seen = Mutex::new(HashSet::new());
        pool.run(3, 3, &|_, worker| {
            seen.lock().insert(worker);
            barrier.wait();
        });
        assert_eq!(seen.into_inner(), HashSet::from([0, 1, 2]));

        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        pool.run(2, 200, &|_, _| {
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
        });
        assert!(most.into_inner() <= 2);
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            let barrier = Barrier::new(3);
            pool.run(3, 3, &|_, _| {
                barrier.wait();
            });
        }
    }

    #[test]
    fn several_callers_and_nested_runs() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(3, 5, &|_, _| {
                            pool.run(2, 4, &|_, _| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 5 * 4);
    }

    #[test]
    fn panics_reach_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for bad in [0, 3, 49] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(3, 50, &|part, _| {
                    assert!(part != bad, "part {part} is bad");
                });
            }));
            let message = caught.expect_err("the panic is passed on");
            assert_eq!(message.downcast_ref::<String>().map(String::as_str), Some(&*format!("part {bad} is bad")));
            let count = AtomicUsize::new(0);
            pool.run(3, 50, &|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 50);
        }
    }

    #[test]
    fn a_step_runs_every_part_once() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads);
            for round in 0..40 {
                let done = pool.step(threads, || {
                    let mut done = 0;
                    for parts in [0, 1, 2, 3, 7, 64, 1000] {
                        let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                        pool.run(threads, parts, &|part, worker| {
                            assert!(worker < threads);
                            counts[part].fetch_add(1, Ordering::Relaxed);
                        });
                        pool.run_ranges(threads, parts, 1 + round % 9, &|range, worker| {
                            assert!(worker < threads && range.len() <= 1 + round % 9);
                            range.for_each(|part| _ = counts[part].fetch_add(1, Ordering::Relaxed));
                        });
                        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 2), "{threads} {parts}");
                        done += parts;
                        if round % 10 == 9 && parts == 7 {
                            // Long enough for workers to sleep inside the step.
                            std::thread::sleep(std::time::Duration::from_millis(3));
                        }
                    }
                    done
                });
                assert_eq!(done, 1077);
            }
        }
    }

    #[test]
    fn a_step_uses_its_threads_in_ranges_that_follow_each_other() {
        let pool = Pool::new(2);
        pool.step(2, || {
            // Two parts that wait for each other end only when two threads are in, asleep before or not.
            for pause_ms in [0, 5] {
                std::thread::sleep(std::time::Duration::from_millis(pause_ms));
                let barrier = Barrier::new(2);
                pool.run_ranges(2, 2, 1, &|_, _| {
                    barrier.wait();
                });
                pool.run(2, 2, &|_, _| {
                    barrier.wait();
                });
            }
        });
    }

    #[test]
    fn steps_of_several_threads_and_nested_jobs() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.step(3, || {
                            pool.step(3, || {
                                pool.run(3, 5, &|_, _| {
                                    pool.run_ranges(2, 4, 2, &|range, _| {
                                        _ = total.fetch_add(range.len(), Ordering::Relaxed)
                                    });
                                });
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 3 * 100 * 5 * 4);
    }

    #[test]
    fn a_panic_in_a_step_ends_it_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for bad in [0, 31, 63] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.step(3, || {
                    pool.run_ranges(3, 64, 4, &|range, _| assert!(!range.contains(&bad), "part {bad} is bad"));
                });
            }));
            let message = caught.expect_err("the panic is passed on");
            assert_eq!(message.downcast_ref::<String>().map(String::as_str), Some(&*format!("part {bad} is bad")));
            let count = AtomicUsize::new(0);
            pool.step(3, || pool.run(3, 50, &|_, _| _ = count.fetch_add(1, Ordering::Relaxed)));
            assert_eq!(count.into_inner(), 50);
        }
    }
}
