//! Exact transforms of models keep the float logits.

mod support;

use coexec::model::{
    DecoderConfig, LinearKind, TensorName, TokenId, WeightFormat,
    random::{RandomSource, named_config},
    source::{
        self, ModelSource,
        transform::{
            ChannelScales, Rotated, Scaled,
            outliers::{RareNeuron, with_outliers},
        },
    },
};
use proptest::prelude::*;
use support::{Golden, Packed, all_logits, demo_dir, exact, shared_models};

/// Largest difference of logits, as a share of their range.
const TOLERANCE: f32 = 1e-4;

fn logits(source: &dyn ModelSource, ids: &[TokenId]) -> Vec<f32> {
    all_logits(&Packed::of(source, WeightFormat::F32, None).engine(exact()), ids)
}

/// Largest difference of two models' logits over the range of the first's.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let (min, max) = a.iter().fold((f32::MAX, f32::MIN), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    assert!(max > min, "logits that are all alike show nothing");
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / (max - min)
}

/// Scales for every channel of every linear, 1/16 … 16 with the same spread of logarithms.
fn any_scales(config: &DecoderConfig, seed: u64) -> ChannelScales {
    let mut state = seed;
    let mut scale = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 24) as f32 * 8.0 - 4.0).exp2()
    };
    let mut scales = ChannelScales::none(config);
    for layer in &mut scales.layers {
        for kind in LinearKind::ALL {
            layer[kind.index()] = Some((0..ChannelScales::len_of(config, kind)).map(|_| scale()).collect());
        }
    }
    scales
}

fn scaled(source: &dyn ModelSource, seed: u64) -> impl ModelSource {
    Scaled::new(source, any_scales(source.config(), seed)).expect("scales that fit")
}

/// Every model at hand with some of its golden's tokens.
fn trained_models(test: &str) -> Vec<(Box<dyn ModelSource>, Vec<TokenId>)> {
    let mut dirs = vec![demo_dir()];
    if let Some(shared) = shared_models(test) {
        dirs.extend(["demo", "babyllama", "stories260K"].iter().map(|name| shared.join(name)).filter(|d| d.is_dir()));
    }
    let model = |dir: std::path::PathBuf| {
        let mut ids = Golden::read(&dir.join("golden.npz")).ids;
        ids.truncate(24);
        (source::open(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())), ids)
    };
    dirs.into_iter().map(model).collect()
}

#[test]
fn scales_keep_the_logits_of_trained_models() {
    for (source, ids) in trained_models("scales_keep_the_logits_of_trained_models") {
        let (plain, changed) = (logits(&*source, &ids), logits(&scaled(&*source, 5), &ids));
        let d = difference(&plain, &changed);
        println!("{}: scaled, {d:.1e}", source.describe());
        assert!(d <= TOLERANCE, "{}: {d:.1e}", source.describe());
        assert_ne!(plain, changed, "the scales do something");
    }
}

#[test]
fn rotations_keep_the_logits_of_trained_models() {
    for (source, ids) in trained_models("rotations_keep_the_logits_of_trained_models") {
        let rotated = Rotated::new(&*source, 11);
        assert!(!rotated.config().tie_word_embeddings && rotated.shape(TensorName::Head).is_some());
        let mut gain = Vec::new();
        rotated.read_rows(TensorName::Norm, 0..1, &mut gain).expect("the last norm");
        assert!(gain.iter().all(|g| *g == 1.0), "gains go into the weights");
        let d = difference(&logits(&*source, &ids), &logits(&rotated, &ids));
        println!("{}: rotated, {d:.1e}", source.describe());
        assert!(d <= TOLERANCE, "{}: {d:.1e}", source.describe());
        // Scales fold into the gains that the rotation left at 1.
        let both = Scaled::new(&rotated, any_scales(rotated.config(), 3)).expect("scales that fit");
        let d = difference(&logits(&*source, &ids), &logits(&both, &ids));
        assert!(d <= TOLERANCE, "{}, then scaled: {d:.1e}", source.describe());
    }
}

#[test]
fn rows_do_not_depend_on_the_order_of_reading() {
    let source = source::open(&demo_dir()).expect("the demo model");
    let both = scaled(&*source, 2);
    let both = Rotated::new(&both, 2);
    for name in
        ["embed", "head", "layers.1.qkv", "layers.1.qkv_bias", "layers.1.o", "layers.2.gate_up", "layers.2.down"]
    {
        let name = name.parse().expect("a tensor's name");
        let (n, k) = both.shape(name).expect("a tensor of the model");
        let (mut all, mut some) = (Vec::new(), Vec::new());
        both.read_rows(name, 0..n, &mut all).expect("all rows");
        for first in [n - 1, 0, n / 2] {
            let last = n.min(first + 3);
            both.read_rows(name, first..last, &mut some).expect("some rows");
            assert_eq!(some, &all[first * k..last * k], "{name}, row {first}");
        }
        assert!(both.read_rows(name, 0..n + 1, &mut some).is_err(), "{name}");
    }
}

/// Small configurations: grouped heads or not, biases, normalised heads and tied embeddings or not.
fn any_config() -> impl Strategy<Value = DecoderConfig> {
    let sizes = (1u32..=3, 1u32..=2, prop::sample::select(vec![4u32, 8, 12]), 1u32..=3);
    let widths = (prop::sample::select(vec![8u32, 12, 24, 40, 64]), prop::sample::select(vec![16u32, 30, 48]));
    (sizes, widths, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |((kv_heads, group, head_dim, layers), (hidden, ffn), bias, qk_norm, tied)| {
            let mut c = named_config("tiny").expect("a named shape");
            (c.hidden_size, c.intermediate_size, c.num_hidden_layers) = (hidden, ffn, layers);
            (c.num_key_value_heads, c.num_attention_heads, c.head_dim) = (kv_heads, kv_heads * group, head_dim);
            (c.vocab_size, c.qkv_bias, c.qk_norm, c.tie_word_embeddings) = (50, bias, qk_norm, tied);
            c
        },
    )
}

fn any_tokens() -> Vec<TokenId> {
    (0..12).map(|i| TokenId(i * 17 % 50)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn scales_keep_the_logits_of_any_shape(config in any_config(), seed in any::<u64>()) {
        let random = RandomSource::new(config, seed);
        let d = difference(&logits(&random, &any_tokens()), &logits(&scaled(&random, seed), &any_tokens()));
        prop_assert!(d <= TOLERANCE, "{d:.1e}");
    }

    #[test]
    fn outliers_keep_the_logits_of_any_shape(config in any_config(), seed in any::<u64>()) {
        let rare = |l| (0..3).map(|i| RareNeuron { neuron: (l + 5 * i) % 16, gain: 0.5 }).collect();
        let rare: Vec<Vec<RareNeuron>> = (0..config.num_hidden_layers as usize).map(rare).collect();
        let random = RandomSource::new(config, seed);
        let loud = with_outliers(&random, seed, &rare).expect("neurons of the model");
        prop_assert!(loud.config().intermediate_size > random.config().intermediate_size);
        let d = difference(&logits(&random, &any_tokens()), &logits(&loud, &any_tokens()));
        prop_assert!(d <= TOLERANCE, "{d:.1e}");
        prop_assert!(with_outliers(&random, seed, &rare[1..]).is_err(), "a layer is missing");
    }

    #[test]
    fn rotations_keep_the_logits_of_any_shape(config in any_config(), seed in any::<u64>()) {
        let random = RandomSource::new(config, seed);
        let gains = scaled(&random, seed);
        let d = difference(&logits(&random, &any_tokens()), &logits(&Rotated::new(&gains, seed), &any_tokens()));
        prop_assert!(d <= TOLERANCE, "{d:.1e}");
    }
}

#[test]
fn scales_that_do_not_fit_are_refused() {
    let source = RandomSource::new(named_config("tiny").expect("a named shape"), 1);
    let c = source.config().clone();
    let with = |scales: Option<Vec<f32>>| {
        let mut all = ChannelScales::none(&c);
        all.layers[1][LinearKind::O.index()] = scales;
        Scaled::new(&source, all).map(|_| ()).map_err(|e| e.to_string())
    };
    let ones = vec![1.0; c.kv_size()];
    assert_eq!(with(Some(ones.clone())), Ok(()));
    let message = with(Some(vec![1.0; c.q_size()])).expect_err("one per query head channel is too many");
    assert!(message.contains("layer 1, o: 64 scales for 32 channels"), "{message}");
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-45] {
        let mut scales = ones.clone();
        scales[3] = bad;
        assert!(with(Some(scales)).expect_err("no scale").contains("channel 3"), "{bad}");
    }
    assert!(Scaled::new(&source, ChannelScales::default()).is_err(), "no layers");
}
