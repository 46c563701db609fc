//! A simulated NPU: static shapes only, a chip's limits, optional times and faults.
//!
//! Linears in codes are exact with HTP's measured rounding ([`requant`]). Every other op is computed in real numbers and
//! rounded once to its output (`ops.rs`); HTP was measured to be a step or two away from that. [`Observer`] tells the range of
//! every tensor, from which encodings are chosen.
//!
//! Deterministic on every machine: results depend on integers and on float operations in a fixed order, never on threads or
//! time. A context's graphs run on its own worker thread or, with [`NpuContext::run`], on the caller's, in order; contexts of one
//! device run one at a time, as on the NPU.

mod blob;
mod context;
mod fault;
mod linear;
mod matmul;
mod observe;
mod ops;
mod prepared;
pub mod requant;
mod statics;

pub use fault::{FaultPlan, PrepareFault, SubmitFault};
pub use observe::{Observation, Observer};

use crate::{
    ContextSpec, DeviceProfile, Manifest, NpuBuffer, NpuContext, NpuDevice, NpuError, WeightSource, profile::chips,
};
use coexec_cpu::Pool;
use context::SimContext;
use fault::FaultState;
use parking_lot::Mutex;
use prepared::Prepared;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What the simulated device does about time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SimTiming {
    /// Completions carry no time.
    #[default]
    Off,
    /// Completions carry the profile's modelled time; execution takes as long as it takes here.
    Report,
    /// Completions carry the modelled time, and a graph ends no sooner than that after it started.
    Pace,
}

/// What a [`SimDevice`] is made from.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// Chip or idealisation; its `timed` is set from `timing`.
    pub profile: DeviceProfile,
    /// Threads that compute graphs. Shared with the CPU's work, no core has two threads that spin for more of it.
    pub pool: Arc<Pool>,
    /// What to do about time.
    pub timing: SimTiming,
    /// Failures to inject.
    pub faults: FaultPlan,
}

impl SimOptions {
    /// A named profile (see [`chips::named`]), one thread, no times, no faults. `None` for an unknown name.
    #[must_use]
    pub fn named(profile: &str) -> Option<Self> {
        let profile = chips::named(profile)?;
        Some(Self { profile, pool: Arc::new(Pool::new(1)), timing: SimTiming::Off, faults: FaultPlan::default() })
    }
}

/// The simulated NPU.
#[derive(Debug)]
pub struct SimDevice {
    shared: Arc<DeviceState>,
}

/// What a device's contexts share.
#[derive(Debug)]
struct DeviceState {
    profile: DeviceProfile,
    timing: SimTiming,
    faults: FaultState,
    /// Counts losses: contexts made before the last one are dead.
    generation: AtomicU64,
    used_bytes: AtomicU64,
    /// Held while a graph runs.
    processor: Mutex<linear::Executor>,
}

impl SimDevice {
    /// A device.
    #[must_use]
    pub fn new(options: SimOptions) -> Self {
        let mut profile = options.profile;
        profile.timed = options.timing != SimTiming::Off && profile.timing.is_some();
        Self {
            shared: Arc::new(DeviceState {
                profile,
                timing: options.timing,
                faults: FaultState::new(options.faults),
                generation: AtomicU64::new(0),
                used_bytes: AtomicU64::new(0),
                processor: Mutex::new(linear::Executor::new(options.pool)),
            }),
        }
    }

    fn fail_if_planned(&self, operation: &'static str, what: &str) -> Result<(), NpuError> {
        match self.shared.faults.next_prepare() {
            Some(code) => Err(NpuError::Code {
                device: self.shared.profile.device.clone(),
                operation,
                what: what.to_owned(),
                code,
                meaning: crate::error::describe_code(code),
            }),
            None => Ok(()),
        }
    }

    fn start(&self, prepared: Prepared) -> Result<Box<dyn NpuContext>, NpuError> {
        Ok(Box::new(SimContext::start(Arc::clone(&self.shared), prepared)?))
    }
}

impl NpuDevice for SimDevice {
    fn profile(&self) -> &DeviceProfile {
        &self.shared.profile
    }

    fn prepare(&self, spec: &ContextSpec, weights: &dyn WeightSource) -> Result<Box<dyn NpuContext>, NpuError> {
        self.shared.profile.check(spec)?;
        self.fail_if_planned("prepare", &spec.name)?;
        let lease = MemoryLease::take(&self.shared, spec)?;
        self.start(Prepared::from_source(spec, weights, Some(lease))?)
    }

    fn load(&self, bytes: &[u8], manifest: &Manifest) -> Result<Box<dyn NpuContext>, NpuError> {
        manifest.check_blob(bytes, &self.shared.profile)?;
        let blob = blob::read(bytes)?;
        manifest.spec.expect_same(&blob.spec)?;
        self.shared.profile.check(&blob.spec)?;
        self.fail_if_planned("load", &blob.spec.name)?;
        let lease = MemoryLease::take(&self.shared, &blob.spec)?;
        self.start(blob.prepare(lease)?)
    }

    fn alloc(&self, len_bytes: usize) -> Result<NpuBuffer, NpuError> {
        let limit_bytes = self.shared.profile.max_buffer_bytes;
        if len_bytes > limit_bytes {
            let device = self.shared.profile.device.clone();
            return Err(NpuError::BufferTooLarge { device, len_bytes, limit_bytes });
        }
        Ok(NpuBuffer::heap(len_bytes)?)
    }
}

/// A context's share of the device's memory; dropping it gives the share back.
#[derive(Debug)]
struct MemoryLease {
    device: Arc<DeviceState>,
    bytes: u64,
}

impl MemoryLease {
    fn take(device: &Arc<DeviceState>, spec: &ContextSpec) -> Result<Self, NpuError> {
        let bytes = spec.device_bytes(device.profile.graph_overhead_bytes);
        let limit = device.profile.max_device_bytes;
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        device.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|used| {
            NpuError::ContextTooLarge {
                device: device.profile.device.clone(),
                context: spec.name.clone(),
                needed_bytes: bytes,
                limit_bytes: limit.saturating_sub(used),
            }
        })?;
        Ok(Self { device: Arc::clone(device), bytes })
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        self.device.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
