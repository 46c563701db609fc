//! One suite for every device behind `dyn NpuDevice`. A device joins by being listed in [`devices`], with how far its
//! linears may be from the measured rule.

mod support;

use coexec_cpu::Pool;
use coexec_model::{LayerIdx, LayerTensor, TensorName};
use coexec_npu::{
    Bindings, DeviceProfile, Dtype, Encoding, GraphId, Manifest, NpuBuffer, NpuDevice, NpuError, Placement,
    QnnVersions, SimDevice, SimOptions, TensorSpec, Ticket, WeightEncoding, manifest::ManifestArgs, profile::chips,
};
use std::{sync::Arc, time::Duration};
use support::{
    Case, MapSource, Rng, Weights, bindings, context, conv, decode, execute,
    remote::{CompiledHere, sim_over_streams},
    run,
};

struct Subject {
    name: String,
    device: Box<dyn NpuDevice>,
    /// Most steps that a u8 linear may differ from the measured rule.
    tolerance_u8: u16,
    /// The same for u16.
    tolerance_u16: u16,
    /// Of many cases every such one is tried; real devices take 50 ms to compile a graph.
    every: usize,
    /// A simulated device: it notices damage that the manifest's hash does not cover, and refuses multipliers that the
    /// rule was not measured for.
    simulated: bool,
}

impl Subject {
    /// Whether case `number` of a long list is this subject's.
    fn takes(&self, number: usize) -> bool {
        number.is_multiple_of(self.every)
    }
}

/// Every device there is: the simulated ones, one of them behind a stream, and Qualcomm's library compiling for three chips.
fn devices() -> Vec<Subject> {
    let sim = |name: &str, threads| {
        let options = SimOptions { pool: Arc::new(Pool::new(threads)), ..SimOptions::named(name).expect("known") };
        let device = Box::new(SimDevice::new(options));
        let name = format!("sim:{name}, {threads} threads");
        Subject { name, device, tolerance_u8: 0, tolerance_u16: 0, every: 1, simulated: true }
    };
    let remote = || {
        let device = Box::new(CompiledHere::new("sm8650", sim_over_streams("sm8650")));
        let name = "remote sim:sm8650".to_owned();
        Subject { name, device, tolerance_u8: 0, tolerance_u16: 0, every: 9, simulated: true }
    };
    let qnn = |chip: &str, every| {
        let device = Box::new(support::qnn::device("conformance", chip)?);
        let name = format!("qnn:{chip}");
        Some(Subject { name, device, tolerance_u8: 0, tolerance_u16: 0, every, simulated: false })
    };
    let mut all: Vec<_> = chips::NAMES.iter().map(|name| sim(name, 1)).chain([sim("sm8650", 3), remote()]).collect();
    // Where the library is not, one skip says so for all chips.
    let chips = [("sm8650", 11), ("sm8550", 61), ("sm8750", 61)].into_iter();
    all.extend(chips.map_while(|(chip, every)| qnn(chip, every)));
    all
}

const KINDS: [(Dtype, WeightEncoding); 4] = [
    (Dtype::U8, WeightEncoding::PerChannelI8),
    (Dtype::U8, WeightEncoding::BlockExpansion32),
    (Dtype::U16, WeightEncoding::PerChannelI8),
    (Dtype::U16, WeightEncoding::BlockExpansion32),
];

/// Compares outputs with the measured rule (within the device's tolerance) and with real arithmetic: ≤ 1 step in u8; in u16
/// the low byte of the sum is lost, so ≤ 2 steps + 256 multipliers.
fn check(subject: &Subject, case: &Case) {
    let (got, rule, exact) = (case.run(&*subject.device), case.measured_rule(), case.exact());
    let what = format!("{}: {}x{}x{} {} {}", subject.name, case.m, case.k, case.n, case.dtype, case.encoding);
    assert_eq!(got.len(), rule.len(), "{what}");
    let (tolerance, top) =
        if case.dtype == Dtype::U8 { (subject.tolerance_u8, 255.0) } else { (subject.tolerance_u16, 65535.0) };
    for i in 0..got.len() {
        assert!(got[i].abs_diff(rule[i]) <= tolerance, "{what}, output {i}: {} but the rule gives {}", got[i], rule[i]);
        let multiplier =
            f64::from(case.scale_in) * f64::from(case.weights.scales[i % case.n]) / f64::from(case.scale_out);
        // 12 (22) bits of mantissa: relative error 2⁻¹² (2⁻²²) of the distance from zero, and half a step of rounding.
        let real = exact[i] / f64::from(case.scale_out);
        let bound = if case.dtype == Dtype::U8 {
            1.0 + multiplier / 2.0 + real.abs().min(256.0) / 4096.0
        } else {
            2.0 + 256.0 * multiplier
        };
        let wanted = (real + f64::from(case.zero_out)).clamp(0.0, top);
        let error = (f64::from(got[i]) - wanted).abs();
        assert!(error <= bound, "{what}, output {i}: {} for {wanted}", got[i]);
    }
}

#[test]
fn every_kind_and_edge_size() {
    for subject in devices() {
        let mut rng = Rng::new(1);
        let mut number = 0;
        for (dtype, encoding) in KINDS {
            let ks: &[usize] = match encoding {
                WeightEncoding::PerChannelI8 | WeightEncoding::PerChannelI4 => &[1, 3, 16, 31, 32, 33, 100, 288],
                WeightEncoding::BlockExpansion32 => &[32, 64, 96, 288],
            };
            for m in [1, 2, 31, 32, 33] {
                for &k in ks {
                    for n in [1, 15, 16, 17, 48] {
                        number += 1;
                        let case = Case::random(&mut rng, (m, k, n), dtype, encoding);
                        if subject.takes(number) {
                            check(&subject, &case);
                        }
                    }
                }
            }
            check(&subject, &Case::random(&mut rng, (128, 1024, 200), dtype, encoding));
        }
    }
}

#[test]
fn every_zero_point() {
    for subject in devices() {
        let mut rng = Rng::new(2);
        for (zero_in, zero_out) in [(0, 0), (255, 255), (0, 255), (1, 77), (128, 0), (200, 128)] {
            for encoding in [WeightEncoding::PerChannelI8, WeightEncoding::BlockExpansion32] {
                let mut case = Case::random(&mut rng, (5, 64, 20), Dtype::U8, encoding);
                (case.zero_in, case.zero_out) = (zero_in, zero_out);
                check(&subject, &case);
            }
        }
    }
}

#[test]
fn extremes_and_saturation() {
    for subject in devices() {
        let mut rng = Rng::new(3);
        for (dtype, encoding) in KINDS {
            if subject.every > 20 && dtype == Dtype::U16 {
                continue;
            }
            let top = if dtype == Dtype::U8 { 255 } else { 65535 };
            for (code, weight) in [(0, -128), (0, 127), (top, -128), (top, 127), (top, 0), (top / 2 + 1, 127)] {
                let mut case = Case::random(&mut rng, (3, 4096, 5), dtype, encoding);
                case.x.fill(code);
                case.weights.codes.fill(match encoding {
                    WeightEncoding::PerChannelI8 => weight as i8,
                    WeightEncoding::BlockExpansion32 | WeightEncoding::PerChannelI4 => (weight / 16) as i8,
                });
                case.weights.group_scales.fill(16);
                check(&subject, &case);
                case.scale_out *= 16.0;
                check(&subject, &case);
                if weight != 0 && code != top / 2 + 1 {
                    // All products have one sign: a small output scale must clip to that end.
                    let end = if (code == 0) == (weight < 0) { top } else { 0 };
                    case.scale_out = case.scale_in * case.weights.scales[0] / 8.0;
                    assert!(case.run(&*subject.device).iter().all(|y| *y == end), "{} {dtype}", subject.name);
                }
            }
        }
    }
}

#[test]
fn zero_weights_give_the_zero_point() {
    for subject in devices() {
        let mut case = Case::random(&mut Rng::new(4), (3, 32, 4), Dtype::U8, WeightEncoding::PerChannelI8);
        for dead in [0..1, 0..4] {
            case.weights.codes[dead.start * 32..dead.end * 32].fill(0);
            case.weights.scales[dead.clone()].fill(0.0);
            let y = case.run(&*subject.device);
            for row in y.chunks(4) {
                assert!(row[dead.clone()].iter().all(|y| *y == 128), "{}: {row:?}", subject.name);
            }
        }
        case.weights.codes[5] = 1;
        let refused = case.prepare(&*subject.device).map(|_| ()).expect_err("scale 0 with a code");
        assert!(matches!(refused, NpuError::Unsupported { .. } | NpuError::Weights { .. }), "{refused}");
    }
}

/// Two linears in a row, and two of one input: `x → h → y`, `x → z`.
fn chain(rng: &mut Rng) -> (coexec_npu::ContextSpec, MapSource, Case, Case) {
    let first = Case::random(rng, (7, 64, 32), Dtype::U8, WeightEncoding::PerChannelI8);
    let mut second = Case::random(rng, (7, 32, 9), Dtype::U8, WeightEncoding::PerChannelI8);
    second.scale_in = first.scale_out;
    second.scale_out = second.scale_in * second.weights.scales[0] * 50.0;
    let other = TensorName::Layer(LayerIdx(1), LayerTensor::Down);
    let act = |name: &str, width: u32, scale: f32| {
        TensorSpec::activation(name, 7, width, Dtype::U8, Encoding::Tensor { scale, zero_point: 128 })
    };
    let mut graph = first.graph("chain");
    graph.outputs = vec![act("y", 9, second.scale_out), act("z", 32, first.scale_out)];
    graph.intermediates = vec![act("h", 32, first.scale_out)];
    graph.nodes = vec![
        conv("x", support::TENSOR, 0..32, 64, WeightEncoding::PerChannelI8, "h"),
        conv("h", other, 0..9, 32, WeightEncoding::PerChannelI8, "y"),
        conv("x", support::TENSOR, 0..32, 64, WeightEncoding::PerChannelI8, "z"),
    ];
    let mut source = first.source();
    source.0.insert(other, second.weights.clone());
    (context("chained", vec![graph, first.graph("linear")]), source, first, second)
}

#[test]
fn chained_linears_and_shared_weights() {
    for subject in devices() {
        let (spec, source, first, mut second) = chain(&mut Rng::new(5));
        assert_eq!(spec.weights().len(), 2, "the weights that three nodes name are there once");
        let context = subject.device.prepare(&spec, &source).expect("prepares");
        let y = run(&*subject.device, &*context, "chain", &[first.x_bytes()]).expect("runs");
        second.x = first.measured_rule();
        assert_eq!(decode(Dtype::U8, &y[0]), second.measured_rule(), "{}", subject.name);
        assert_eq!(decode(Dtype::U8, &y[1]), first.measured_rule());
        let alone = run(&*subject.device, &*context, "linear", &[first.x_bytes()]).expect("runs");
        assert_eq!(alone[0], y[1]);
        assert!(context.memory_bytes() >= 32 * 64 + 9 * 32);
    }
}

#[test]
fn wrong_bindings_are_refused_with_names() {
    for subject in devices() {
        let device = &*subject.device;
        let case = Case::random(&mut Rng::new(6), (4, 32, 8), Dtype::U8, WeightEncoding::PerChannelI8);
        let context = case.prepare(device).expect("prepares");
        let good = bindings(device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
        let id = context.graph("linear").expect("is there");
        assert!(context.graph("qkv").is_none());
        for len in [0, 1, 4 * 32 - 1, 4 * 32 + 1, 4096] {
            let wrong = Bindings { inputs: vec![device.alloc(len).expect("small")], ..good.clone() };
            let error = context.submit(id, &wrong).expect_err("wrong size");
            assert!(
                matches!(&error, NpuError::BufferSize { expected_bytes: 128, found_bytes, .. } if *found_bytes == len)
            );
            assert!(error.to_string().contains("`linear`") && error.to_string().contains("`x`"), "{error}");
            let wrong = Bindings { outputs: vec![device.alloc(len).expect("small")], ..good.clone() };
            assert!(matches!(context.submit(id, &wrong), Err(NpuError::BufferSize { .. })));
        }
        for inputs in [vec![], vec![good.inputs[0].clone(); 2]] {
            let wrong = Bindings { inputs, ..good.clone() };
            assert!(matches!(context.submit(id, &wrong), Err(NpuError::BindingCount { expected: 1, .. })));
        }
        assert!(matches!(context.submit(GraphId(1), &good), Err(NpuError::UnknownGraph { id: 1, .. })));
        assert!(matches!(context.submit(GraphId(u32::MAX), &good), Err(NpuError::UnknownGraph { .. })));
        assert!(matches!(context.wait(Ticket(77), None), Err(NpuError::UnknownTicket { ticket: 77, .. })));

        // Buffers in use by the host.
        let reading = good.outputs[0].read().expect("free");
        assert!(matches!(context.submit(id, &good), Err(NpuError::BufferBusy { .. })));
        drop(reading);
        let writing = good.inputs[0].write().expect("free");
        assert!(matches!(context.submit(id, &good), Err(NpuError::BufferBusy { .. })));
        drop(writing);
        let reading = good.inputs[0].read().expect("free");
        let ticket = context.submit(id, &good).expect("an input may be read meanwhile");
        drop(reading);
        context.wait(ticket, Some(Duration::from_secs(60))).expect("ends");
        assert!(matches!(context.wait(ticket, None), Err(NpuError::UnknownTicket { .. })), "one wait per submit");
        assert_eq!(decode(case.dtype, &good.outputs[0].read().expect("free")), case.measured_rule());
        assert!(good.inputs[0].write().is_ok() && good.outputs[0].write().is_ok(), "free after wait");
        assert!(device.alloc(usize::MAX).is_err());
    }
}

#[test]
fn one_buffer_cannot_be_input_and_output() {
    for subject in devices() {
        let case = Case::random(&mut Rng::new(7), (4, 32, 32), Dtype::U8, WeightEncoding::PerChannelI8);
        let context = case.prepare(&*subject.device).expect("prepares");
        let buffer = NpuBuffer::heap(4 * 32).unwrap();
        let bound = Bindings { inputs: vec![buffer.clone()], outputs: vec![buffer] };
        let id = context.graph("linear").expect("is there");
        assert!(matches!(context.submit(id, &bound), Err(NpuError::BufferBusy { .. })));
    }
}

#[test]
fn two_contexts_many_executes_several_threads() {
    for subject in devices() {
        let device = &*subject.device;
        let mut rng = Rng::new(8);
        let cases = [
            Case::random(&mut rng, (4, 64, 16), Dtype::U8, WeightEncoding::PerChannelI8),
            Case::random(&mut rng, (3, 32, 7), Dtype::U16, WeightEncoding::BlockExpansion32),
        ];
        let contexts: Vec<_> = cases.iter().map(|c| c.prepare(device).expect("prepares")).collect();
        let wanted: Vec<_> = cases.iter().map(|c| support::encode(c.dtype, &c.measured_rule())).collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (contexts, cases, wanted) = (&contexts, &cases, &wanted);
                scope.spawn(move || {
                    let i = thread % 2;
                    let bound = bindings(device, &*contexts[i], "linear", &[cases[i].x_bytes()]).expect("allocates");
                    for _ in 0..250 / subject.every.min(10) {
                        bound.outputs[0].write().expect("free").fill(0);
                        execute(&*contexts[i], "linear", &bound).expect("runs");
                        assert_eq!(&*bound.outputs[0].read().expect("free"), &wanted[i][..]);
                    }
                });
            }
        });
    }
}

#[test]
fn a_queue_is_in_order_and_bounded() {
    for subject in devices() {
        let device = &*subject.device;
        let case = Case::random(&mut Rng::new(9), (2, 32, 4), Dtype::U8, WeightEncoding::PerChannelI8);
        let context = case.prepare(device).expect("prepares");
        let id = context.graph("linear").expect("is there");
        let depth = device.profile().max_in_flight;
        let sets: Vec<_> =
            (0..=depth).map(|_| bindings(device, &*context, "linear", &[case.x_bytes()]).expect("allocates")).collect();
        let tickets: Vec<_> = sets[..depth].iter().map(|b| context.submit(id, b).expect("has room")).collect();
        assert!(matches!(context.submit(id, &sets[depth]), Err(NpuError::QueueFull { .. })));
        // Waiting for the last means that all others have ended.
        context.wait(tickets[depth - 1], None).expect("ends");
        for (set, ticket) in sets.iter().zip(&tickets[..depth - 1]) {
            assert!(set.outputs[0].read().is_ok(), "ended before a later submit");
            context.wait(*ticket, Some(Duration::ZERO)).expect("has ended already");
        }
        // Dropping a context with work in flight ends cleanly and frees its buffers.
        let tickets: Vec<_> = sets[..depth].iter().map(|b| context.submit(id, b)).collect();
        assert!(tickets.iter().all(Result::is_ok));
        drop(context);
        assert!(sets.iter().all(|s| s.outputs[0].write().is_ok()));
    }
}

fn manifest(
    profile: &DeviceProfile,
    spec: &coexec_npu::ContextSpec,
    blob: &[u8],
    qnn: &Option<QnnVersions>,
) -> Manifest {
    let (placement, qnn) = (Placement::Split, qnn.clone());
    Manifest::new(ManifestArgs { model_hash: "abc", chunk_lens: &[7], placement, profile, spec, blob, qnn })
}

#[test]
fn binaries_reload_and_damage_is_found() {
    for subject in devices() {
        let device = &*subject.device;
        let (spec, source, first, _) = chain(&mut Rng::new(10));
        let context = device.prepare(&spec, &source).expect("prepares");
        let wanted = run(device, &*context, "chain", &[first.x_bytes()]).expect("runs");
        let blob = context.serialize().expect("writes");
        let versions = context.qnn_versions();
        drop(context);
        let manifest = |blob: &[u8]| manifest(device.profile(), &spec, blob, &versions);
        let made = manifest(&blob);
        let json = serde_json::to_string(&made).expect("JSON");
        let made: Manifest = serde_json::from_str(&json).expect("reads back");
        let loaded = device.load(&blob, &made).expect("loads");
        assert_eq!(loaded.spec(), &spec);
        assert_eq!(run(device, &*loaded, "chain", &[first.x_bytes()]).expect("runs"), wanted, "{}", subject.name);

        for at in (0..blob.len()).step_by(if subject.simulated { 7 } else { 997 }) {
            let mut bad = blob.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(matches!(device.load(&bad, &made), Err(NpuError::Manifest { .. })), "flip at {at}");
            // With a manifest made for the damaged binary, the binary's own checksum finds it.
            if subject.simulated {
                assert!(device.load(&bad, &manifest(&bad)).is_err(), "flip at {at}, lying manifest");
            }
        }
        for len in [0, 1, 7, 8, 16, 100, blob.len() - 1] {
            let short = &blob[..len];
            assert!(device.load(short, &made).is_err());
            assert!(device.load(short, &manifest(short)).is_err(), "length {len}");
        }
        let mut long = blob.clone();
        long.push(0);
        assert!(device.load(&long, &manifest(&long)).is_err());

        let fails = |change: &dyn Fn(&mut Manifest), field: &str| {
            let mut changed = made.clone();
            change(&mut changed);
            match device.load(&blob, &changed).map(|_| ()) {
                Err(NpuError::Manifest { field: found, .. }) => assert_eq!(found, field),
                other => panic!("{field}: {other:?}"),
            }
        };
        fails(&|m| m.version += 1, "manifest version");
        fails(&|m| m.device = "sim:other".to_owned(), "device");
        fails(&|m| m.blob_bytes += 1, "binary length");
        fails(&|m| m.blob_hash.clear(), "binary hash");
        let differs = |change: &dyn Fn(&mut Manifest), graph: &str| {
            let mut changed = made.clone();
            change(&mut changed);
            match device.load(&blob, &changed).map(|_| ()) {
                Err(NpuError::Graph { graph: found, .. }) => assert_eq!(found, graph),
                other => panic!("{graph}: {other:?}"),
            }
        };
        differs(&|m| m.spec.graphs[0].name = "other".to_owned(), "other");
        let scale = Encoding::Tensor { scale: 9.0, zero_point: 128 };
        differs(&|m| m.spec.graphs[0].inputs[0].encoding = scale, "chain");
    }
}

#[test]
fn what_the_profile_does_not_allow_is_refused_by_name() {
    for subject in devices() {
        let mut case = Case::random(&mut Rng::new(11), (4, 32, 8), Dtype::U8, WeightEncoding::PerChannelI8);
        let mut spec = case.spec();
        let graph = &mut spec.graphs[0];
        for tensor in graph.inputs.iter_mut().chain(&mut graph.outputs) {
            tensor.dtype = Dtype::F32;
            tensor.encoding = Encoding::None;
        }
        let error = subject.device.prepare(&spec, &case.source()).map(|_| ()).expect_err("f32 is not in the table");
        let text = error.to_string();
        assert!(matches!(error, NpuError::Unsupported { .. }), "{text}");
        for part in ["`linear`", "conv2d_1x1", "`x`", "f32", "u8 × per_channel_i8"] {
            assert!(text.contains(part), "{part} in: {text}");
        }
        let missing = subject.device.prepare(&case.spec(), &MapSource::default()).map(|_| ());
        assert!(matches!(missing, Err(NpuError::Weights { .. })));
        let mut short = case.source();
        if let Some(w) = short.0.get_mut(&support::TENSOR) {
            *w = Weights { k: 31, ..w.clone() };
        }
        let wrong = subject.device.prepare(&case.spec(), &short).map(|_| ());
        assert!(matches!(wrong, Err(NpuError::Weights { .. })));
        case.weights.scales[3] = f32::NAN;
        assert!(case.prepare(&*subject.device).is_err());
        if !subject.simulated {
            continue;
        }
        case.weights.scales[3] = case.scale_out / case.scale_in * 300.0;
        let text = case.prepare(&*subject.device).map(|_| ()).expect_err("multiplier out of range").to_string();
        assert!(text.contains("channel 3") && text.contains("`y`"), "{text}");
    }
}
