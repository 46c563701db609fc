//! What QNN's error numbers mean, in our words, with what we learned of them on HTP 2.51.

use crate::Qnn_ErrorHandle_t;

/// An error code, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorInfo {
    /// The code: the low 16 bits of the handle.
    pub code: u32,
    /// The part of QNN it belongs to.
    pub component: &'static str,
    /// QNN's name of it, `(unknown)` for a number that API 2.32 does not have.
    pub name: &'static str,
    /// What happened and what to do.
    pub cause: &'static str,
}

impl std::fmt::Display for ErrorInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QNN error {} ({}, {}): {}", self.code, self.component, self.name, self.cause)
    }
}

/// Decodes an error handle. Total: unknown numbers name at least the component whose range they are in.
#[must_use]
pub fn describe(handle: Qnn_ErrorHandle_t) -> ErrorInfo {
    let code = (handle & 0xffff) as u32;
    let component = component(code);
    match CODES.binary_search_by_key(&code, |entry| entry.0) {
        Ok(at) => ErrorInfo { code, component, name: CODES[at].1, cause: CODES[at].2 },
        Err(_) => ErrorInfo {
            code,
            component,
            name: "(unknown)",
            cause: "this number is newer than the API we know; see the library's log and the notes of its version",
        },
    }
}

/// The part of QNN whose range holds `code`.
fn component(code: u32) -> &'static str {
    match code {
        0 => "success",
        1000..=1999 => "common",
        2000..=2999 => "property",
        3000..=3999 => "op package",
        4950..=4998 => "backend saver",
        4000..=4999 => "backend",
        5000..=5999 => "context",
        6000..=6999 => "graph",
        7000..=7999 => "tensor",
        8000..=8999 => "memory",
        9000..=9999 => "signal",
        10000..=10999 => "error",
        11000..=11999 => "log",
        12000..=12999 => "profile",
        13000..=13999 => "performance infrastructure",
        14000..=14999 => "device",
        15000..=15999 => "global configuration",
        31000..=31999 => "system profile",
        30000..=49999 => "system",
        60000..=60999 => "interface",
        _ => "(no component of API 2.32)",
    }
}

/// Number, QNN's name, our explanation; ascending.
const CODES: &[(u32, &str, &str)] = &[
    (0, "QNN_SUCCESS", "no error"),
    (
        1000,
        "QNN_COMMON_ERROR_NOT_SUPPORTED",
        "this build of the library does not have the function or option (the x86 emulator lacks shared memory, asynchronous execution, signals); do without it, or use the phone's library",
    ),
    (
        1002,
        "QNN_COMMON_ERROR_MEM_ALLOC",
        "memory ran out, or the compiler could not prepare the graph (HTP reports every such failure so); read the log, use fewer or smaller graphs per context",
    ),
    (
        1003,
        "QNN_COMMON_ERROR_SYSTEM",
        "the operating system refused something; read the library's log and the kernel's",
    ),
    (
        1004,
        "QNN_COMMON_ERROR_INVALID_ARGUMENT",
        "an argument is wrong (null, out of range, contradicting another); a bug of the caller",
    ),
    (
        1005,
        "QNN_COMMON_ERROR_OPERATION_NOT_PERMITTED",
        "the process may not do this; check its access to the DSP (SELinux, signed or unsigned process domain)",
    ),
    (
        1006,
        "QNN_COMMON_ERROR_PLATFORM_NOT_SUPPORTED",
        "this chip or system has no such backend; use the simulated device or the CPU",
    ),
    (
        1007,
        "QNN_COMMON_ERROR_SYSTEM_COMMUNICATION",
        "a call to the DSP failed; check that Stub and Skel are of one version, then create the device again",
    ),
    (
        1008,
        "QNN_COMMON_ERROR_INCOMPATIBLE_BINARIES",
        "libraries of different versions met; take Htp, System, Stub and Skel from one package",
    ),
    (
        1009,
        "QNN_COMMON_ERROR_LOADING_BINARIES",
        "a library that HTP needs (Stub, Skel, Prepare) was not found; check LD_LIBRARY_PATH and ADSP_LIBRARY_PATH (separated by ;)",
    ),
    (
        1010,
        "QNN_COMMON_ERROR_RESOURCE_UNAVAILABLE",
        "the device has no room or no free session now; free contexts, end other users of the NPU, try again",
    ),
    (
        1011,
        "QNN_COMMON_ERROR_SYSTEM_COMMUNICATION_FATAL",
        "the DSP restarted or its process died; every handle is dead, begin again with a new device",
    ),
    (
        1100,
        "QNN_COMMON_ERROR_GENERAL",
        "an unnamed failure (also: a node added to a finalised graph); see the library's log",
    ),
    (
        2000,
        "QNN_PROPERTY_ERROR_UNKNOWN_KEY",
        "the library does not know the capability asked for; treat it as not supported",
    ),
    (
        3000,
        "QNN_OP_PACKAGE_ERROR_LIBRARY_ALREADY_INITIALIZED",
        "the op package was initialised before; initialise it once per backend",
    ),
    (
        3001,
        "QNN_OP_PACKAGE_ERROR_LIBRARY_NOT_INITIALIZED",
        "the op package was used before it was initialised; register it with the backend first",
    ),
    (3002, "QNN_OP_PACKAGE_ERROR_INVALID_HANDLE", "the op package's handle is not one of this backend's, or was freed"),
    (
        3100,
        "QNN_OP_PACKAGE_ERROR_INVALID_INFRASTRUCTURE",
        "the op package got an infrastructure it cannot use; take package and backend from one version",
    ),
    (
        3101,
        "QNN_OP_PACKAGE_ERROR_INVALID_INFO",
        "the op package's description of itself is wrong; build it for this version",
    ),
    (
        3110,
        "QNN_OP_PACKAGE_ERROR_VALIDATION_FAILURE",
        "HTP does not allow this op with these types, shapes or parameters; change the lowering or keep the op on the CPU",
    ),
    (
        3200,
        "QNN_OP_PACKAGE_ERROR_INVALID_ARGUMENT",
        "the op package was called with a wrong argument; a bug of the package or the backend",
    ),
    (
        4000,
        "QNN_BACKEND_ERROR_CANNOT_INITIALIZE",
        "the backend did not start; check that its libraries (Stub, Skel) are there and of one version",
    ),
    (4002, "QNN_BACKEND_ERROR_TERMINATE_FAILED", "the backend did not end cleanly; end the process to release it"),
    (4003, "QNN_BACKEND_ERROR_NOT_SUPPORTED", "the backend does not have this function; do without it"),
    (4004, "QNN_BACKEND_ERROR_INVALID_ARGUMENT", "an argument of a backend call is wrong; a bug of the caller"),
    (
        4005,
        "QNN_BACKEND_ERROR_OP_PACKAGE_NOT_FOUND",
        "no op of this name in this package; check the op's name against the library's list of operations",
    ),
    (
        4006,
        "QNN_BACKEND_ERROR_OP_PACKAGE_IF_PROVIDER_NOT_FOUND",
        "the op package's library has no entry point of the name given; check the name",
    ),
    (
        4007,
        "QNN_BACKEND_ERROR_OP_PACKAGE_REGISTRATION_FAILED",
        "the op package was refused; check its path, architecture and version",
    ),
    (
        4008,
        "QNN_BACKEND_ERROR_OP_PACKAGE_UNSUPPORTED_VERSION",
        "the op package is of a version the backend does not take; build it for this version",
    ),
    (
        4009,
        "QNN_BACKEND_ERROR_OP_PACKAGE_DUPLICATE",
        "an op package of this name is registered already; register it once",
    ),
    (
        4010,
        "QNN_BACKEND_ERROR_INCONSISTENT_CONFIG",
        "two backends of the process were given different process-wide options; use the same ones",
    ),
    (4011, "QNN_BACKEND_ERROR_INVALID_HANDLE", "the backend's handle is null or was freed; a bug of the caller"),
    (
        4012,
        "QNN_BACKEND_ERROR_INVALID_CONFIG",
        "an option of the backend is unknown or has a wrong value; leave it out",
    ),
    (
        5000,
        "QNN_CONTEXT_ERROR_INVALID_ARGUMENT",
        "an argument of a context call is wrong, e.g. an empty binary; a bug of the caller or a file of length 0",
    ),
    (5001, "QNN_CONTEXT_ERROR_CTX_DOES_NOT_EXIST", "there is no such context in this process; create it again"),
    (
        5002,
        "QNN_CONTEXT_ERROR_INVALID_HANDLE",
        "the context was freed, or its backend or device was; a bug of the caller",
    ),
    (
        5003,
        "QNN_CONTEXT_ERROR_NOT_FINALIZED",
        "a graph of the context is not finalised; finalise all before asking for the binary",
    ),
    (
        5004,
        "QNN_CONTEXT_ERROR_BINARY_VERSION",
        "the context binary's format is newer than the library; use the library version that made it or a later one, or compile again",
    ),
    (
        5005,
        "QNN_CONTEXT_ERROR_CREATE_FROM_BINARY",
        "the context binary is for another chip or library, or damaged; compile again for this chip",
    ),
    (
        5006,
        "QNN_CONTEXT_ERROR_GET_BINARY_SIZE_FAILED",
        "the size of the binary could not be computed; see the library's log",
    ),
    (
        5007,
        "QNN_CONTEXT_ERROR_GET_BINARY_FAILED",
        "the binary could not be written; check the buffer's size and free memory",
    ),
    (
        5008,
        "QNN_CONTEXT_ERROR_BINARY_CONFIGURATION",
        "the binary was made with options that this library or device cannot keep; compile again",
    ),
    (5009, "QNN_CONTEXT_ERROR_SET_PROFILE", "the profile handle was refused; do without profiling"),
    (
        5010,
        "QNN_CONTEXT_ERROR_INVALID_CONFIG",
        "an option of the context is unknown here or has a wrong value; leave it out",
    ),
    (
        5011,
        "QNN_CONTEXT_ERROR_BINARY_SUBOPTIMAL",
        "the binary works but was made for a lesser chip or an older version; compile again for full speed",
    ),
    (5012, "QNN_CONTEXT_ERROR_ABORTED", "the work was aborted by a signal, as asked"),
    (
        5013,
        "QNN_CONTEXT_ERROR_TIMED_OUT",
        "the work took longer than its signal allowed; allow more, or look why the device is slow",
    ),
    (
        5014,
        "QNN_CONTEXT_ERROR_INCREMENT_INVALID_BUFFER",
        "a piece of an incremental binary was given back that is not from this context; a bug of the caller",
    ),
    (
        6000,
        "QNN_GRAPH_ERROR_INVALID_ARGUMENT",
        "an argument of a graph call is wrong: a list of tensors or a parameter of an op is missing; a bug of the lowering",
    ),
    (
        6001,
        "QNN_GRAPH_ERROR_INVALID_HANDLE",
        "the graph's handle is null, or its context was freed; a bug of the caller",
    ),
    (
        6002,
        "QNN_GRAPH_ERROR_GRAPH_DOES_NOT_EXIST",
        "the context has no such graph; read the names from the binary's metadata",
    ),
    (6003, "QNN_GRAPH_ERROR_INVALID_NAME", "the graph's name is taken, or no graph of the context has it"),
    (
        6004,
        "QNN_GRAPH_ERROR_INVALID_TENSOR",
        "a tensor does not fit the graph: number of tensors, id, shape or a null buffer; ids come from creation or from the binary's metadata",
    ),
    (
        6005,
        "QNN_GRAPH_ERROR_INVALID_OP_CONFIG",
        "the graph refused the node; validate it first, and check that the chip allows its types",
    ),
    (6006, "QNN_GRAPH_ERROR_SET_PROFILE", "the profile handle was refused; do without profiling"),
    (
        6007,
        "QNN_GRAPH_ERROR_UNCONNECTED_NODE",
        "a node was added before the one that makes its input, or its package is unknown; add nodes in topological order",
    ),
    (
        6020,
        "QNN_GRAPH_ERROR_CREATE_FAILED",
        "the graph could not be made; on HTP also: an output has no producer, a bug of the lowering",
    ),
    (
        6021,
        "QNN_GRAPH_ERROR_OPTIMIZATION_FAILED",
        "the compiler failed to optimise the graph; see the log, try a smaller graph or a lower optimisation level",
    ),
    (6022, "QNN_GRAPH_ERROR_FINALIZE_FAILED", "the graph could not be finalised; on HTP also: it is empty"),
    (
        6023,
        "QNN_GRAPH_ERROR_GRAPH_NOT_FINALIZED",
        "the graph was executed before it was finalised; a bug of the caller",
    ),
    (
        6024,
        "QNN_GRAPH_ERROR_GRAPH_FINALIZED",
        "the graph is finalised and takes no more nodes or tensors; a bug of the caller",
    ),
    (
        6025,
        "QNN_GRAPH_ERROR_EXECUTION_ASYNC_FIFO_FULL",
        "too many executions are queued; wait for one before submitting more",
    ),
    (
        6030,
        "QNN_GRAPH_ERROR_SIGNAL_IN_USE",
        "the signal belongs to another call that is running; use one signal per call",
    ),
    (
        6031,
        "QNN_GRAPH_ERROR_ABORTED",
        "the execution was aborted by a signal, as asked, or because the device was lost",
    ),
    (
        6032,
        "QNN_GRAPH_ERROR_PROFILE_IN_USE",
        "the profile handle belongs to another call that is running; use one per call",
    ),
    (
        6033,
        "QNN_GRAPH_ERROR_TIMED_OUT",
        "the execution took longer than its signal allowed; treat the device as lost if it repeats",
    ),
    (6034, "QNN_GRAPH_ERROR_SUBGRAPH", "the call is not for subgraphs; HTP has none"),
    (
        6035,
        "QNN_GRAPH_ERROR_DISABLED",
        "the graph was not enabled when the context was loaded; load it with this graph enabled",
    ),
    (
        6036,
        "QNN_GRAPH_ERROR_DYNAMIC_TENSOR_SHAPE",
        "a tensor's dynamic shape is not allowed; HTP graphs are static, pad to the chunk length",
    ),
    (6037, "QNN_GRAPH_ERROR_TENSOR_SPARSITY", "a sparse tensor is not allowed here; use a dense one"),
    (
        6038,
        "QNN_GRAPH_ERROR_EARLY_TERMINATION",
        "the execution ended early because an op asked for it; the outputs are not complete",
    ),
    (
        6039,
        "QNN_GRAPH_ERROR_INVALID_CONTEXT",
        "the graph's context is not usable, e.g. made for preparation only; load the binary in a new context",
    ),
    (
        7001,
        "QNN_TENSOR_ERROR_INVALID_HANDLE",
        "the handle that the tensor was to belong to is not valid; a bug of the caller",
    ),
    (7002, "QNN_TENSOR_ERROR_DOES_NOT_EXIST", "no tensor has this id; create it before using it"),
    (
        7003,
        "QNN_TENSOR_ERROR_ALREADY_EXISTS",
        "a tensor of this name exists in the graph; names are unique within a graph",
    ),
    (
        7004,
        "QNN_TENSOR_ERROR_INVALID_TENSOR_PARAM",
        "the tensor's kind, rank (0 to 6), data or data type is wrong (4-bit, 64-bit and string types are refused by HTP)",
    ),
    (
        7005,
        "QNN_TENSOR_ERROR_UNSUPPORTED_TENSOR_PARAM",
        "the backend does not support an attribute of the tensor; use plain dense static shapes",
    ),
    (7006, "QNN_TENSOR_ERROR_NAME_HASH_COLLISION", "two tensor names have one hash; rename one"),
    (
        7007,
        "QNN_TENSOR_ERROR_INCOMPATIBLE_TENSOR_UPDATE",
        "an update changes more of the tensor than its data and encoding; a bug of the caller",
    ),
    (
        8000,
        "QNN_MEM_ERROR_INVALID_ARGUMENT",
        "an argument of a memory call is wrong; check file descriptor, size and offset",
    ),
    (8001, "QNN_MEM_ERROR_INVALID_HANDLE", "the memory handle is not registered any more; a bug of the caller"),
    (8002, "QNN_MEM_ERROR_ALREADY_REGISTERED", "this memory is registered already; keep and use its handle"),
    (
        8003,
        "QNN_MEM_ERROR_MAPPING",
        "the device could not map the memory; check that it comes from rpcmem and free other mappings",
    ),
    (8004, "QNN_MEM_ERROR_INVALID_SHAPE", "the memory's shape does not fit; a bug of the caller"),
    (
        8005,
        "QNN_MEM_ERROR_UNSUPPORTED_MEMTYPE",
        "the device does not take this kind of memory; use a shared buffer or raw memory",
    ),
    (9000, "QNN_SIGNAL_ERROR_SIGNAL_IN_USE", "the signal belongs to a call that is running; wait for it"),
    (9001, "QNN_SIGNAL_ERROR_SIGNAL_IDLE", "the signal belongs to no running call, so there is nothing to trigger"),
    (9002, "QNN_SIGNAL_ERROR_INVALID_ARGUMENT", "an argument of a signal call is wrong; a bug of the caller"),
    (9003, "QNN_SIGNAL_ERROR_INVALID_HANDLE", "the signal was freed; a bug of the caller"),
    (9004, "QNN_SIGNAL_ERROR_TIMEOUT", "the signal's time passed; the call it guarded did not finish in time"),
    (9005, "QNN_SIGNAL_ERROR_INCOMPATIBLE_SIGNAL_TYPE", "the call takes another kind of signal (abort or time-out)"),
    (10000, "QNN_ERROR_INVALID_ARGUMENT", "an argument of an error query is wrong; a bug of the caller"),
    (
        10001,
        "QNN_ERROR_INVALID_ERROR_HANDLE",
        "the library has no message for this handle (it has none for codes of libQnnSystem)",
    ),
    (11002, "QNN_LOG_ERROR_INITIALIZATION", "logging could not start; go on without it"),
    (11003, "QNN_LOG_ERROR_INVALID_ARGUMENT", "the log level or handle is wrong; levels are 1 (error) to 5 (debug)"),
    (11004, "QNN_LOG_ERROR_INVALID_HANDLE", "the log was freed; a bug of the caller"),
    (
        12000,
        "QNN_PROFILE_ERROR_INVALID_HANDLE",
        "the profile handle was freed or is of another backend; a bug of the caller",
    ),
    (12001, "QNN_PROFILE_ERROR_HANDLE_IN_USE", "the profile handle belongs to a running call; read it afterwards"),
    (12002, "QNN_PROFILE_ERROR_INCOMPATIBLE_EVENT", "the event has no data of the kind asked for; use the other query"),
    (
        13000,
        "QNN_HTP_PERF_INFRASTRUCTURE_ERROR_INVALID_HANDLE_PTR",
        "the pointer for the power config id is null; a bug of the caller",
    ),
    (
        13001,
        "QNN_HTP_PERF_INFRASTRUCTURE_ERROR_INVALID_INPUT",
        "the power config id is unknown, or contextId in the vote is not that id",
    ),
    (
        13002,
        "QNN_HTP_PERF_INFRASTRUCTURE_ERROR_UNSUPPORTED_CONFIG",
        "the library does not know this power option; leave it out",
    ),
    (
        13003,
        "QNN_HTP_PERF_INFRASTRUCTURE_ERROR_TRANSPORT",
        "the vote did not reach the DSP; check Stub and Skel, then create the device again",
    ),
    (13004, "QNN_HTP_PERF_INFRASTRUCTURE_ERROR_UNSUPPORTED", "this chip does not have this power option; leave it out"),
    (13005, "QNN_HTP_PERF_INFRASTRUCTURE_ERROR_MEM_ALLOC", "no memory for the vote; free some and try again"),
    (13006, "QNN_HTP_PERF_INFRASTRUCTURE_ERROR_FAILED", "the vote failed; go on at the default speed and see the log"),
    (14000, "QNN_DEVICE_ERROR_INVALID_HANDLE", "the device's handle is not valid or was freed; a bug of the caller"),
    (
        14001,
        "QNN_DEVICE_ERROR_INVALID_CONFIG",
        "the device could not be made: an unknown chip id, or on a phone the Skel was not found or not loadable; check chip id and ADSP_LIBRARY_PATH",
    ),
    (14002, "QNN_DEVICE_ERROR_HARDWARE_UNAVAILABLE", "the NPU is absent or taken; use the CPU or try later"),
    (14003, "QNN_DEVICE_ERROR_ASSOCIATED_TO_CONTEXT", "contexts of the device are alive; free them before the device"),
    (
        15000,
        "QNN_GLOBAL_CONFIG_ERROR_INVALID_CONFIG",
        "a process-wide option is unknown or came after the first backend; set it first or leave it out",
    ),
    (
        30000,
        "QNN_SYSTEM_COMMON_ERROR_INVALID_HANDLE",
        "the handle of libQnnSystem was freed or never made; a bug of the caller",
    ),
    (
        30001,
        "QNN_SYSTEM_COMMON_ERROR_INVALID_ARGUMENT",
        "libQnnSystem got a wrong argument; as a context binary these bytes are none: delete the file and compile again",
    ),
    (
        30002,
        "QNN_SYSTEM_CONTEXT_ERROR_OPERATION_FAILED",
        "libQnnSystem failed inside; the context binary may be damaged: compile again",
    ),
    (
        30010,
        "QNN_SYSTEM_CONTEXT_ERROR_MALFORMED_BINARY",
        "the context binary is truncated or damaged; delete it and compile again",
    ),
    (31000, "QNN_SYSTEM_PROFILE_ERROR_MEM_ALLOC", "no memory for writing a profile; free some or do without"),
    (49999, "QNN_SYSTEM_CONTEXT_MAXERROR", "libQnnSystem failed without saying why; see its log"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_ascending_and_says_something() {
        assert!(CODES.is_sorted_by(|a, b| a.0 < b.0));
        for (code, name, cause) in CODES {
            assert!(name.starts_with("QNN_") && !cause.is_empty(), "{code}");
            assert_eq!(describe(u64::from(*code)).name, *name);
        }
    }

    #[test]
    fn known_codes() {
        let info = describe(6004);
        assert_eq!((info.code, info.component, info.name), (6004, "graph", "QNN_GRAPH_ERROR_INVALID_TENSOR"));
        assert_eq!(describe(0).component, "success");
        assert_eq!(describe(30010).component, "system");
        assert_eq!(describe(1002).name, "QNN_COMMON_ERROR_MEM_ALLOC");
        assert!(describe(14001).to_string().starts_with("QNN error 14001 (device, QNN_DEVICE_ERROR_INVALID_CONFIG): "));
    }

    #[test]
    fn unknown_codes_name_their_component() {
        assert_eq!((describe(6999).component, describe(6999).name), ("graph", "(unknown)"));
        assert_eq!(describe(4950).component, "backend saver");
        assert_eq!(describe(4999).component, "backend");
        assert_eq!(describe(20000).component, "(no component of API 2.32)");
    }

    #[test]
    fn only_the_low_16_bits_are_the_code() {
        assert_eq!(describe(0xdead_0000_0000_1774).code, 6004);
    }
}
