//! Runs a graph on threads, all alike: one more than CPU workers, and whichever is free leads the next task, on the NPU or
//! on the CPU. README.md has the protocol and why it is live.
//!
//! So the thread whose CPU task made an NPU task ready submits that itself: waking another one for it takes tens of
//! microseconds, in which the NPU would wait.
//!
//! All decisions are taken under one lock, with [`Policy::pick`]; tasks run outside it. Invariant: a thread sleeps only while a
//! task runs, and whoever completes a task takes the next one or wakes those who may have work then. Called by the
//! runtime's prefill.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
use thiserror::Error;
use tracing::Span;

use crate::cancel::CancelToken;
use crate::graph::TaskGraph;
use crate::policy::Policy;
use crate::report::{Clock, Event, RunReport};
use crate::simulate::list;
use crate::state::State;
use crate::task::{Label, Processor, TaskId};

/// Does the work of a task. Called from several threads at once, at most once per task and run.
pub trait Executor: Sync {
    /// What can go wrong.
    type Error: Send;

    /// Runs `task` to its end. A CPU task may use `lanes` workers, at least 1; for an NPU task `lanes` is 1.
    ///
    /// Everything that the predecessors of `task` wrote is visible to it: the driver's lock orders them.
    ///
    /// # Errors
    /// Ends the run: nothing new starts, what runs is waited for, and the first error is returned.
    fn execute(&self, task: TaskId, lanes: u16) -> Result<(), Self::Error>;
}

/// Why a run did not finish. In every case all tasks that had started have ended and all threads are joined.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The executor failed.
    #[error("task {task} ({label}) failed: {source}")]
    Failed {
        /// The task.
        task: TaskId,
        /// Its label.
        label: Label,
        /// The executor's own error.
        source: E,
    },
    /// The executor panicked.
    #[error("task {task} ({label}) panicked: {message}")]
    Panicked {
        /// The task.
        task: TaskId,
        /// Its label.
        label: Label,
        /// The panic's message.
        message: String,
    },
    /// The token was cancelled.
    #[error("cancelled after {done} of {total} tasks")]
    Cancelled {
        /// Tasks that were complete.
        done: usize,
        /// Tasks of the graph.
        total: usize,
    },
    /// Nothing runs, and the policy starts nothing although tasks are left.
    #[error("policy `{policy}` is stuck: nothing runs and it starts none of {}", list(tasks))]
    Stuck {
        /// The policy.
        policy: &'static str,
        /// The tasks left, in program order.
        tasks: Vec<String>,
    },
    /// The policy picked a task that cannot start now.
    #[error("policy `{policy}` picked task {task} for the {processor}, which cannot start it now")]
    BadPick {
        /// The policy.
        policy: &'static str,
        /// What it picked.
        task: String,
        /// For whom.
        processor: Processor,
    },
    /// The policy panicked.
    #[error("policy `{policy}` panicked: {message}")]
    PolicyPanicked {
        /// The policy.
        policy: &'static str,
        /// The panic's message.
        message: String,
    },
    /// A task gave back a resource that nobody held.
    #[error(
        "task {task} gave back resource `{resource}` before it was acquired; add an edge from the task that acquires it"
    )]
    ResourceUnderflow {
        /// The task.
        task: String,
        /// The resource.
        resource: String,
    },
    /// The system gave no thread.
    #[error("cannot start thread {thread} of a run: {source}; use fewer CPU workers")]
    Spawn {
        /// Which, from 1.
        thread: u16,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Runs task graphs on `cpu_workers` CPU lanes and the NPU, led by as many threads and one more. Holds no threads between runs.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    cpu_workers: u16,
}

impl Driver {
    /// A driver with `cpu_workers` CPU lanes; 0 counts as 1.
    pub fn new(cpu_workers: u16) -> Self {
        Self { cpu_workers: cpu_workers.max(1) }
    }

    /// CPU lanes there are.
    pub fn cpu_workers(&self) -> u16 {
        self.cpu_workers
    }

    /// Runs every task of `graph` once and returns when all threads are done. The calling thread is one of them.
    ///
    /// # Errors
    /// See [`RunError`]; the first cause wins.
    pub fn run<E: Send>(
        &self,
        graph: &TaskGraph,
        policy: &dyn Policy,
        executor: &dyn Executor<Error = E>,
        cancel: &CancelToken,
    ) -> Result<RunReport, RunError<E>> {
        let span =
            tracing::debug_span!("run", policy = policy.name(), tasks = graph.len(), cpu_workers = self.cpu_workers);
        let _entered = span.enter();
        let shared = Shared {
            core: Mutex::new(Core {
                state: State::new(graph, self.cpu_workers),
                leads: vec![false; usize::from(self.cpu_workers)],
                events: Vec::with_capacity(graph.len()),
                stop: None,
            }),
            wake: Condvar::new(),
            graph,
            policy,
            executor,
            cancel,
            span: &span,
            start: Instant::now(),
        };
        // Every running CPU task holds a lane, so more threads than lanes, or than tasks, would never be used; one more leads
        // the NPU's task.
        let cpu_threads = usize::from(self.cpu_workers).min(graph.count_on(Processor::Cpu)) as u16;
        let threads = cpu_threads + u16::from(graph.count_on(Processor::Npu) > 0);
        thread::scope(|scope| {
            for thread in 1..threads {
                let name = format!("coexec-lead-{thread}");
                if let Err(source) = thread::Builder::new().name(name).spawn_scoped(scope, || shared.serve()) {
                    shared.stop(&mut shared.core.lock(), RunError::Spawn { thread, source });
                    break;
                }
            }
            shared.serve();
        });
        let core = shared.core.into_inner();
        let finished = core.state.is_finished();
        match core.stop {
            // Counted only now: what still ran at the cancellation has ended since, and may have been all that was left.
            Some(RunError::Cancelled { .. }) if !finished => {
                Err(RunError::Cancelled { done: core.state.done_count(), total: graph.len() })
            }
            Some(error) if !matches!(error, RunError::Cancelled { .. }) => Err(error),
            _ => {
                let report = RunReport::new(core.events, policy.name(), self.cpu_workers, Clock::Wall);
                tracing::debug!(makespan_ns = report.makespan_ns, bubble_rate = report.bubble_rate(), "run finished");
                Ok(report)
            }
        }
    }
}

/// What the lock guards.
struct Core<'g, E> {
    state: State<'g>,
    /// Which of the numbers `0..cpu_workers` lead a CPU task now.
    leads: Vec<bool>,
    events: Vec<Event>,
    /// Why nothing new is started; the first cause stays.
    stop: Option<RunError<E>>,
}

struct Shared<'a, E> {
    core: Mutex<Core<'a, E>>,
    /// Where idle threads sleep.
    wake: Condvar,
    graph: &'a TaskGraph,
    policy: &'a dyn Policy,
    executor: &'a dyn Executor<Error = E>,
    cancel: &'a CancelToken,
    span: &'a Span,
    start: Instant,
}

/// A task that was started in the state, and who leads it.
#[derive(Clone, Copy)]
struct Lead {
    task: TaskId,
    processor: Processor,
    worker: u16,
    lanes: u16,
}

/// What a thread does next.
enum Next {
    Leave,
    Sleep,
    Run(Lead),
}

impl<'a, E: Send> Shared<'a, E> {
    /// A thread's life: decide, run, complete, until there is nothing left to start.
    fn serve(&self) {
        let mut core = self.core.lock();
        // After a completion others may have work too.
        let mut completed = false;
        loop {
            let next = self.next(&mut core);
            if std::mem::take(&mut completed) {
                self.wake_for_the_rest(&core);
            }
            match next {
                Next::Leave => return,
                Next::Sleep => self.wake.wait(&mut core),
                Next::Run(lead) => {
                    let (event, outcome) = MutexGuard::unlocked(&mut core, || self.execute(lead));
                    self.complete(&mut core, event, outcome);
                    completed = true;
                }
            }
        }
    }

    /// Decides under the lock; a task it returns has been started in the state.
    fn next(&self, core: &mut Core<'a, E>) -> Next {
        if core.stop.is_some() || core.state.is_finished() {
            return Next::Leave;
        }
        if self.cancel.is_cancelled() {
            let done = core.state.done_count();
            let total = self.graph.len();
            self.stop(core, RunError::Cancelled { done, total });
            return Next::Leave;
        }
        // The NPU first: it is what must not wait.
        for processor in [Processor::Npu, Processor::Cpu] {
            match self.pick(core, processor) {
                Ok(Some(task)) => {
                    let lanes = core.state.start(task);
                    return Next::Run(Lead { task, processor, worker: core.lead(processor), lanes });
                }
                Ok(None) => {}
                Err(error) => {
                    self.stop(core, error);
                    return Next::Leave;
                }
            }
        }
        if core.state.running().is_empty() {
            let tasks = core.state.unstarted().map(|t| self.graph.describe(t)).collect();
            let policy = self.policy.name();
            self.stop(core, RunError::Stuck { policy, tasks });
            return Next::Leave;
        }
        Next::Sleep
    }

    /// Asks the policy, if the processor is free, and checks the answer.
    fn pick(&self, core: &Core<'a, E>, processor: Processor) -> Result<Option<TaskId>, RunError<E>> {
        if !core.state.can_serve(processor) {
            return Ok(None);
        }
        let policy = self.policy.name();
        match catch_unwind(AssertUnwindSafe(|| self.policy.pick(&core.state, processor))) {
            Ok(Some(task)) if !core.state.can_start(task, processor) => {
                let known = task.index() < self.graph.len();
                Err(RunError::BadPick {
                    policy,
                    task: if known { self.graph.describe(task) } else { task.to_string() },
                    processor,
                })
            }
            Ok(picked) => Ok(picked),
            Err(panic) => Err(RunError::PolicyPanicked { policy, message: panic_message(panic.as_ref()) }),
        }
    }

    /// Runs one task, outside the lock. The times are taken inside of what the state counts as running, so events never
    /// overlap where the state's limits say that tasks do not.
    fn execute(&self, Lead { task, processor, worker, lanes }: Lead) -> (Event, Outcome<E>) {
        let label = &self.graph.task(task).label;
        let span = tracing::trace_span!(parent: self.span, "task", %label, %processor, worker, lanes);
        let start_ns = self.elapsed_ns();
        let outcome = span.in_scope(|| catch_unwind(AssertUnwindSafe(|| self.executor.execute(task, lanes))));
        let event = Event { task, processor, worker, lanes, start_ns, end_ns: self.elapsed_ns() };
        (event, outcome)
    }

    /// Books a task's end under the lock.
    fn complete(&self, core: &mut Core<'a, E>, event: Event, outcome: Outcome<E>) {
        let task = event.task;
        core.events.push(event);
        if event.processor == Processor::Cpu {
            core.leads[usize::from(event.worker)] = false;
        }
        let label = || self.graph.task(task).label.clone();
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(source)) => {
                let label = label();
                self.stop(core, RunError::Failed { task, label, source });
            }
            Err(panic) => {
                let (label, message) = (label(), panic_message(panic.as_ref()));
                self.stop(core, RunError::Panicked { task, label, message });
            }
        }
        if let Err(underflow) = core.state.complete(task) {
            let resource = self.graph.resource(underflow.resource).0.to_owned();
            let task = self.graph.describe(task);
            self.stop(core, RunError::ResourceUnderflow { task, resource });
        }
        if core.state.is_finished() {
            self.wake.notify_all();
        }
    }

    /// Wakes a sleeper for every task that could be started beside those that run.
    fn wake_for_the_rest(&self, core: &Core<'a, E>) {
        let state = &core.state;
        let npu = state.ready(Processor::Npu).len().min(usize::from(state.can_serve(Processor::Npu)));
        let cpu = state.ready(Processor::Cpu).len().min(usize::from(state.free_lanes()));
        for _ in 0..npu + cpu {
            self.wake.notify_one();
        }
    }

    /// From now on nothing new is started, and everyone who sleeps leaves.
    fn stop(&self, core: &mut Core<'a, E>, error: RunError<E>) {
        if core.stop.is_none() {
            core.stop = Some(error);
        }
        self.wake.notify_all();
    }

    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

type Outcome<E> = thread::Result<Result<(), E>>;

impl<E> Core<'_, E> {
    /// The number under which a task that was just started is led: always 0 on the NPU.
    fn lead(&mut self, processor: Processor) -> u16 {
        if processor == Processor::Npu {
            return 0;
        }
        // There are as many as lanes, and each CPU task that runs holds a lane.
        let free = self.leads.iter().position(|taken| !taken).unwrap_or(0);
        self.leads[free] = true;
        free as u16
    }
}

impl<E> fmt::Debug for Core<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("done", &self.state.done_count()).finish_non_exhaustive()
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "no message".to_owned(),
    }
}
