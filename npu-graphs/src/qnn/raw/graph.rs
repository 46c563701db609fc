//! A graph: composed, finalised, executed.

use super::{
    Handle, RawContext, TensorDef, TensorKind, TensorRef, log,
    node::{NodeDef, NodeView},
    profile::{FinalizeReport, ProfileHandle},
    refused,
    tensor::{OwnedTensor, TensorView},
};
use crate::NpuError;
use parking_lot::Mutex;
use qnn_sys::{
    Qnn_MemHandle_t, Qnn_Tensor_t, QnnGraph_Config_t, QnnGraph_ConfigOption_t, QnnHtpGraph_ConfigOption_t,
    QnnHtpGraph_CustomConfig_t, QnnHtpGraph_OptimizationOption_t, QnnHtpGraph_OptimizationType_t, entry,
};
use std::{
    ffi::CString,
    ptr::{null, null_mut},
    sync::Arc,
    time::Instant,
};

/// How a graph is compiled; `None` leaves QNN's default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GraphOptions {
    /// Vector memory in MiB that the graph may use; 0 is the chip's maximum.
    pub(crate) vtcm_mb: Option<u32>,
    /// HVX threads.
    pub(crate) hvx_threads: Option<u32>,
    /// Effort of the compiler, 1 to 3.
    pub(crate) optimization_level: Option<u32>,
}

/// What one execution told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExecuteReport {
    /// Time on the accelerator in µs, where a profile was asked for and has it. Host time on x86-64.
    pub(crate) accelerator_us: Option<u64>,
}

/// Memory of one graph input.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InputMemory<'a> {
    /// Ordinary memory; the library copies it.
    Raw(&'a [u8]),
    /// Memory registered with this context, and its size in bytes.
    Registered(MemoryHandle, usize),
}

/// Memory of one graph output.
#[derive(Debug)]
pub(crate) enum OutputMemory<'a> {
    /// Ordinary memory; the library copies into it.
    Raw(&'a mut [u8]),
    /// Memory registered with this context, and its size in bytes.
    Registered(MemoryHandle, usize),
}

/// Memory that is registered with a context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryHandle(pub(super) Handle);

/// A graph of a context. It has no handle to free: it goes with its context.
pub(crate) struct RawGraph {
    context: Arc<RawContext>,
    handle: Handle,
    name: String,
    /// In order of creation, or of the binary.
    inputs: Vec<TensorRef>,
    outputs: Vec<TensorRef>,
    /// Every tensor until the graph is finalised: QNN keeps pointers into some of them.
    building: Vec<TensorRef>,
    /// Filled at every execution when profiling is on; QNN refuses a profile that is in use.
    profile: Option<Mutex<ProfileHandle>>,
}

impl RawGraph {
    /// An empty graph.
    pub(crate) fn create(context: &Arc<RawContext>, name: &str, options: &GraphOptions) -> Result<Self, NpuError> {
        let backend = context.device().backend();
        let create = entry!(backend.htp(), graphCreate)?;
        let c_name = CString::new(name).map_err(|_| refused(name, "graph", name, "its name has a zero byte"))?;
        let mut customs = custom_configs(options);
        let configs: Vec<_> = customs
            .iter_mut()
            .map(|custom| {
                let mut config = QnnGraph_Config_t {
                    option: QnnGraph_ConfigOption_t::QNN_GRAPH_CONFIG_OPTION_CUSTOM,
                    ..Default::default()
                };
                config.__bindgen_anon_1.customConfig = (&raw mut *custom).cast();
                config
            })
            .collect();
        let mut list: Vec<_> = configs.iter().map(|c| &raw const *c).chain([null()]).collect();
        let mark = log::mark();
        let mut handle = null_mut();
        // SAFETY: a living context; name, null-ended list and what it points to outlive the call.
        let answer = unsafe { create(context.handle().0, c_name.as_ptr(), list.as_mut_ptr(), &raw mut handle) };
        backend.check(answer, "create graph", name, mark)?;
        Ok(Self::new(context, handle, name))
    }

    /// A graph of a context that came from a binary, with the tensors that the binary names.
    pub(crate) fn retrieve(context: &Arc<RawContext>, name: &str) -> Result<Self, NpuError> {
        let backend = context.device().backend();
        let retrieve = entry!(backend.htp(), graphRetrieve)?;
        let c_name = CString::new(name).map_err(|_| refused(name, "graph", name, "its name has a zero byte"))?;
        let mark = log::mark();
        let mut handle = null_mut();
        // SAFETY: a living context; name and handle are locals.
        let answer = unsafe { retrieve(context.handle().0, c_name.as_ptr(), &raw mut handle) };
        backend.check(answer, "retrieve graph", name, mark)?;
        let mut graph = Self::new(context, handle, name);
        let info = context.info().and_then(|i| i.graphs.iter().find(|g| g.name == name));
        let info = info.ok_or_else(|| refused(name, "graph", name, "the binary's description does not list it"))?;
        for (from, to, kind) in [
            (&info.inputs, &mut graph.inputs, TensorKind::Input),
            (&info.outputs, &mut graph.outputs, TensorKind::Output),
        ] {
            for tensor in from {
                let mut owned = OwnedTensor::new(
                    name,
                    &tensor.def(kind).ok_or_else(|| {
                        refused(name, "tensor", &tensor.name, "the binary gives it a type that coexec does not bind")
                    })?,
                )?;
                owned.id = tensor.id;
                to.push(TensorRef(Arc::new(owned)));
            }
        }
        Ok(graph)
    }

    fn new(context: &Arc<RawContext>, handle: *mut std::ffi::c_void, name: &str) -> Self {
        Self {
            context: Arc::clone(context),
            handle: Handle(handle),
            name: name.to_owned(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            building: Vec::new(),
            profile: None,
        }
    }

    /// Makes a tensor. Inputs and outputs are bound in the order in which they are made.
    pub(crate) fn tensor(&mut self, def: &TensorDef<'_>) -> Result<TensorRef, NpuError> {
        let mut owned = OwnedTensor::new(&self.name, def)?;
        let backend = self.context.device().backend();
        let create = entry!(backend.htp(), tensorCreateGraphTensor)?;
        let (data, bytes) = match def.kind {
            TensorKind::Static(data) => (data.as_ptr().cast_mut().cast(), data.len()),
            _ => (null_mut(), 0),
        };
        let mark = log::mark();
        let view = if owned.keeps_data() { owned.view_in_node() } else { owned.view(data, bytes) };
        let mut tensor = view.tensor;
        // SAFETY: our graph; the struct's pointers are into `owned`, `view` and `def`, which outlive the call. QNN
        // copies all of it, static data too, and only reads it; it writes the id into the struct.
        let answer = unsafe { create(self.handle.0, &raw mut tensor) };
        backend.check(answer, "create tensor", &format!("{}:{}", self.name, def.name), mark)?;
        // SAFETY: the struct was made as version 1, where this field is.
        owned.id = unsafe { tensor.__bindgen_anon_1.v1.id };
        let tensor = TensorRef(Arc::new(owned));
        self.building.push(tensor.clone());
        match def.kind {
            TensorKind::Input => self.inputs.push(tensor.clone()),
            TensorKind::Output => self.outputs.push(tensor.clone()),
            TensorKind::Intermediate | TensorKind::Static(_) => {}
        }
        Ok(tensor)
    }

    /// Validates a node and adds it. QNN adds and finalises nodes that it does not validate, with garbage results.
    pub(crate) fn node(&mut self, def: &NodeDef<'_>) -> Result<(), NpuError> {
        def.refuse_crashes(&self.name)?;
        let backend = self.context.device().backend();
        let (validate, add) = (entry!(backend.htp(), backendValidateOpConfig)?, entry!(backend.htp(), graphAddNode)?);
        let mut view = NodeView::new(&self.name, def)?;
        let what = || format!("{}:{} ({})", self.name, def.name, def.op_type);
        let mark = log::mark();
        // SAFETY: a living backend; the struct's pointers are into `view` and `def`, which outlive the call.
        let answer = unsafe { validate(backend.handle().0, view.qnn()) };
        backend.check(answer, "validate", &what(), mark)?;
        let mark = log::mark();
        // SAFETY: our graph; the pointers as above. QNN copies the struct.
        let answer = unsafe { add(self.handle.0, view.qnn()) };
        backend.check(answer, "add node", &what(), mark)
    }

    /// Compiles the graph; with `want_estimate` Qualcomm's own cost estimate is read, where the SoC has one.
    pub(crate) fn finalize(&mut self, want_estimate: bool) -> Result<FinalizeReport, NpuError> {
        let backend = self.context.device().backend();
        let finalize = entry!(backend.htp(), graphFinalize)?;
        let profile = if want_estimate { ProfileHandle::create(backend)? } else { None };
        let mark = log::mark();
        let started = Instant::now();
        // SAFETY: our graph, a living profile or null, no signal.
        let answer = unsafe { finalize(self.handle.0, ProfileHandle::raw(profile.as_ref()), null_mut()) };
        let finalize_us = started.elapsed().as_micros() as u64;
        backend.check(answer, "finalize", &self.name, mark)?;
        self.building = Vec::new();
        let estimate = profile.and_then(|p| p.estimate());
        Ok(FinalizeReport { graph: self.name.clone(), finalize_us, estimate })
    }

    /// Turns per-execute profiles on.
    pub(crate) fn profile_executions(&mut self) -> Result<(), NpuError> {
        self.profile = ProfileHandle::create(self.context.device().backend())?.map(Mutex::new);
        Ok(())
    }

    /// Runs the graph; buffers in the order of [`Self::inputs`] and [`Self::outputs`], of exactly the tensors' sizes.
    #[cfg(test)]
    pub(crate) fn execute(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<ExecuteReport, NpuError> {
        let inputs: Vec<_> = inputs.iter().map(|b| InputMemory::Raw(b)).collect();
        let mut outputs: Vec<_> = outputs.iter_mut().map(|b| OutputMemory::Raw(b)).collect();
        self.execute_bound(&inputs, &mut outputs)
    }

    /// The same with memory of either kind.
    pub(crate) fn execute_bound(
        &self,
        inputs: &[InputMemory<'_>],
        outputs: &mut [OutputMemory<'_>],
    ) -> Result<ExecuteReport, NpuError> {
        self.check_count("input", self.inputs.len(), inputs.len())?;
        self.check_count("output", self.outputs.len(), outputs.len())?;
        let mut input_views = Vec::with_capacity(inputs.len());
        for (tensor, memory) in self.inputs.iter().zip(inputs) {
            let (len, view) = match *memory {
                // QNN only reads inputs.
                InputMemory::Raw(b) => (b.len(), tensor.0.view(b.as_ptr().cast_mut().cast(), b.len())),
                InputMemory::Registered(memory, len) => (len, registered(tensor, memory)),
            };
            self.check_size(tensor, len)?;
            input_views.push(view);
        }
        let mut output_views = Vec::with_capacity(outputs.len());
        for (tensor, memory) in self.outputs.iter().zip(outputs) {
            let (len, view) = match memory {
                OutputMemory::Raw(b) => (b.len(), tensor.0.view(b.as_mut_ptr().cast(), b.len())),
                OutputMemory::Registered(memory, len) => (*len, registered(tensor, *memory)),
            };
            self.check_size(tensor, len)?;
            output_views.push(view);
        }
        let structs = |views: &[TensorView<'_>]| views.iter().map(|v| v.tensor).collect::<Vec<Qnn_Tensor_t>>();
        let (inputs, mut outputs) = (structs(&input_views), structs(&output_views));
        let backend = self.context.device().backend();
        let execute = entry!(backend.htp(), graphExecute)?;
        let profile = self.profile.as_ref().map(Mutex::lock);
        let mark = log::mark();
        // SAFETY: our graph; structs and buffers outlive the call, buffers have exactly the tensors' sizes, outputs are
        // borrowed exclusively. The profile is in nobody else's hands. No signal.
        let answer = unsafe {
            execute(
                self.handle.0,
                inputs.as_ptr(),
                inputs.len() as u32,
                outputs.as_mut_ptr(),
                outputs.len() as u32,
                ProfileHandle::raw(profile.as_deref()),
                null_mut(),
            )
        };
        drop((input_views, output_views));
        backend.check(answer, "execute", &self.name, mark)?;
        Ok(ExecuteReport { accelerator_us: profile.and_then(|p| p.accelerator_us()) })
    }

    /// Inputs in the order of binding.
    pub(crate) fn inputs(&self) -> &[TensorRef] {
        &self.inputs
    }

    /// Outputs in the order of binding.
    pub(crate) fn outputs(&self) -> &[TensorRef] {
        &self.outputs
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn check_count(&self, side: &'static str, expected: usize, found: usize) -> Result<(), NpuError> {
        if expected == found {
            return Ok(());
        }
        Err(NpuError::BindingCount { graph: self.name.clone(), side, expected, found })
    }

    /// QNN ignores the sizes of buffers and would read or write out of bounds.
    fn check_size(&self, tensor: &TensorRef, found: usize) -> Result<(), NpuError> {
        let expected = tensor.len_bytes();
        if expected == found {
            return Ok(());
        }
        Err(refused(&self.name, "tensor", tensor.name(), &format!("{found} bytes were bound, it takes {expected}")))
    }
}

fn registered(tensor: &TensorRef, memory: MemoryHandle) -> TensorView<'_> {
    let handle: Qnn_MemHandle_t = memory.0.0;
    tensor.0.view_registered(handle)
}

fn custom_configs(options: &GraphOptions) -> Vec<QnnHtpGraph_CustomConfig_t> {
    let custom = |option| QnnHtpGraph_CustomConfig_t { option, ..Default::default() };
    let mut customs = Vec::new();
    if let Some(mb) = options.vtcm_mb {
        let mut c = custom(QnnHtpGraph_ConfigOption_t::QNN_HTP_GRAPH_CONFIG_OPTION_VTCM_SIZE);
        c.__bindgen_anon_1.vtcmSizeInMB = mb;
        customs.push(c);
    }
    if let Some(threads) = options.hvx_threads {
        let mut c = custom(QnnHtpGraph_ConfigOption_t::QNN_HTP_GRAPH_CONFIG_OPTION_NUM_HVX_THREADS);
        c.__bindgen_anon_1.numHvxThreads = u64::from(threads);
        customs.push(c);
    }
    if let Some(level) = options.optimization_level {
        let mut c = custom(QnnHtpGraph_ConfigOption_t::QNN_HTP_GRAPH_CONFIG_OPTION_OPTIMIZATION);
        c.__bindgen_anon_1.optimizationOption = QnnHtpGraph_OptimizationOption_t {
            type_: QnnHtpGraph_OptimizationType_t::QNN_HTP_GRAPH_OPTIMIZATION_TYPE_FINALIZE_OPTIMIZATION_FLAG,
            floatValue: level as f32,
        };
        customs.push(c);
    }
    customs
}

impl std::fmt::Debug for RawGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawGraph").field("name", &self.name).finish_non_exhaustive()
    }
}
