//! A running context: a queue, a worker thread, results by ticket.
//!
//! State of a ticket: queued or running (`in_flight[t] = None`) → ended (`Some(result)`) → waited for (removed). The worker
//! drops a job's buffer guards before it publishes the result, so a buffer is free when `wait` returns. Every path that
//! ends the worker (drop, loss, panic) leaves `dead` set and wakes the waiters, so no wait can sleep for ever.

use super::{DeviceState, SimTiming, SubmitFault, prepared::Prepared};
use crate::{
    Bindings, BufferRead, BufferWrite, Completion, ContextSpec, GraphId, NpuContext, NpuError, TensorSpec, Ticket,
    error::describe_code, profile::timing::estimate_graph_us,
};
use parking_lot::{Condvar, Mutex};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub(super) struct SimContext {
    shared: Arc<Shared>,
    names: HashMap<String, GraphId>,
    worker: Option<JoinHandle<()>>,
}

struct Shared {
    device: Arc<DeviceState>,
    /// The device's generation when this context was made.
    generation: u64,
    prepared: Prepared,
    state: Mutex<State>,
    /// Wakes the worker.
    work: Condvar,
    /// Wakes waiters.
    done: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    in_flight: HashMap<u64, InFlight>,
    next_ticket: u64,
    stop: bool,
    dead: Option<String>,
}

struct InFlight {
    graph: usize,
    result: Option<Result<Completion, NpuError>>,
}

struct Job {
    ticket: u64,
    graph: usize,
    inputs: Vec<BufferRead>,
    outputs: Vec<BufferWrite>,
    fault: Option<SubmitFault>,
}

impl SimContext {
    pub(super) fn start(device: Arc<DeviceState>, prepared: Prepared) -> Result<Self, NpuError> {
        let ids = (0u32..).map(GraphId);
        let names = prepared.spec.graphs.iter().map(|g| g.name.clone()).zip(ids).collect();
        let generation = device.generation.load(Ordering::Acquire);
        let shared = Arc::new(Shared {
            device,
            generation,
            prepared,
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let on_thread = Arc::clone(&shared);
        let worker = std::thread::Builder::new()
            .name("coexec-sim-npu".to_owned())
            .spawn(move || on_thread.work())
            .map_err(|e| shared.lost(&format!("its worker thread could not start: {e}")))?;
        Ok(Self { shared, names, worker: Some(worker) })
    }
}

impl Shared {
    fn lost(&self, reason: &str) -> NpuError {
        NpuError::DeviceLost { device: self.device.profile.device.clone(), reason: reason.to_owned() }
    }

    fn code(&self, what: &str, code: u32) -> NpuError {
        NpuError::Code {
            device: self.device.profile.device.clone(),
            operation: "execute",
            what: what.to_owned(),
            code,
            meaning: describe_code(code).to_owned(),
        }
    }

    fn is_stale(&self) -> bool {
        self.device.generation.load(Ordering::Acquire) != self.generation
    }

    /// The worker: runs jobs in order until the context is dropped.
    fn work(&self) {
        // Wakes waiters with an error if this thread ends in any way.
        struct LastWords<'a>(&'a Shared);
        impl Drop for LastWords<'_> {
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
            if matches!(job.fault, Some(SubmitFault::Hang)) {
                while !state.stop {
                    self.work.wait(&mut state);
                }
                return;
            }
            drop(state);
            let (ticket, result) = (job.ticket, self.run(job));
            let mut state = self.state.lock();
            if let Some(entry) = state.in_flight.get_mut(&ticket) {
                entry.result = Some(result);
            }
            if self.is_stale() {
                self.die(&mut state, "the subsystem restarted");
            }
            self.done.notify_all();
        }
    }

    /// Runs one job; its buffers are free when this returns.
    fn run(&self, mut job: Job) -> Result<Completion, NpuError> {
        let spec = &self.prepared.spec.graphs[job.graph];
        let mut processor = self.device.processor.lock();
        match job.fault {
            Some(SubmitFault::Lost) => {
                self.device.generation.fetch_add(1, Ordering::AcqRel);
                return Err(self.lost("the subsystem restarted"));
            }
            Some(SubmitFault::Code(code)) => return Err(self.code(&spec.name, code)),
            _ if self.is_stale() => return Err(self.lost("the subsystem restarted")),
            _ => {}
        }
        let started = Instant::now();
        let inputs: Vec<&[u8]> = job.inputs.iter().map(|b| &**b).collect();
        let mut outputs: Vec<&mut [u8]> = job.outputs.iter_mut().map(|b| &mut **b).collect();
        let ran = self.prepared.graphs[job.graph].run(&mut processor, &inputs, &mut outputs);
        ran.map_err(|source| NpuError::Compute { graph: spec.name.clone(), source })?;
        let device_ns = match self.device.timing {
            SimTiming::Off => None,
            SimTiming::Report | SimTiming::Pace => {
                estimate_graph_us(&self.device.profile, spec).map(|e| (e.us * 1000.0) as u64)
            }
        };
        if let (SimTiming::Pace, Some(ns)) = (self.device.timing, device_ns) {
            std::thread::sleep(Duration::from_nanos(ns).saturating_sub(started.elapsed()));
        }
        Ok(Completion { device_ns })
    }

    /// Marks the context dead, forgets queued jobs and wakes everybody.
    fn die(&self, state: &mut State, reason: &str) {
        if state.dead.is_none() {
            state.dead = Some(reason.to_owned());
        }
        state.queue.clear();
        self.done.notify_all();
    }

    /// Takes a buffer's read or write state for every tensor of one side, after checking its size.
    fn bind<B>(
        &self,
        graph: &str,
        side: &'static str,
        tensors: &[TensorSpec],
        buffers: &[crate::NpuBuffer],
        take: impl Fn(&crate::NpuBuffer) -> Result<B, NpuError>,
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
}

impl NpuContext for SimContext {
    fn spec(&self) -> &ContextSpec {
        &self.shared.prepared.spec
    }

    fn graph(&self, name: &str) -> Option<GraphId> {
        self.names.get(name).copied()
    }

    fn submit(&self, graph: GraphId, bindings: &Bindings) -> Result<Ticket, NpuError> {
        let shared = &*self.shared;
        let context = || shared.prepared.spec.name.clone();
        let index = graph.0 as usize;
        let spec = shared.prepared.spec.graphs.get(index);
        let spec = spec.ok_or_else(|| NpuError::UnknownGraph { context: context(), id: graph.0 })?;
        let inputs = shared.bind(&spec.name, "input", &spec.inputs, &bindings.inputs, crate::NpuBuffer::read)?;
        let outputs = shared.bind(&spec.name, "output", &spec.outputs, &bindings.outputs, crate::NpuBuffer::write)?;
        let mut state = shared.state.lock();
        if shared.is_stale() {
            shared.die(&mut state, "the subsystem restarted");
        }
        if let Some(reason) = &state.dead {
            return Err(shared.lost(reason));
        }
        let depth = shared.device.profile.max_in_flight;
        if state.in_flight.len() >= depth {
            return Err(NpuError::QueueFull { context: context(), depth });
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.in_flight.insert(ticket, InFlight { graph: index, result: None });
        let fault = shared.device.faults.next_submit();
        state.queue.push_back(Job { ticket, graph: index, inputs, outputs, fault });
        shared.work.notify_one();
        Ok(Ticket(ticket))
    }

    fn wait(&self, ticket: Ticket, deadline: Option<Duration>) -> Result<Completion, NpuError> {
        let shared = &*self.shared;
        // A deadline beyond what a clock can hold is none.
        let until = deadline.and_then(|d| Instant::now().checked_add(d));
        let mut state = shared.state.lock();
        loop {
            let dead = state.dead.clone();
            let context = || shared.prepared.spec.name.clone();
            let entry = state
                .in_flight
                .get_mut(&ticket.0)
                .ok_or_else(|| NpuError::UnknownTicket { context: context(), ticket: ticket.0 })?;
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
                        shared.die(&mut state, "a graph did not finish in time");
                        return Err(NpuError::Timeout {
                            graph: shared.prepared.spec.graphs[graph].name.clone(),
                            waited: deadline.unwrap_or_default(),
                        });
                    }
                }
            }
        }
    }

    fn serialize(&self) -> Result<Vec<u8>, NpuError> {
        super::blob::write(&self.shared.prepared)
    }

    fn memory_bytes(&self) -> u64 {
        self.shared.prepared.memory_bytes()
    }
}

impl Drop for SimContext {
    fn drop(&mut self) {
        let queued = {
            let mut state = self.shared.state.lock();
            state.stop = true;
            self.shared.work.notify_all();
            std::mem::take(&mut state.queue)
        };
        drop(queued);
        if let Some(worker) = self.worker.take()
            && worker.join().is_err()
        {
            tracing::error!("the worker thread of a simulated NPU context panicked");
        }
    }
}
