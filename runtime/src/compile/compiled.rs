//! A compiled model on disk: a directory with one index, and per context a binary and a recording.

use super::CompileOptions;
use crate::{Model, RuntimeError};
use coexec_model::output::write_whole;
use coexec_npu::{DeviceProfile, Manifest, NpuError, qnn::Target};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Name of the index in the directory.
pub const COMPILED_FILE: &str = "compiled.json";

/// Version of the index's form.
const VERSION: u32 = 2;

/// Largest index that is read: a spec of tens of thousands of graphs.
const MAX_INDEX_BYTES: u64 = 1 << 28;

/// The index of a compiled model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompiledModel {
    /// Version of this form.
    pub version: u32,
    /// Hash of the packed model.
    pub model_hash: String,
    /// Where that was, absolute; `None` for the embedded model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// What it was made with.
    pub options: CompileOptions,
    /// Build of the library that made the binaries.
    pub library: String,
    /// The contexts.
    pub contexts: Vec<CompiledContext>,
}

/// One context of a compiled model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompiledContext {
    /// File name of the binary.
    pub file: String,
    /// File name of the recorded inputs and outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<String>,
    /// What must agree before the binary is loaded.
    pub manifest: Manifest,
}

impl CompiledContext {
    /// The binary, whatever it holds: the device checks it.
    ///
    /// # Errors
    /// [`NpuError::Blob`] when it cannot be read.
    pub fn read_binary(&self, dir: &Path) -> Result<Vec<u8>, NpuError> {
        let path = dir.join(&self.file);
        fs::read(&path).map_err(|e| NpuError::Blob { reason: format!("`{}` cannot be read: {e}", path.display()) })
    }
}

/// Whether a build of the library reads binaries of another one: its own and older ones, as far as builds tell.
fn reads(library: &str, binary: &str) -> bool {
    let numbers = |build: &str| -> Option<Vec<u64>> {
        build.strip_prefix('v')?.split('.').take(3).map(|n| n.parse().ok()).collect()
    };
    match (numbers(library), numbers(binary)) {
        (Some(library), Some(binary)) => binary <= library,
        _ => library == binary,
    }
}

impl CompiledModel {
    /// An index without contexts.
    #[must_use]
    pub fn new(model: &Model, options: &CompileOptions, library: &str) -> Self {
        let path = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Self::of(&model.hash_hex(), model.file().path().map(path), options, library)
    }

    fn of(model_hash: &str, model: Option<PathBuf>, options: &CompileOptions, library: &str) -> Self {
        Self {
            version: VERSION,
            model_hash: model_hash.to_owned(),
            model,
            options: options.clone(),
            library: library.to_owned(),
            contexts: Vec::new(),
        }
    }

    /// Reads the index of a directory.
    ///
    /// # Errors
    /// [`RuntimeError::Compiled`] when it is missing, damaged, of another version, or names files outside of `dir`.
    pub fn read(dir: &Path) -> Result<Self, RuntimeError> {
        let path = dir.join(COMPILED_FILE);
        let bad = |reason: String| RuntimeError::Compiled { path: path.clone(), reason };
        let size =
            fs::metadata(&path).map_err(|e| bad(format!("cannot be read ({e}); is this a compiled model?")))?.len();
        if size > MAX_INDEX_BYTES {
            return Err(bad(format!("is {size} bytes long, more than any index; compile the model again")));
        }
        let bytes = fs::read(&path).map_err(|e| bad(format!("cannot be read: {e}")))?;
        let compiled = Self::parse(&bytes).map_err(bad)?;
        Ok(compiled)
    }

    /// Parses an index.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let again = "compile the model again";
        let found: Versioned = serde_json::from_slice(bytes).map_err(|e| format!("is damaged ({e}); {again}"))?;
        if found.version != VERSION {
            return Err(format!("has version {}, this build reads {VERSION}; {again}", found.version));
        }
        let compiled: Self = serde_json::from_slice(bytes).map_err(|e| format!("is damaged ({e}); {again}"))?;
        for context in &compiled.contexts {
            for file in [Some(&context.file), context.recording.as_ref()].into_iter().flatten() {
                if !is_plain_name(file) {
                    return Err(format!("names `{file}`, which is no file of this directory; {again}"));
                }
            }
        }
        Ok(compiled)
    }

    /// Whether a binary shares weights between its graphs: such a one loads on a phone only.
    #[must_use]
    pub fn shares_weights(&self) -> bool {
        self.contexts.iter().any(|c| c.manifest.qnn.as_ref().is_some_and(|q| q.weight_sharing))
    }

    /// Checks that these binaries load on a phone or in the emulation.
    ///
    /// # Errors
    /// [`RuntimeError::Compiled`] for shared weights in the emulation.
    pub fn loads_on(&self, target: Target, dir: &Path) -> Result<(), RuntimeError> {
        if target == Target::Device || !self.shares_weights() {
            return Ok(());
        }
        let reason = "shares weights between chunk lengths, which loads on a phone but not in the emulation on x86-64: its \
                      weight sharing has to be off here; compile with --no-weight-sharing";
        Err(RuntimeError::Compiled { path: dir.to_owned(), reason: reason.to_owned() })
    }

    /// Names of all files of the directory but the index.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.contexts.iter().flat_map(|c| [Some(&c.file), c.recording.as_ref()]).flatten().map(String::as_str)
    }

    /// The file of the model that this was compiled from; `None` for the embedded model. Whether it still holds that model,
    /// [`Self::check`] says.
    ///
    /// # Errors
    /// [`RuntimeError::Compiled`] when it is not there any more.
    pub fn model_file(&self, dir: &Path) -> Result<Option<&Path>, RuntimeError> {
        match self.model.as_deref() {
            Some(model) if !model.is_file() => {
                let (path, model) = (dir.to_owned(), model.display());
                let reason = format!(
                    "was compiled from `{model}`, which is not there (any more); name that model (hash {}) with --model",
                    self.model_hash
                );
                Err(RuntimeError::Compiled { path, reason })
            }
            model => Ok(model),
        }
    }

    /// Checks that this is a compilation of `model` for the chip of `profile` by the build `library`, before any binary is
    /// read or handed to the library: every context's manifest, and that the binaries are there with the right length.
    ///
    /// # Errors
    /// Names what differs, with both values.
    pub fn check(&self, dir: &Path, model: &Model, profile: &DeviceProfile, library: &str) -> Result<(), RuntimeError> {
        let path = dir.join(COMPILED_FILE);
        let bad = |reason: String| Err(RuntimeError::Compiled { path: path.clone(), reason });
        let again = "compile the model again";
        let hash = model.hash_hex();
        if self.model_hash != hash {
            let was =
                self.model.as_ref().map_or_else(|| "the embedded model".to_owned(), |p| format!("`{}`", p.display()));
            return bad(format!(
                "was compiled from model {} ({was}), `{}` is model {hash}; {again}, or name the model that it was compiled from",
                self.model_hash,
                model.file().label()
            ));
        }
        if !reads(library, &self.library) {
            return bad(format!(
                "was compiled by QNN {}, this is QNN {library}; {again}, or use that version or a newer one",
                self.library
            ));
        }
        let wanted = self.options.contexts_of(model, profile)?;
        if wanted.len() != self.contexts.len() {
            return bad(format!("has {} contexts, {} are wanted; {again}", self.contexts.len(), wanted.len()));
        }
        for (context, spec) in self.contexts.iter().zip(&wanted) {
            let manifest = &context.manifest;
            if manifest.device != profile.device {
                return bad(format!("was compiled for {}, this is {}; {again}", manifest.device, profile.device));
            }
            if let Err(differs) = spec.expect_same(&manifest.spec) {
                return bad(format!("does not fit this model or build: {differs}"));
            }
            let file = dir.join(&context.file);
            let found = fs::metadata(&file).map(|m| m.len());
            if !found.as_ref().is_ok_and(|len| *len == manifest.blob_bytes) {
                let found = found.map_or_else(|e| e.to_string(), |len| format!("found {len}"));
                return bad(format!("names `{}` of {} bytes ({found}); {again}", file.display(), manifest.blob_bytes));
            }
        }
        Ok(())
    }

    /// Writes the index: complete under its name, or not at all.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), RuntimeError> {
        let json = serde_json::to_vec(self).map_err(|e| RuntimeError::Schedule(e.to_string()))?;
        Ok(write_whole(&dir.join(COMPILED_FILE), &json)?)
    }
}

/// Whether a name from a file stays in its directory.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_checked_before_use() {
        let model = Some(PathBuf::from("/models/a.coexec"));
        let made = CompiledModel::of("abc", model, &CompileOptions::default(), "v2.51");
        let json = serde_json::to_string(&made).expect("JSON");
        assert_eq!(CompiledModel::parse(json.as_bytes()).as_ref(), Ok(&made));
        let changed = |from: &str, to: &str| {
            assert!(json.contains(from), "{from} in {json}");
            CompiledModel::parse(json.replace(from, to).as_bytes()).expect_err("is wrong")
        };
        assert!(changed("\"version\":2", "\"version\":3").contains("version 3"));
        assert!(changed("\"split\"", "\"spilt\"").contains("damaged"));
        for cut in [0, 1, json.len() / 2, json.len() - 1] {
            assert!(CompiledModel::parse(&json.as_bytes()[..cut]).is_err());
        }
        // The model is somewhere else by now.
        let gone = made.model_file(Path::new("D")).expect_err("no such file").to_string();
        for words in ["`D`", "/models/a.coexec", "not there", "abc", "--model"] {
            assert!(gone.contains(words), "{words}: {gone}");
        }
        let embedded = CompiledModel::of("abc", None, &CompileOptions::default(), "v2.51");
        assert_eq!(embedded.model_file(Path::new("D")).expect("embedded"), None);
        for name in ["", "..", "../x", "/etc/passwd", "a/b", "."] {
            assert!(!is_plain_name(name), "{name}");
        }
        assert!(is_plain_name("split.c128.bin"));
    }

    #[test]
    fn libraries_read_older_binaries() {
        let new = "v2.51.0.260929181845";
        for (binary, can) in [
            (new, true),
            ("v2.51.0.250101000000", true),
            ("v2.43.1", true),
            ("v2.51.1.1", false),
            ("v3.0.0", false),
            ("", false),
            ("v2.x.0", false),
        ] {
            assert_eq!(reads(new, binary), can, "{binary}");
        }
        assert!(reads("custom", "custom"));
    }

    #[test]
    fn keys_name_everything_that_matters() {
        let options = CompileOptions::default();
        let key = options.key("m", "v1");
        assert_eq!(
            key,
            CompileOptions { record: false, ..options.clone() }.key("m", "v1"),
            "recording does not matter"
        );
        let others = [
            options.key("n", "v1"),
            options.key("m", "v2"),
            CompileOptions { chip: "sm8550".to_owned(), ..options.clone() }.key("m", "v1"),
            CompileOptions { chunk_lens: vec![256], ..options.clone() }.key("m", "v1"),
            CompileOptions { share_weights: false, ..options.clone() }.key("m", "v1"),
        ];
        assert!(others.iter().all(|other| *other != key));
        let cut = CompileOptions { graphs_per_context: Some(4), ..options.clone() }.key("m", "v1");
        assert_eq!(key, cut, "how graphs are spread over contexts does not matter");
    }
}
