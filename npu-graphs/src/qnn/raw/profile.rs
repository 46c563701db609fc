//! QNN's profiles: the compiler's own estimate of a graph, and times of executions.

use super::{Backend, Handle, log};
use crate::NpuError;
use qnn_sys::{QNN_PROFILE_LEVEL_BASIC, QnnProfile_EventData_t, QnnProfile_EventId_t, entry};
use serde::{Deserialize, Serialize};
use std::{ptr::null_mut, sync::Arc};

/// Time on the accelerator of one execution, µs.
const EXECUTE_ACCELERATOR_US: u32 = 3004;
/// Events that a profile of level basic has at most; more is a sign of memory read wrongly.
const MOST_EVENTS: u32 = 1 << 20;

/// Qualcomm's own cost estimate of a compiled graph, `None` where the library gives none. Deterministic per library
/// build; known for few SoCs (52, 62, 63, 72, 77, 95, 114), without costs of calling the device, so good for ratios.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompilerEstimate {
    /// Simulated cycles of one execution.
    pub cycles: Option<u64>,
    /// Lower end of the cycles.
    pub cycles_lower: Option<u64>,
    /// Upper end of the cycles.
    pub cycles_upper: Option<u64>,
    /// Simulated time of one execution in µs.
    pub us: Option<u64>,
    /// Lower end of the time.
    pub us_lower: Option<u64>,
    /// Upper end of the time.
    pub us_upper: Option<u64>,
    /// Bytes of inputs (weights too) read from DDR into VTCM.
    pub input_fill_bytes: Option<u64>,
    /// Bytes of intermediate tensors read back from DDR.
    pub intermediate_fill_bytes: Option<u64>,
    /// Bytes of intermediate tensors written to DDR because VTCM was full.
    pub intermediate_spill_bytes: Option<u64>,
    /// Bytes read from another HTP core.
    pub inter_core_fill_bytes: Option<u64>,
    /// Bytes written to another HTP core.
    pub inter_core_spill_bytes: Option<u64>,
    /// Bytes of outputs written to DDR.
    pub output_spill_bytes: Option<u64>,
    /// Ops that the estimate has no cost for: it is too low by them.
    pub ops_without_cost: Option<u64>,
}

impl CompilerEstimate {
    fn set(&mut self, event: u32, value: u64) {
        let field = match event {
            2006 => &mut self.cycles,
            2007 => &mut self.cycles_lower,
            2008 => &mut self.cycles_upper,
            2011 => &mut self.input_fill_bytes,
            2012 => &mut self.intermediate_fill_bytes,
            2013 => &mut self.intermediate_spill_bytes,
            2014 => &mut self.inter_core_fill_bytes,
            2015 => &mut self.inter_core_spill_bytes,
            2016 => &mut self.output_spill_bytes,
            2017 => &mut self.ops_without_cost,
            2019 => &mut self.us,
            2020 => &mut self.us_lower,
            2021 => &mut self.us_upper,
            _ => return,
        };
        *field = Some(value);
    }
}

/// What compiling one graph told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalizeReport {
    /// Name of the graph.
    pub graph: String,
    /// Time that the compiler took on this host, µs.
    pub finalize_us: u64,
    /// Qualcomm's cost estimate, when it was asked for and the SoC has one.
    pub estimate: Option<CompilerEstimate>,
}

/// A profile handle.
pub(super) struct ProfileHandle {
    backend: Arc<Backend>,
    handle: Handle,
}

impl ProfileHandle {
    /// A profile of the basic level; `None`, with a note in the log, where the library has none.
    pub(super) fn create(backend: &Arc<Backend>) -> Result<Option<Self>, NpuError> {
        let create = entry!(backend.htp(), profileCreate)?;
        let mark = log::mark();
        let mut handle = null_mut();
        // SAFETY: a living backend, a local.
        let answer = unsafe { create(backend.handle().0, QNN_PROFILE_LEVEL_BASIC, &raw mut handle) };
        match backend.check(answer, "create profile", "basic", mark) {
            Ok(()) => Ok(Some(Self { backend: Arc::clone(backend), handle: Handle(handle) })),
            Err(error) => {
                tracing::info!(target: "qnn", "no profile: {error}");
                Ok(None)
            }
        }
    }

    /// The handle, null for none.
    pub(super) fn raw(profile: Option<&Self>) -> *mut std::ffi::c_void {
        profile.map_or(null_mut(), |p| p.handle.0)
    }

    /// The estimate of the finalisation that this profile was handed to; `None` where the SoC has none.
    pub(super) fn estimate(&self) -> Option<CompilerEstimate> {
        let mut estimate = CompilerEstimate::default();
        self.each_event(&mut |kind, value| estimate.set(kind, value));
        (estimate != CompilerEstimate::default()).then_some(estimate)
    }

    /// Accelerator time of the last execution, µs.
    pub(super) fn accelerator_us(&self) -> Option<u64> {
        let mut us = None;
        self.each_event(&mut |kind, value| {
            if kind == EXECUTE_ACCELERATOR_US {
                us = Some(value);
            }
        });
        us
    }

    /// Every event and sub-event as type and value.
    fn each_event(&self, visit: &mut dyn FnMut(u32, u64)) {
        let Some(events) = self.backend.table().profileGetEvents else { return };
        let (mut list, mut count) = (std::ptr::null(), 0u32);
        // SAFETY: our handle, locals.
        let answer = unsafe { events(self.handle.0, &raw mut list, &raw mut count) };
        if answer != 0 || list.is_null() || count > MOST_EVENTS {
            return;
        }
        // SAFETY: on success the list has `count` ids and lives until the profile is used again, which `&self` and the
        // caller's lock exclude.
        for id in unsafe { std::slice::from_raw_parts(list, count as usize) } {
            self.visit(*id, 0, visit);
        }
    }

    fn visit(&self, id: QnnProfile_EventId_t, depth: u32, visit: &mut dyn FnMut(u32, u64)) {
        let table = self.backend.table();
        let (Some(data_of), Some(sub_events)) = (table.profileGetEventData, table.profileGetSubEvents) else { return };
        let mut data = QnnProfile_EventData_t::default();
        // SAFETY: an id that this profile gave, a local.
        if unsafe { data_of(id, &raw mut data) } == 0 {
            visit(data.type_, data.value);
        }
        let (mut list, mut count) = (std::ptr::null(), 0u32);
        // SAFETY: as above.
        let answer = unsafe { sub_events(id, &raw mut list, &raw mut count) };
        if answer != 0 || list.is_null() || count > MOST_EVENTS || depth > 8 {
            return;
        }
        // SAFETY: as in `each_event`.
        for id in unsafe { std::slice::from_raw_parts(list, count as usize) } {
            self.visit(*id, depth + 1, visit);
        }
    }
}

impl Drop for ProfileHandle {
    fn drop(&mut self) {
        if let Some(free) = self.backend.table().profileFree {
            // SAFETY: our handle, freed once.
            let answer = unsafe { free(self.handle.0) };
            self.backend.report(answer, "free profile");
        }
    }
}
