//! A QNN library that plays along until it is told to fail: counts what it hands out and takes back.

use coexec_npu::{ContextSpec, Dtype, Encoding, NpuError, QnnDevice, QnnOptions, TensorSpec};
use qnn_sys::*;
use std::{
    collections::BTreeMap,
    ffi::{CString, c_char, c_void},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// What the fake remembers.
#[derive(Default)]
pub(crate) struct Play {
    /// Entry that fails, with its code.
    pub(crate) fail: Option<(&'static str, u64)>,
    /// Whether `graphExecute` hangs.
    pub(crate) hang: bool,
    /// Objects handed out minus objects taken back, by kind.
    pub(crate) living: BTreeMap<&'static str, i64>,
    /// Every call, in order.
    pub(crate) calls: Vec<&'static str>,
    /// What the system library says of every binary.
    pub(crate) info: Option<Info>,
    next: usize,
}

static PLAY: Mutex<Play> =
    Mutex::new(Play { fail: None, hang: false, living: BTreeMap::new(), calls: Vec::new(), info: None, next: 0 });
static RELEASED: Condvar = Condvar::new();
static ONE_TEST: Mutex<()> = Mutex::new(());

/// The fake's memory.
pub(crate) fn play() -> MutexGuard<'static, Play> {
    PLAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A fresh fake for one test at a time.
pub(crate) fn fresh() -> MutexGuard<'static, ()> {
    let guard = ONE_TEST.lock().unwrap_or_else(PoisonError::into_inner);
    *play() = Play::default();
    guard
}

/// Lets executions that hang end.
pub(crate) fn release() {
    play().hang = false;
    RELEASED.notify_all();
}

/// Whether everything was taken back, nothing twice.
pub(crate) fn all_freed() -> bool {
    play().living.values().all(|n| *n == 0)
}

/// A device on the fake, all of whose entries play along.
pub(crate) fn open() -> Result<QnnDevice, NpuError> {
    open_with(table())
}

/// A device on this table.
pub(crate) fn open_with(table: InterfaceTable) -> Result<QnnDevice, NpuError> {
    let system = fake::open_system((1, 15, 0), system_table()).expect("known version");
    QnnDevice::with_libraries(fake::open(table).expect("known version"), system, QnnOptions::chip("sm8650"))
}

fn enter(name: &'static str) -> u64 {
    let mut play = play();
    play.calls.push(name);
    play.fail.filter(|(failing, _)| *failing == name).map_or(0, |(_, code)| code)
}

/// Hands out a handle unless the entry fails.
fn give(name: &'static str, kind: &'static str, handle: *mut *mut c_void) -> u64 {
    let answer = enter(name);
    if answer == 0 {
        let mut play = play();
        *play.living.entry(kind).or_default() += 1;
        play.next += 1;
        let number = play.next;
        // SAFETY: callers pass a valid place for a handle.
        unsafe { handle.write(std::ptr::without_provenance_mut(number)) };
    }
    answer
}

/// Takes a handle back. A library that answers an error has lost it all the same.
fn take(name: &'static str, kind: &'static str) -> u64 {
    let answer = enter(name);
    *play().living.entry(kind).or_default() -= 1;
    answer
}

/// The fake's table; entries that no device of ours needs keep answering errors.
pub(crate) fn table() -> InterfaceTable {
    let mut table = fake::table();
    table.logCreate = Some(log_create);
    table.logFree = Some(log_free);
    table.backendCreate = Some(backend_create);
    table.backendFree = Some(backend_free);
    table.backendGetBuildId = Some(build_id);
    table.backendValidateOpConfig = Some(validate);
    table.deviceCreate = Some(device_create);
    table.deviceFree = Some(device_free);
    table.contextCreate = Some(context_create);
    table.contextCreateFromBinary = Some(context_from_binary);
    table.contextGetBinarySize = Some(binary_size);
    table.contextGetBinary = Some(binary);
    table.contextFree = Some(context_free);
    table.graphCreate = Some(graph_create);
    table.graphRetrieve = Some(graph_retrieve);
    table.graphAddNode = Some(add_node);
    table.graphFinalize = Some(finalize);
    table.graphExecute = Some(execute);
    table.tensorCreateGraphTensor = Some(create_tensor);
    table
}

unsafe extern "C" fn log_create(_: QnnLog_Callback_t, _: QnnLog_Level_t, out: *mut Qnn_LogHandle_t) -> u64 {
    give("logCreate", "log", out)
}
unsafe extern "C" fn log_free(_: Qnn_LogHandle_t) -> u64 {
    take("logFree", "log")
}
unsafe extern "C" fn backend_create(
    _: Qnn_LogHandle_t,
    _: *mut *const QnnBackend_Config_t,
    out: *mut Qnn_BackendHandle_t,
) -> u64 {
    give("backendCreate", "backend", out)
}
unsafe extern "C" fn backend_free(_: Qnn_BackendHandle_t) -> u64 {
    take("backendFree", "backend")
}
unsafe extern "C" fn build_id(out: *mut *const c_char) -> u64 {
    // SAFETY: the caller passes a valid place.
    unsafe { out.write(BUILD_ID.as_ptr()) };
    enter("backendGetBuildId")
}
unsafe extern "C" fn validate(_: Qnn_BackendHandle_t, _: Qnn_OpConfig_t) -> u64 {
    enter("backendValidateOpConfig")
}
unsafe extern "C" fn device_create(
    _: Qnn_LogHandle_t,
    _: *mut *const QnnDevice_Config_t,
    out: *mut Qnn_DeviceHandle_t,
) -> u64 {
    give("deviceCreate", "device", out)
}
unsafe extern "C" fn device_free(_: Qnn_DeviceHandle_t) -> u64 {
    take("deviceFree", "device")
}
unsafe extern "C" fn context_create(
    _: Qnn_BackendHandle_t,
    _: Qnn_DeviceHandle_t,
    _: *mut *const QnnContext_Config_t,
    out: *mut Qnn_ContextHandle_t,
) -> u64 {
    give("contextCreate", "context", out)
}
unsafe extern "C" fn context_from_binary(
    _: Qnn_BackendHandle_t,
    _: Qnn_DeviceHandle_t,
    _: *mut *const QnnContext_Config_t,
    _: *const c_void,
    _: u64,
    out: *mut Qnn_ContextHandle_t,
    _: Qnn_ProfileHandle_t,
) -> u64 {
    give("contextCreateFromBinary", "context", out)
}
unsafe extern "C" fn binary_size(_: Qnn_ContextHandle_t, out: *mut u64) -> u64 {
    // SAFETY: the caller passes a valid place.
    unsafe { out.write(BINARY.len() as u64) };
    enter("contextGetBinarySize")
}
unsafe extern "C" fn binary(_: Qnn_ContextHandle_t, to: *mut c_void, size: u64, written: *mut u64) -> u64 {
    assert_eq!(size, BINARY.len() as u64);
    // SAFETY: the caller's buffer has the size it says, which was just compared.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(BINARY.as_ptr(), BINARY.len());
        written.write(size);
    }
    enter("contextGetBinary")
}
unsafe extern "C" fn context_free(_: Qnn_ContextHandle_t, _: Qnn_ProfileHandle_t) -> u64 {
    take("contextFree", "context")
}
unsafe extern "C" fn graph_create(
    _: Qnn_ContextHandle_t,
    _: *const c_char,
    _: *mut *const QnnGraph_Config_t,
    out: *mut Qnn_GraphHandle_t,
) -> u64 {
    // Graphs go with their context; they are not counted.
    // SAFETY: the caller passes a valid place.
    unsafe { out.write(std::ptr::without_provenance_mut(77)) };
    enter("graphCreate")
}
unsafe extern "C" fn graph_retrieve(_: Qnn_ContextHandle_t, _: *const c_char, out: *mut Qnn_GraphHandle_t) -> u64 {
    // SAFETY: the caller passes a valid place.
    unsafe { out.write(std::ptr::without_provenance_mut(77)) };
    enter("graphRetrieve")
}
unsafe extern "C" fn add_node(_: Qnn_GraphHandle_t, _: Qnn_OpConfig_t) -> u64 {
    enter("graphAddNode")
}
unsafe extern "C" fn finalize(_: Qnn_GraphHandle_t, _: Qnn_ProfileHandle_t, _: Qnn_SignalHandle_t) -> u64 {
    enter("graphFinalize")
}
unsafe extern "C" fn create_tensor(_: Qnn_GraphHandle_t, tensor: *mut Qnn_Tensor_t) -> u64 {
    let answer = enter("tensorCreateGraphTensor");
    let mut play = play();
    play.next += 1;
    // SAFETY: the caller passes a tensor of version 1.
    unsafe { (*tensor).__bindgen_anon_1.v1.id = play.next as u32 };
    answer
}
/// Fills every output with 7s.
unsafe extern "C" fn execute(
    _: Qnn_GraphHandle_t,
    _: *const Qnn_Tensor_t,
    _: u32,
    outputs: *mut Qnn_Tensor_t,
    count: u32,
    _: Qnn_ProfileHandle_t,
    _: Qnn_SignalHandle_t,
) -> u64 {
    let answer = enter("graphExecute");
    let mut play = play();
    while play.hang {
        play = RELEASED.wait(play).unwrap_or_else(PoisonError::into_inner);
    }
    if answer == 0 {
        for i in 0..count as usize {
            // SAFETY: the caller passes `count` tensors of version 1 with raw memory of the size they say.
            unsafe {
                let buffer = (*outputs.add(i)).__bindgen_anon_1.v1.__bindgen_anon_1.clientBuf;
                buffer.data.cast::<u8>().write_bytes(7, buffer.dataSize as usize);
            }
        }
    }
    answer
}

/// What the fake's contexts are as binaries.
pub(crate) const BINARY: &[u8] = b"a binary of the fake library";
/// Build of the fake.
pub(crate) const BUILD_ID: &std::ffi::CStr = c"v2.51.0.fake";

/// What the system library says of a binary.
#[derive(Clone)]
pub(crate) struct Info {
    pub(crate) build_id: &'static std::ffi::CStr,
    pub(crate) core: (u32, u32, u32),
    pub(crate) backend: (u32, u32, u32),
    pub(crate) soc_id: u32,
    pub(crate) arch: u32,
    pub(crate) spec: ContextSpec,
}

impl Info {
    /// What the fake's own binary of these graphs says.
    pub(crate) fn of(spec: &ContextSpec) -> Self {
        let spec = spec.clone();
        Self { build_id: BUILD_ID, core: (2, 40, 0), backend: (5, 51, 0), soc_id: 57, arch: 75, spec }
    }

    /// The library's struct. It is leaked: real ones live until their handle is freed.
    fn leak(&self) -> *const QnnSystemContext_BinaryInfo_t {
        let version = |(major, minor, patch)| Qnn_Version_t { major, minor, patch };
        let graphs: Vec<_> = self
            .spec
            .graphs
            .iter()
            .map(|g| {
                let (inputs, outputs) = (tensors(&g.inputs), tensors(&g.outputs));
                let mut graph = QnnSystemContext_GraphInfo_t {
                    version: QnnSystemContext_GraphInfoVersion_t::QNN_SYSTEM_CONTEXT_GRAPH_INFO_VERSION_1,
                    ..Default::default()
                };
                graph.__bindgen_anon_1.graphInfoV1 = QnnSystemContext_GraphInfoV1_t {
                    graphName: text(&g.name),
                    numGraphInputs: inputs.len() as u32,
                    graphInputs: inputs.as_mut_ptr(),
                    numGraphOutputs: outputs.len() as u32,
                    graphOutputs: outputs.as_mut_ptr(),
                };
                graph
            })
            .collect();
        let graphs = graphs.leak();
        let mut info = QnnSystemContext_BinaryInfo_t {
            version: QnnSystemContext_BinaryInfoVersion_t::QNN_SYSTEM_CONTEXT_BINARY_INFO_VERSION_3,
            ..Default::default()
        };
        info.__bindgen_anon_1.contextBinaryInfoV3 = QnnSystemContext_BinaryInfoV3_t {
            backendId: 6,
            buildId: self.build_id.as_ptr(),
            coreApiVersion: version(self.core),
            backendApiVersion: version(self.backend),
            numGraphs: graphs.len() as u32,
            graphs: graphs.as_mut_ptr(),
            contextMetadataSize: 8,
            contextMetadata: Box::leak(Box::new([1u32, self.arch])).as_mut_ptr().cast(),
            socModel: self.soc_id,
            ..Default::default()
        };
        Box::leak(Box::new(info))
    }
}

fn text(text: &str) -> *const c_char {
    CString::new(text).expect("no zeros").into_raw()
}

fn tensors(specs: &[TensorSpec]) -> &'static mut [Qnn_Tensor_t] {
    let tensors: Vec<_> = specs
        .iter()
        .enumerate()
        .map(|(id, spec)| {
            let mut tensor = Qnn_Tensor_t { version: Qnn_TensorVersion_t::QNN_TENSOR_VERSION_1, ..Default::default() };
            let mut quant = Qnn_QuantizeParams_t::default();
            if let Encoding::Tensor { scale, zero_point } = spec.encoding {
                quant.encodingDefinition = Qnn_Definition_t::QNN_DEFINITION_DEFINED;
                quant.__bindgen_anon_1.scaleOffsetEncoding = Qnn_ScaleOffset_t { scale, offset: -zero_point };
            }
            tensor.__bindgen_anon_1.v1 = Qnn_TensorV1_t {
                id: 100 + id as u32,
                name: text(&spec.name),
                dataType: match spec.dtype {
                    Dtype::U8 => Qnn_DataType_t::QNN_DATATYPE_UFIXED_POINT_8,
                    Dtype::U16 => Qnn_DataType_t::QNN_DATATYPE_UFIXED_POINT_16,
                    _ => Qnn_DataType_t::QNN_DATATYPE_STRING,
                },
                quantizeParams: quant,
                rank: spec.dims.len() as u32,
                dimensions: spec.dims.clone().leak().as_mut_ptr(),
                ..Default::default()
            };
            tensor
        })
        .collect();
    tensors.leak()
}

/// The fake system library's table.
pub(crate) fn system_table() -> SystemTable {
    let mut table = fake::system_table();
    table.systemContextCreate = Some(system_create);
    table.systemContextGetMetaData = Some(metadata);
    table.systemContextFree = Some(system_free);
    table
}

unsafe extern "C" fn system_create(out: *mut QnnSystemContext_Handle_t) -> u64 {
    give("systemContextCreate", "system", out)
}
unsafe extern "C" fn metadata(
    _: QnnSystemContext_Handle_t,
    _: *const c_void,
    _: u64,
    out: *mut *const QnnSystemContext_BinaryInfo_t,
) -> u64 {
    let answer = enter("systemContextGetMetaData");
    let info = play().info.as_ref().map_or(std::ptr::null(), Info::leak);
    // SAFETY: the caller passes a valid place.
    unsafe { out.write(info) };
    answer
}
unsafe extern "C" fn system_free(_: QnnSystemContext_Handle_t) -> u64 {
    take("systemContextFree", "system")
}
