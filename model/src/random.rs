//! Models without a download: the shapes of published models, and random weights for any shape.
//!
//! For tests, for benchmarks of time and memory, and for asking the planner about a model that is not at hand. Speed, sizes
//! and plans are those of the real model; text and accuracy are not, and random weights have none of a trained model's
//! outliers. Weights are the same on every machine and do not depend on the order in which rows are read.

use crate::{
    DecoderConfig, GenerationDefaults, LayerTensor, LinearKind, RopeScaling, TensorName, TokenId, TokenizerData,
    source::{ModelSource, SourceError},
    splitmix::SplitMix64,
};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A model of random weights: every row is a function of the seed, the tensor's name and the row.
///
/// Linears are Gaussian with standard deviation `1/√K`, those that write to the residual stream `1/√(2·layers)` of that,
/// embedding and head `1/√hidden_size`, biases 0.02, gains 1: every hidden state stays near unit size at any depth.
#[derive(Clone, Debug)]
pub struct RandomSource {
    config: DecoderConfig,
    tokenizer: TokenizerData,
    seed: u64,
}

impl RandomSource {
    /// Random weights for `config`, which must be within the bounds of [`crate::packed::check_config`].
    #[must_use]
    pub fn new(config: DecoderConfig, seed: u64) -> Self {
        Self { config, tokenizer: TokenizerData::default(), seed }
    }

    /// Standard deviation of a tensor's weights; `None` where all are 1.
    fn deviation(&self, name: TensorName) -> Option<f32> {
        let root = |n: usize| 1.0 / (n as f32).sqrt();
        let residual = root(2 * self.config.num_hidden_layers as usize);
        let input = |kind| root(self.config.linear_shape(kind).1);
        match name {
            TensorName::Embed | TensorName::Head => Some(root(self.config.hidden_size as usize)),
            TensorName::Layer(_, LayerTensor::Qkv) => Some(input(LinearKind::Qkv)),
            TensorName::Layer(_, LayerTensor::O) => Some(input(LinearKind::O) * residual),
            TensorName::Layer(_, LayerTensor::GateUp) => Some(input(LinearKind::GateUp)),
            TensorName::Layer(_, LayerTensor::Down) => Some(input(LinearKind::Down) * residual),
            TensorName::Layer(_, LayerTensor::QkvBias) => Some(0.02),
            _ => None,
        }
    }
}

/// Standard normal values, nearly: four 16-bit uniforms added, exact in f32, without a transcendental function.
fn fill_normal(mut random: SplitMix64, deviation: f32, out: &mut Vec<f32>, len: usize) {
    // The sum of four uniforms on 0…65535 has this mean, and this standard deviation: √(4 · (2^32 − 1) / 12).
    const MEAN: i32 = 2 * 65_535;
    let scale = deviation / 37_837.226;
    out.extend((0..len).map(|_| {
        let z = random.next_u64();
        let sum = (z & 0xFFFF) + ((z >> 16) & 0xFFFF) + ((z >> 32) & 0xFFFF) + (z >> 48);
        (sum as i32 - MEAN) as f32 * scale
    }));
}

impl ModelSource for RandomSource {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn tokenizer(&self) -> &TokenizerData {
        &self.tokenizer
    }

    fn shape(&self, name: TensorName) -> Option<(usize, usize)> {
        let c = &self.config;
        let (hidden, vocab) = (c.hidden_size as usize, c.vocab_size as usize);
        match name {
            TensorName::Embed => Some((vocab, hidden)),
            TensorName::Head => (!c.tie_word_embeddings).then_some((vocab, hidden)),
            TensorName::Norm => Some((1, hidden)),
            TensorName::Layer(layer, _) if layer.0 >= c.num_hidden_layers => None,
            TensorName::Layer(_, tensor) => match tensor {
                LayerTensor::AttnNorm | LayerTensor::FfnNorm => Some((1, hidden)),
                LayerTensor::QkvBias => c.qkv_bias.then(|| (1, c.qkv_size())),
                LayerTensor::QNorm | LayerTensor::KNorm => c.qk_norm.then_some((1, c.head_dim as usize)),
                LayerTensor::Qkv => Some(c.linear_shape(LinearKind::Qkv)),
                LayerTensor::O => Some(c.linear_shape(LinearKind::O)),
                LayerTensor::GateUp => Some(c.linear_shape(LinearKind::GateUp)),
                LayerTensor::Down => Some(c.linear_shape(LinearKind::Down)),
                LayerTensor::QkvHot | LayerTensor::OHot | LayerTensor::GateUpHot | LayerTensor::DownHot => None,
            },
        }
    }

    fn read_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), SourceError> {
        out.clear();
        let (n, k) = self.shape(name).ok_or(SourceError::NoSuchTensor(name))?;
        if rows.end > n || rows.start > rows.end {
            return Err(SourceError::RowRange { tensor: name, rows: n, start: rows.start, end: rows.end });
        }
        let Some(deviation) = self.deviation(name) else {
            out.resize(rows.len() * k, 1.0);
            return Ok(());
        };
        let tensor_seed = xxh3_64_with_seed(name.to_string().as_bytes(), self.seed);
        out.reserve(rows.len() * k);
        for row in rows {
            let row_seed = xxh3_64_with_seed(&(row as u64).to_le_bytes(), tensor_seed);
            fill_normal(SplitMix64::new(row_seed), deviation, out, k);
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let c = &self.config;
        format!(
            "random weights (seed {}), {}, {} layers, hidden_size {}, vocab_size {}",
            self.seed, c.architecture, c.num_hidden_layers, c.hidden_size, c.vocab_size
        )
    }
}

/// A name that is no published shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown model shape `{name}`: use one of {}", shape_names().join(", "))]
pub struct UnknownShape {
    /// The name that was asked for.
    pub name: String,
}

/// One row of the table of shapes; head_dim is spelled out because not every model has `hidden_size / heads`.
struct Shape {
    name: &'static str,
    architecture: &'static str,
    hidden_size: u32,
    intermediate_size: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    vocab_size: u32,
    context: u32,
    eps: f32,
    rope_theta: f32,
    tied: bool,
    bos: Option<u32>,
    eos: &'static [u32],
}

const QWEN_EOS: &[u32] = &[151_645, 151_643];
const LLAMA3_EOS: &[u32] = &[128_001, 128_008, 128_009];

/// Sizes from each model's published `config.json` (the chat variant where there is one); `mistral-7b` is v0.1.
#[rustfmt::skip]
const SHAPES: &[Shape] = &[
    Shape { name: "tiny", architecture: "qwen2", hidden_size: 64, intermediate_size: 160, layers: 2, heads: 4, kv_heads: 2, head_dim: 16,
        vocab_size: 320, context: 512, eps: 1e-6, rope_theta: 1e4, tied: true, bos: None, eos: &[0] },
    Shape { name: "qwen2.5-0.5b", architecture: "qwen2", hidden_size: 896, intermediate_size: 4864, layers: 24, heads: 14, kv_heads: 2, head_dim: 64,
        vocab_size: 151_936, context: 32_768, eps: 1e-6, rope_theta: 1e6, tied: true, bos: None, eos: QWEN_EOS },
    Shape { name: "qwen2.5-1.5b", architecture: "qwen2", hidden_size: 1536, intermediate_size: 8960, layers: 28, heads: 12, kv_heads: 2, head_dim: 128,
        vocab_size: 151_936, context: 32_768, eps: 1e-6, rope_theta: 1e6, tied: true, bos: None, eos: QWEN_EOS },
    Shape { name: "qwen1.5-1.8b", architecture: "qwen2", hidden_size: 2048, intermediate_size: 5504, layers: 24, heads: 16, kv_heads: 16, head_dim: 128,
        vocab_size: 151_936, context: 32_768, eps: 1e-6, rope_theta: 1e6, tied: false, bos: None, eos: QWEN_EOS },
    Shape { name: "qwen3-0.6b", architecture: "qwen3", hidden_size: 1024, intermediate_size: 3072, layers: 28, heads: 16, kv_heads: 8, head_dim: 128,
        vocab_size: 151_936, context: 40_960, eps: 1e-6, rope_theta: 1e6, tied: true, bos: None, eos: QWEN_EOS },
    Shape { name: "llama3.2-1b", architecture: "llama", hidden_size: 2048, intermediate_size: 8192, layers: 16, heads: 32, kv_heads: 8, head_dim: 64,
        vocab_size: 128_256, context: 131_072, eps: 1e-5, rope_theta: 5e5, tied: true, bos: Some(128_000), eos: LLAMA3_EOS },
    Shape { name: "llama3.2-3b", architecture: "llama", hidden_size: 3072, intermediate_size: 8192, layers: 28, heads: 24, kv_heads: 8, head_dim: 128,
        vocab_size: 128_256, context: 131_072, eps: 1e-5, rope_theta: 5e5, tied: true, bos: Some(128_000), eos: LLAMA3_EOS },
    Shape { name: "tinyllama-1.1b", architecture: "llama", hidden_size: 2048, intermediate_size: 5632, layers: 22, heads: 32, kv_heads: 4, head_dim: 64,
        vocab_size: 32_000, context: 2048, eps: 1e-5, rope_theta: 1e4, tied: false, bos: Some(1), eos: &[2] },
    Shape { name: "smollm2-135m", architecture: "llama", hidden_size: 576, intermediate_size: 1536, layers: 30, heads: 9, kv_heads: 3, head_dim: 64,
        vocab_size: 49_152, context: 8192, eps: 1e-5, rope_theta: 1e5, tied: true, bos: None, eos: &[2] },
    Shape { name: "smollm2-360m", architecture: "llama", hidden_size: 960, intermediate_size: 2560, layers: 32, heads: 15, kv_heads: 5, head_dim: 64,
        vocab_size: 49_152, context: 8192, eps: 1e-5, rope_theta: 1e5, tied: true, bos: None, eos: &[2] },
    Shape { name: "mistral-7b", architecture: "mistral", hidden_size: 4096, intermediate_size: 14_336, layers: 32, heads: 32, kv_heads: 8, head_dim: 128,
        vocab_size: 32_000, context: 32_768, eps: 1e-5, rope_theta: 1e4, tied: false, bos: Some(1), eos: &[2] },
    Shape { name: "llama2-7b", architecture: "llama", hidden_size: 4096, intermediate_size: 11_008, layers: 32, heads: 32, kv_heads: 32, head_dim: 128,
        vocab_size: 32_000, context: 4096, eps: 1e-5, rope_theta: 1e4, tied: false, bos: Some(1), eos: &[2] },
];

/// The names that [`named_config`] knows.
#[must_use]
pub fn shape_names() -> Vec<&'static str> {
    SHAPES.iter().map(|s| s.name).collect()
}

/// The configuration of a published model, or of `tiny`, a small one for tests.
///
/// # Errors
/// When the name is none of [`shape_names`]; the message lists them.
pub fn named_config(name: &str) -> Result<DecoderConfig, UnknownShape> {
    let s = SHAPES.iter().find(|s| s.name == name).ok_or_else(|| UnknownShape { name: name.to_owned() })?;
    let rope_scaling = if s.name.starts_with("llama3.2") {
        RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        }
    } else {
        RopeScaling::None
    };
    Ok(DecoderConfig {
        architecture: s.architecture.to_owned(),
        hidden_size: s.hidden_size,
        intermediate_size: s.intermediate_size,
        num_hidden_layers: s.layers,
        num_attention_heads: s.heads,
        num_key_value_heads: s.kv_heads,
        head_dim: s.head_dim,
        vocab_size: s.vocab_size,
        max_position_embeddings: s.context,
        rms_norm_eps: s.eps,
        rope_theta: s.rope_theta,
        rope_scaling,
        qkv_bias: s.architecture == "qwen2",
        qk_norm: s.architecture == "qwen3",
        tie_word_embeddings: s.tied,
        sliding_window: (s.architecture == "mistral").then_some(4096),
        bos_token_id: s.bos.map(TokenId),
        eos_token_ids: s.eos.iter().copied().map(TokenId).collect(),
        generation: GenerationDefaults::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LayerIdx, WeightFormat, packed};

    fn all_tensors(config: &DecoderConfig) -> impl Iterator<Item = TensorName> + use<> {
        let layers = (0..config.num_hidden_layers)
            .flat_map(|l| LayerTensor::ALL.iter().map(move |t| TensorName::Layer(LayerIdx(l), *t)));
        [TensorName::Embed, TensorName::Head, TensorName::Norm].into_iter().chain(layers)
    }

    #[test]
    fn shapes_have_the_published_number_of_parameters() {
        let published = [
            ("qwen2.5-0.5b", 494_032_768usize),
            ("qwen2.5-1.5b", 1_543_714_304),
            ("qwen1.5-1.8b", 1_836_828_672),
            ("qwen3-0.6b", 596_049_920),
            ("llama3.2-1b", 1_235_814_400),
            ("llama3.2-3b", 3_212_749_824),
            ("tinyllama-1.1b", 1_100_048_384),
            ("smollm2-135m", 134_515_008),
            ("smollm2-360m", 361_821_120),
            ("mistral-7b", 7_241_732_096),
            ("llama2-7b", 6_738_415_616),
        ];
        assert_eq!(published.len() + 1, SHAPES.len(), "all but `tiny`");
        for (name, parameters) in published {
            let config = named_config(name).unwrap();
            packed::check_config(name, &config).unwrap();
            let source = RandomSource::new(config.clone(), 0);
            let sum: usize = all_tensors(&config).filter_map(|t| source.shape(t)).map(|(n, k)| n * k).sum();
            assert_eq!(sum, parameters, "{name}");
        }
    }

    #[test]
    fn an_unknown_name_gets_the_list() {
        let message = named_config("gpt-5").unwrap_err().to_string();
        assert!(message.contains("`gpt-5`") && message.contains("smollm2-135m, smollm2-360m"), "{message}");
    }

    #[test]
    fn rows_do_not_depend_on_the_order_of_reading() {
        let source = RandomSource::new(named_config("tiny").unwrap(), 7);
        let name = "layers.1.gate_up".parse().unwrap();
        let (n, k) = source.shape(name).unwrap();
        let (mut all, mut one) = (Vec::new(), Vec::new());
        source.read_rows(name, 0..n, &mut all).unwrap();
        for row in [n - 1, 0, 5] {
            source.read_rows(name, row..row + 1, &mut one).unwrap();
            assert_eq!(one, &all[row * k..(row + 1) * k]);
        }
        assert!(source.read_rows(name, 0..n + 1, &mut one).is_err());
        assert!(source.read_rows(TensorName::Head, 0..1, &mut one).is_err(), "tied");
        // The same on every machine: a changed generator would silently change every benchmark's model.
        let bits = xxhash_rust::xxh3::xxh3_64(bytemuck::cast_slice(&all));
        assert_eq!(bits, GOLDEN, "{bits:#x}");
        // Other tensors, other layers and other seeds have other weights.
        for other in ["layers.0.gate_up", "layers.1.qkv"] {
            source.read_rows(other.parse().unwrap(), 0..1, &mut one).unwrap();
            assert_ne!(one, &all[..k]);
        }
        RandomSource::new(named_config("tiny").unwrap(), 8).read_rows(name, 0..1, &mut one).unwrap();
        assert_ne!(one, &all[..k]);
    }

    const GOLDEN: u64 = 0xee4a_2267_81a7_4f9e;

    #[test]
    fn weights_have_the_promised_distribution() {
        let source = RandomSource::new(named_config("smollm2-135m").unwrap(), 1);
        let mut rows = Vec::new();
        source.read_rows("layers.3.qkv".parse().unwrap(), 0..400, &mut rows).unwrap();
        let count = rows.len() as f64;
        let mean = rows.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
        let deviation = (rows.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / count).sqrt();
        let wanted = 1.0 / 576f64.sqrt();
        assert!(mean.abs() < wanted * 0.01, "{mean}");
        assert!((deviation / wanted - 1.0).abs() < 0.01, "{deviation}");
        source.read_rows(TensorName::Norm, 0..1, &mut rows).unwrap();
        assert_eq!(rows, vec![1.0; 576]);
    }

    #[test]
    fn a_random_model_packs_and_opens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.coexec");
        let source = RandomSource::new(named_config("tiny").unwrap(), 3);
        let mut w = packed::PackedWriter::create(&path, packed::PackedOptions::default()).unwrap();
        let mut rows = Vec::new();
        for name in all_tensors(source.config()) {
            let Some((n, k)) = source.shape(name) else { continue };
            source.read_rows(name, 0..n, &mut rows).unwrap();
            if n == 1 {
                w.vector(name, &rows).unwrap();
            } else {
                w.begin(name, WeightFormat::Q4, n, k).unwrap();
                w.push_rows(&rows).unwrap();
                w.end().unwrap();
            }
        }
        w.finish(source.config(), source.tokenizer(), None).unwrap();
        let file = packed::PackedFile::open(&path).unwrap();
        assert_eq!(file.config(), source.config());
        file.verify_all().unwrap();
    }
}
