//! The raw layer against Qualcomm's library, where it is found (see `qnn_sys::find`).

use super::graph::ExecuteReport;
use super::*;
use qnn_sys::{HtpLibrary, SystemLibrary};
use std::sync::Arc;

/// One test at a time: the library has one log, and a backend that ends takes it away from the others.
static ALONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

/// A device of this SoC, or `None` with a counted skip.
fn device(test: &str, soc_id: u32) -> Option<Arc<RawDevice>> {
    let opened = HtpLibrary::search(None);
    if let Err(qnn_sys::LoadError::NotFound { .. }) = &opened {
        skip(test, "Qualcomm's library is not here (`cargo xtask qnn`)");
        return None;
    }
    let system = SystemLibrary::search(None).expect("beside the backend library");
    let backend = Backend::create(opened.expect("opens"), system, "qnn:test", 2).expect("backend");
    Some(RawDevice::create(&backend, soc_id).expect("device"))
}

/// Prints a skip and leaves it where `cargo xtask test` counts it.
fn skip(test: &str, reason: &str) {
    use std::io::Write as _;
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(log) = std::env::var_os("COEXEC_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(log);
        // One write: other tests write at the same time.
        let line = format!("{test}: {reason}\n");
        file.and_then(|mut f| f.write_all(line.as_bytes())).expect("the skip log can be written");
    }
}

fn options(name: &str) -> ContextOptions {
    ContextOptions { name: name.to_owned(), ..ContextOptions::default() }
}

const UNIT: Quant<'static> = Quant::Tensor { scale: 1.0, offset: 0 };

fn def<'a>(name: &'a str, kind: TensorKind<'a>, dims: &'a [u32]) -> TensorDef<'a> {
    TensorDef { name, kind, dtype: QnnDtype::U8, dims, quant: UNIT }
}

/// `y = a + b` on u8 codes with scale 1.
fn add_graph(context: &Arc<RawContext>, name: &str, estimate: bool) -> (RawGraph, FinalizeReport) {
    try_add_graph(context, name, estimate).expect("a graph")
}

fn try_add_graph(
    context: &Arc<RawContext>,
    name: &str,
    estimate: bool,
) -> Result<(RawGraph, FinalizeReport), NpuError> {
    let mut graph = RawGraph::create(context, name, &GraphOptions::default())?;
    let dims = [1, 1, 4, 32];
    let a = graph.tensor(&def("a", TensorKind::Input, &dims))?;
    let b = graph.tensor(&def("b", TensorKind::Input, &dims))?;
    let y = graph.tensor(&def("y", TensorKind::Output, &dims))?;
    let node = NodeDef { name: "sum", op_type: "ElementWiseAdd", params: &[], inputs: &[&a, &b], outputs: &[&y] };
    graph.node(&node)?;
    let report = graph.finalize(estimate)?;
    Ok((graph, report))
}

/// The limits that the chips' profiles state, met in the library: a context with shared weights is not saved with one graph
/// more than that; without sharing there is no such limit, and names may be long.
#[test]
fn the_library_has_the_limits_of_the_profiles() {
    let _alone = ALONE.lock();
    let Some(device) = device("the_library_has_the_limits_of_the_profiles", 57) else { return };
    let limit = crate::profile::chips::named("sm8650").expect("known").max_sharing_graphs;
    let fill = |weight_sharing, graphs: usize| {
        let options = ContextOptions { weight_sharing, ..options("many") };
        let context = RawContext::create(&device, &options)?;
        for i in 0..graphs {
            try_add_graph(&context, &format!("{}.{i}", "a-rather-long-name-of-a-graph".repeat(8)), false)?;
        }
        context.binary().map(|bytes| bytes.len())
    };
    assert!(fill(true, limit).expect("the library takes it") > 0);
    let error = fill(true, limit + 1).expect_err("one more than the library takes");
    assert!(matches!(error, NpuError::Code { code: 5007, .. }), "{error}");
    assert!(fill(false, limit + 1).expect("no limit without sharing") > 0);
}

#[test]
fn a_graph_computes_and_reloads() {
    let _alone = ALONE.lock();
    let Some(device) = device("a_graph_computes_and_reloads", 57) else { return };
    assert!(device.backend().build_id().is_some_and(|id| id.starts_with('v')));
    let context = RawContext::create(&device, &options("sums")).expect("context");
    let (graph, report) = add_graph(&context, "sum", true);
    assert!(report.finalize_us > 0 && report.estimate.is_none(), "SoC 57 has no estimate: {report:?}");
    let (a, b): (Vec<u8>, Vec<u8>) = ((0..128).collect(), (0..128).map(|i| i / 2).collect());
    let mut y = vec![0u8; 128];
    graph.execute(&[&a, &b], &mut [&mut y]).expect("runs");
    assert!((0..128).all(|i| y[i] == a[i] + b[i]), "{y:?}");

    // Sizes and counts are ours to check.
    assert!(matches!(graph.execute(&[&a, &b[..127]], &mut [&mut y]), Err(NpuError::Refused { .. })));
    assert!(matches!(graph.execute(&[&a, &b], &mut [&mut y[..64]]), Err(NpuError::Refused { .. })));
    assert!(matches!(graph.execute(&[&a], &mut [&mut y]), Err(NpuError::BindingCount { expected: 2, found: 1, .. })));

    let bytes = context.binary().expect("writes");
    drop((graph, context));
    let system = device.backend().system();
    let info = BinaryInfo::read(system, "qnn:test", &bytes).expect("describes");
    assert_eq!((info.soc_id, info.arch), (57, Some(75)));
    assert_eq!(Some(&info.build_id), device.backend().build_id().as_ref());
    assert_eq!(info.graphs.len(), 1);
    assert_eq!(info.graphs[0].inputs[1].name, "b");
    assert_eq!(info.graphs[0].outputs[0].scale_offset, Some((1.0, 0)));
    assert_eq!(info.graphs[0].outputs[0].dtype(), Some(QnnDtype::U8));

    let context = RawContext::from_binary(&device, &bytes, info, &options("sums")).expect("loads");
    drop(bytes);
    let graph = RawGraph::retrieve(&context, "sum").expect("is there");
    y.fill(0);
    graph.execute(&[&a, &b], &mut [&mut y]).expect("runs");
    assert!((0..128).all(|i| y[i] == a[i] + b[i]), "{y:?}");
    assert!(RawGraph::retrieve(&context, "other").is_err());
}

#[test]
fn estimates_where_the_soc_has_them() {
    let _alone = ALONE.lock();
    let Some(device) = device("estimates_where_the_soc_has_them", 77) else { return };
    let context = RawContext::create(&device, &options("sums")).expect("context");
    let (_, report) = add_graph(&context, "sum", true);
    let estimate = report.estimate.expect("SoC 77 has one");
    let (lower, cycles, upper) = (estimate.cycles_lower, estimate.cycles, estimate.cycles_upper);
    assert!(lower <= cycles && cycles <= upper && cycles > Some(0), "{estimate:?}");
    assert!(estimate.us.is_some() && estimate.input_fill_bytes > Some(0), "{estimate:?}");
}

#[test]
fn what_qnn_does_not_check_is_refused() {
    let _alone = ALONE.lock();
    let Some(device) = device("what_qnn_does_not_check_is_refused", 57) else { return };
    let context = RawContext::create(&device, &options("bad")).expect("context");
    let mut graph = RawGraph::create(&context, "bad", &GraphOptions::default()).expect("graph");
    let mut refused = |def: TensorDef<'_>, part: &str| {
        let text = graph.tensor(&def).map(|_| ()).expect_err(part).to_string();
        assert!(text.contains(part) && text.contains("`bad`"), "{part}: {text}");
    };
    let dims = [1, 1, 2, 4];
    let data = [0u8; 8];
    let native = def("t", TensorKind::Intermediate, &dims);
    refused(TensorDef { dims: &[], ..native }, "dimensions");
    refused(TensorDef { dims: &[1, 0], ..native }, "dimensions");
    refused(TensorDef { dims: &[1; 7], ..native }, "dimensions");
    refused(TensorDef { dims: &[u32::MAX, u32::MAX], ..native }, "more than 4 GiB");
    refused(TensorDef { name: "", ..native }, "no name");
    refused(TensorDef { name: "a\0b", ..native }, "zero byte");
    refused(TensorDef { kind: TensorKind::Static(&data[..7]), ..native }, "7 bytes of data");
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        refused(TensorDef { quant: Quant::Tensor { scale, offset: 0 }, ..native }, "not a positive number");
    }
    let scales = [1.0f32; 4];
    refused(TensorDef { quant: Quant::Axis { axis: 3, scales: &scales[..3] }, ..native }, "3 scales along axis 3");
    refused(TensorDef { quant: Quant::Axis { axis: 4, scales: &scales }, ..native }, "along axis 4");
    refused(TensorDef { quant: Quant::Axis { axis: -1, scales: &scales }, ..native }, "along axis -1");
    refused(TensorDef { quant: Quant::AxisBits { axis: 3, bits: 9, scales: &scales }, ..native }, "9 bits");
    let blocks = |block, block_scales| Quant::BlockExpansion { axis: 3, block, scales: &scales, block_scales };
    refused(TensorDef { quant: blocks(3, &data[..4]), ..native }, "do not divide 2");
    refused(TensorDef { quant: blocks(1, &data[..7]), ..native }, "7 block scales");
    refused(TensorDef { dtype: QnnDtype::F16, ..native }, "take no encoding");

    // Nodes that validation refuses, with the library's own words.
    let a = graph.tensor(&def("a", TensorKind::Input, &dims)).expect("a");
    let y = graph.tensor(&def("y", TensorKind::Output, &dims)).expect("y");
    let mut fails = |op_type: &str, inputs: &[&TensorRef]| {
        let node = NodeDef { name: "n", op_type, params: &[], inputs, outputs: &[&y] };
        graph.node(&node).expect_err("does not validate").to_string()
    };
    for (op, inputs, part) in [("NoSuchOp", &[&a][..], "4005"), ("ElementWiseAdd", &[&a][..], "3110")] {
        let text = fails(op, inputs);
        assert!(text.contains(part) && text.contains("bad:n") && text.contains("the library says"), "{text}");
    }

    // Kills the process inside validation, if it is not refused before.
    let k_n = [4, 4];
    let quant = Quant::Axis { axis: 1, scales: &scales };
    let weights = [0u8; 16];
    let kind = TensorKind::Static(&weights);
    let w = graph.tensor(&TensorDef { name: "w", kind, dtype: QnnDtype::I8, dims: &k_n, quant }).expect("w");
    let node = NodeDef { name: "m", op_type: "MatMul", params: &[], inputs: &[&a, &w], outputs: &[&y] };
    assert!(matches!(graph.node(&node), Err(NpuError::Refused { .. })));
    // A failed finalize says why, and everything is still freed in order.
    assert!(matches!(graph.finalize(false), Err(NpuError::Code { operation: "finalize", .. })));
}

#[test]
fn wrong_devices_and_binaries_are_errors() {
    let _alone = ALONE.lock();
    let Some(device) = device("wrong_devices_and_binaries_are_errors", 57) else { return };
    let error = RawDevice::create(device.backend(), 9999).expect_err("no such SoC");
    assert!(matches!(&error, NpuError::Code { code: 14001, .. }) && error.to_string().contains("9999"), "{error}");
    let system = device.backend().system();
    for bytes in [&b""[..], &[0u8; 64], b"not a context binary at all, but longer than a header"] {
        assert!(BinaryInfo::read(system, "qnn:test", bytes).is_err());
    }
    // Children keep their parents: dropping in the wrong order is no order at all.
    let context = RawContext::create(&device, &options("late")).expect("context");
    drop(device);
    let (graph, _) = add_graph(&context, "sum", false);
    drop(context);
    let mut y = vec![0u8; 128];
    graph.execute(&[&[1; 128], &[2; 128]], &mut [&mut y]).expect("runs");
    assert_eq!(y, [3; 128]);
}

#[test]
fn executions_are_profiled_on_request() {
    let _alone = ALONE.lock();
    let Some(device) = device("executions_are_profiled_on_request", 57) else { return };
    let context = RawContext::create(&device, &options("sums")).expect("context");
    let (mut graph, _) = add_graph(&context, "sum", false);
    let mut y = vec![0u8; 128];
    let mut run = |graph: &RawGraph| graph.execute(&[&[1; 128], &[2; 128]], &mut [&mut y]).expect("runs");
    assert_eq!(run(&graph), ExecuteReport { accelerator_us: None });
    graph.profile_executions().expect("profiles");
    for _ in 0..3 {
        assert!(run(&graph).accelerator_us.is_some(), "host time on x86-64, but a time");
    }
}

/// Validates and cannot be compiled (measured on 2.51): the code is 1002 like that of every such failure.
#[test]
fn a_failed_finalize_quotes_the_reason() {
    let _alone = ALONE.lock();
    let Some(device) = device("a_failed_finalize_quotes_the_reason", 57) else { return };
    let context = RawContext::create(&device, &options("scores")).expect("context");
    let mut graph = RawGraph::create(&context, "scores", &GraphOptions::default()).expect("graph");
    let mut tensor = |name, kind, dims: [u32; 4], dtype| {
        graph.tensor(&TensorDef { dtype, ..def(name, kind, &dims) }).expect("is well formed")
    };
    let a = tensor("a", TensorKind::Input, [1, 2, 32, 64], QnnDtype::I16);
    let b = tensor("b", TensorKind::Input, [1, 2, 64, 32], QnnDtype::I8);
    let y = tensor("y", TensorKind::Output, [1, 2, 32, 32], QnnDtype::I16);
    let node = NodeDef { name: "product", op_type: "MatMul", params: &[], inputs: &[&a, &b], outputs: &[&y] };
    graph.node(&node).expect("validates");
    let error = graph.finalize(false).expect_err("cannot be compiled");
    assert!(matches!(error, NpuError::Code { operation: "finalize", code: 1002, .. }));
    let text = error.to_string();
    assert!(text.contains("`scores`") && text.contains("\"product\" generated: could not create op"), "{text}");
}
