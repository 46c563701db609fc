//! Quality by perplexity: the integer NPU and 4-bit decode stay near float, and shadow repairs activation outliers.

mod support;

use coexec::{
    CancelToken, EngineOptions, ScheduleChoice,
    model::{LayerIdx, LayerTensor, TensorName, WeightFormat, source},
    runtime::eval::perplexity,
};
use support::{Amplified, Packed, calibration_text, demo_dir, exact, sim, valid_text};

/// Perplexity over the first `windows` windows of 256 tokens of the validation text.
fn ppl(packed: &Packed, options: EngineOptions) -> f64 {
    let engine = packed.engine(options);
    let text = valid_text();
    let p = perplexity(&engine, &text, 256, &CancelToken::new(), &mut |_, _| {}).expect("perplexity");
    assert!(p.windows >= 10, "{} windows are too few to judge", p.windows);
    p.perplexity
}

#[test]
fn integer_prefill_and_four_bit_decode_stay_near_float() {
    let float = ppl(&Packed::import(&demo_dir(), WeightFormat::F32, None), exact());
    let q8 = ppl(&Packed::import(&demo_dir(), WeightFormat::Q8, Some(calibration_text())), sim());
    let q4s = ppl(&Packed::import(&demo_dir(), WeightFormat::Q4s, None), exact());
    println!(
        "perplexity: float {float:.3}, sim q8 with shadow {q8:.3} ({:+.2} %), q4s decode {q4s:.3} ({:+.2} %)",
        100.0 * (q8 / float - 1.0),
        100.0 * (q4s / float - 1.0)
    );
    assert!(q8 < 1.02 * float, "sim q8 with shadow: {q8} against {float}");
    assert!(q4s < 1.06 * float, "q4s: {q4s} against {float}");
}

#[test]
fn shadow_repairs_amplified_outliers() {
    let plain = source::open(&demo_dir()).expect("the demo model");
    // The 7 channels (of 256: fewer than 3 %, as in real models) with the widest gains.
    let mut gains = vec![0.0; plain.config().hidden_size as usize];
    for l in 0..plain.config().num_hidden_layers {
        let mut gain = Vec::new();
        plain.read_rows(TensorName::Layer(LayerIdx(l), LayerTensor::FfnNorm), 0..1, &mut gain).expect("a norm");
        gains.iter_mut().zip(&gain).for_each(|(sum, g)| *sum += g.abs());
    }
    let mut channels: Vec<usize> = (0..gains.len()).collect();
    channels.sort_by(|a, b| gains[*b].total_cmp(&gains[*a]));
    channels.truncate(7);
    let amplified = Amplified { inner: plain, channels, factor: 32.0 };
    let float = ppl(&Packed::of(&amplified, WeightFormat::F32, None), exact());
    let packed = Packed::of(&amplified, WeightFormat::Q8, Some(calibration_text()));
    let with_shadow = ppl(&packed, sim());
    let without = ppl(&packed, EngineOptions { schedule: ScheduleChoice::Plain, ..sim() });
    println!("amplified outliers: float {float:.3}, shadow on {with_shadow:.3}, shadow off {without:.3}");
    assert!(with_shadow < 1.02 * float, "with shadow {with_shadow} against {float}");
    assert!(without > 1.1 * float, "without shadow {without} against {float}: the test has no teeth");
    assert!(without - float > 10.0 * (with_shadow - float).abs(), "{without}, {with_shadow}, {float}");
}
