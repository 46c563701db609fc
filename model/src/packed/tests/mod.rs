//! Tests of the packed file as a whole, and the small models that they write.

mod damage;
mod failure;
mod round_trip;

use super::{PackedError, PackedFile, PackedOptions, PackedWriter, TensorKind};
use crate::{
    Calibration, DecoderConfig, GenerationDefaults, LayerIdx, LayerTensor, LinearCalibration, LinearKind, RopeScaling,
    TensorName, TokenId, TokenizerData, Treatment, WeightFormat,
};
use std::path::Path;

/// A configuration with no round number in it and every optional tensor.
pub(super) fn odd_config() -> DecoderConfig {
    DecoderConfig {
        architecture: "odd".to_owned(),
        hidden_size: 20,
        intermediate_size: 33,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        num_key_value_heads: 1,
        head_dim: 6,
        vocab_size: 37,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Factors { factors: vec![1.0, 0.1, 3.3] },
        qkv_bias: true,
        qk_norm: true,
        tie_word_embeddings: false,
        sliding_window: Some(7),
        bos_token_id: Some(TokenId(1)),
        eos_token_ids: vec![TokenId(2), TokenId(36)],
        generation: GenerationDefaults { temperature: Some(0.7), ..GenerationDefaults::default() },
    }
}

pub(super) fn odd_tokenizer() -> TokenizerData {
    TokenizerData {
        tokenizer_json: "{\"not\": \"really a tokenizer\", \"ünï\": \"\\u0000\"}".to_owned(),
        chat_templates: [("default".to_owned(), "{{ messages }}".to_owned())].into(),
        bos_token: Some("<s>".to_owned()),
        eos_token: None,
        special_tokens: [("pad_token".to_owned(), "<päd>".to_owned())].into(),
        add_bos: true,
    }
}

pub(super) fn odd_calibration(config: &DecoderConfig) -> Calibration {
    let linear = |kind: LinearKind, layer: u32| LinearCalibration {
        input_scale: 0.1 / 3.0 + layer as f32,
        output_scales: vec![0.7 / 3.0; config.linear_parts(kind).len()],
        // Some linears without hot channels.
        hot_channels: if kind == LinearKind::O && layer == 0 { vec![] } else { vec![0, 3, 17] },
        importance: -0.123_456_79,
        clipped_share: 0.0,
        plain: None,
        wide: None,
        split: None,
        treatment: Treatment::default(),
    };
    let layers = (0..config.num_hidden_layers).map(|l| LinearKind::ALL.map(|kind| linear(kind, l))).collect();
    Calibration { tokens: 12_345, layers }
}

/// Deterministic values in ±1, different for every seed.
pub(super) fn values(seed: u64, len: usize) -> Vec<f32> {
    let word = |i: u64| xxhash_rust::xxh3::xxh3_64(&[seed.to_le_bytes(), i.to_le_bytes()].concat());
    (0..len as u64).map(|i| (word(i) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// The seed of a tensor's values.
pub(super) fn seed(name: TensorName) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.to_string().as_bytes())
}

/// Every tensor of a model of `config`, in the order of a forward pass.
pub(super) fn shapes(
    config: &DecoderConfig,
    calibration: Option<&Calibration>,
    format: WeightFormat,
) -> Vec<(TensorName, TensorKind, usize, usize)> {
    let panels = |name, (n, k), format| (name, TensorKind::Panels { format }, n, k);
    let (hidden, vocab) = (config.hidden_size as usize, config.vocab_size as usize);
    let mut all = vec![panels(TensorName::Embed, (vocab, hidden), format.for_embedding())];
    for l in (0..config.num_hidden_layers).map(LayerIdx) {
        let name = |tensor| TensorName::Layer(l, tensor);
        let vector = |tensor, n| (name(tensor), TensorKind::Vector, n, 1);
        all.push(vector(LayerTensor::AttnNorm, hidden));
        if config.qkv_bias {
            all.push(vector(LayerTensor::QkvBias, config.qkv_size()));
        }
        if config.qk_norm {
            all.push(vector(LayerTensor::QNorm, config.head_dim as usize));
            all.push(vector(LayerTensor::KNorm, config.head_dim as usize));
        }
        all.push(vector(LayerTensor::FfnNorm, hidden));
        for kind in LinearKind::ALL {
            let (n, k) = config.linear_shape(kind);
            all.push(panels(name(kind.tensor()), (n, k), format));
            let hot = calibration.and_then(|c| c.linear(l, kind)).map_or(0, |c| c.hot_channels.len());
            if hot > 0 {
                all.push((name(kind.hot_rows()), TensorKind::RowsF16, hot, n));
            }
        }
    }
    all.push((TensorName::Norm, TensorKind::Vector, hidden, 1));
    if !config.tie_word_embeddings {
        all.push(panels(TensorName::Head, (vocab, hidden), format.for_embedding()));
    }
    all
}

/// Writes one tensor with [`values`], its rows in uneven pieces.
pub(super) fn write_tensor(
    w: &mut PackedWriter,
    (name, kind, n, k): (TensorName, TensorKind, usize, usize),
) -> Result<(), PackedError> {
    let values = values(seed(name), n * k);
    match kind {
        TensorKind::Vector => w.vector(name, &values),
        TensorKind::RowsF16 => w.rows_f16(name, n, k, &values),
        TensorKind::Panels { format } => {
            w.begin(name, format, n, k)?;
            w.push_rows(&values[..k])?;
            w.push_rows(&[])?;
            values[k..].chunks(k * 7).try_for_each(|rows| w.push_rows(rows))?;
            w.end()
        }
    }
}

/// Writes the model of [`odd_config`].
pub(super) fn write_odd(path: &Path, format: WeightFormat, options: PackedOptions) -> super::PackedSummary {
    let config = odd_config();
    let calibration = odd_calibration(&config);
    let mut w = PackedWriter::create(path, options).unwrap();
    for shape in shapes(&config, Some(&calibration), format) {
        write_tensor(&mut w, shape).unwrap();
    }
    w.finish(&config, &odd_tokenizer(), Some(&calibration)).unwrap()
}

/// The bytes of the model of [`odd_config`].
pub(super) fn odd_bytes(format: WeightFormat) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.coexec");
    write_odd(&path, format, PackedOptions::default());
    std::fs::read(path).unwrap()
}

pub(super) fn open_bytes(bytes: &[u8]) -> Result<PackedFile, PackedError> {
    PackedFile::from_bytes(crate::align::AlignedBytes::copy_of(bytes))
}
