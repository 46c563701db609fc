//! Runs a graph on threads: one feeds the NPU, the others serve the CPU. README.md has the protocol and why it is live.
//!
//! All decisions are taken under one lock, by whichever thread is free, with [`Policy::pick`]; tasks run outside it.
//! Invariant: a thread sleeps only while a task runs, and whoever completes a task wakes those who may have work then.
//! Called by the runtime's prefill.

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
    #[error("cannot start CPU worker thread {worker}: {source}; use fewer CPU workers")]
    Spawn {
        /// Index of the worker.
        worker: u16,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Runs task graphs on `cpu_workers` CPU threads and one thread that feeds the NPU. Holds no threads between runs.
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

    /// Runs every task of `graph` once and returns when all threads are done. The calling thread feeds the NPU (or, in a
    /// graph without NPU tasks, is the first CPU worker).
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
                events: Vec::with_capacity(graph.len()),
                stop: None,
            }),
            wake: [Condvar::new(), Condvar::new()],
            graph,
            policy,
            executor,
            cancel,
            span: &span,
            start: Instant::now(),
        };
        // Every running CPU task holds a lane, so more threads than lanes, or than tasks, would never be used.
        let cpu_threads = usize::from(self.cpu_workers).min(graph.count_on(Processor::Cpu)) as u16;
        let feeds_npu = graph.count_on(Processor::Npu) > 0;
        let first_spawned = u16::from(!feeds_npu);
        thread::scope(|scope| {
            for worker in first_spawned..cpu_threads {
                let name = format!("coexec-cpu-{worker}");
                let shared = &shared;
                let serve = move || shared.serve(Processor::Cpu, worker);
                if let Err(source) = thread::Builder::new().name(name).spawn_scoped(scope, serve) {
                    shared.stop(&mut shared.core.lock(), RunError::Spawn { worker, source });
                    break;
                }
            }
            shared.serve(if feeds_npu { Processor::Npu } else { Processor::Cpu }, 0);
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
    events: Vec<Event>,
    /// Why nothing new is started; the first cause stays.
    stop: Option<RunError<E>>,
}

struct Shared<'a, E> {
    core: Mutex<Core<'a, E>>,
    /// Per processor, where its idle threads sleep.
    wake: [Condvar; 2],
    graph: &'a TaskGraph,
    policy: &'a dyn Policy,
    executor: &'a dyn Executor<Error = E>,
    cancel: &'a CancelToken,
    span: &'a Span,
    start: Instant,
}

/// What a thread does next.
enum Next {
    Leave,
    Sleep,
    Run(TaskId, u16),
}

impl<'a, E: Send> Shared<'a, E> {
    /// A thread's life: decide, run, complete, until there is nothing left to start.
    fn serve(&self, processor: Processor, worker: u16) {
        let mut core = self.core.lock();
        loop {
            match self.next(&mut core, processor) {
                Next::Leave => return,
                Next::Sleep => self.wake[processor.index()].wait(&mut core),
                Next::Run(task, lanes) => {
                    let (event, outcome) =
                        MutexGuard::unlocked(&mut core, || self.execute(task, processor, worker, lanes));
                    self.complete(&mut core, event, outcome);
                }
            }
        }
    }

    /// Decides under the lock; a task it returns has been started in the state.
    fn next(&self, core: &mut Core<'a, E>, processor: Processor) -> Next {
        if core.stop.is_some() || core.state.is_finished() {
            return Next::Leave;
        }
        if self.cancel.is_cancelled() {
            let done = core.state.done_count();
            let total = self.graph.len();
            self.stop(core, RunError::Cancelled { done, total });
            return Next::Leave;
        }
        let picked = match self.pick(core, processor) {
            Ok(picked) => picked,
            Err(error) => {
                self.stop(core, error);
                return Next::Leave;
            }
        };
        if let Some(task) = picked {
            return Next::Run(task, core.state.start(task));
        }
        if core.state.running().is_empty() {
            // Nobody will ever wake us unless the other processor has something to start.
            let other = match processor {
                Processor::Npu => Processor::Cpu,
                Processor::Cpu => Processor::Npu,
            };
            match self.pick(core, other) {
                Ok(Some(_)) => {
                    self.wake[other.index()].notify_one();
                }
                Ok(None) => {
                    let tasks = core.state.unstarted().map(|t| self.graph.describe(t)).collect();
                    let policy = self.policy.name();
                    self.stop(core, RunError::Stuck { policy, tasks });
                    return Next::Leave;
                }
                Err(error) => {
                    self.stop(core, error);
                    return Next::Leave;
                }
            }
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
    fn execute(&self, task: TaskId, processor: Processor, worker: u16, lanes: u16) -> (Event, Outcome<E>) {
        let label = &self.graph.task(task).label;
        let span = tracing::trace_span!(parent: self.span, "task", %label, %processor, worker, lanes);
        let start_ns = self.elapsed_ns();
        let outcome = span.in_scope(|| catch_unwind(AssertUnwindSafe(|| self.executor.execute(task, lanes))));
        let event = Event { task, processor, worker, lanes, start_ns, end_ns: self.elapsed_ns() };
        (event, outcome)
    }

    /// Books a task's end under the lock and wakes those who may have work now.
    fn complete(&self, core: &mut Core<'a, E>, event: Event, outcome: Outcome<E>) {
        let task = event.task;
        core.events.push(event);
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
            self.wake_all();
            return;
        }
        for processor in Processor::ALL {
            let free = match processor {
                Processor::Npu => 1,
                Processor::Cpu => usize::from(core.state.free_lanes()),
            };
            for _ in 0..core.state.ready(processor).len().min(free) {
                self.wake[processor.index()].notify_one();
            }
        }
    }

    /// From now on nothing new is started, and everyone who sleeps leaves.
    fn stop(&self, core: &mut Core<'a, E>, error: RunError<E>) {
        if core.stop.is_none() {
            core.stop = Some(error);
        }
        self.wake_all();
    }

    fn wake_all(&self) {
        for sleepers in &self.wake {
            sleepers.notify_all();
        }
    }

    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

type Outcome<E> = thread::Result<Result<(), E>>;

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
