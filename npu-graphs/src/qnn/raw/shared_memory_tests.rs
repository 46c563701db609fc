//! Shared memory on a fake library and a fake allocator: what is registered is deregistered, memory outlives both.

use super::{
    graph::{GraphOptions, InputMemory, OutputMemory},
    rpcmem::RpcMem,
    *,
};
use crate::{BufferKind, buffer::HostMemory};
use qnn_sys::*;
use std::{
    ffi::{c_int, c_void},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

static REGISTERED: AtomicI64 = AtomicI64::new(0);
static ALLOCATED: AtomicI64 = AtomicI64::new(0);
static NEXT_FD: AtomicI64 = AtomicI64::new(5);
const LEN: usize = 128;

unsafe extern "C" fn alloc(_: c_int, _: u32, size: c_int) -> *mut c_void {
    assert_eq!(size as usize, LEN);
    ALLOCATED.fetch_add(1, Ordering::Relaxed);
    Box::leak(Box::new([0xffu8; LEN])).as_mut_ptr().cast()
}
unsafe extern "C" fn free(memory: *mut c_void) {
    ALLOCATED.fetch_sub(1, Ordering::Relaxed);
    // SAFETY: what `alloc` leaked, once.
    drop(unsafe { Box::from_raw(memory.cast::<[u8; LEN]>()) });
}
unsafe extern "C" fn to_fd(_: *mut c_void) -> c_int {
    NEXT_FD.fetch_add(1, Ordering::Relaxed) as c_int
}

unsafe extern "C" fn handle3<A, B>(_: A, _: B, out: *mut *mut c_void) -> u64 {
    // SAFETY: the caller passes a valid place.
    unsafe { out.write(std::ptr::without_provenance_mut(9)) };
    0
}
unsafe extern "C" fn handle4<A, B, C>(_: A, _: B, _: C, out: *mut *mut c_void) -> u64 {
    // SAFETY: the caller passes a valid place.
    unsafe { out.write(std::ptr::without_provenance_mut(9)) };
    0
}
unsafe extern "C" fn fine1<A>(_: A) -> u64 {
    0
}
unsafe extern "C" fn fine2<A, B>(_: A, _: B) -> u64 {
    0
}
unsafe extern "C" fn register(
    _: Qnn_ContextHandle_t,
    descriptor: *const Qnn_MemDescriptor_t,
    count: u32,
    out: *mut Qnn_MemHandle_t,
) -> u64 {
    // SAFETY: the caller passes one ION descriptor and a place.
    unsafe {
        assert_eq!((count, (*descriptor).memType), (1, Qnn_MemType_t::QNN_MEM_TYPE_ION));
        assert_eq!((*descriptor).dataType, Qnn_DataType_t::QNN_DATATYPE_UFIXED_POINT_8);
        assert_eq!((*descriptor).memShape.numDim, 4);
        let fd = (*descriptor).__bindgen_anon_1.ionInfo.fd;
        out.write(std::ptr::without_provenance_mut(1000 + fd as usize));
    }
    REGISTERED.fetch_add(1, Ordering::Relaxed);
    0
}
unsafe extern "C" fn deregister(_: *const Qnn_MemHandle_t, count: u32) -> u64 {
    REGISTERED.fetch_sub(i64::from(count), Ordering::Relaxed);
    0
}
/// Expects registered memory on both sides.
unsafe extern "C" fn execute(
    _: Qnn_GraphHandle_t,
    inputs: *const Qnn_Tensor_t,
    _: u32,
    outputs: *mut Qnn_Tensor_t,
    _: u32,
    _: Qnn_ProfileHandle_t,
    _: Qnn_SignalHandle_t,
) -> u64 {
    for tensor in [inputs, outputs.cast_const()] {
        // SAFETY: the caller passes one tensor of version 1 on each side.
        let (kind, handle) = unsafe {
            let v1 = (*tensor).__bindgen_anon_1.v1;
            (v1.memType, v1.__bindgen_anon_1.memHandle)
        };
        assert_eq!(kind, Qnn_TensorMemType_t::QNN_TENSORMEMTYPE_MEMHANDLE);
        assert!(handle.addr() >= 1005);
    }
    0
}

fn context() -> Arc<RawContext> {
    let mut table = fake::table();
    table.backendCreate = Some(handle3);
    table.backendFree = Some(fine1);
    table.deviceCreate = Some(handle3);
    table.deviceFree = Some(fine1);
    table.contextCreate = Some(handle4);
    table.contextFree = Some(fine2);
    table.graphCreate = Some(handle4);
    table.tensorCreateGraphTensor = Some(fine2);
    table.graphExecute = Some(execute);
    table.memRegister = Some(register);
    table.memDeRegister = Some(deregister);
    let htp = fake::open(table).expect("known version");
    let system = fake::open_system((1, 15, 0), fake::system_table()).expect("known version");
    let backend = Backend::create(htp, system, "qnn:fake", 1).expect("plays along");
    let device = RawDevice::create(&backend, 57).expect("plays along");
    RawContext::create(&device, &ContextOptions::default()).expect("plays along")
}

#[test]
fn memory_is_registered_once_and_let_go() {
    let rpcmem = Arc::new(RpcMem { alloc, free, to_fd, _library: None });
    assert!(rpcmem.allocate(0).is_none());
    let context = context();
    let mut graph = RawGraph::create(&context, "g", &GraphOptions::default()).expect("plays along");
    let quant = Quant::Tensor { scale: 1.0, offset: 0 };
    let dims = [1, 1, 4, 32];
    let mut tensor = |name, kind| {
        graph.tensor(&TensorDef { name, kind, dtype: QnnDtype::U8, dims: &dims, quant }).expect("plays along")
    };
    let (x, y) = (tensor("x", TensorKind::Input), tensor("y", TensorKind::Output));
    let mut a = rpcmem.allocate(LEN).expect("has memory");
    let b = rpcmem.allocate(LEN).expect("has memory");
    assert_eq!((a.kind(), a.as_slice()), (BufferKind::Shared, &[0u8; LEN][..]));
    a.as_mut_slice().fill(3);
    let bind = |memory: &RpcMemory, tensor: &TensorRef| {
        let handle = context.register_memory(memory.fd(), tensor).expect("registers");
        memory.registered_with(&context);
        handle
    };
    for _ in 0..3 {
        let input = [InputMemory::Registered(bind(&a, &x), LEN)];
        let mut output = [OutputMemory::Registered(bind(&b, &y), LEN)];
        graph.execute_bound(&input, &mut output).expect("runs");
        let mut short = [OutputMemory::Registered(bind(&b, &y), LEN - 1)];
        assert!(matches!(graph.execute_bound(&input, &mut short), Err(NpuError::Refused { .. })));
    }
    assert_eq!(REGISTERED.load(Ordering::Relaxed), 2, "each memory once, however often it is bound");
    // Memory first: it takes its registration back. Then the context, which takes back the rest.
    drop(a);
    assert_eq!((REGISTERED.load(Ordering::Relaxed), ALLOCATED.load(Ordering::Relaxed)), (1, 1));
    drop((graph, context));
    assert_eq!((REGISTERED.load(Ordering::Relaxed), ALLOCATED.load(Ordering::Relaxed)), (0, 1));
    drop(b);
    assert_eq!(ALLOCATED.load(Ordering::Relaxed), 0);
}
