//! A running context of the simulated device: its graphs and faults behind the common [`Queue`].

use super::{DeviceState, SimTiming, SubmitFault, prepared::Prepared};
use crate::{
    Bindings, BufferRead, BufferWrite, Completion, ContextSpec, DeviceProfile, GraphId, NpuContext, NpuError, Ticket,
    error::describe_code,
    profile::timing::estimate_graph_us,
    queue::{GraphRunner, Queue},
};
use parking_lot::{Condvar, Mutex};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

pub(super) struct SimContext {
    queue: Queue<Runner>,
}

struct Runner {
    device: Arc<DeviceState>,
    /// The device's generation when this context was made.
    generation: u64,
    prepared: Prepared,
    /// Set when a graph that hangs shall end.
    interrupted: Mutex<bool>,
    wake: Condvar,
}

impl SimContext {
    pub(super) fn start(device: Arc<DeviceState>, prepared: Prepared) -> Result<Self, NpuError> {
        let generation = device.generation.load(Ordering::Acquire);
        let runner = Runner { device, generation, prepared, interrupted: Mutex::new(false), wake: Condvar::new() };
        Ok(Self { queue: Queue::start(runner, "coexec-sim-npu")? })
    }
}

impl Runner {
    fn gone(&self, reason: &str) -> NpuError {
        NpuError::DeviceLost { device: self.device.profile.device.clone(), reason: reason.to_owned() }
    }

    fn code(&self, what: &str, code: u32) -> NpuError {
        NpuError::Code {
            device: self.device.profile.device.clone(),
            operation: "execute",
            what: what.to_owned(),
            code,
            meaning: describe_code(code),
        }
    }
}

impl GraphRunner for Runner {
    type Tag = Option<SubmitFault>;

    fn spec(&self) -> &ContextSpec {
        &self.prepared.spec
    }

    fn profile(&self) -> &DeviceProfile {
        &self.device.profile
    }

    fn admit(&self) -> Self::Tag {
        self.device.faults.next_submit()
    }

    fn runs_on_caller(&self, fault: &Self::Tag) -> bool {
        !matches!(fault, Some(SubmitFault::Hang))
    }

    fn run(
        &self,
        graph: usize,
        fault: Self::Tag,
        inputs: &[BufferRead],
        outputs: &mut [BufferWrite],
    ) -> Result<Completion, NpuError> {
        if matches!(fault, Some(SubmitFault::Hang)) {
            let mut interrupted = self.interrupted.lock();
            while !*interrupted {
                self.wake.wait(&mut interrupted);
            }
            return Err(self.gone("a graph hung"));
        }
        let spec = &self.prepared.spec.graphs[graph];
        let mut processor = self.device.processor.lock();
        match fault {
            Some(SubmitFault::Lost) => {
                self.device.generation.fetch_add(1, Ordering::AcqRel);
                return Err(self.gone("the subsystem restarted"));
            }
            Some(SubmitFault::Code(code)) => return Err(self.code(&spec.name, code)),
            _ => {}
        }
        if let Some(reason) = self.lost() {
            return Err(self.gone(&reason));
        }
        let started = Instant::now();
        let inputs: Vec<&[u8]> = inputs.iter().map(|b| &**b).collect();
        let mut outputs: Vec<&mut [u8]> = outputs.iter_mut().map(|b| &mut **b).collect();
        let ran = self.prepared.graphs[graph].run(&mut processor, &inputs, &mut outputs);
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

    fn lost(&self) -> Option<String> {
        let stale = self.device.generation.load(Ordering::Acquire) != self.generation;
        stale.then(|| "the subsystem restarted".to_owned())
    }

    fn interrupt(&self) -> bool {
        *self.interrupted.lock() = true;
        self.wake.notify_all();
        true
    }
}

impl NpuContext for SimContext {
    fn spec(&self) -> &ContextSpec {
        self.queue.runner().spec()
    }

    fn graph(&self, name: &str) -> Option<GraphId> {
        self.queue.graph(name)
    }

    fn submit(&self, graph: GraphId, bindings: &Bindings) -> Result<Ticket, NpuError> {
        self.queue.submit(graph, bindings)
    }

    fn wait(&self, ticket: Ticket, deadline: Option<Duration>) -> Result<Completion, NpuError> {
        self.queue.wait(ticket, deadline)
    }

    fn run(&self, graph: GraphId, bindings: &Bindings, deadline: Option<Duration>) -> Result<Completion, NpuError> {
        self.queue.run(graph, bindings, deadline)
    }

    fn serialize(&self) -> Result<Vec<u8>, NpuError> {
        super::blob::write(&self.queue.runner().prepared)
    }

    fn memory_bytes(&self) -> u64 {
        self.queue.runner().prepared.memory_bytes()
    }
}
