//! Quality by perplexity: the integer NPU and 4-bit decode stay near float. (Outliers: `tests/outliers.rs`, `tests/schedule.rs`.)

mod support;

use coexec::{CancelToken, EngineOptions, model::WeightFormat, runtime::eval::perplexity};
use support::{Packed, calibration_text, demo_dir, exact, sim, valid_text};

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
