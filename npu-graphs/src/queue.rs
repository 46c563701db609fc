//! The queue of a context: checked bindings, a worker thread, results by ticket. Devices put a [`GraphRunner`] under it.
//!
//! A graph that its caller would only wait for runs on the caller's thread where the runner allows it and nothing is in flight.
//!
//! State of a ticket: queued or running (`in_flight[t] = None`) → ended (`Some(result)`) → waited for (removed). The worker
//! drops a job's buffer guards before it publishes the result, so a buffer is free when `wait` returns. Every path that
//! ends the worker (drop, loss, panic) leaves `dead` set and wakes the waiters, so no wait can sleep for ever.
//!
//! A real device that hangs holds the worker inside its driver for ever. Dropping the queue after a time-out therefore
//! does not join the worker, unless the runner can interrupt it: the thread is left behind with its `Arc` of the runner,
//! the buffers of the graph that hangs, and so the whole device. If the driver comes back, the thread ends and frees all.

use crate::{
    Bindings, BufferRead, BufferWrite, Completion, ContextSpec, DeviceProfile, GraphId, NpuBuffer, NpuError,
    TensorSpec, Ticket,
};
use parking_lot::{Condvar, Mutex};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What runs the graphs of a context, one at a time, on the queue's thread.
pub(crate) trait GraphRunner: Send + Sync + 'static {
    /// What a submit takes along to its run.
    type Tag: Send;

    /// The graphs.
    fn spec(&self) -> &ContextSpec;

    /// The device: its name and how many submits may be in flight.
    fn profile(&self) -> &DeviceProfile;

    /// Called once per accepted submit, in order.
    fn admit(&self) -> Self::Tag;

    /// Runs a graph. Buffers have exactly the sizes of the spec's tensors.
    fn run(
        &self,
        graph: usize,
        tag: Self::Tag,
        inputs: &[BufferRead],
        outputs: &mut [BufferWrite],
    ) -> Result<Completion, NpuError>;

    /// Whether the thread that wants a graph may run it itself: it computes here, and comes to an end.
    fn runs_on_caller(&self, _: &Self::Tag) -> bool {
        false
    }

    /// Why every further call must err, once the device is gone.
    fn lost(&self) -> Option<String>;

    /// Asks a graph that hangs to end. `false` when that cannot be done: then its thread is left behind.
    fn interrupt(&self) -> bool;
}

/// A context's queue. Dropping it waits for the graph that runs and discards those that did not start.
pub(crate) struct Queue<R: GraphRunner> {
    shared: Arc<Shared<R>>,
    names: HashMap<String, GraphId>,
    worker: Option<JoinHandle<()>>,
}

struct Shared<R: GraphRunner> {
    runner: R,
    state: Mutex<State<R::Tag>>,
    /// Wakes the worker.
    work: Condvar,
    /// Wakes waiters.
    done: Condvar,
}

struct State<T> {
    queue: VecDeque<Job<T>>,
    in_flight: HashMap<u64, InFlight>,
    /// The ticket whose graph runs now.
    running: Option<u64>,
    next_ticket: u64,
    stop: bool,
    /// A graph did not end before a deadline.
    timed_out: bool,
    dead: Option<String>,
}

struct InFlight {
    graph: usize,
    result: Option<Result<Completion, NpuError>>,
}

struct Job<T> {
    ticket: u64,
    graph: usize,
    tag: T,
    inputs: Vec<BufferRead>,
    outputs: Vec<BufferWrite>,
}

impl<R: GraphRunner> Queue<R> {
    /// Starts the worker thread.
    pub(crate) fn start(runner: R, thread: &str) -> Result<Self, NpuError> {
        let ids = (0u32..).map(GraphId);
        let names = runner.spec().graphs.iter().map(|g| g.name.clone()).zip(ids).collect();
        let state = State {
            queue: VecDeque::new(),
            in_flight: HashMap::new(),
            running: None,
            next_ticket: 0,
            stop: false,
            timed_out: false,
            dead: None,
        };
        let shared = Arc::new(Shared { runner, state: Mutex::new(state), work: Condvar::new(), done: Condvar::new() });
        let on_thread = Arc::clone(&shared);
        let worker = std::thread::Builder::new()
            .name(thread.to_owned())
            .spawn(move || on_thread.work())
            .map_err(|e| shared.lost(&format!("its worker thread could not start: {e}")))?;
        Ok(Self { shared, names, worker: Some(worker) })
    }

    pub(crate) fn runner(&self) -> &R {
        &self.shared.runner
    }

    /// See [`crate::NpuContext::graph`].
    pub(crate) fn graph(&self, name: &str) -> Option<GraphId> {
        self.names.get(name).copied()
    }

    /// See [`crate::NpuContext::submit`].
    pub(crate) fn submit(&self, graph: GraphId, bindings: &Bindings) -> Result<Ticket, NpuError> {
        let mut state = self.shared.state.lock();
        let job = self.admit(&mut state, graph, bindings)?;
        Ok(self.enqueue(&mut state, job))
    }

    /// See [`crate::NpuContext::run`].
    pub(crate) fn run(
        &self,
        graph: GraphId,
        bindings: &Bindings,
        deadline: Option<Duration>,
    ) -> Result<Completion, NpuError> {
        let shared = &*self.shared;
        let mut state = shared.state.lock();
        let job = self.admit(&mut state, graph, bindings)?;
        // In order: not before those that are under way.
        if !state.in_flight.is_empty() || !shared.runner.runs_on_caller(&job.tag) {
            let ticket = self.enqueue(&mut state, job);
            drop(state);
            return self.wait(ticket, deadline);
        }
        drop(state);
        let (graph, started) = (job.graph, Instant::now());
        let result = shared.run(job);
        let late = deadline.filter(|deadline| started.elapsed() > *deadline);
        let mut state = shared.state.lock();
        if let Some(reason) = shared.runner.lost() {
            shared.die(&mut state, &reason);
        }
        match late {
            Some(waited) => Err(shared.too_late(&mut state, graph, waited)),
            None => result,
        }
    }

    /// Checks a graph that is to run, and takes its buffers.
    fn admit(&self, state: &mut State<R::Tag>, graph: GraphId, bindings: &Bindings) -> Result<Job<R::Tag>, NpuError> {
        let shared = &*self.shared;
        let context = || shared.runner.spec().name.clone();
        let index = graph.0 as usize;
        let spec = shared.runner.spec().graphs.get(index);
        let spec = spec.ok_or_else(|| NpuError::UnknownGraph { context: context(), id: graph.0 })?;
        // Before buffers are looked at: graphs that a lost device ran may still hold theirs.
        if let Some(reason) = shared.runner.lost() {
            shared.die(state, &reason);
        }
        if let Some(reason) = &state.dead {
            return Err(shared.lost(reason));
        }
        let inputs = bind(&spec.name, "input", &spec.inputs, &bindings.inputs, NpuBuffer::read)?;
        let outputs = bind(&spec.name, "output", &spec.outputs, &bindings.outputs, NpuBuffer::write)?;
        let depth = shared.runner.profile().max_in_flight;
        if state.in_flight.len() >= depth {
            return Err(NpuError::QueueFull { context: context(), depth });
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let tag = shared.runner.admit();
        Ok(Job { ticket, graph: index, tag, inputs, outputs })
    }

    fn enqueue(&self, state: &mut State<R::Tag>, job: Job<R::Tag>) -> Ticket {
        let ticket = job.ticket;
        state.in_flight.insert(ticket, InFlight { graph: job.graph, result: None });
        state.queue.push_back(job);
        self.shared.work.notify_one();
        Ticket(ticket)
    }

    /// See [`crate::NpuContext::wait`].
    pub(crate) fn wait(&self, ticket: Ticket, deadline: Option<Duration>) -> Result<Completion, NpuError> {
        let shared = &*self.shared;
        // A deadline beyond what a clock can hold is none.
        let until = deadline.and_then(|d| Instant::now().checked_add(d));
        let mut state = shared.state.lock();
        loop {
            let dead = state.dead.clone();
            let entry = state.in_flight.get_mut(&ticket.0).ok_or_else(|| {
                let context = shared.runner.spec().name.clone();
                NpuError::UnknownTicket { context, ticket: ticket.0 }
            })?;
            if let Some(result) = entry.result.take() {
                state.in_flight.remove(&ticket.0);
                return result;
            }
            if let Some(reason) = dead {
                state.in_flight.remove(&ticket.0);
                return Err(shared.lost(&reason));
            }
            let graph = entry.graph;
            match until {
                None => shared.done.wait(&mut state),
                Some(until) => {
                    let passed = shared.done.wait_until(&mut state, until).timed_out();
                    let still_running = state.in_flight.get(&ticket.0).is_some_and(|e| e.result.is_none());
                    if passed && still_running {
                        state.in_flight.remove(&ticket.0);
                        return Err(shared.too_late(&mut state, graph, deadline.unwrap_or_default()));
                    }
                }
            }
        }
    }
}

impl<R: GraphRunner> Shared<R> {
    fn lost(&self, reason: &str) -> NpuError {
        NpuError::DeviceLost { device: self.runner.profile().device.clone(), reason: reason.to_owned() }
    }

    /// Marks the context dead because a graph did not end before its deadline.
    fn too_late(&self, state: &mut State<R::Tag>, graph: usize, waited: Duration) -> NpuError {
        state.timed_out = true;
        self.die(state, "a graph did not finish in time");
        NpuError::Timeout { graph: self.runner.spec().graphs[graph].name.clone(), waited }
    }

    /// The worker: runs jobs in order until the context is dropped.
    fn work(&self) {
        // Wakes waiters with an error if this thread ends in any way.
        struct LastWords<'a, R: GraphRunner>(&'a Shared<R>);
        impl<R: GraphRunner> Drop for LastWords<'_, R> {
            fn drop(&mut self) {
                self.0.die(&mut self.0.state.lock(), "its worker thread ended");
            }
        }
        let _last_words = LastWords(self);
        loop {
            let mut state = self.state.lock();
            let job = loop {
                if state.stop {
                    return;
                }
                match state.queue.pop_front() {
                    Some(job) => break job,
                    None => self.work.wait(&mut state),
                }
            };
            state.running = Some(job.ticket);
            drop(state);
            let (ticket, result) = (job.ticket, self.run(job));
            let mut state = self.state.lock();
            state.running = None;
            if let Some(entry) = state.in_flight.get_mut(&ticket) {
                entry.result = Some(result);
            }
            if let Some(reason) = self.runner.lost() {
                self.die(&mut state, &reason);
            }
            self.done.notify_all();
        }
    }

    /// Runs one job; its buffers are free when this returns.
    fn run(&self, mut job: Job<R::Tag>) -> Result<Completion, NpuError> {
        self.runner.run(job.graph, job.tag, &job.inputs, &mut job.outputs)
    }

    /// Marks the context dead, forgets queued jobs and wakes everybody.
    fn die(&self, state: &mut State<R::Tag>, reason: &str) {
        if state.dead.is_none() {
            state.dead = Some(reason.to_owned());
        }
        state.queue.clear();
        self.done.notify_all();
    }
}

/// Takes a buffer's read or write state for every tensor of one side, after checking its size.
fn bind<B>(
    graph: &str,
    side: &'static str,
    tensors: &[TensorSpec],
    buffers: &[NpuBuffer],
    take: impl Fn(&NpuBuffer) -> Result<B, NpuError>,
) -> Result<Vec<B>, NpuError> {
    if tensors.len() != buffers.len() {
        let (expected, found) = (tensors.len(), buffers.len());
        return Err(NpuError::BindingCount { graph: graph.to_owned(), side, expected, found });
    }
    let mut bound = Vec::with_capacity(tensors.len());
    for (tensor, buffer) in tensors.iter().zip(buffers) {
        let expected_bytes = tensor.len_bytes().unwrap_or(usize::MAX);
        if buffer.len_bytes() != expected_bytes {
            return Err(NpuError::BufferSize {
                graph: graph.to_owned(),
                tensor: tensor.name.clone(),
                dtype: tensor.dtype,
                dims: tensor.dims.clone(),
                expected_bytes,
                found_bytes: buffer.len_bytes(),
            });
        }
        bound.push(take(buffer).map_err(|_| NpuError::BufferBusy {
            tensor: format!("{graph}:{}", tensor.name),
            advice: "end host access and wait for graphs that use it, or bind another buffer",
        })?);
    }
    Ok(bound)
}

impl<R: GraphRunner> Drop for Queue<R> {
    fn drop(&mut self) {
        let (queued, hangs) = {
            let mut state = self.shared.state.lock();
            state.stop = true;
            self.shared.work.notify_all();
            (std::mem::take(&mut state.queue), state.timed_out && state.running.is_some())
        };
        drop(queued);
        let Some(worker) = self.worker.take() else { return };
        if !self.shared.runner.interrupt() && hangs {
            let device = &self.shared.runner.profile().device;
            tracing::error!("{device}: a graph hangs in the driver; its thread and context are left behind");
            // Dropping the handle detaches the thread, which holds all it uses.
        } else if worker.join().is_err() {
            tracing::error!("{}: the worker thread of a context panicked", self.shared.runner.profile().device);
        }
    }
}
