//! What the tasks of one chunk hand to each other.
//!
//! Three locks, because three tasks of a chunk may run at once: a linear on the NPU (`npu`), its shadow on the CPU
//! (`shadow`), and nothing else (`main`). Tasks that touch several take them in the order of the fields. Dependencies keep
//! them uncontended; the locks make that safe rather than assumed.

use crate::layer::{ForwardScratch, QkvBuffers};
use coexec_cpu::{LinearInput, LinearScratch, Residuals};
use coexec_model::{LinearKind, Treatment};
use coexec_npu::Bindings;
use parking_lot::Mutex;

/// Float activations of a chunk.
#[derive(Debug, Default)]
pub struct MainBuffers {
    /// Residual stream, `[tokens, hidden_size]`.
    pub x: Vec<f32>,
    /// Input of the next linear, `[tokens, K]`: for the NPU, and attention's output.
    pub input: Vec<f32>,
    /// Input of the next linear on the CPU, normed or activated and quantised.
    pub ready: LinearInput,
    /// What gate and up make of it: the input of down.
    pub activated: LinearInput,
    /// Outputs of linears, `[tokens, N]` each: a buffer per linear keeps its size from layer to layer.
    pub outputs: [Vec<f32>; 4],
    /// Rotated queries.
    pub qkv: QkvBuffers,
    /// Scratch of linears on the CPU.
    pub linear: LinearScratch,
    /// Scratch of the head.
    pub forward: ForwardScratch,
    /// Logits wanted of this chunk, `[rows, vocab_size]`.
    pub logits: Vec<f32>,
}

/// Buffers that CPU and NPU share: per linear, codes in `[chunk_len, K]` (padding rows hold the zero point) and codes out
/// of each part `[chunk_len, width]`.
#[derive(Debug, Default)]
pub struct NpuBuffers {
    /// By linear, for u8 and for u16 codes.
    bindings: [[Option<Bindings>; 2]; 4],
}

impl NpuBuffers {
    /// The buffers of a linear, once [`Self::allocate`] made them.
    #[must_use]
    pub fn get(&self, kind: LinearKind, treatment: Treatment) -> Option<&Bindings> {
        self.bindings[kind.index()][treatment.code_bytes() - 1].as_ref()
    }

    /// The buffers of a linear, made by `alloc` at first use and kept for all layers.
    ///
    /// # Errors
    /// Those of `alloc`.
    pub fn allocate<E>(
        &mut self,
        kind: LinearKind,
        treatment: Treatment,
        alloc: impl FnOnce() -> Result<Bindings, E>,
    ) -> Result<&Bindings, E> {
        let slot = &mut self.bindings[kind.index()][treatment.code_bytes() - 1];
        Ok(match slot {
            Some(bindings) => bindings,
            None => slot.insert(alloc()?),
        })
    }
}

/// What shadow reads and writes.
#[derive(Debug, Default)]
pub struct ShadowBuffers {
    /// What clipping took away from the current input.
    pub residuals: Residuals,
    /// The corrections `[tokens, N]`, by linear.
    pub corrections: [Vec<f32>; 4],
}

/// All buffers of one chunk.
#[derive(Debug, Default)]
pub struct ChunkBuffers {
    /// Float activations.
    pub main: Mutex<MainBuffers>,
    /// NPU codes.
    pub npu: Mutex<NpuBuffers>,
    /// Shadow.
    pub shadow: Mutex<ShadowBuffers>,
}

impl ChunkBuffers {
    /// Frees everything but the logits: the chunk is done.
    pub fn release(&self) {
        let logits = std::mem::take(&mut self.main.lock().logits);
        *self.main.lock() = MainBuffers { logits, ..MainBuffers::default() };
        *self.npu.lock() = NpuBuffers::default();
        *self.shadow.lock() = ShadowBuffers::default();
    }
}
