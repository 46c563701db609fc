//! AWQ on the demo model: what rounding does to the last hidden states of a text that the search has not seen.

use super::*;
use crate::float_pass::FloatPass;
use coexec_model::source::{
    self,
    transform::{Scaled, outliers::with_outliers},
};
use coexec_scheduler::CancelToken;
use std::path::Path;

fn demo(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo").join(path)
}

/// Rounds every linear by rows.
struct Rounded(WeightFormat, Quantizer);

impl Watcher for Rounded {
    fn before(&mut self, l: &mut WatchedLinear<'_>, weights: FloatTensor) -> Result<FloatTensor, RuntimeError> {
        let (k, mut rows) = (weights.k, weights.rows()?);
        let _codes = Plan::Rows(self.1, None).quantize(&l.ctx, self.0, &mut rows, k, l.cancel)?;
        Ok(FloatTensor::from_rows(&rows, k)?)
    }
}

/// The last hidden states on at most 256 tokens of `text`.
fn hidden(source: &dyn ModelSource, text: &str, watcher: &mut dyn Watcher) -> Vec<f32> {
    let mut pass = FloatPass::new(source, text, 256, 2, &CancelToken::new()).expect("a pass");
    for l in 0..source.config().num_hidden_layers {
        pass.layer(LayerIdx(l), watcher).expect("a layer");
    }
    pass.head_input().expect("the head's input")
}

/// Squared difference as a share of the squares.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    let squares = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v) * f64::from(v)).sum::<f64>();
    squares(&mut a.iter().zip(b).map(|(a, b)| a - b)) / squares(&mut a.iter().copied())
}

#[test]
fn outliers_are_spared_on_unseen_text_and_the_function_stays() {
    let plain = source::open(&demo("")).expect("the demo model");
    let text = std::fs::read_to_string(demo("calibration.txt")).expect("its calibration text");
    let middle = (text.len() / 2..).find(|i| text.is_char_boundary(*i)).expect("a middle");
    let (seen, unseen) = text.split_at(middle);
    let watched = WatchedText { max_tokens: 512, threads: 2, ..WatchedText::new(seen) };
    let float = hidden(&*plain, unseen, &mut Rounded(WeightFormat::F32, Quantizer::Absmax));
    let no_rare = vec![Vec::new(); plain.config().num_hidden_layers as usize];
    let loud = with_outliers(&*plain, 3, &no_rare).expect("outliers");
    for (format, quantizer, most) in
        [(WeightFormat::Q4s, Quantizer::Absmax, 0.5), (WeightFormat::Q8, Quantizer::Absmax, 0.2)]
    {
        let scales = awq(&loud, &watched, format, quantizer).expect("scales");
        let scaled = Scaled::new(&loud, scales).expect("scales that fit");
        let same = hidden(&scaled, unseen, &mut Rounded(WeightFormat::F32, quantizer));
        assert!(difference(&float, &same) < 1e-8, "{format}: {:e}", difference(&float, &same));
        let before = difference(&float, &hidden(&loud, unseen, &mut Rounded(format, quantizer)));
        let after = difference(&float, &hidden(&scaled, unseen, &mut Rounded(format, quantizer)));
        println!("{format} {quantizer}: {before:.2e} of the hidden states' squares, scaled {after:.2e}");
        assert!(after < most * before, "{format}: {before:e} before, {after:e} after");
    }
}

#[test]
fn formats_of_floats_get_no_scales() {
    let source = source::open(&demo("")).expect("the demo model");
    let scales = awq(&*source, &WatchedText::new("A fox."), WeightFormat::F16, Quantizer::Mse).expect("no scales");
    assert_eq!(scales, ChannelScales::none(source.config()));
}

#[test]
fn powers_have_a_geometric_mean_of_one() {
    let half = powers(&[1.0, 16.0, 0.0, 4.0], 0.5);
    assert_eq!(half, [0.5, 2.0, 1.0, 1.0], "0 is a silent channel");
    assert_eq!(powers(&[1.0, 16.0, 0.0], 0.0), [1.0; 3]);
    let rows: Vec<f32> = (0..3 * SAMPLE_TOKENS).flat_map(|t| [t as f32, 0.0]).collect();
    let taken = sample(&rows, 2);
    assert_eq!((taken.len(), taken[2], taken[2 * SAMPLE_TOKENS - 2]), (2 * SAMPLE_TOKENS, 3.0, 3069.0));
    assert!(sample(&[], 2).is_empty());
}
