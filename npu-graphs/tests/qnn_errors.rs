//! Qualcomm's device on a library that fails at every step: the right error, nothing leaked, nothing freed twice. Runs
//! on any machine.

#[path = "support/fake_qnn.rs"]
mod fake_qnn;
mod support;

use coexec_npu::{
    Bindings, ContextSpec, Dtype, Encoding, Manifest, NpuContext, NpuDevice, NpuError, Placement, QnnDevice,
    QnnOptions, WeightEncoding, manifest::ManifestArgs,
};
use fake_qnn::{BINARY, Info, all_freed, fresh, open, open_with, play, release, table};
use std::time::{Duration, Instant};
use support::{Case, Rng, bindings, execute, run};

fn case() -> Case {
    Case::random(&mut Rng::new(1), (4, 32, 8), Dtype::U8, WeightEncoding::PerChannelI8)
}

fn manifest(device: &QnnDevice, spec: &ContextSpec, context: &dyn NpuContext) -> Manifest {
    Manifest::new(ManifestArgs {
        model_hash: "abc",
        chunk_lens: &[4],
        placement: Placement::Split,
        profile: device.profile(),
        spec,
        blob: BINARY,
        qnn: context.qnn_versions(),
    })
}

/// The whole life of a device: open, compile, execute, serialize, load, execute.
fn life() -> Result<(), NpuError> {
    let case = case();
    let device = open()?;
    let context = case.prepare(&device)?;
    assert_eq!(run(&device, &*context, "linear", &[case.x_bytes()])?, vec![vec![7u8; 32]]);
    let blob = context.serialize()?;
    assert_eq!(blob, BINARY);
    let made = manifest(&device, &case.spec(), &*context);
    drop(context);
    play().info = Some(Info::of(&case.spec()));
    let loaded = device.load(&blob, &made)?;
    assert_eq!(loaded.spec(), &case.spec());
    assert_eq!(run(&device, &*loaded, "linear", &[case.x_bytes()])?, vec![vec![7u8; 32]]);
    Ok(())
}

#[test]
fn every_step_that_fails_is_an_error() {
    let _one = fresh();
    life().expect("the fake plays along");
    assert!(all_freed());
    for (entry, operation) in [
        ("backendCreate", "create backend"),
        ("deviceCreate", "create device"),
        ("contextCreate", "create context"),
        ("graphCreate", "create graph"),
        ("tensorCreateGraphTensor", "create tensor"),
        ("backendValidateOpConfig", "validate"),
        ("graphAddNode", "add node"),
        ("graphFinalize", "finalize"),
        ("graphExecute", "execute"),
        ("contextGetBinarySize", "size of the binary"),
        ("contextGetBinary", "serialize"),
        ("systemContextCreate", "open system library"),
        ("systemContextGetMetaData", "read binary"),
        ("contextCreateFromBinary", "load"),
        ("graphRetrieve", "retrieve graph"),
    ] {
        // Handles carry more than the code in their upper bits.
        for (answer, code) in [(1002, 1002), (0x7_0000 + 6999, 6999)] {
            play().fail = Some((entry, answer));
            let error = life().expect_err(entry);
            match &error {
                NpuError::Code { device, operation: found, code: number, .. } => {
                    assert_eq!((device.as_str(), *found, *number), ("qnn:sm8650", operation, code), "{entry}");
                    assert!(error.is_device_failure());
                }
                other => panic!("{entry}: {other:?}"),
            }
            assert!(error.to_string().contains(&code.to_string()), "{error}");
            assert!(all_freed(), "{entry}: {:?}", play().living);
        }
    }
}

#[test]
fn failures_that_do_no_harm_are_survived() {
    let _one = fresh();
    // Without a log or a build id, and with a library that has lost everything when it is told to free.
    for entry in
        ["logCreate", "backendGetBuildId", "contextFree", "deviceFree", "backendFree", "logFree", "systemContextFree"]
    {
        play().fail = Some((entry, 5002));
        match life() {
            Ok(()) => {}
            // A manifest without a build id does not match the binary.
            Err(NpuError::Manifest { field: "QNN build", .. }) => assert_eq!(entry, "backendGetBuildId"),
            Err(other) => panic!("{entry}: {other}"),
        }
        assert!(all_freed(), "{entry}: {:?}", play().living);
    }
    // Clocks cannot be set: said, not fatal.
    play().fail = None;
    let device = open().expect("opens");
    let note = device.performance_note().expect("the fake has no infrastructure");
    assert!(note.contains("1100"), "{note}");
}

#[test]
fn entries_that_a_library_lacks_are_named() {
    let _one = fresh();
    let lacking = |remove: fn(&mut qnn_sys::InterfaceTable), name: &str| {
        let mut table = table();
        remove(&mut table);
        let made = open_with(table).and_then(|device| case().prepare(&device).map(|_| ()));
        let error = made.expect_err(name);
        assert!(matches!(error, NpuError::Library(qnn_sys::LoadError::MissingEntry { .. })), "{error}");
        assert!(error.to_string().contains(name) && !error.is_device_failure(), "{error}");
        assert!(all_freed(), "{name}: {:?}", play().living);
    };
    lacking(|t| t.deviceCreate = None, "deviceCreate");
    lacking(|t| t.contextCreate = None, "contextCreate");
    lacking(|t| t.backendValidateOpConfig = None, "backendValidateOpConfig");
    lacking(|t| t.graphFinalize = None, "graphFinalize");
    // A table in which everything fails.
    let error = open_with(qnn_sys::fake::table()).map(|_| ()).expect_err("nothing works");
    assert!(matches!(error, NpuError::Code { operation: "create backend", code: 1100, .. }), "{error}");
    let options = QnnOptions::chip("sm9999");
    assert!(matches!(QnnDevice::open(options), Err(NpuError::Option { name: "chip", .. })));
    let options = QnnOptions { lib_dir: Some("/nowhere".into()), ..QnnOptions::chip("sm8650") };
    assert!(matches!(QnnDevice::open(options), Err(NpuError::Library(_))));
}

#[test]
fn a_lost_subsystem_kills_the_context_only() {
    let _one = fresh();
    let case = case();
    let device = open().expect("opens");
    let context = case.prepare(&device).expect("prepares");
    let bound = bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
    play().fail = Some(("graphExecute", 1011));
    let error = execute(&*context, "linear", &bound).expect_err("fatal");
    assert!(matches!(&error, NpuError::DeviceLost { reason, .. } if reason.contains("1011")), "{error}");
    play().fail = None;
    assert!(matches!(execute(&*context, "linear", &bound), Err(NpuError::DeviceLost { .. })), "dead for good");
    let fresh = case.prepare(&device).expect("a fresh context");
    execute(&*fresh, "linear", &bound).expect("works");
    // Another failure is the graph's own: the context lives.
    play().fail = Some(("graphExecute", 6004));
    assert!(matches!(execute(&*fresh, "linear", &bound), Err(NpuError::Code { code: 6004, .. })));
    play().fail = None;
    execute(&*fresh, "linear", &bound).expect("works again");
    drop((context, fresh, device));
    assert!(all_freed());
}

#[test]
fn a_hang_times_out_and_is_left_behind() {
    let _one = fresh();
    let case = case();
    let device = open().expect("opens");
    let context = case.prepare(&device).expect("prepares");
    let bound = bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
    let queued = bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
    let id = context.graph("linear").expect("is there");
    play().hang = true;
    let ticket = context.submit(id, &bound).expect("has room");
    let second = context.submit(id, &queued).expect("has room");
    let error = context.wait(ticket, Some(Duration::from_millis(50))).expect_err("hangs");
    assert!(matches!(&error, NpuError::Timeout { graph, .. } if graph == "linear"), "{error}");
    assert!(matches!(context.wait(second, None), Err(NpuError::DeviceLost { .. })));
    assert!(matches!(context.submit(id, &queued), Err(NpuError::DeviceLost { .. })));
    assert!(queued.outputs[0].write().is_ok(), "what did not start is free");
    let started = Instant::now();
    drop(context);
    assert!(started.elapsed() < Duration::from_secs(5), "dropping does not wait for the driver");
    assert!(bound.outputs[0].write().is_err(), "the driver may still write there");
    assert_eq!(play().living["context"], 1, "left behind");
    // The driver comes back: the thread ends and frees what it held.
    release();
    let deadline = Instant::now() + Duration::from_secs(10);
    while bound.outputs[0].write().is_err() || play().living["context"] > 0 {
        assert!(Instant::now() < deadline, "{:?}", play().living);
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(device);
    assert!(all_freed(), "{:?}", play().living);
}

#[test]
fn dropping_waits_for_a_graph_that_runs() {
    let _one = fresh();
    let case = case();
    let device = open().expect("opens");
    let context = case.prepare(&device).expect("prepares");
    let bound = bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
    play().hang = true;
    context.submit(context.graph("linear").expect("is there"), &bound).expect("has room");
    while play().calls.last() != Some(&"graphExecute") {
        std::thread::yield_now();
    }
    let releaser = std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(100));
        release();
    });
    drop(context);
    assert!(!play().hang, "nobody waited with a deadline, so dropping waited");
    assert_eq!(bound.outputs[0].read().expect("free")[0], 7, "the graph ended well");
    releaser.join().expect("ends");
}

#[test]
fn binaries_of_something_else_never_reach_the_device() {
    let _one = fresh();
    let case = case();
    let device = open().expect("opens");
    let context = case.prepare(&device).expect("prepares");
    let made = manifest(&device, &case.spec(), &*context);
    let good = Info::of(&case.spec());
    let refused = |info: Info, made: &Manifest, field: &str, parts: [&str; 2]| {
        play().info = Some(info);
        play().calls.clear();
        let error = device.load(BINARY, made).map(|_| ()).expect_err(field);
        assert!(matches!(&error, NpuError::Manifest { field: found, .. } if *found == field), "{field}: {error}");
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in: {text}");
        assert!(!play().calls.contains(&"contextCreateFromBinary"), "{field}");
    };
    let changed = |change: &dyn Fn(&mut Info)| {
        let mut info = good.clone();
        change(&mut info);
        info
    };
    refused(changed(&|i| i.build_id = c"v2.40"), &made, "QNN build", ["v2.51.0.fake", "v2.40"]);
    refused(changed(&|i| i.core = (2, 39, 0)), &made, "QNN core API", ["2.40.0", "2.39.0"]);
    refused(changed(&|i| i.backend = (5, 50, 1)), &made, "QNN HTP API", ["5.51.0", "5.50.1"]);
    refused(changed(&|i| i.soc_id = 69), &made, "SoC", ["57", "69"]);
    refused(changed(&|i| i.arch = 79), &made, "Hexagon architecture", ["v75", "v79"]);
    // A binary of a newer library, with a manifest that says so.
    let mut newer = made.clone();
    newer.qnn.as_mut().expect("versions").core_api = "2.41.0".to_owned();
    refused(changed(&|i| i.core = (2, 41, 0)), &newer, "QNN core API", ["at most 2.40.0", "2.41.0"]);
    let mut without = made.clone();
    without.qnn = None;
    refused(good.clone(), &without, "QNN versions", ["v2.51.0.fake", "none"]);
    // Graphs and tensors.
    let graph = |change: &dyn Fn(&mut coexec_npu::GraphSpec)| changed(&|i| change(&mut i.spec.graphs[0]));
    let differs = |info: Info, parts: [&str; 3]| {
        play().info = Some(info);
        play().calls.clear();
        let error = device.load(BINARY, &made).map(|_| ()).expect_err(parts[0]);
        assert!(matches!(&error, NpuError::Graph { .. }), "{error}");
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in: {text}");
        assert!(!play().calls.contains(&"contextCreateFromBinary"), "{text}");
    };
    differs(graph(&|g| g.name = "other".to_owned()), ["`linear`", "none of that name was compiled", "one is wanted"]);
    differs(changed(&|i| i.spec.graphs.clear()), ["`linear`", "none of that name was compiled", "one is wanted"]);
    let name = |g: &mut coexec_npu::GraphSpec| g.inputs[0].name = "z".to_owned();
    differs(graph(&name), ["`linear`, input `x`", "none of that name was compiled", "one is wanted"]);
    differs(graph(&|g| g.inputs[0].dims[2] = 5), ["input `x`", "[1, 1, 5, 32], scale", "[1, 1, 4, 32], scale"]);
    differs(graph(&|g| g.outputs[0].dtype = Dtype::U16), ["output `y`", "u16 [1, 1, 4, ", "u8 [1, 1, 4, "]);
    let twice = |g: &mut coexec_npu::GraphSpec| g.outputs.push(g.outputs[0].clone());
    differs(graph(&twice), ["number of outputs", "2 was compiled", "1 is wanted"]);
    let other = Encoding::Tensor { scale: 0.125, zero_point: 3 };
    differs(graph(&|g| g.outputs[0].encoding = other), ["output `y`", "scale 0.125, zero point 3 was", "point 128 is"]);
    // A description that is not one.
    play().info = None;
    assert!(matches!(device.load(BINARY, &made), Err(NpuError::Blob { .. })));
    // The order of tensors in the binary is the binary's own.
    play().info = Some(good.clone());
    device.load(BINARY, &made).map(|_| ()).expect("loads");
    drop((context, device));
    assert!(all_freed());
}

#[test]
fn wrong_sizes_never_reach_the_library() {
    let _one = fresh();
    let case = case();
    let device = open().expect("opens");
    let context = case.prepare(&device).expect("prepares");
    let good = bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
    play().calls.clear();
    for len in [0, 31, 33, 127, 129] {
        let wrong = Bindings { outputs: vec![device.alloc(len).expect("small")], ..good.clone() };
        assert!(matches!(execute(&*context, "linear", &wrong), Err(NpuError::BufferSize { .. })));
    }
    assert!(play().calls.is_empty(), "{:?}", play().calls);
}
