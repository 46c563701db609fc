//! The simulated NPU as a backend.

use super::{ModelWeights, NpuBackend, OpenNpu, profile, split_spec};
use crate::{EngineOptions, Model, RuntimeError};
use coexec_cpu::Pool;
use coexec_npu::{
    DeviceProfile, NpuDevice,
    sim::{SimDevice, SimOptions, SimTiming},
};
use coexec_scheduler::CancelToken;
use std::sync::Arc;

/// One simulated device, which lives as long as the engine: its faults are counted over all contexts, and after a loss a
/// fresh context of it works.
#[derive(Debug)]
pub struct SimBackend {
    device: Arc<SimDevice>,
}

impl SimBackend {
    /// The device of the chip and with the faults that `options` name; `pool` computes.
    ///
    /// # Errors
    /// [`RuntimeError::Option`] for an unknown chip.
    pub fn new(options: &EngineOptions, pool: Arc<Pool>) -> Result<Self, RuntimeError> {
        Ok(Self {
            device: Arc::new(SimDevice::new(SimOptions {
                profile: profile(&options.npu_profile)?,
                pool,
                timing: SimTiming::Off,
                faults: options.faults.clone(),
            })),
        })
    }
}

impl NpuBackend for SimBackend {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn is_real(&self) -> bool {
        false
    }

    fn profile(&self) -> &DeviceProfile {
        self.device.profile()
    }

    fn open(&self, model: &Model, chunk_lens: &[usize], _: &CancelToken) -> Result<OpenNpu, RuntimeError> {
        let shards = self.profile().shard(&split_spec(model, chunk_lens)?, None)?;
        let weights = ModelWeights::new(model);
        let contexts = shards.iter().map(|spec| self.device.prepare(spec, &weights)).collect::<Result<_, _>>()?;
        let device: Arc<dyn NpuDevice> = self.device.clone();
        Ok(OpenNpu { contexts, device })
    }
}
