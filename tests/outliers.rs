//! Outlier models: the same function as the plain model in float, with activations like those of large models.

mod support;

use coexec::{
    CancelToken, EngineOptions,
    model::{
        LayerIdx, LinearKind, TokenId, WeightFormat,
        packed::PackedFile,
        source::{
            self, ModelSource,
            transform::{Rotated, Scaled, outliers::rare_neurons_per_layer},
        },
    },
    runtime::{
        RuntimeError,
        calibrate::calibrate_input,
        eval::perplexity,
        float_pass::{FloatPass, FloatTensor, WatchedLinear, Watcher},
        transform::{SMOOTH_ALPHA, WatchedText, smooth},
    },
};
use std::{path::Path, process::Command};
use support::{
    Golden, OUTLIER_SEED, Packed, all_logits, calibration_text, demo_dir, exact, outlier_version, shared_models, sim,
    valid_text,
};

fn logits(source: &dyn ModelSource, ids: &[TokenId]) -> Vec<f32> {
    all_logits(&Packed::of(source, WeightFormat::F32, None).engine(exact()), ids)
}

#[test]
fn outlier_models_keep_the_logits() {
    let mut dirs = vec![demo_dir()];
    if let Some(shared) = shared_models("outlier_models_keep_the_logits") {
        dirs.extend(["demo", "babyllama", "stories260K"].iter().map(|name| shared.join(name)).filter(|d| d.is_dir()));
    }
    for dir in dirs {
        let source = source::open(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let loud = outlier_version(&*source, &calibration_text());
        let (before, after) = (source.config().intermediate_size, loud.config().intermediate_size);
        assert!(after as usize >= before as usize + 3 * rare_neurons_per_layer(source.config()));
        assert!(before % 4 == 0 && after % 4 == 0 && (before % 32 == 0) == (after % 32 == 0), "{before}, {after}");
        let mut ids = Golden::read(&dir.join("golden.npz")).ids;
        ids.truncate(32);
        let (a, b) = (logits(&*source, &ids), logits(&loud, &ids));
        let (min, max) = a.iter().fold((f32::MAX, f32::MIN), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
        let d = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / (max - min);
        println!("{}: {d:.1e} of the logits' range", loud.describe());
        assert!(d <= 1e-4, "{}: {d:.1e}", loud.describe());
    }
}

/// Perplexity over the first `windows` windows of the validation text.
fn ppl(packed: &Packed, options: EngineOptions) -> f64 {
    let text: String = valid_text().chars().take(9_000).collect();
    let p = perplexity(&packed.engine(options), &text, 256, &CancelToken::new(), &mut |_, _| {}).expect("perplexity");
    assert!(p.scored_tokens >= 800, "{} tokens are too few to judge", p.scored_tokens);
    p.perplexity
}

#[test]
fn outliers_ruin_integer_prefill_and_treatments_repair_it() {
    let plain = source::open(&demo_dir()).expect("the demo model");
    let text: String = calibration_text().chars().take(6000).collect();
    let loud = outlier_version(&*plain, &text);
    let float = ppl(&Packed::of(&*plain, WeightFormat::F32, None), exact());
    // Perplexity over that of float, minus one.
    let loss = |what: &str, p: f64| {
        println!("{what}: perplexity {:+.2} % above {float:.3} in float", 100.0 * (p / float - 1.0));
        p / float - 1.0
    };
    let naive_loss = |what: &str, source: &dyn ModelSource| {
        loss(&format!("{what}, naive W8A8"), ppl(&Packed::cooked(source, "q8,u8,scales=max"), sim()))
    };
    assert!(naive_loss("plain model", &*plain) < 0.05, "the plain model bears naive quantisation");
    let ruined = naive_loss("outlier model", &loud);
    assert!(ruined > 0.2, "the outliers have no teeth");
    let least = loss("outlier model, scales of least output error", ppl(&Packed::cooked(&loud, "q8,u8"), sim()));
    assert!(least > 0.03 && least < ruined, "{least}: one scale for all channels is not enough, but better than naive");
    assert!(
        loss("outlier model, narrow scales, shadow", ppl(&Packed::cooked(&loud, "q8,u8+shadow"), sim())) < 0.03,
        "shadow repairs it"
    );

    let watched = WatchedText { max_tokens: 1024, threads: 2, ..WatchedText::new(&text) };
    let scales = smooth(&loud, &watched, SMOOTH_ALPHA).expect("scales");
    let smoothed = Scaled::new(&loud, scales).expect("scales that fit");
    assert!(naive_loss("outlier model, smoothed", &smoothed) < 0.1 * ruined);
    let rotated = Rotated::new(&loud, OUTLIER_SEED);
    assert!(naive_loss("outlier model, rotated", &rotated) < ruined, "all inputs but down's are spread");
    let mut scales = smooth(&rotated, &watched, SMOOTH_ALPHA).expect("scales");
    for layer in &mut scales.layers {
        layer[..LinearKind::Down.index()].fill(None);
    }
    let both = Scaled::new(&rotated, scales).expect("scales that fit");
    assert!(naive_loss("outlier model, rotated, down smoothed", &both) < 0.1 * ruined);
}

#[test]
fn import_makes_outlier_models() {
    let coexec = |path: &Path, options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coexec"));
        command.arg("import").arg(demo_dir()).arg(path).args(options).args(["--calibration-tokens", "256"]);
        command.output().expect("coexec runs")
    };
    let text = demo_dir().join("calibration.txt");
    let calibrate = ["--calibrate", text.to_str().expect("a path in UTF-8")];
    let packed = Packed::written(|path| {
        let output = coexec(path, &[&calibrate[..], &["--outliers", "3"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
    let file = PackedFile::open(&packed.path).expect("the file that was asked for");
    assert_eq!(file.config().intermediate_size, 768 + 32);
    let refused = coexec(Path::new("never.coexec"), &["--outliers", "3"]);
    assert_eq!(refused.status.code(), Some(2), "rare neurons need a text");
}

/// An input this many times beyond the range of calibration's static scale is an outlier.
const FAR: f32 = 2.0;

/// Outliers of each linear.
#[derive(Default)]
struct Statistics {
    /// Per linear kind: outlier channels per token and layer, summed over layers.
    per_token: [f64; 4],
    /// Channels that carry 80 % of the outliers, and channels in all.
    carriers: usize,
    channels: usize,
    layers: usize,
    /// Largest |input| over what makes it an outlier.
    largest: [f32; 4],
    /// Channels that are outliers on 0.1 … 20 % of the tokens and then at least four times beyond that.
    sometimes: usize,
}

impl Watcher for Statistics {
    fn before(&mut self, l: &mut WatchedLinear<'_>, weights: FloatTensor) -> Result<FloatTensor, RuntimeError> {
        let k = weights.k;
        let (range, tokens) = (calibrate_input(&l.ctx, l.input, k, 0).input_scale * 127.0 * FAR, l.input.len() / k);
        let (mut counts, mut maxima) = (vec![0usize; k], vec![0f32; k]);
        for row in l.input.chunks_exact(k) {
            for (c, v) in row.iter().enumerate() {
                counts[c] += usize::from(v.abs() > range);
                maxima[c] = maxima[c].max(v.abs() / range);
            }
        }
        let all: usize = counts.iter().sum();
        let kind = l.kind.index();
        self.per_token[kind] += all as f64 / tokens as f64;
        self.largest[kind] = maxima.iter().copied().fold(self.largest[kind], f32::max);
        let share = |c: usize| counts[c] as f64 / tokens as f64;
        self.sometimes += (0..k).filter(|c| (0.001..0.2).contains(&share(*c)) && maxima[*c] > 4.0).count();
        counts.sort_unstable_by_key(|c| std::cmp::Reverse(*c));
        let mut left = (all * 4).div_ceil(5);
        for clips in counts {
            self.carriers += usize::from(left > 0);
            left = left.saturating_sub(clips);
        }
        self.channels += k;
        self.layers += usize::from(l.kind == LinearKind::Qkv);
        Ok(weights)
    }
}

#[test]
fn outliers_are_few_channels_as_in_large_models() {
    let plain = source::open(&demo_dir()).expect("the demo model");
    let text = calibration_text();
    let loud = outlier_version(&*plain, &text);
    let measure = |source: &dyn ModelSource| {
        // Other text than the one that rare neurons were found on.
        let mut pass = FloatPass::new(source, &valid_text(), 1024, 2, &CancelToken::new()).expect("a pass");
        let mut statistics = Statistics::default();
        for l in 0..source.config().num_hidden_layers {
            pass.layer(LayerIdx(l), &mut statistics).expect("a layer");
        }
        let s = &statistics;
        let per_token = s.per_token.map(|sum| sum / s.layers as f64);
        println!(
            "{}: outlier channels per token and layer {per_token:.2?} (sum {:.1}), {:.2} % of channels carry 80 %, \
             largest {:.1?} thresholds, {} channels sometimes",
            source.describe(),
            per_token.iter().sum::<f64>(),
            100.0 * s.carriers as f64 / s.channels as f64,
            s.largest,
            s.sometimes
        );
        statistics
    };
    let (before, s) = (measure(&*plain), measure(&loud));
    assert!((s.carriers as f64) < 0.03 * s.channels as f64, "{} of {} channels", s.carriers, s.channels);
    let per_layer = |s: &Statistics| s.per_token.iter().sum::<f64>() / s.layers as f64;
    assert!(per_layer(&before) < 1.0, "{} outlier channels per token in a small model", per_layer(&before));
    assert!((5.0..=15.0).contains(&per_layer(&s)), "{} outlier channels per token and layer", per_layer(&s));
    assert!(s.sometimes >= s.layers, "{} channels are outliers on some tokens only", s.sometimes);
}
