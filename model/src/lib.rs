//! What a model is: configuration, tensor names, quantised formats, the packed `.coexec` file, importers and calibration
//! data.
//!
//! This crate stands on the ground: it knows no processor, no thread and no schedule. Everything above reads a model
//! through [`packed::PackedFile`] and speaks of its tensors by [`TensorName`].
//!
//! ```text
//! HF directory | GGUF --source--> DecoderConfig + float rows --quant, layout--> panels --packed--> .coexec
//! ```

#![deny(unsafe_code)]

pub mod align;
pub mod calibration;
pub mod config;
pub mod export;
pub mod format;
pub mod json;
pub mod layout;
mod limits;
pub mod memory;
pub mod mmap;
pub mod output;
pub mod packed;
pub mod quant;
pub mod random;
pub mod source;
pub mod splitmix;
pub mod tensor;

pub use calibration::{Calibration, LinearCalibration, LinearCodes, Scales, Schedule, Treatment};
pub use config::{DecoderConfig, GenerationDefaults, RopeScaling, TokenizerData};
pub use format::WeightFormat;
pub use splitmix::SplitMix64;
pub use tensor::{LayerIdx, LayerTensor, LinearKind, TensorName, TokenId};
