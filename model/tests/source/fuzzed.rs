//! Mutated and cut files: an error or a model, never a panic, never more memory than the file warrants.

use super::tiny;
use super::writer::{File, Meta};
use coexec_model::source::{gguf, hf};
use proptest::prelude::*;
use std::sync::LazyLock;

static GGUFS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let small = |path: &str| {
        // Header mutations are the interesting ones: a small file has more of them.
        let mut file = File::read(&tiny().join(path));
        file.tensors.truncate(2);
        file.bytes()
    };
    let mut all: Vec<Vec<u8>> =
        ["llama3/llama3-F32.gguf", "tinyllama/tinyllama-F16.gguf", "qwen2/qwen2-Q8_0.gguf"].map(small).into();
    all.push(File::default().set("general.architecture", Meta::Str("llama".into())).bytes());
    all.push(std::fs::read(tiny().join("smollm/smollm-Q4_0.gguf")).unwrap());
    all
});

static SAFETENSORS: LazyLock<Vec<u8>> =
    LazyLock::new(|| std::fs::read(tiny().join("qwen2/model.safetensors")).unwrap());

static CONFIGS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    ["llama3", "mistral", "qwen2", "qwen3"].map(|n| std::fs::read(tiny().join(n).join("config.json")).unwrap()).into()
});

/// Places (as a share of the file, denser towards its head) and what is put there.
fn mutations() -> impl Strategy<Value = (Vec<(f64, u64, u8)>, Option<f64>)> {
    let one = (0.0..1.0f64, prop_oneof![Just(0), Just(u64::MAX), Just(1 << 63), any::<u64>(), 0..300u64], 1..9u8);
    (proptest::collection::vec(one, 0..6), proptest::option::of(0.0..1.0f64))
}

fn mutate(bytes: &[u8], (changes, cut): &(Vec<(f64, u64, u8)>, Option<f64>), head: usize) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for (at, value, len) in changes {
        let reach = if value % 4 == 3 { out.len() } else { out.len().min(head) };
        let at = ((at * reach as f64) as usize).min(out.len());
        let len = usize::from(*len).min(out.len() - at).min(8);
        out[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }
    if let Some(cut) = cut {
        out.truncate((cut * out.len() as f64) as usize);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn gguf_never_panics(which in 0..5usize, change in mutations()) {
        let bytes = mutate(&GGUFS[which], &change, 6000);
        if let Ok(parsed) = gguf::parse(&bytes) {
            for tensor in &parsed.tensors {
                prop_assert!(tensor.bytes.end <= bytes.len());
            }
        }
        if let Ok((config, _)) = gguf::parse_model(&bytes) {
            prop_assert!(config.num_hidden_layers >= 1 && config.head_dim % 2 == 0);
        }
    }

    #[test]
    fn safetensors_never_panic(change in mutations()) {
        let bytes = mutate(&SAFETENSORS, &change, 2500);
        let _ = hf::parse_safetensors(&bytes);
    }

    #[test]
    fn configs_never_panic(which in 0..4usize, change in mutations()) {
        let bytes = mutate(&CONFIGS[which], &change, usize::MAX);
        if let Ok(config) = hf::parse_config(&bytes) {
            prop_assert!(config.num_attention_heads % config.num_key_value_heads == 0);
        }
    }

    #[test]
    fn config_numbers_never_panic(which in 0..4usize, digit in 0..400usize, value in any::<i64>()) {
        // Replaces one number of the file by any other.
        let text = std::str::from_utf8(&CONFIGS[which]).unwrap();
        let starts: Vec<usize> = text.match_indices(": ").map(|(i, _)| i + 2).collect();
        let start = starts[digit % starts.len()];
        let end = start + text[start..].find([',', '\n']).unwrap();
        let _ = hf::parse_config(format!("{}{value}{}", &text[..start], &text[end..]).as_bytes());
    }

    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = gguf::parse_model(&[gguf::MAGIC, &[3, 0, 0, 0], &bytes].concat());
        let _ = gguf::parse(&bytes);
        let _ = hf::parse_safetensors(&bytes);
        let _ = hf::parse_config(&bytes);
    }
}
