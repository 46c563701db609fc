//! Qualcomm's device on the real library: options, estimates, binaries, several devices. The common contract is tested in
//! `conformance.rs`, failures in `qnn_errors.rs`.

mod support;

use coexec_model::TensorName;
use coexec_npu::{
    ContextSpec, Dtype, Manifest, NpuContext, NpuDevice, NpuError, Placement, QnnContext, QnnDevice, QnnOptions,
    QnnVersions, WeightEncoding,
    manifest::ManifestArgs,
    qnn::{PerformancePolicy, Target},
};
use std::time::Duration;
use support::{Case, Rng, context, qnn, run};

fn case(m: usize) -> Case {
    Case::random(&mut Rng::new(m as u64), (m, 64, 48), Dtype::U8, WeightEncoding::PerChannelI8)
}

fn manifest(device: &QnnDevice, spec: &ContextSpec, blob: &[u8], qnn: Option<QnnVersions>) -> Manifest {
    Manifest::new(ManifestArgs {
        model_hash: "",
        chunk_lens: &[4],
        placement: Placement::Split,
        profile: device.profile(),
        spec,
        blob,
        qnn,
    })
}

#[test]
fn every_option_still_computes_right() {
    let case = case(4);
    let wanted = support::encode(case.dtype, &case.measured_rule());
    let with = |change: &dyn Fn(&mut QnnOptions)| {
        let mut options = QnnOptions::chip("sm8650");
        change(&mut options);
        options
    };
    let mut all: Vec<QnnOptions> = [
        PerformancePolicy::Burst,
        PerformancePolicy::Sustained,
        PerformancePolicy::Balanced,
        PerformancePolicy::PowerSaver,
        PerformancePolicy::Default,
    ]
    .into_iter()
    .map(|policy| with(&|o| o.performance = policy))
    .collect();
    // Less than the default is tested in `qnn_memory.rs`, alone in its process.
    all.push(with(&|o| o.vtcm_mb = Some(0)));
    all.push(with(&|o| o.hvx_threads = Some(2)));
    all.extend([1, 2, 3].map(|level| with(&|o| o.optimization_level = Some(level))));
    all.push(with(&|o| o.profiling = true));
    all.extend(["sm8550", "sm8750", "sm8850", "77"].map(|chip| with(&|o| o.chip = chip.to_owned())));
    for options in all {
        let Some(device) = qnn::device_with("every_option_still_computes_right", options.clone()) else { return };
        if device.target() == Target::Emulation {
            assert!(!device.profile().timed, "times of the emulation are the host's");
            let voted = options.performance != PerformancePolicy::Default;
            assert_eq!(device.performance_note().is_some(), voted, "{:?}", device.performance_note());
        }
        let context = case.prepare(&device).expect("prepares");
        assert_eq!(run(&device, &*context, "linear", &[case.x_bytes()]).expect("runs")[0], wanted, "{options:?}");
    }
}

#[test]
fn reports_and_estimates() {
    let Some(phone) = qnn::device("reports_and_estimates", "sm8650") else { return };
    let Some(car) = qnn::device("reports_and_estimates", "77") else { return };
    assert_eq!((phone.profile().device.as_str(), car.profile().device.as_str()), ("qnn:sm8650", "qnn:soc77"));
    let compile = |device: &QnnDevice, m: usize| {
        let case = case(m);
        device.compile(&case.spec(), &case.source(), true).expect("compiles").reports().to_vec()
    };
    let without = compile(&phone, 32);
    assert_eq!((without.len(), without[0].graph.as_str(), without[0].estimate), (1, "linear", None));
    let (small, large) = (compile(&car, 32), compile(&car, 1024));
    let cycles = |reports: &[coexec_npu::qnn::FinalizeReport]| {
        let estimate = reports[0].estimate.expect("SoC 77 has one");
        assert!(estimate.cycles_lower <= estimate.cycles && estimate.cycles <= estimate.cycles_upper, "{estimate:?}");
        assert!(estimate.us.is_some() && estimate.output_spill_bytes.is_some(), "{estimate:?}");
        estimate.cycles
    };
    assert!(cycles(&small) > Some(0) && cycles(&small) < cycles(&large), "{small:?} {large:?}");
    assert_eq!(small[0].estimate, compile(&car, 32)[0].estimate, "deterministic");
    let json = serde_json::to_string(&small[0]).expect("JSON");
    let back: coexec_npu::qnn::FinalizeReport = serde_json::from_str(&json).expect("reads back");
    assert_eq!(back, small[0]);
}

#[test]
fn binaries_know_what_they_are_for() {
    let test = "binaries_know_what_they_are_for";
    let (Some(device), Some(other)) = (qnn::device(test, "sm8650"), qnn::device(test, "sm8550")) else { return };
    let case = case(4);
    let made = device.compile(&case.spec(), &case.source(), false).expect("compiles");
    let versions = made.qnn_versions().expect("has them");
    assert_eq!((versions.soc_id, versions.arch, versions.weight_sharing), (57, Some(75), false));
    let blob = made.serialize().expect("writes");
    assert!(made.memory_bytes() >= blob.len() as u64);
    let said = manifest(&device, &case.spec(), &blob, Some(versions.clone()));
    drop((made, device));

    // Another device of this chip loads it, a device of another chip does not, whatever the manifest says.
    let Some(again) = qnn::device(test, "57") else { return };
    let loaded: QnnContext = again.load_context(&blob, &said).expect("loads");
    assert!(loaded.reports().is_empty());
    let y = run(&again, &loaded, "linear", &[case.x_bytes()]).expect("runs");
    assert_eq!(y[0], support::encode(case.dtype, &case.measured_rule()));
    assert_eq!(loaded.qnn_versions(), Some(versions.clone()));
    let field = |error: Result<QnnContext, NpuError>| match error.map(|_| ()) {
        Err(NpuError::Manifest { field, wanted, found }) => (field, wanted, found),
        other => panic!("{other:?}"),
    };
    assert_eq!(field(other.load_context(&blob, &said)).0, "device");
    let lying = manifest(&other, &case.spec(), &blob, Some(versions.clone()));
    assert_eq!(field(other.load_context(&blob, &lying)), ("SoC", "43".to_owned(), "57".to_owned()));
    let old = QnnVersions { build_id: "v2.0".to_owned(), ..versions.clone() };
    let (found_field, wanted, found) =
        field(again.load_context(&blob, &manifest(&again, &case.spec(), &blob, Some(old))));
    assert_eq!((found_field, wanted.as_str(), &found), ("QNN build", "v2.0", &versions.build_id));
    let mut wider = case.spec();
    wider.graphs[0].inputs[0].dims[2] = 8;
    wider.graphs[0].outputs[0].dims[2] = 8;
    let error =
        again.load_context(&blob, &manifest(&again, &wider, &blob, Some(versions))).map(|_| ()).expect_err("wider");
    let parts = ["graph `linear`", "input `x`", "[1, 1, 8, "];
    assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
}

/// Chunk lengths of one linear, with the same weights in every graph.
fn chunks(cases: &[Case]) -> ContextSpec {
    context("chunks", cases.iter().map(|c| c.graph(&format!("linear{}", c.m))).collect())
}

#[test]
fn shared_weights_make_smaller_binaries() {
    let large = Case::random(&mut Rng::new(3), (32, 512, 512), Dtype::U8, WeightEncoding::PerChannelI8);
    let cases = [4usize, 32].map(|m| Case { m, x: large.x[..m * 512].to_vec(), ..large.clone() });
    let spec = chunks(&cases);
    let compiled = |weight_sharing| {
        let options = QnnOptions { weight_sharing, ..QnnOptions::chip("sm8650") };
        let device = qnn::device_with("shared_weights_make_smaller_binaries", options)?;
        let context = device.compile(&spec, &large.source(), false).expect("compiles");
        for case in &cases {
            let y = run(&device, &context, &format!("linear{}", case.m), &[case.x_bytes()]).expect("runs");
            assert_eq!(y[0], support::encode(case.dtype, &case.measured_rule()));
        }
        let blob = context.serialize().expect("writes");
        let versions = context.qnn_versions();
        assert_eq!(versions.as_ref().map(|v| v.weight_sharing), Some(weight_sharing));
        drop(context);
        let loads = device.load_context(&blob, &manifest(&device, &spec, &blob, versions)).map(|_| device.target());
        Some((blob.len(), loads))
    };
    let (Some((apart, loads)), Some((together, shared_loads))) = (compiled(false), compiled(true)) else { return };
    let weights = 512 * 512;
    assert!(apart > 2 * weights && together < apart - weights / 2, "{together} bytes shared, {apart} bytes apart");
    let target = loads.expect("loads");
    if target == Target::Emulation {
        // QNN 2.51 answers 1000 after reading memory that it has freed (valgrind), or crashes: refused before it is asked.
        let text = shared_loads.map(|_| ()).expect_err("the emulation cannot").to_string();
        assert!(text.contains("weight sharing") && text.contains("emulation"), "{text}");
    }
}

#[test]
fn chips_live_together_and_graphs_compile_in_parallel() {
    let test = "chips_live_together_and_graphs_compile_in_parallel";
    let devices: Vec<_> = ["sm8550", "sm8650", "sm8750"].iter().filter_map(|chip| qnn::device(test, chip)).collect();
    let case = case(8);
    let wanted = support::encode(case.dtype, &case.measured_rule());
    std::thread::scope(|scope| {
        for device in &devices {
            let (case, wanted) = (&case, &wanted);
            scope.spawn(move || {
                for _ in 0..3 {
                    let context = case.prepare(device).expect("prepares");
                    assert_eq!(&run(device, &*context, "linear", &[case.x_bytes()]).expect("runs")[0], wanted);
                    let versions = context.qnn_versions().expect("has them");
                    assert_eq!(Some(versions.soc_id), device.profile().soc_id);
                    let blob = context.serialize().expect("writes");
                    device.load(&blob, &manifest(device, &case.spec(), &blob, Some(versions))).expect("loads");
                }
            });
        }
    });
}

#[test]
fn weights_that_are_missing_stop_before_the_compiler() {
    let Some(device) = qnn::device("weights_that_are_missing_stop_before_the_compiler", "sm8650") else { return };
    let mut source = case(4).source();
    let weights = source.0.remove(&support::TENSOR).expect("is there");
    source.0.insert(TensorName::Embed, weights);
    let error = device.compile(&case(4).spec(), &source, false).map(|_| ()).expect_err("no weights");
    assert!(matches!(&error, NpuError::Weights { graph, .. } if graph == "linear"), "{error}");
}

#[test]
fn a_deadline_that_passes_leaves_the_graph_alone() {
    let Some(device) = qnn::device("a_deadline_that_passes_leaves_the_graph_alone", "sm8650") else { return };
    let case = Case::random(&mut Rng::new(5), (128, 1024, 1024), Dtype::U16, WeightEncoding::PerChannelI8);
    let context = case.prepare(&device).expect("prepares");
    let bound = support::bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
    let ticket = context.submit(context.graph("linear").expect("is there"), &bound).expect("has room");
    // 134 million products take the emulation a tenth of a second.
    let waited = context.wait(ticket, Some(Duration::from_millis(1)));
    if device.target() == Target::Emulation {
        assert!(matches!(waited, Err(NpuError::Timeout { .. })));
        drop((context, device));
        // The thread that was left behind ends with the graph and frees everything.
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while bound.outputs[0].read().is_err() {
            assert!(std::time::Instant::now() < deadline, "the graph never ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
