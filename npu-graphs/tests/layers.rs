//! Whole decoder layers as static graphs against a plain f64 layer, in every activation dtype, on every device; how the
//! placements fit together; ranges.

mod support;

use coexec_model::{
    Calibration, DecoderConfig, LayerIdx, LayerTensor, LinearCalibration, LinearKind, Scales, Treatment,
};
use coexec_npu::{
    Activation, Dtype, Encoding, FusedOptions, GraphSpec, LayerOptions, NpuWeights, Ranges, WeightSource,
    decoder::{BuildError, RangeSource, Role, fused_graph_names, layer_graph_name, rope_tables},
    fused_context, layer_context,
    profile::chips,
};
use std::ops::ControlFlow;
use support::{
    Rng,
    decoder::{
        Cache, Reference, Runner, Source, configs, device, devices, graph_of, llama, prompt, relative_error, run,
    },
};

/// The relative error that is allowed on a device. HTP's f16 is coarser than one rounding per op.
fn bound(on: &str, activation: Activation) -> f64 {
    match activation {
        Activation::F16 if on == "sim" => 2e-3,
        Activation::F16 => 5e-3,
        Activation::U16 => 2e-2,
        Activation::U8 => 0.1,
    }
}

const ACTIVATIONS: [Activation; 3] = [Activation::F16, Activation::U16, Activation::U8];

fn layer_options<'a>(chunks: &'a [usize], kv: &'a [usize], activation: Activation) -> LayerOptions<'a> {
    LayerOptions {
        name: "layers",
        chunk_lens: chunks,
        kv_lens: kv,
        layers_per_graph: 1,
        weights: NpuWeights::PerChannelI8,
        activation,
        layers: None,
    }
}

/// Ranges on prompts, one thread.
fn measure(
    config: &DecoderConfig,
    source: &dyn WeightSource,
    prompts: &[&[f32]],
    threads: usize,
) -> Result<Ranges, BuildError> {
    let mut layers = 0;
    let mut ready = |done| {
        layers += 1;
        assert_eq!(done, layers, "told layer by layer");
        ControlFlow::Continue(())
    };
    let ranges = Ranges::measure(config, source, prompts, threads, &mut ready)?.expect("not stopped");
    assert_eq!(layers, config.num_hidden_layers);
    let stopped = Ranges::measure(config, source, prompts, threads, &mut |_| ControlFlow::Break(()))?;
    assert_eq!(stopped, None);
    Ok(ranges)
}

#[test]
fn layers_follow_the_float_reference() {
    let devices = devices("layers_follow_the_float_reference");
    let four_bits = [NpuWeights::PerChannelI4, NpuWeights::BlockExpansion].map(|weights| (llama(), weights));
    let eight_bits = configs().map(|config| (config, NpuWeights::PerChannelI8));
    for (config, weights) in eight_bits.into_iter().chain(four_bits) {
        let mut rng = Rng::new(1);
        let source = Source::random_for(&config, &mut rng, weights);
        let prompt = prompt(&config, &mut rng, 24);
        let mut reference = Reference::new(&config, &source);
        let wanted = reference.run(&prompt);
        let ranges = measure(&config, &source, &[&prompt], 1).expect("measures");
        for activation in ACTIVATIONS {
            if (activation, weights) == (Activation::F16, NpuWeights::BlockExpansion) {
                continue; // HTP has no such linear.
            }
            let options = LayerOptions { weights, ..layer_options(&[8], &[16], activation) };
            let spec = layer_context(&config, &ranges, &options).expect("builds");
            for (on, device) in &devices {
                let context = device.prepare(&spec, &source).unwrap_or_else(|e| panic!("{on}: {e:?}"));
                let runner = Runner {
                    config: &config,
                    device: &**device,
                    context: &*context,
                    layers_per_graph: 1,
                    chunk: 8,
                    bucket: 16,
                };
                let (y, cache) = runner.run(&prompt);
                let error = relative_error(&y, &wanted[1]);
                assert!(
                    error <= bound(on, activation),
                    "{on} {} {weights:?} {activation:?}: {error}",
                    config.architecture
                );
                // Keys and values of the last layer, [kv_heads, tokens, head_dim].
                let width = config.head_dim as usize;
                for (what, part) in [("past_k.L1", 0), ("past_v.L1", 1)] {
                    let of = |token: &(Vec<f64>, Vec<f64>)| if part == 0 { token.0.clone() } else { token.1.clone() };
                    let tokens: Vec<Vec<f64>> = reference.past[1].iter().map(of).collect();
                    let heads = 0..config.num_key_value_heads as usize;
                    let wanted: Vec<f64> = heads
                        .flat_map(|h| tokens.iter().flat_map(move |t| t[h * width..(h + 1) * width].to_vec()))
                        .collect();
                    let error = relative_error(&cache[what], &wanted);
                    assert!(
                        error <= bound(on, activation),
                        "{on} {} {weights:?} {activation:?} {what}: {error}",
                        config.architecture
                    );
                }
            }
        }
    }
}

#[test]
fn a_mask_really_masks() {
    let devices = devices("a_mask_really_masks");
    // Without the mask, causality is gone: the result must be far from the reference.
    let config = llama();
    let mut rng = Rng::new(2);
    let source = Source::random(&config, &mut rng);
    let prompt = prompt(&config, &mut rng, 8);
    let ranges = measure(&config, &source, &[&prompt], 1).expect("measures");
    for activation in ACTIVATIONS {
        let spec = layer_context(&config, &ranges, &layer_options(&[8], &[16], activation)).expect("builds");
        for (on, device) in &devices {
            let context = device.prepare(&spec, &source).unwrap_or_else(|e| panic!("{on}: {e:?}"));
            let runner = Runner {
                config: &config,
                device: &**device,
                context: &*context,
                layers_per_graph: 1,
                chunk: 8,
                bucket: 16,
            };
            let name = layer_graph_name(&(0..1), 8, 16);
            let y = |masked: bool, rest: f32| {
                let inputs = |t: &coexec_npu::TensorSpec| match t.name.as_str() {
                    "mask" if !masked => vec![0.0; t.elems().expect("small")],
                    past if past.starts_with("past") => vec![rest; t.elems().expect("small")],
                    _ => runner.input(t, &prompt, &Cache::new(), 0),
                };
                run(&**device, &*context, &name, &inputs)["y"].clone()
            };
            assert_eq!(y(true, 1.0), y(true, -1.0), "{on} {activation:?}: unused places of the bucket change nothing");
            let open: Vec<f64> = y(false, 1.0).iter().map(|v| f64::from(*v)).collect();
            assert!(relative_error(&y(true, 1.0), &open) > 0.1, "{on} {activation:?}: the mask does something");
        }
    }
}

#[test]
fn several_layers_in_one_graph_are_the_same_bits() {
    for config in configs() {
        let config = DecoderConfig { num_hidden_layers: 3, ..config };
        let mut rng = Rng::new(3);
        let source = Source::random(&config, &mut rng);
        let prompt = prompt(&config, &mut rng, 12);
        for activation in ACTIVATIONS {
            let device = device();
            let mut seen = Vec::new();
            for layers_per_graph in [1, 2, 3] {
                let options = LayerOptions { layers_per_graph, ..layer_options(&[4], &[8], activation) };
                let ranges = Ranges::synthetic(&config);
                let spec = layer_context(&config, &ranges, &options).expect("builds");
                assert_eq!(spec.graphs.len(), 3usize.div_ceil(layers_per_graph));
                let context = device.prepare(&spec, &source).expect("prepares");
                let runner = Runner {
                    config: &config,
                    device: &*device,
                    context: &*context,
                    layers_per_graph: layers_per_graph as u32,
                    chunk: 4,
                    bucket: 8,
                };
                seen.push(runner.run(&prompt));
                assert_eq!(runner.run(&prompt), seen[0], "{activation:?}: again the same");
            }
            assert!(seen[1] == seen[0] && seen[2] == seen[0], "{} {activation:?}", config.architecture);
        }
    }
}

#[test]
fn no_past_is_a_past_that_is_masked() {
    let config = llama();
    let mut rng = Rng::new(4);
    let source = Source::random(&config, &mut rng);
    let prompt = prompt(&config, &mut rng, 8);
    for activation in ACTIVATIONS {
        let spec = layer_context(&config, &Ranges::synthetic(&config), &layer_options(&[8], &[0, 8], activation));
        let spec = spec.expect("builds");
        let device = device();
        let context = device.prepare(&spec, &source).expect("prepares");
        let ys = [0, 8].map(|bucket| {
            let runner =
                Runner { config: &config, device: &*device, context: &*context, layers_per_graph: 1, chunk: 8, bucket };
            runner.run(&prompt)
        });
        let wanted: Vec<f64> = ys[0].0.iter().map(|v| f64::from(*v)).collect();
        // In f16 a masked weight is e^-100; in codes it is less than half a step.
        let error = relative_error(&ys[1].0, &wanted);
        assert!(error <= 1e-3, "{activation:?}: {error}");
        let past = |p| graph_of(&spec, &layer_graph_name(&(0..1), 8, p)).inputs.len();
        assert_eq!((past(0), past(8)), (6, 8), "no past, no input for it");
    }
}

#[test]
fn fused_graphs_with_attention_between_are_the_layer() {
    let devices = devices("fused_graphs_with_attention_between_are_the_layer");
    for config in configs() {
        let mut rng = Rng::new(5);
        let source = Source::random(&config, &mut rng);
        let tokens = 6;
        let prompt = prompt(&config, &mut rng, tokens);
        let wanted = Reference::new(&config, &source).run(&prompt);
        let ranges = measure(&config, &source, &[&prompt], 1).expect("measures");
        for activation in ACTIVATIONS {
            let options = FusedOptions {
                name: "fused",
                chunk_lens: &[tokens],
                weights: NpuWeights::PerChannelI8,
                activation,
                layers: None,
            };
            let spec = fused_context(&config, &ranges, &options).expect("builds");
            for (on, device) in &devices {
                let context = device.prepare(&spec, &source).unwrap_or_else(|e| panic!("{on}: {e:?}"));
                let (cos, sin) = rope_tables(&config, 0..tokens).expect("fits");
                let mut x = prompt.clone();
                for layer in 0..config.num_hidden_layers {
                    let [norm_qkv, o_ffn] = fused_graph_names(LayerIdx(layer), tokens);
                    let inputs = |t: &coexec_npu::TensorSpec| match t.name.as_str() {
                        "x" => x.clone(),
                        "cos" => cos.clone(),
                        _ => sin.clone(),
                    };
                    let qkv = run(&**device, &*context, &norm_qkv, &inputs);
                    // Attention on the CPU: the reference's, over these keys and values.
                    let width = config.head_dim as usize;
                    let token = |all: &[f32], t: usize| -> Vec<f64> {
                        let heads = all.len() / (tokens * width);
                        let head = |h: usize| all[(h * tokens + t) * width..(h * tokens + t + 1) * width].iter();
                        (0..heads).flat_map(head).map(|v| f64::from(*v)).collect()
                    };
                    let mut attention = Reference::new(&config, &source);
                    attention.past[layer as usize] =
                        (0..tokens).map(|t| (token(&qkv["k"], t), token(&qkv["v"], t))).collect();
                    let rows = (0..tokens).flat_map(|t| attention.attention(layer, &token(&qkv["q"], t), t + 1));
                    let attn: Vec<f32> = rows.map(|v| v as f32).collect();
                    let inputs = |t: &coexec_npu::TensorSpec| if t.name == "attn" { attn.clone() } else { x.clone() };
                    let y = run(&**device, &*context, &o_ffn, &inputs).remove("y").expect("there");
                    x = y;
                }
                let error = relative_error(&x, &wanted[1]);
                assert!(error <= bound(on, activation), "{on} {} {activation:?}: {error}", config.architecture);
            }
        }
    }
}

/// A model of usual proportions; only graphs are built for it.
fn large(config: &DecoderConfig) -> DecoderConfig {
    let heads = 16;
    let kv = (config.num_key_value_heads * heads / config.num_attention_heads).max(1);
    DecoderConfig {
        hidden_size: 2048,
        intermediate_size: 5504,
        num_hidden_layers: 3,
        num_attention_heads: heads,
        num_key_value_heads: kv,
        head_dim: 128,
        ..config.clone()
    }
}

#[test]
fn built_graphs_pass_every_profile() {
    for config in configs().iter().map(large) {
        let ranges = Ranges::synthetic(&config);
        for activation in ACTIVATIONS {
            for weights in [NpuWeights::PerChannelI8, NpuWeights::PerChannelI4, NpuWeights::BlockExpansion] {
                let chunk_lens = &[32, 64, 128, 256];
                let options = FusedOptions { name: "fused", chunk_lens, weights, activation, layers: None };
                let fused = fused_context(&config, &ranges, &options).expect("builds");
                let options = LayerOptions {
                    weights,
                    layers_per_graph: 2,
                    ..layer_options(chunk_lens, &[0, 256, 1024], activation)
                };
                let layers = layer_context(&config, &ranges, &options).expect("builds");
                assert_eq!((fused.graphs.len(), layers.graphs.len()), (3 * 2 * 4, 2 * 4 * 3));
                // Every graph of a layer names the same weights.
                assert_eq!((fused.weights().len(), layers.weights().len()), (7 * 3, 7 * 3));
                for chip in chips::NAMES {
                    let profile = chips::named(chip).expect("known");
                    let checked = [&fused, &layers].map(|spec| profile.check(spec));
                    if (activation, weights) == (Activation::F16, NpuWeights::BlockExpansion) {
                        let text = checked[0].as_ref().expect_err("HTP has none").to_string();
                        assert!(text.contains("block_expansion32") && text.contains("norm_qkv.L0.c32"), "{text}");
                    } else {
                        assert!(checked.iter().all(Result::is_ok), "{chip} {activation:?} {weights:?}: {checked:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn boundary_tensors_are_as_documented() {
    let config = large(&llama());
    let ranges = Ranges::synthetic(&config);
    for activation in ACTIVATIONS {
        let options = LayerOptions { layers_per_graph: 2, ..layer_options(&[64], &[128], activation) };
        let spec = layer_context(&config, &ranges, &options).expect("builds");
        let (two, one) = (graph_of(&spec, "layers.L0-1.c64.p128"), graph_of(&spec, "layer.L2.c64.p128"));
        let names = |g: &GraphSpec| g.inputs.iter().map(|t| t.name.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(names(two), "x cos sin cos_q sin_q mask past_k.L0 past_v.L0 past_k.L1 past_v.L1");
        let outputs: Vec<_> = two.outputs.iter().map(|t| (t.name.as_str(), t.dims.clone())).collect();
        let kv = vec![1, 8, 64, 128];
        let wanted = [("y", vec![1, 1, 64, 2048]), ("k_new.L0", kv.clone()), ("v_new.L0", kv.clone())];
        assert_eq!(outputs[..3], wanted);
        assert_eq!(outputs[3..], [("k_new.L1", kv.clone()), ("v_new.L1", kv)]);
        let tensor = |g: &GraphSpec, name: &str| g.tensor(name).unwrap_or_else(|| panic!("{name}")).clone();
        assert_eq!(tensor(two, "mask").dims, [1, 1, 64, 192]);
        assert_eq!(tensor(two, "past_k.L1").dims, [1, 8, 128, 128]);
        assert_eq!(tensor(two, "cos_q").dims, [1, 64, 64]);
        assert_eq!(tensor(two, "y").encoding, tensor(one, "x").encoding, "the next graph reads the same codes");
        for layer in 0..2 {
            for what in ["k", "v"] {
                let (old, new) = (format!("past_{what}.L{layer}"), format!("{what}_new.L{layer}"));
                let (old, new) = (tensor(two, &old), tensor(two, &new));
                assert_eq!((old.dtype, old.encoding), (new.dtype, new.encoding), "new ones become the past");
                match activation {
                    Activation::U16 => {
                        assert_eq!(new.dtype, Dtype::I8);
                        assert!(matches!(new.encoding, Encoding::Tensor { zero_point: 0, .. }));
                    }
                    other => assert_eq!(new.dtype, other.dtype()),
                }
            }
        }
        // Tables of queries hold the codes of those of keys, up to rounding.
        let (keys, queries) = (tensor(two, "cos"), tensor(two, "cos_q"));
        if let (Encoding::Tensor { scale: k, zero_point: kz }, Encoding::Tensor { scale: q, zero_point: qz }) =
            (keys.encoding, queries.encoding)
        {
            assert!((k / q - 128f32.sqrt()).abs() < 1e-4 && kz == qz, "{activation:?}");
        }
        let fused = FusedOptions {
            name: "fused",
            chunk_lens: &[64],
            weights: NpuWeights::PerChannelI8,
            activation,
            layers: Some(1..3),
        };
        let fused = fused_context(&config, &ranges, &fused).expect("builds");
        let (qkv, o_ffn) = (graph_of(&fused, "norm_qkv.L1.c64"), graph_of(&fused, "o_ffn.L1.c64"));
        assert_eq!((names(qkv).as_str(), names(o_ffn).as_str()), ("x cos sin", "attn x"));
        let outputs: Vec<_> = qkv.outputs.iter().map(|t| (t.name.as_str(), t.dims.clone())).collect();
        let kv = vec![1, 8, 64, 128];
        assert_eq!(outputs, [("q", vec![1, 16, 64, 128]), ("k", kv.clone()), ("v", kv)]);
        assert_eq!(tensor(o_ffn, "y").encoding, tensor(graph_of(&fused, "norm_qkv.L2.c64"), "x").encoding);
    }
}

#[test]
fn builders_refuse_what_has_no_graph() {
    let config = llama();
    let ranges = Ranges::synthetic(&config);
    let build = |config: &DecoderConfig, ranges: &Ranges, chunks: &[usize], kv: &[usize]| {
        layer_context(config, ranges, &layer_options(chunks, kv, Activation::U16))
    };
    build(&config, &ranges, &[8], &[16]).expect("builds");
    for bad in [&[][..], &[0], &[8, 8], &[1 << 21]] {
        assert!(matches!(build(&config, &ranges, bad, &[16]), Err(BuildError::ChunkLen { .. })), "{bad:?}");
    }
    for bad in [&[16, 16][..], &[1 << 21], &[usize::MAX]] {
        assert!(matches!(build(&config, &ranges, &[8], bad), Err(BuildError::KvLen { .. })), "{bad:?}");
    }
    assert!(matches!(build(&config, &ranges, &[8], &[]), Err(BuildError::ChunkLen { .. })));
    for (heads, kv_heads, width) in [(4, 3, 16), (4, 0, 16), (0, 2, 16), (4, 2, 15), (4, 2, 0)] {
        let bad = DecoderConfig {
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: width,
            ..config.clone()
        };
        assert!(matches!(build(&bad, &ranges, &[8], &[16]), Err(BuildError::Config { .. })), "{heads} {kv_heads}");
    }
    let mut short = ranges.clone();
    short.layers.pop();
    let error = build(&config, &short, &[8], &[16]).expect_err("no ranges of layer 1");
    assert!(error.to_string().contains("layer 1") && error.to_string().contains("measure"), "{error}");
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        let mut ranges = ranges.clone();
        ranges.layers[1].insert(Role::Gate, bad);
        let error = build(&config, &ranges, &[8], &[16]).expect_err("no range");
        assert!(matches!(error, BuildError::Range { layer: 1, role: Role::Gate, .. }), "{error}");
        // Floats need none.
        layer_context(&config, &ranges, &layer_options(&[8], &[16], Activation::F16)).expect("builds");
    }
    let odd = DecoderConfig { intermediate_size: 100, ..config.clone() };
    let options = LayerOptions { weights: NpuWeights::BlockExpansion, ..layer_options(&[8], &[0], Activation::U8) };
    let built = layer_context(&odd, &ranges, &options);
    assert!(matches!(built, Err(BuildError::Groups { kind: LinearKind::Down, k: 100, .. })));
    let huge = DecoderConfig { hidden_size: u32::MAX, intermediate_size: u32::MAX, ..config };
    assert!(matches!(build(&huge, &ranges, &[8], &[16]), Err(BuildError::Spec(_))));
}

fn calibration(config: &DecoderConfig) -> Calibration {
    let linear = |kind: LinearKind| LinearCalibration {
        input_scale: 0.02,
        output_scales: (0..config.linear_parts(kind).len()).map(|p| 0.03 + p as f32 * 0.01).collect(),
        hot_channels: vec![],
        importance: 1.0,
        clipped_share: 0.0,
        plain: None,
        wide: None,
        split: None,
        treatment: Treatment::default(),
    };
    Calibration { tokens: 10, layers: vec![LinearKind::ALL.map(linear); config.num_hidden_layers as usize] }
}

#[test]
fn ranges_come_from_three_sources() {
    for config in configs() {
        let mut rng = Rng::new(6);
        let source = Source::random(&config, &mut rng);
        let prompts = [prompt(&config, &mut rng, 16), prompt(&config, &mut rng, 5)];
        let refs: Vec<&[f32]> = prompts.iter().map(Vec::as_slice).collect();
        let measured = measure(&config, &source, &refs, 1).expect("measures");
        assert_eq!(measured.source, RangeSource::Measured);
        // The residual stream's ranges are those of the float reference.
        let largest = |streams: &[Vec<f64>]| streams.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
        let runs: Vec<_> = prompts.iter().map(|p| Reference::new(&config, &source).run(p)).collect();
        let after = |layer: usize| largest(&[runs[0][layer].clone(), runs[1][layer].clone()]);
        let near = |range: f32, wanted: f64| (f64::from(range) / wanted - 1.0).abs() < 5e-3;
        assert!(near(measured.layers[1][&Role::Residual], after(0)), "{measured:?}");
        assert!(near(measured.output, after(1)));
        let embedded = prompts.iter().flatten().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(near(measured.layers[0][&Role::Residual], f64::from(embedded)));
        // Queries are told unscaled: rotation keeps their size, up to √2 per pair.
        let before = if config.qk_norm { Role::QNorm } else { Role::Q };
        let ratio = measured.layers[0][&Role::QRotated] / measured.layers[0][&before];
        assert!((0.6..1.42).contains(&ratio), "{ratio}");
        let synthetic = Ranges::synthetic(&config);
        let calibrated =
            Ranges::from_calibration(&config, &calibration(&config), &source, Activation::U8).expect("fits");
        for ranges in [&measured, &synthetic, &calibrated] {
            assert_eq!(ranges.layers.len(), 2);
            for layer in &ranges.layers {
                assert_eq!(layer.len(), if config.qk_norm { 18 } else { 16 });
                assert!(layer.values().all(|r| *r > 0.0));
            }
            let json = serde_json::to_string(ranges).expect("writes");
            assert_eq!(&serde_json::from_str::<Ranges>(&json).expect("reads"), ranges);
            layer_context(&config, ranges, &layer_options(&[8], &[16], Activation::U8)).expect("builds");
        }
        // Random weights stay inside of the constants made for them.
        for (layer, (measured, synthetic)) in measured.layers.iter().zip(&synthetic.layers).enumerate() {
            for (role, range) in measured.iter().filter(|(role, _)| **role != Role::Residual) {
                assert!(*range <= synthetic[role] * 1.1, "layer {layer} {role}: {range} > {}", synthetic[role]);
            }
        }
        let bias =
            source.vector_of(0, LayerTensor::QkvBias)[..config.q_size()].iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let wanted = 0.03 * 127.0 + if config.qkv_bias { bias } else { 0.0 };
        assert!((calibrated.layers[0][&Role::Q] - wanted).abs() < 1e-4);
        assert!((calibrated.layers[1][&Role::Act] - 0.02 * 127.0).abs() < 1e-4);
    }
    let config = llama();
    let source = Source::random(&config, &mut Rng::new(7));
    assert!(measure(&config, &source, &[], 1).is_err());
    assert!(measure(&config, &source, &[&[1.0; 63]], 1).is_err());
    assert!(matches!(measure(&config, &Source::default(), &[&[1.0; 64]], 1), Err(BuildError::Measure(_))));
    // Nothing is added back on the CPU, so not the scales that clip for a shadow: those without one, for the dtype.
    let mut clipping = calibration(&config);
    let scales = |scale| Some(Scales { input: scale, outputs: vec![scale] });
    (clipping.layers[0][1].plain, clipping.layers[0][1].wide) = (scales(0.5), scales(2.0));
    for (activation, scale) in [(Activation::U8, 0.5), (Activation::U16, 2.0)] {
        let ranges = Ranges::from_calibration(&config, &clipping, &source, activation).expect("fits");
        assert_eq!((ranges.layers[0][&Role::Attn], ranges.layers[0][&Role::O]), (scale * 127.0, scale * 127.0));
    }
    let mut short = calibration(&config);
    short.layers.pop();
    assert!(matches!(
        Ranges::from_calibration(&config, &short, &source, Activation::U16),
        Err(BuildError::Calibration { .. })
    ));
}
