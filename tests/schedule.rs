//! How linears run on the NPU: u8, u8 with shadow, u16, decided by measurement and kept in the file.

mod support;

use coexec::{
    CancelToken, Engine, EngineOptions, NpuChoice, ScheduleChoice,
    model::{
        Calibration, DecoderConfig, LayerIdx, LinearKind, TensorName, Treatment, WeightFormat,
        export::PackedSource,
        packed::{PackedFile, PackedOptions, PackedWriter},
        source::{self, ModelSource},
    },
    runtime::{
        RuntimeError, calibrate,
        eval::{Quality, Reference, Windows, quality},
        float_pass::{FloatPass, FloatTensor, WatchedRows, Watcher},
        import::ImportOptions,
        prefill::PrefillOptions,
        recipe,
        schedule::{self, Bench, Candidate, Phone, ScheduleOptions, choose},
        study,
        text::Special,
    },
};
use coexec_cpu::{Ctx, LinearScratch, Pool};
use support::{Packed, all_logits, calibration_text, demo_dir, exact, outlier_version, sim, valid_text};

/// The validation text's windows and what the float model says to them.
struct Judge {
    windows: Windows,
    reference: Reference,
}

impl Judge {
    fn new(source: &dyn ModelSource, windows: usize) -> Self {
        let float = Packed::of(source, WeightFormat::F32, None).engine(exact());
        let windows = Windows::of_text(&float, &valid_text(), 256, windows).expect("windows");
        let reference = windows.reference(&float, &CancelToken::new()).expect("float logits");
        Self { windows, reference }
    }

    fn quality(&self, packed: &Packed, schedule: ScheduleChoice) -> Quality {
        let engine = packed.engine(EngineOptions { schedule, ..sim() });
        quality(&engine, &self.windows, Some(&self.reference), &CancelToken::new(), &mut |_, _| {}).expect("quality")
    }
}

fn kl(quality: &Quality) -> f64 {
    quality.reference.as_ref().expect("a reference").kl
}

/// Perplexity over the reference's, minus one.
fn loss(quality: &Quality) -> f64 {
    quality.perplexity / quality.reference.as_ref().expect("a reference").perplexity - 1.0
}

#[test]
fn codes_of_more_bits_and_shadow_are_nearer_to_float() {
    let source = source::open(&demo_dir()).expect("the demo model");
    let judge = Judge::new(&*source, 8);
    let packed = Packed::cooked(&*source, "q8");
    let [plain, shadow, wide, split] = [
        ScheduleChoice::Plain,
        ScheduleChoice::Shadow { pruning_rate: 0.0 },
        ScheduleChoice::Wide,
        ScheduleChoice::Split,
    ]
    .map(|choice| kl(&judge.quality(&packed, choice)));
    println!("divergence from float: u8 {plain:.5}, u8+shadow {shadow:.5}, u16 {wide:.5}, u8+float {split:.5}");
    assert!(wide < shadow && shadow < 0.5 * plain && split < plain, "{plain} {shadow} {wide} {split}");
    assert!(wide < 0.001, "u16 is float but for the weights' rounding: {wide}");
    // All pruned is plain, bit for bit.
    let none = judge.quality(&packed, ScheduleChoice::Shadow { pruning_rate: 1.0 });
    assert_eq!(kl(&none), plain);
}

#[test]
fn shadow_is_unclipped_w8a8_with_the_same_output_encodings() {
    let plain = source::open(&demo_dir()).expect("the demo model");
    let loud = outlier_version(&*plain, &calibration_text());
    let judge = Judge::new(&loud, 25);
    let packed = Packed::cooked(&loud, "q8,u8+shadow,hot=0");
    let shadow = judge.quality(&packed, ScheduleChoice::File);
    let unclipped = unclipped_perplexity(&packed, judge.windows.len());
    let difference = shadow.perplexity / unclipped - 1.0;
    println!("shadow {:.3}, unclipped {unclipped:.3} ({:+.3} %)", shadow.perplexity, 100.0 * difference);
    // On half of the windows either moves by some tenths of a per cent when scales change by a thousandth.
    assert!(difference.abs() < 0.003, "{difference}");
}

/// Perplexity of W8A8 whose inputs have the steps of the calibrated codes but no ends, and whose outputs have the steps of theirs,
/// computed in float on the file's own weights.
fn unclipped_perplexity(packed: &Packed, windows: usize) -> f64 {
    struct Unclipped(Calibration, DecoderConfig);
    impl Watcher for Unclipped {
        fn rows(&mut self, l: &mut WatchedRows<'_>) -> Result<(), RuntimeError> {
            let round = |v: f32, step: f32| (v / step).round_ties_even() * step;
            let scales = self.0.linear(l.layer, l.kind).expect("calibrated");
            let input: Vec<f32> = l.input.iter().map(|v| round(*v, scales.input_scale)).collect();
            let mut output = Vec::new();
            l.weights.multiply(&l.ctx, &input, &mut output, l.scratch)?;
            l.output.copy_from_slice(&output);
            for row in l.output.chunks_exact_mut(l.weights.n) {
                let mut first = 0;
                for (width, step) in self.1.linear_parts(l.kind).into_iter().zip(&scales.output_scales) {
                    row[first..first + width].iter_mut().for_each(|v| *v = round(*v, *step));
                    first += width;
                }
            }
            Ok(())
        }
    }
    let source = PackedSource::new(PackedFile::open(&packed.path).expect("our own file"));
    let file = PackedFile::open(&packed.path).expect("our own file");
    let (config, cancel) = (file.config().clone(), CancelToken::new());
    let mut watcher = Unclipped(file.calibration().expect("calibrated").clone(), config.clone());
    let text = valid_text();
    let mut pass = FloatPass::new(&source, &text, windows * 256, 2, &cancel).expect("a pass");
    for l in 0..config.num_hidden_layers {
        pass.layer(LayerIdx(l), &mut watcher).expect("a layer");
    }
    let ids = packed.engine(exact()).model().tokenizer().expect("a tokenizer").encode(&text, Special::Plain);
    let head = FloatTensor::read(&source, TensorName::Embed, &cancel).expect("a tied head");
    let (pool, mut logits) = (Pool::new(2), Vec::new());
    let inputs = pass.head_input().expect("the head's input");
    head.multiply(&Ctx::new(&pool), &inputs, &mut logits, &mut LinearScratch::new()).expect("logits");
    let (mut nll, mut count) = (0.0f64, 0);
    for window in 0..windows {
        for at in window * 256 + 128..(window + 1) * 256 {
            let row = &logits[(at - 1) * head.n..at * head.n];
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|v| f64::from(v - max).exp()).sum();
            nll += sum.ln() - f64::from(row[ids.as_ref().expect("ids")[at].0 as usize] - max);
            count += 1;
        }
    }
    (nll / f64::from(count)).exp()
}

#[test]
fn the_chosen_schedule_keeps_the_target_and_saves_work() {
    let plain = source::open(&demo_dir()).expect("the demo model");
    let loud = outlier_version(&*plain, &calibration_text());
    let judge = Judge::new(&loud, 8);
    let naive = loss(&judge.quality(&Packed::cooked(&loud, "q8,u8,scales=max"), ScheduleChoice::File));
    let packed = Packed::cooked(&loud, "smooth,q8,u8");
    let options = ScheduleOptions {
        windows: 2,
        engine: EngineOptions { threads: 2, ..EngineOptions::default() },
        ..ScheduleOptions::default()
    };
    let decision = schedule::decide(&packed.path, &valid_text(), &options, &|_, _| {}).expect("a decision");
    let chosen = &decision.candidates[decision.chosen];
    assert!(decision.kept, "{:?}", decision.candidates.iter().map(|c| c.kl).collect::<Vec<_>>());
    assert!(chosen.kl <= 0.01f64.ln_1p());
    schedule::store(&packed.path, &decision, &packed.path).expect("stored");

    let file = PackedFile::open(&packed.path).expect("our own file");
    let calibration = file.calibration().expect("calibrated");
    assert_eq!(calibration.schedule(), chosen.schedule, "the file has the schedule");
    let measured = judge.quality(&packed, ScheduleChoice::File);
    let rows = calibration.hot_row_bytes(file.config(), &chosen.schedule);
    let bytes = std::fs::metadata(&packed.path).expect("a file").len();
    println!(
        "naive {:+.1} %, chosen {:+.2} % ({} u8, {} u8+shadow, {} u16), float rows {:.2} % of the file; simulated {:.1} ms, all u16 {:.1} ms",
        100.0 * naive,
        100.0 * loss(&measured),
        chosen.count(Treatment::Plain),
        chosen.count(Treatment::Shadow),
        chosen.count(Treatment::Wide),
        100.0 * rows as f64 / bytes as f64,
        chosen.simulated_ns as f64 / 1e6,
        decision.candidates[2].simulated_ns as f64 / 1e6,
    );
    assert!(naive > 0.2, "the outliers have no teeth: {naive}");
    assert!(loss(&measured) < 0.01, "{}", loss(&measured));
    assert!(rows * 100 < bytes, "{rows} of {bytes} bytes");
    assert!(chosen.simulated_ns < decision.candidates[2].simulated_ns, "u16 everywhere would be as fast");
}

#[test]
fn importance_ranks_linears_on_unseen_text() {
    let plain = source::open(&demo_dir()).expect("the demo model");
    let loud = outlier_version(&*plain, &calibration_text());
    let packed = Packed::cooked(&loud, "q8");
    let options = EngineOptions { threads: 2, ..EngineOptions::default() };
    let cancel = CancelToken::new();
    let bench = Bench::new(&packed.path, &options, &cancel);
    let cpu = bench.cpu().expect("our own file");
    let layers = cpu.model().config().num_hidden_layers as usize;
    let seen = Windows::of_text(&cpu, &calibration_text(), 256, 3).expect("windows");
    let unseen = Windows::of_text(&cpu, &valid_text(), 256, 3).expect("windows");
    let [a, b] = [&seen, &unseen].map(|w| w.reference(&cpu, &cancel).expect("logits"));
    let divergence = bench.divergence(layers, &seen, &a, &mut |_, _| {}).expect("divergence");
    let truth = study::leave_one_out(&bench, layers, &unseen, &b, &mut |_, _| {}).expect("losses");
    let estimate: Vec<f64> = divergence.iter().flatten().map(|d| d.importance()).collect();
    let ours = study::rank_correlation(&estimate, &truth);
    let paper = study::rank_correlation(&study::max_over_scale(cpu.model().calibration().expect("calibrated")), &truth);
    println!("rank correlation with leaving one out: measured importance {ours:?}, max over scale {paper:?}");
    assert!(ours.value >= 0.8, "{ours:?}");
    assert!(ours.value > paper.value, "{ours:?} {paper:?}");
}

#[test]
fn chunks_and_threads_change_no_bit_in_any_treatment() {
    let source = source::open(&demo_dir()).expect("the demo model");
    let packed = Packed::cooked(&*source, "q8");
    let text: String = valid_text().chars().take(400).collect();
    let run = |chunk_lens: &[usize], threads| {
        let mixed = (0..6).map(|l| std::array::from_fn(|kind| Treatment::ALL[(l + kind) % 4])).collect();
        let schedule = ScheduleChoice::Given(mixed);
        let engine = packed.engine(EngineOptions { schedule, threads, chunk_lens: chunk_lens.to_vec(), ..sim() });
        let ids = engine.model().tokenizer().expect("a tokenizer").encode(&text, Special::Plain).expect("ids");
        all_logits(&engine, &ids)
    };
    let expected = run(&[256], 1);
    for (chunk_lens, threads) in [(&[32][..], 2), (&[7, 40], 1), (&[64, 16], 3)] {
        assert!(run(chunk_lens, threads) == expected, "{chunk_lens:?}, {threads} threads");
    }
}

#[test]
fn choices_follow_costs_and_budget() {
    let source = source::open(&demo_dir()).expect("the demo model");
    let config = source.config();
    let one = schedule::Divergence { plain: 1e-3, shadow: 1e-4 };
    let divergence = vec![[one; 4]; config.num_hidden_layers as usize];
    let all = |t| vec![[t; 4]; divergence.len()];
    let total = 4.0 * divergence.len() as f64 * 1e-3;
    assert_eq!(choose(config, &divergence, total * 1.0001, 0.1), all(Treatment::Plain), "nothing has to be bought");
    assert_eq!(choose(config, &divergence, total / 9.99, 0.1), all(Treatment::Shadow), "shadow is cheap and enough");
    assert_eq!(choose(config, &divergence, 0.0, 0.1), all(Treatment::Wide), "nothing but u16 is exact");
    let half = choose(config, &divergence, total / 2.0, f64::INFINITY);
    let wide = half.iter().flatten().filter(|t| **t == Treatment::Wide).count();
    assert!(half.iter().flatten().all(|t| *t != Treatment::Shadow), "shadow was not for sale");
    assert!((2 * divergence.len()..=2 * divergence.len() + 1).contains(&wide), "{wide} of {}", 4 * divergence.len());
    // Small linears are cheaper in u16.
    assert!(half.iter().all(|layer| layer[LinearKind::O.index()] == Treatment::Wide));
}

#[test]
fn what_cannot_be_decided_is_an_error() {
    let source = source::open(&demo_dir()).expect("the demo model");
    let bare = Packed::of(&*source, WeightFormat::Q8, None);
    let options = ScheduleOptions::default();
    let error = schedule::decide(&bare.path, &valid_text(), &options, &|_, _| {}).expect_err("not calibrated");
    assert!(error.to_string().contains("calibrat"), "{error}");
    let packed = Packed::cooked(&*source, "q8");
    let error = schedule::decide(&packed.path, "Too short.", &options, &|_, _| {}).expect_err("too short");
    assert!(error.to_string().contains("--text"), "{error}");
    let out = packed.path.with_extension("none");
    for recipe in ["q8,u16", "q8,auto", "smooth,q8"] {
        let parsed: recipe::Recipe = recipe.parse().expect("a recipe");
        let error = recipe::cook(&*source, &out, &parsed, &ImportOptions::default(), &|_| {}).expect_err(recipe);
        assert!(error.to_string().contains("--calibrate"), "{recipe}: {error}");
        assert!(!out.exists(), "{recipe} left a file behind");
    }
    // A text that is too short to measure on is found before anything is written, and so is a prompt that cannot be.
    let short = ImportOptions { calibrate: Some(valid_text().chars().take(400).collect()), ..ImportOptions::default() };
    let auto: recipe::Recipe = "q8,auto".parse().expect("a recipe");
    let started = std::cell::Cell::new(false);
    let error = recipe::cook(&*source, &out, &auto, &short, &|_| started.set(true)).expect_err("too short").to_string();
    assert!(error.contains("--calibrate") && !error.contains("--text"), "{error}");
    assert!(!started.get() && !out.exists());
    let measured = std::cell::Cell::new(false);
    let none = ScheduleOptions { prompt_len: 0, ..ScheduleOptions::default() };
    let error = schedule::decide(&packed.path, &valid_text(), &none, &|_, _| measured.set(true));
    assert!(error.expect_err("no prompt").to_string().contains("empty") && !measured.get());
    // So is a schedule for another number of layers.
    for layers in [1, 7] {
        let given = ScheduleChoice::Given(vec![[Treatment::Wide; 4]; layers]);
        let engine = Engine::open(&packed.path, EngineOptions { schedule: given, npu: NpuChoice::Sim, ..exact() });
        let error = engine.expect_err("the model has six layers").to_string();
        assert!(error.contains(&format!("{layers} layers")) && error.contains("has 6"), "{error}");
    }
}

#[test]
fn a_decision_that_fails_leaves_no_file() {
    let source = source::open(&demo_dir()).expect("the demo model");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cancel = CancelToken::new();
    let options = ImportOptions {
        calibrate: Some(calibration_text()),
        calibration_tokens: 256,
        threads: 2,
        cancel: cancel.clone(),
        ..ImportOptions::default()
    };
    let auto: recipe::Recipe = "q8,auto".parse().expect("a recipe");
    let error = recipe::cook(&*source, &dir.path().join("model.coexec"), &auto, &options, &|p| {
        if matches!(p, recipe::CookProgress::Measuring { .. }) {
            cancel.cancel();
        }
    });
    assert!(matches!(error, Err(RuntimeError::Cancelled)), "{error:?}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 0, "something stayed behind");
}

#[test]
fn what_nobody_repairs_is_counted() {
    let source = source::open(&demo_dir()).expect("the demo model");
    let packed = Packed::cooked(&*source, "q8");
    let run = |schedule| {
        let engine = packed.engine(EngineOptions { schedule, ..sim() });
        let text: String = valid_text().chars().take(800).collect();
        let ids = engine.model().tokenizer().expect("a tokenizer").encode(&text, Special::Plain).expect("ids");
        engine.session().prefill(&ids, &PrefillOptions::default()).expect("prefill")
    };
    let (plain, shadow) = (run(ScheduleChoice::Plain), run(ScheduleChoice::Shadow { pruning_rate: 0.0 }));
    assert!(plain.shadow.uncorrected > 0 && plain.shadow.corrected == 0 && plain.saturated > 0, "{:?}", plain.shadow);
    assert!(
        shadow.shadow.corrected > 0 && shadow.shadow.uncorrected == 0 && shadow.saturated > 0,
        "{:?}",
        shadow.shadow
    );
    assert!(shadow.shadow.channels > 0 && shadow.shadow.channels <= shadow.shadow.corrected, "{:?}", shadow.shadow);
    // In u16 only where the range is too small for this text: here it is, a hundredfold.
    let narrow = Packed::written(|path| {
        let file = PackedFile::open(&packed.path).expect("our own file");
        let mut calibration = file.calibration().expect("calibrated").clone();
        for scales in calibration.layers.iter_mut().flatten().filter_map(|linear| linear.wide.as_mut()) {
            scales.input *= 0.01;
        }
        let mut writer = PackedWriter::create(path, PackedOptions::default()).expect("a writer");
        for entry in file.tensors() {
            writer.copy(&file, entry).expect("a copy");
        }
        writer.finish(file.config(), file.tokenizer(), Some(&calibration)).expect("a file");
    });
    let engine = narrow.engine(EngineOptions { schedule: ScheduleChoice::Wide, ..sim() });
    let ids: Vec<_> = (0..64).map(|i| coexec::model::TokenId(i * 7 % 500)).collect();
    let output = engine.session().prefill(&ids, &PrefillOptions::default()).expect("prefill");
    assert!(output.shadow.uncorrected > 1000 && output.shadow.corrected == 0, "{:?}", output.shadow);
}

#[test]
fn a_phone_takes_longer_for_more_bits() {
    let source = source::open(&demo_dir()).expect("the demo model");
    let packed = Packed::cooked(&*source, "q8");
    let file = PackedFile::open(&packed.path).expect("our own file");
    let calibration = file.calibration().expect("calibrated");
    let phone = Phone::new(file.config(), &ScheduleOptions::default()).expect("a phone");
    let shares = |schedule: &[[Treatment; 4]]| schedule::shadow_shares(file.config(), calibration, schedule);
    let time = |treatment| {
        let schedule = vec![[treatment; 4]; calibration.layers.len()];
        phone.time_ns(&schedule, &shares(&schedule)).expect("a time")
    };
    // What the CPU computes beside the NPU: clips, or hot channels whole.
    let split = shares(&[[Treatment::Split, Treatment::Shadow, Treatment::Wide, Treatment::Plain]])[0];
    let linears = &calibration.layers[0];
    let hot = linears[0].hot_channels.len() as f32 / file.config().linear_shape(LinearKind::Qkv).1 as f32;
    assert_eq!(split, [hot, linears[1].clipped_share, 0.0, 0.0]);
    assert!(time(Treatment::Plain) < time(Treatment::Wide));
    assert!(phone.source().contains("sm8650"));
    let pruned = calibrate::pruned(calibration, 0.5);
    let shadows = pruned.iter().flatten().filter(|t| t.has_shadow()).count();
    assert_eq!(shadows, 2 * calibration.layers.len());
    let c = Candidate {
        name: String::new(),
        schedule: pruned,
        kl: 0.0,
        kl_std_error: 0.0,
        perplexity_ratio: 1.0,
        simulated_ns: 0,
    };
    assert_eq!(c.count(Treatment::Plain), shadows);
}
