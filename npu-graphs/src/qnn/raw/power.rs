//! Votes for clocks and sleep, held while a device lives.

use super::{RawDevice, log};
use crate::{NpuError, qnn::PerformancePolicy};
use qnn_sys::{
    QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIG_MAX_RPC_POLLING_TIME, QnnDevice_Infrastructure_t,
    QnnHtpDevice_InfrastructureType_t, QnnHtpDevice_PerfInfrastructure_t, QnnHtpPerfInfrastructure_DcvsV3_t,
    QnnHtpPerfInfrastructure_PowerConfig_t, QnnHtpPerfInfrastructure_PowerConfigOption_t as PowerOption,
    QnnHtpPerfInfrastructure_PowerMode_t as Mode, QnnHtpPerfInfrastructure_VoltageCorner_t as Corner, entry,
};
use std::{ptr::null, ptr::null_mut, sync::Arc};

/// A vote; dropping it takes it back.
pub(crate) struct PowerVote {
    device: Arc<RawDevice>,
    infrastructure: QnnHtpDevice_PerfInfrastructure_t,
    id: u32,
}

/// What a policy asks for.
struct Wish {
    mode: Mode,
    corner: Corner,
    /// µs that the DSP may take to wake up.
    sleep_latency_us: u32,
    /// Whether the DSP may change clocks by itself.
    dcvs: bool,
    /// µs that the host polls for the answer of a call before it sleeps.
    rpc_polling_us: u32,
}

/// µs that a call of the device may take to start.
const RPC_LATENCY_US: u32 = 100;

fn wish(policy: PerformancePolicy) -> Option<Wish> {
    let performance = |corner, sleep_latency_us| Wish {
        mode: Mode::QNN_HTP_PERF_INFRASTRUCTURE_POWERMODE_PERFORMANCE_MODE,
        corner,
        sleep_latency_us,
        dcvs: false,
        rpc_polling_us: QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIG_MAX_RPC_POLLING_TIME,
    };
    Some(match policy {
        PerformancePolicy::Default => return None,
        PerformancePolicy::Burst => performance(Corner::DCVS_VOLTAGE_VCORNER_MAX_VOLTAGE_CORNER, 40),
        PerformancePolicy::Sustained => performance(Corner::DCVS_VOLTAGE_VCORNER_TURBO, 100),
        PerformancePolicy::Balanced => {
            Wish { dcvs: true, rpc_polling_us: 0, ..performance(Corner::DCVS_VOLTAGE_VCORNER_NOM_PLUS, 1000) }
        }
        PerformancePolicy::PowerSaver => Wish {
            mode: Mode::QNN_HTP_PERF_INFRASTRUCTURE_POWERMODE_POWER_SAVER_MODE,
            dcvs: true,
            rpc_polling_us: 0,
            ..performance(Corner::DCVS_VOLTAGE_VCORNER_SVS, 1000)
        },
    })
}

impl PowerVote {
    /// Votes; `None` for the policy that leaves clocks to the system.
    pub(crate) fn cast(device: &Arc<RawDevice>, policy: PerformancePolicy) -> Result<Option<Self>, NpuError> {
        let Some(wish) = wish(policy) else { return Ok(None) };
        let backend = device.backend();
        let get = entry!(backend.htp(), deviceGetInfrastructure)?;
        let refuse = |reason: &str| NpuError::Code {
            device: backend.name().to_owned(),
            operation: "power vote",
            what: format!("{policy:?}"),
            code: 13004,
            meaning: reason.to_owned(),
        };
        let mark = log::mark();
        let mut infrastructure: QnnDevice_Infrastructure_t = null_mut();
        // SAFETY: the argument points to a local that receives a pointer to a struct of the library's own.
        let answer = unsafe { get((&raw mut infrastructure).cast_const()) };
        backend.check(answer, "power vote", "infrastructure", mark)?;
        if infrastructure.is_null() {
            return Err(refuse("the library gave no infrastructure"));
        }
        // SAFETY: the library's struct, which lives as long as the library.
        let infrastructure = unsafe { &*infrastructure };
        if infrastructure.infraType != QnnHtpDevice_InfrastructureType_t::QNN_HTP_DEVICE_INFRASTRUCTURE_TYPE_PERF {
            return Err(refuse("the library's infrastructure is of an unknown kind"));
        }
        // SAFETY: the kind names the union's member.
        let infrastructure = unsafe { infrastructure.__bindgen_anon_1.perfInfra };
        let (Some(create), Some(set)) = (infrastructure.createPowerConfigId, infrastructure.setPowerConfig) else {
            return Err(refuse("the library's infrastructure lacks functions"));
        };
        let mut id = 0u32;
        // SAFETY: device and core 0, a local.
        let answer = unsafe { create(0, 0, &raw mut id) };
        backend.check(answer, "power vote", "config id", mark)?;
        // From here on dropping destroys the id.
        let vote = Self { device: Arc::clone(device), infrastructure, id };
        let configs = configs(&wish, id);
        let mut list: Vec<_> = configs.iter().map(|c| &raw const *c).chain([null()]).collect();
        // SAFETY: the id just made; the list is null-ended and lives through the call.
        let answer = unsafe { set(id, list.as_mut_ptr()) };
        backend.check(answer, "power vote", &format!("{policy:?}"), mark)?;
        Ok(Some(vote))
    }
}

fn configs(wish: &Wish, id: u32) -> [QnnHtpPerfInfrastructure_PowerConfig_t; 3] {
    let config = |option| QnnHtpPerfInfrastructure_PowerConfig_t { option, ..Default::default() };
    let mut clocks = config(PowerOption::QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIGOPTION_DCVS_V3);
    clocks.__bindgen_anon_1.dcvsV3Config = QnnHtpPerfInfrastructure_DcvsV3_t {
        contextId: id,
        setDcvsEnable: 1,
        dcvsEnable: u32::from(wish.dcvs),
        powerMode: wish.mode,
        setSleepLatency: 1,
        sleepLatency: wish.sleep_latency_us,
        setSleepDisable: 0,
        sleepDisable: 0,
        setBusParams: 1,
        busVoltageCornerMin: wish.corner,
        busVoltageCornerTarget: wish.corner,
        busVoltageCornerMax: wish.corner,
        setCoreParams: 1,
        coreVoltageCornerMin: wish.corner,
        coreVoltageCornerTarget: wish.corner,
        coreVoltageCornerMax: wish.corner,
    };
    let mut latency = config(PowerOption::QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIGOPTION_RPC_CONTROL_LATENCY);
    latency.__bindgen_anon_1.rpcControlLatencyConfig = RPC_LATENCY_US;
    let mut polling = config(PowerOption::QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIGOPTION_RPC_POLLING_TIME);
    polling.__bindgen_anon_1.rpcPollingTimeConfig = wish.rpc_polling_us;
    [clocks, latency, polling]
}

impl Drop for PowerVote {
    fn drop(&mut self) {
        if let Some(destroy) = self.infrastructure.destroyPowerConfigId {
            // SAFETY: our id, destroyed once, while the device is there.
            let answer = unsafe { destroy(self.id) };
            self.device.backend().report(answer, "destroy power config");
        }
    }
}

impl std::fmt::Debug for PowerVote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PowerVote").field("id", &self.id).finish_non_exhaustive()
    }
}
