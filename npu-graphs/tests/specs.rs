//! Specs and the builder of placement `split`: what is accepted, what is refused, and that nothing panics.

mod support;

use coexec_model::{
    Calibration, DecoderConfig, GenerationDefaults, LayerIdx, LinearCalibration, LinearKind, RopeScaling, Scales,
    TensorName, Treatment,
};
use coexec_npu::{
    Activation, ContextSpec, DeviceProfile, Dtype, Encoding, GraphSpec, NpuDevice, NpuError, NpuWeights, OpSpec,
    SimDevice, SimOptions, SpecError, SplitOptions, TensorSpec, WeightEncoding, decoder::BuildError, graph_name,
    split_context,
};
use proptest::prelude::*;
use std::collections::HashSet;
use support::{Case, MapSource, Rng, TENSOR, Weights, conv, run};

fn config() -> DecoderConfig {
    DecoderConfig {
        architecture: "llama".to_owned(),
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        vocab_size: 100,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        qkv_bias: false,
        qk_norm: false,
        tie_word_embeddings: true,
        sliding_window: None,
        bos_token_id: None,
        eos_token_ids: vec![],
        generation: GenerationDefaults::default(),
    }
}

fn calibration(config: &DecoderConfig) -> Calibration {
    let linear = |layer: u32, kind: LinearKind| LinearCalibration {
        input_scale: 0.01 + layer as f32 * 0.001 + kind.index() as f32 * 0.0001,
        output_scales: (0..config.linear_parts(kind).len()).map(|p| 0.1 + p as f32).collect(),
        hot_channels: vec![],
        importance: 1.0,
        clipped_share: 0.0,
        plain: None,
        wide: None,
        split: None,
        treatment: Treatment::default(),
    };
    Calibration {
        tokens: 10,
        layers: (0..config.num_hidden_layers).map(|l| LinearKind::ALL.map(|kind| linear(l, kind))).collect(),
    }
}

fn options(chunk_lens: &[usize], weights: NpuWeights) -> SplitOptions<'_> {
    SplitOptions { name: "model", chunk_lens, weights, activation: Activation::U8, layers: None }
}

#[test]
fn split_builds_four_graphs_per_layer_and_chunk_length() {
    let config = config();
    let spec =
        split_context(&config, &calibration(&config), &options(&[16, 32], NpuWeights::PerChannelI8)).expect("builds");
    assert_eq!(spec.graphs.len(), 3 * 4 * 2);
    spec.validate().expect("is valid");
    let names: HashSet<_> = spec.graphs.iter().map(|g| g.name.as_str()).collect();
    for layer in 0..3 {
        for kind in LinearKind::ALL {
            for chunk in [16, 32] {
                assert!(names.contains(graph_name(kind, LayerIdx(layer), chunk).as_str()));
            }
        }
    }
    let graph = spec.graphs.iter().find(|g| g.name == "qkv.L2.c32").expect("the documented name");
    let enc = |scale| Encoding::Tensor { scale, zero_point: 128 };
    assert_eq!(graph.inputs, [TensorSpec::activation("x", 32, 64, Dtype::U8, enc(0.01 + 2.0 * 0.001))]);
    let outputs: Vec<_> = graph.outputs.iter().map(|t| (t.name.as_str(), t.dims.clone(), t.encoding)).collect();
    assert_eq!(
        outputs,
        [("q", vec![1, 1, 32, 64], enc(0.1)), ("k", vec![1, 1, 32, 32], enc(1.1)), ("v", vec![1, 1, 32, 32], enc(2.1))]
    );
    let rows: Vec<_> = graph.nodes.iter().filter_map(OpSpec::weights).map(|w| (w.rows.clone(), w.k)).collect();
    assert_eq!(rows, [(0..64, 64), (64..96, 64), (96..128, 64)]);
    let gate_up = spec.graphs.iter().find(|g| g.name == "gate_up.L0.c16").expect("is there");
    let rows: Vec<_> = gate_up.nodes.iter().filter_map(OpSpec::weights).map(|w| w.rows.clone()).collect();
    assert_eq!(rows, [0..96, 96..192]);
    // Weights are there once for both chunk lengths: 7 parts per layer.
    assert_eq!(spec.weights().len(), 7 * 3);
    let weights = 128 * 64 + 64 * 64 + 192 * 64 + 64 * 96;
    let scales = 4 * (128 + 64 + 192 + 64);
    assert_eq!(spec.device_bytes(10), 3 * (weights + scales) + 10 * 24);
    let four_bit =
        split_context(&config, &calibration(&config), &options(&[16], NpuWeights::BlockExpansion)).expect("builds");
    assert_eq!(four_bit.device_bytes(0), 3 * (weights / 2 + weights / 64 + scales));
}

#[test]
fn split_in_16_bits_covers_the_range_of_8() {
    let config = config();
    let all = [Activation::U8, Activation::U16, Activation::F16].map(|activation| {
        let options = SplitOptions { activation, ..options(&[16], NpuWeights::PerChannelI4) };
        let spec = split_context(&config, &calibration(&config), &options).expect("builds");
        let profile = SimOptions::named("sm8650").expect("known").profile;
        profile.check(&spec).expect("HTP computes it");
        spec
    });
    for (narrow, (wide, float)) in all[0].graphs.iter().zip(all[1].graphs.iter().zip(&all[2].graphs)) {
        let tensors = |g: &GraphSpec| g.inputs.iter().chain(&g.outputs).cloned().collect::<Vec<_>>();
        for (a, (b, c)) in tensors(narrow).into_iter().zip(tensors(wide).into_iter().zip(tensors(float))) {
            let Encoding::Tensor { scale, zero_point: 128 } = a.encoding else { panic!("{a:?}") };
            assert_eq!(b.encoding, Encoding::Tensor { scale: scale / 256.0, zero_point: 32768 });
            assert_eq!((b.dtype, c.dtype, c.encoding), (Dtype::U16, Dtype::F16, Encoding::None));
            assert_eq!((&a.dims, &a.dims), (&b.dims, &c.dims));
        }
    }
    // Calibration's own scales for 16 bits, not those that clip for a shadow, whether all linears are in u16 or this one is.
    let (mut wide, mut one) = (calibration(&config), calibration(&config));
    for calibration in [&mut wide, &mut one] {
        calibration.layers[0][1].wide = Some(Scales { input: 0.5, outputs: vec![0.25] });
    }
    one.layers[0][1].treatment = Treatment::Wide;
    let graph = |calibration: &Calibration, activation| {
        let options = SplitOptions { activation, ..options(&[16], NpuWeights::PerChannelI8) };
        split_context(&config, calibration, &options).expect("builds").graphs.remove(1)
    };
    assert_eq!(graph(&wide, Activation::U16), graph(&one, Activation::U8));
    let x = graph(&wide, Activation::U16).inputs.remove(0);
    assert_eq!(x.encoding, Encoding::Tensor { scale: 0.5 / 256.0, zero_point: 32768 });
    // Floats need no calibration; codes do.
    let none = Calibration { tokens: 0, layers: vec![] };
    let build = |activation| {
        split_context(&config, &none, &SplitOptions { activation, ..options(&[16], NpuWeights::PerChannelI8) })
    };
    assert!(build(Activation::F16).is_ok());
    assert!(matches!(build(Activation::U16), Err(BuildError::Calibration { .. })));
}

#[test]
fn a_model_that_does_not_fit_one_context_is_cut_into_few() {
    let config = config();
    let spec =
        split_context(&config, &calibration(&config), &options(&[16, 32], NpuWeights::PerChannelI8)).expect("builds");
    let mut profile = SimOptions::named("sm8650").expect("known").profile;
    profile.graph_overhead_bytes = 100;
    let total = spec.device_bytes(100);
    assert_eq!(profile.shard(&spec, None).expect("fits"), std::slice::from_ref(&spec));
    for limit in [total - 1, total / 2, total / 3, 20_000] {
        profile.max_context_bytes = limit;
        let shards = profile.shard(&spec, None).expect("fits several");
        assert!(shards.len() > 1 && shards[1].name == "model.1");
        let graphs: Vec<_> = shards.iter().flat_map(|s| &s.graphs).collect();
        assert!(graphs.iter().copied().eq(&spec.graphs), "every graph once, in order");
        for shard in &shards {
            profile.check(shard).expect("each shard fits");
        }
        let sum: u64 = shards.iter().map(|s| s.device_bytes(100)).sum();
        assert_eq!(sum, total, "chunk lengths of a linear share one context, so no weight is there twice");
        // Greedy in order: no two neighbours would have fitted together.
        for pair in shards.windows(2) {
            assert!(pair[0].device_bytes(100) + pair[1].device_bytes(100) > limit);
        }
    }
    profile.max_context_bytes = 10_000;
    let error = profile.shard(&spec, None).expect_err("gate and up alone take 12 kB");
    assert!(matches!(&error, NpuError::ContextTooLarge { context, .. } if context == "gate_up.L0.c16"), "{error}");
    profile.max_context_bytes = total;
    profile.max_device_bytes = total - 1;
    assert!(matches!(profile.shard(&spec, None), Err(NpuError::ContextTooLarge { .. })));
}

/// 36 and 80 layers with the engine's four chunk lengths: the library takes 256 graphs that share weights in one context
/// (code 5007 beyond). Contexts as few as can be, every graph once, chunk lengths of a linear together.
#[test]
fn contexts_keep_the_limit_of_graphs_that_share_weights() {
    let profile = SimOptions::named("sm8650").expect("known").profile;
    assert_eq!(profile.max_sharing_graphs, 256);
    assert!(profile.source.contains("5007"), "a limit has its source: {}", profile.source);
    for (layers, chunk_lens, contexts) in [
        (16, &[32, 64, 128, 256][..], 1),
        (17, &[32, 64, 128, 256], 2),
        (36, &[32, 64, 128, 256], 3),
        (80, &[32, 64, 128, 256], 5),
        (80, &[128], 1),
    ] {
        let config = DecoderConfig { num_hidden_layers: layers, ..config() };
        let spec = split_context(&config, &calibration(&config), &options(chunk_lens, NpuWeights::PerChannelI8));
        let spec = spec.expect("builds");
        let shards = profile.shard(&spec, None).expect("can be cut");
        assert_eq!(shards.len(), contexts, "{layers} layers");
        assert!(shards.iter().flat_map(|s| &s.graphs).eq(&spec.graphs), "every graph once, in order");
        for shard in &shards {
            profile.check(shard).expect("each shard fits");
        }
        let sum: u64 = shards.iter().map(|s| s.device_bytes(0)).sum();
        assert_eq!(sum, spec.device_bytes(0), "no weight is there twice");
        if contexts > 1 {
            assert!(matches!(profile.check(&spec), Err(NpuError::TooManyGraphs { limit: 256, .. })));
        }
    }
    // A caller's own number, and one that graphs which share weights do not leave: then they stay together.
    let spec = split_context(&config(), &calibration(&config()), &options(&[16, 32, 64], NpuWeights::PerChannelI8));
    let spec = spec.expect("builds");
    for (most, contexts, largest) in [(36, 1, 36), (35, 2, 33), (6, 6, 6), (1, 12, 3)] {
        let shards = profile.shard(&spec, Some(most)).expect("can be cut");
        let largest_found = shards.iter().map(|s| s.graphs.len()).max();
        assert_eq!((shards.len(), largest_found), (contexts, Some(largest)), "{most}");
    }
    // Chunk lengths of one linear beyond the limit are refused by name.
    let narrow = DeviceProfile { max_sharing_graphs: 2, ..profile };
    let error = narrow.shard(&spec, None).expect_err("three chunk lengths share weights");
    let text = error.to_string();
    assert!(matches!(error, NpuError::TooManyGraphs { graphs: 3, limit: 2, .. }), "{text}");
    assert!(text.contains("qkv.L0.c16") && text.contains("fewer chunk lengths"), "{text}");
}

#[test]
fn some_layers_only() {
    let config = config();
    let build = |layers| {
        let options = SplitOptions { layers: Some(layers), ..options(&[16], NpuWeights::PerChannelI8) };
        split_context(&config, &calibration(&config), &options)
    };
    let spec = build(1..3).expect("builds");
    assert!(spec.graphs.iter().all(|g| !g.name.contains(".L0.")) && spec.graphs.len() == 8);
    for bad in [1..1, 0..4, 3..4, 5..u32::MAX] {
        assert!(matches!(build(bad), Err(BuildError::Layers { count: 3, .. })));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let config = config();
    let good = calibration(&config);
    for bad in [&[][..], &[0], &[16, 16], &[1 << 21], &[usize::MAX]] {
        let built = split_context(&config, &good, &options(bad, NpuWeights::PerChannelI8));
        assert!(matches!(built, Err(BuildError::ChunkLen { .. })), "{bad:?}");
    }
    let refuse = |change: &dyn Fn(&mut Calibration)| {
        let mut calibration = good.clone();
        change(&mut calibration);
        let built = split_context(&config, &calibration, &options(&[16], NpuWeights::PerChannelI8));
        let text = built.expect_err("refused").to_string();
        assert!(text.contains("coexec import --calibrate"), "{text}");
    };
    refuse(&|c| c.layers.truncate(2));
    refuse(&|c| c.layers.clear());
    refuse(&|c| c.layers[1][0].output_scales.truncate(2));
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-42] {
        refuse(&|c| c.layers[2][3].input_scale = scale);
        refuse(&|c| c.layers[0][2].output_scales[1] = scale);
    }
    let mut odd = config.clone();
    odd.hidden_size = 40;
    let built = split_context(&odd, &calibration(&odd), &options(&[16], NpuWeights::BlockExpansion));
    assert!(matches!(built, Err(BuildError::Groups { k: 40, .. })));
    let mut huge = config.clone();
    (huge.intermediate_size, huge.hidden_size, huge.num_attention_heads) = (u32::MAX, u32::MAX, u32::MAX);
    assert!(split_context(&huge, &calibration(&huge), &options(&[16], NpuWeights::PerChannelI8)).is_err());
    let mut many = config.clone();
    many.num_hidden_layers = u32::MAX;
    assert!(split_context(&many, &good, &options(&[16], NpuWeights::PerChannelI8)).is_err());
}

#[test]
fn a_built_graph_computes_its_linear() {
    let config = config();
    let mut rng = Rng::new(3);
    let mut source = MapSource::default();
    for layer in 0..3 {
        for kind in LinearKind::ALL {
            let (n, k) = config.linear_shape(kind);
            let weights = Weights::random(&mut rng, n, k, WeightEncoding::BlockExpansion32);
            source.0.insert(TensorName::Layer(LayerIdx(layer), kind.tensor()), weights);
        }
    }
    let calibration = calibration(&config);
    let device = SimDevice::new(SimOptions::named("sm8550").expect("known"));
    for weights in [NpuWeights::PerChannelI8, NpuWeights::BlockExpansion] {
        let spec = split_context(&config, &calibration, &options(&[5, 3], weights)).expect("builds");
        let context = device.prepare(&spec, &source).expect("prepares");
        for kind in LinearKind::ALL {
            let (_, k) = config.linear_shape(kind);
            let x: Vec<u16> = (0..5 * k).map(|_| rng.below(256) as u16).collect();
            let graph = graph_name(kind, LayerIdx(1), 5);
            let bytes = support::encode(Dtype::U8, &x);
            let outputs = run(&device, &*context, &graph, std::slice::from_ref(&bytes)).expect("runs");
            // The first three rows in the graph for three tokens: the same codes.
            let short =
                run(&device, &*context, &graph_name(kind, LayerIdx(1), 3), &[bytes[..3 * k].to_vec()]).expect("runs");
            let linear = calibration.linear(LayerIdx(1), kind).expect("is there");
            let all = &source.0[&TensorName::Layer(LayerIdx(1), kind.tensor())];
            let mut row = 0;
            for (part, n) in config.linear_parts(kind).into_iter().enumerate() {
                let groups = k / 32;
                let case = Case {
                    m: 5,
                    k,
                    n,
                    dtype: Dtype::U8,
                    encoding: WeightEncoding::BlockExpansion32,
                    zero_in: 128,
                    zero_out: 128,
                    scale_in: linear.input_scale,
                    scale_out: linear.output_scales[part],
                    weights: Weights {
                        k,
                        codes: all.codes[row * k..(row + n) * k].to_vec(),
                        group_scales: all.group_scales[row * groups..(row + n) * groups].to_vec(),
                        scales: all.scales[row..row + n].to_vec(),
                    },
                    x: x.clone(),
                };
                let wanted = support::encode(Dtype::U8, &case.measured_rule());
                assert_eq!(outputs[part], wanted, "{graph} part {part}");
                assert_eq!(short[part], wanted[..3 * n], "{graph} part {part} of the short graph");
                row += n;
            }
        }
    }
}

fn act(name: &str, m: u32, width: u32) -> TensorSpec {
    TensorSpec::activation(name, m, width, Dtype::U8, Encoding::Tensor { scale: 0.1, zero_point: 128 })
}

fn good_graph() -> GraphSpec {
    GraphSpec {
        name: "g".to_owned(),
        inputs: vec![act("x", 4, 32)],
        outputs: vec![act("y", 4, 8)],
        intermediates: vec![act("h", 4, 16)],
        nodes: vec![
            conv("x", TENSOR, 0..16, 32, WeightEncoding::PerChannelI8, "h"),
            conv("h", TENSOR, 16..24, 16, WeightEncoding::PerChannelI8, "y"),
        ],
    }
}

#[test]
fn bad_specs_are_refused_with_graph_and_tensor() {
    good_graph().validate().expect("valid");
    type Change = fn(&mut GraphSpec);
    let cases: &[(&str, Change)] = &[
        ("`x`", |g| g.inputs[0].dims[2] = 0),
        ("`x`", |g| g.inputs[0].dims = vec![u32::MAX; 5]),
        ("`x`", |g| g.inputs[0].dims.clear()),
        ("`x`", |g| g.inputs[0].dims = vec![4, 32]),
        ("`x`", |g| g.inputs[0].dims = vec![1, 4, 1, 32]),
        ("`x`", |g| g.inputs[0].dims[3] = 31),
        ("`x`", |g| g.inputs[0].encoding = Encoding::None),
        ("`x`", |g| g.inputs[0].encoding = Encoding::Tensor { scale: 0.0, zero_point: 0 }),
        ("`x`", |g| g.inputs[0].encoding = Encoding::Tensor { scale: f32::NAN, zero_point: 0 }),
        ("`x`", |g| g.inputs[0].encoding = Encoding::Tensor { scale: 1.0, zero_point: 256 }),
        ("`x`", |g| g.inputs[0].encoding = Encoding::Tensor { scale: 1.0, zero_point: -1 }),
        ("`x`", |g| g.inputs[0].dtype = Dtype::F16),
        ("`h`", |g| g.intermediates[0].dims[3] = 17),
        ("`h`", |g| g.intermediates[0].dims[2] = 5),
        ("`h`", |g| g.intermediates[0].dtype = Dtype::U16),
        ("`h`", |g| g.intermediates.clear()),
        ("`h`", |g| g.nodes.reverse()),
        ("`h`", |g| g.nodes[0] = conv("x", TENSOR, 0..16, 32, WeightEncoding::PerChannelI8, "x")),
        ("`y`", |g| g.nodes.truncate(1)),
        ("`y`", |g| g.nodes.push(g.nodes[1].clone())),
        ("`y`", |g| g.intermediates.push(g.outputs[0].clone())),
        ("`o`", |g| g.outputs.push(act("o", 4, 8))),
        ("layers.0.o", |g| g.nodes[1] = conv("h", TENSOR, 3..3, 16, WeightEncoding::PerChannelI8, "y")),
        ("layers.0.o", |g| g.nodes[1] = conv("h", TENSOR, 0..8, usize::MAX, WeightEncoding::PerChannelI8, "y")),
        ("layers.0.o", |g| g.nodes[1] = conv("h", TENSOR, 16..24, 16, WeightEncoding::BlockExpansion32, "y")),
        ("nodes", |g| g.nodes.clear()),
        ("inputs", |g| g.inputs.clear()),
        ("outputs", |g| g.outputs.clear()),
        ("name", |g| g.name.clear()),
    ];
    for (i, (part, change)) in cases.iter().enumerate() {
        let mut graph = good_graph();
        change(&mut graph);
        let text = graph.validate().map(|()| i).expect_err("must be refused").to_string();
        // The node that writes its own input is reported at the input.
        let part = if i == 17 { "`x`" } else { part };
        assert!(text.contains(part) && (text.contains("`g`") || part == "name"), "case {i}: {text}");
    }
    let twice = ContextSpec { name: "c".to_owned(), graphs: vec![good_graph(), good_graph()] };
    assert!(matches!(twice.validate(), Err(SpecError::DuplicateGraph { .. })));
    assert!(ContextSpec { name: "c".to_owned(), graphs: vec![] }.validate().is_err());
    let device = SimDevice::new(SimOptions::named("ideal").expect("known"));
    assert!(matches!(device.prepare(&twice, &MapSource::default()).map(|_| ()), Err(NpuError::Spec(_))));
}

proptest! {
    /// Whatever a spec says, validation and preparation end with a verdict; a valid one prepares and runs.
    #[test]
    fn any_spec_gets_a_verdict(
        dims_x in prop::collection::vec(0u32..40, 0..6),
        dims_y in prop::collection::vec(0u32..40, 0..6),
        start in 0usize..4,
        end in 0usize..40,
        k in 0usize..40,
        scale: f32,
        zero_point: i32,
        regular: bool,
    ) {
        let mut graph = good_graph();
        graph.intermediates.clear();
        let n = end.saturating_sub(start);
        let encoding = Encoding::Tensor { scale, zero_point };
        graph.inputs[0].dims = if regular { vec![1, 1, 3, k as u32] } else { dims_x };
        graph.outputs[0].dims = if regular { vec![1, 1, 3, n as u32] } else { dims_y };
        graph.outputs[0].encoding = if regular { Encoding::Tensor { scale: 1.0, zero_point: 3 } } else { encoding };
        graph.nodes = vec![conv("x", TENSOR, start..end, k, WeightEncoding::PerChannelI8, "y")];
        let device = SimDevice::new(SimOptions::named("sm8750").expect("known"));
        let source = MapSource([(TENSOR, Weights::random(&mut Rng::new(1), 40, k, WeightEncoding::PerChannelI8))].into());
        let spec = support::context("any", vec![graph.clone()]);
        match (graph.validate(), device.prepare(&spec, &source)) {
            (Err(_), Err(NpuError::Spec(_))) => {}
            (Ok(()), Ok(context)) => {
                let len = graph.inputs[0].len_bytes().expect("small");
                prop_assert!(run(&device, &*context, "g", &[vec![7; len]]).is_ok());
            }
            (Ok(()), Err(NpuError::Unsupported { .. })) => {} // a multiplier out of range
            (verdict, prepared) => prop_assert!(false, "{verdict:?} but {:?}", prepared.map(|_| ())),
        }
    }

    /// A binary's header is data of others: any change with a right checksum is refused or loads, never panics.
    #[test]
    fn headers_of_binaries_are_not_trusted(at in 0usize..2000, value: u8, cut in 0usize..64) {
        let case = Case::random(&mut Rng::new(2), (2, 32, 4), Dtype::U8, WeightEncoding::PerChannelI8);
        let device = SimDevice::new(SimOptions::named("ideal").expect("known"));
        let context = case.prepare(&device).expect("prepares");
        let mut blob = context.serialize().expect("writes");
        blob.truncate(blob.len() - 8 - cut);
        let at = at % blob.len();
        blob[at] = value;
        let sum = xxhash_rust::xxh3::xxh3_64(&blob);
        blob.extend(sum.to_le_bytes());
        let manifest = coexec_npu::Manifest::new(coexec_npu::manifest::ManifestArgs {
            model_hash: "",
            chunk_lens: &[],
            placement: coexec_npu::Placement::Split,
            profile: device.profile(),
            spec: &case.spec(),
            blob: &blob,
            qnn: None,
        });
        if let Ok(loaded) = device.load(&blob, &manifest) {
            prop_assert_eq!(loaded.spec(), &case.spec());
        }
    }
}
