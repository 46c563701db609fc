//! What has to be known about a context binary before it may be loaded. Written next to the binary as JSON.

use crate::{ContextSpec, DeviceProfile, NpuError};
use serde::{Deserialize, Serialize};

/// Version of the manifest's form and of every device's lowering; other versions are refused.
pub const MANIFEST_VERSION: u32 = 2;

/// Which stages of a layer are static graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Placement {
    /// QKV, O, gate+up and down are graphs; everything else runs on the CPU.
    Split,
    /// RMSNorm + QKV is one graph, everything from O to the end of the layer another; attention runs on the CPU.
    Fused,
    /// A whole layer with attention is one graph.
    Layer,
}

impl Placement {
    /// `split`, `fused` or `layer`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Fused => "fused",
            Self::Layer => "layer",
        }
    }
}

/// What made a context binary of Qualcomm's library, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QnnVersions {
    /// Core API, e.g. `2.40.0`.
    pub core_api: String,
    /// HTP API, e.g. `5.51.0`.
    pub backend_api: String,
    /// Build of the library that compiled, e.g. `v2.51.0.260929181845`.
    pub build_id: String,
    /// Qualcomm's number of the SoC.
    pub soc_id: u32,
    /// Hexagon architecture (75 for v75), where it is known.
    pub arch: Option<u32>,
    /// Whether graphs share weights; such binaries cannot be loaded in the x86-64 emulation.
    pub weight_sharing: bool,
}

/// Everything that must agree before a context binary is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`] of the writer.
    pub version: u32,
    /// Hash of the packed model, in the packed file's notation.
    pub model_hash: String,
    /// Chunk lengths that graphs exist for.
    pub chunk_lens: Vec<usize>,
    /// Which stages are graphs.
    pub placement: Placement,
    /// Device kind and chip, e.g. `sim:sm8650`.
    pub device: String,
    /// The graphs, so that a loaded context knows what it is.
    pub spec: ContextSpec,
    /// Versions of Qualcomm's library, for its binaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qnn: Option<QnnVersions>,
    /// Length of the binary in bytes.
    pub blob_bytes: u64,
    /// XXH3-64 of the binary, 16 hex digits. Devices do not notice a flipped weight byte; this does.
    pub blob_hash: String,
}

/// What [`Manifest::new`] is made from.
#[derive(Clone, Debug)]
pub struct ManifestArgs<'a> {
    /// Hash of the packed model.
    pub model_hash: &'a str,
    /// Chunk lengths that graphs exist for.
    pub chunk_lens: &'a [usize],
    /// Which stages are graphs.
    pub placement: Placement,
    /// The device that made the binary.
    pub profile: &'a DeviceProfile,
    /// The context's graphs.
    pub spec: &'a ContextSpec,
    /// What [`crate::NpuContext::qnn_versions`] says.
    pub qnn: Option<QnnVersions>,
    /// The binary.
    pub blob: &'a [u8],
}

impl Manifest {
    /// The manifest of a binary that was just serialized.
    #[must_use]
    pub fn new(args: ManifestArgs<'_>) -> Self {
        Self {
            version: MANIFEST_VERSION,
            model_hash: args.model_hash.to_owned(),
            chunk_lens: args.chunk_lens.to_vec(),
            placement: args.placement,
            device: args.profile.device.clone(),
            spec: args.spec.clone(),
            qnn: args.qnn,
            blob_bytes: args.blob.len() as u64,
            blob_hash: hash_hex(args.blob),
        }
    }

    /// Checks that this manifest speaks of this binary and this device. Devices call it first in `load`.
    ///
    /// # Errors
    /// Names the field that differs.
    pub fn check_blob(&self, bytes: &[u8], profile: &DeviceProfile) -> Result<(), NpuError> {
        let differ = |field, wanted: &dyn ToString, found: &dyn ToString| {
            Err(NpuError::Manifest { field, wanted: wanted.to_string(), found: found.to_string() })
        };
        if self.version != MANIFEST_VERSION {
            return differ("manifest version", &MANIFEST_VERSION, &self.version);
        }
        if self.device != profile.device {
            return differ("device", &profile.device, &self.device);
        }
        if self.blob_bytes != bytes.len() as u64 {
            return differ("binary length", &self.blob_bytes, &bytes.len());
        }
        let hash = hash_hex(bytes);
        if self.blob_hash != hash {
            return differ("binary hash", &self.blob_hash, &hash);
        }
        Ok(())
    }
}

fn hash_hex(bytes: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(bytes))
}
