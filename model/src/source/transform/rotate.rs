//! Rotations folded into the weights (QuaRot, SpinQuant): activations are spread over all channels, so no channel
//! stands out, at no cost at run time.
//!
//! *Residual stream.* RMSNorm without a gain commutes with every orthogonal `Q`. So each gain goes into the columns of
//! the linears behind it (the last one into the head, which is then no longer the embedding), and the stream `h`
//! becomes `h·Q`: rows of the embedding and columns of what reads the stream are multiplied by `Q`, rows of what writes
//! it by `Qᵀ`.
//! *Heads.* Attention is linear in V: each V head is rotated in V's rows and bias, and back in the output projection's
//! columns.
//!
//! `Q = D·(H ⊗ R)`: random signs `D`, the Hadamard matrix `H` of the largest power of two that divides the dimension, a
//! random orthogonal `R` of the odd rest. What acts behind a nonlinearity (the input of the down projection; query and
//! key, which are rotated by position and perhaps normalised) would need operations at run time and is left as it is.

use super::check_rows;
use crate::source::{ModelSource, SourceError};
use crate::{DecoderConfig, LayerTensor, SplitMix64, TensorName, TokenizerData};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// An orthogonal matrix that is multiplied with fast.
#[derive(Clone, Debug)]
pub struct Rotation {
    signs: Vec<f32>,
    /// The power of two.
    hadamard: usize,
    /// The odd rest.
    odd: usize,
    /// `[odd, odd]`, orthogonal.
    random: Vec<f32>,
}

impl Rotation {
    /// A rotation of vectors of `dim` values, the same for the same seed.
    #[must_use]
    pub fn new(dim: usize, seed: u64) -> Self {
        let mut random = SplitMix64::new(seed);
        let hadamard = 1 << dim.trailing_zeros().min(usize::BITS - 1);
        let odd = dim / hadamard;
        let signs = (0..dim).map(|_| if random.bit() { 1.0 } else { -1.0 }).collect();
        Self { signs, hadamard, odd, random: orthogonal(odd, &mut random) }
    }

    /// Length of the vectors.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.signs.len()
    }

    /// Multiplies every row of `rows` `[_, dim]` by `Q` from the right.
    pub fn rotate_rows(&self, rows: &mut [f32]) {
        let mut scratch = Vec::new();
        rows.chunks_exact_mut(self.dim().max(1)).for_each(|row| self.rotate(row, 1, &mut scratch));
    }

    /// Multiplies `matrix` `[dim, width]` by `Qᵀ` from the left, which is every column by `Q` from the right.
    pub fn rotate_columns(&self, matrix: &mut [f32], width: usize) {
        self.rotate(matrix, width, &mut Vec::new());
    }

    /// `dim` elements, each `width` values side by side.
    fn rotate(&self, values: &mut [f32], width: usize, scratch: &mut Vec<f32>) {
        for (element, sign) in values.chunks_exact_mut(width.max(1)).zip(&self.signs) {
            element.iter_mut().for_each(|v| *v *= sign);
        }
        // Elements are numbered hadamard-major: element `h·odd + o`.
        let mut half = self.odd * width;
        while half < values.len() {
            for pair in values.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                a.iter_mut().zip(b).for_each(|(a, b)| (*a, *b) = (*a + *b, *a - *b));
            }
            half *= 2;
        }
        let norm = 1.0 / (self.hadamard as f64).sqrt();
        if self.odd == 1 {
            values.iter_mut().for_each(|v| *v *= norm as f32);
            return;
        }
        for block in values.chunks_exact_mut((self.odd * width).max(1)) {
            scratch.clear();
            scratch.extend_from_slice(block);
            for (j, out) in block.chunks_exact_mut(width).enumerate() {
                out.fill(0.0);
                for (i, element) in scratch.chunks_exact(width).enumerate() {
                    let r = (f64::from(self.random[i * self.odd + j]) * norm) as f32;
                    out.iter_mut().zip(element).for_each(|(o, v)| *o += r * v);
                }
            }
        }
    }
}

/// A random orthogonal matrix `[dim, dim]`: Gaussian rows, made orthonormal (Gram-Schmidt, twice, for its rounding).
fn orthogonal(dim: usize, random: &mut SplitMix64) -> Vec<f32> {
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(dim);
    while rows.len() < dim {
        let mut row: Vec<f64> = (0..dim).map(|_| random.normal()).collect();
        for other in rows.iter().chain(&rows) {
            let dot: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(other).for_each(|(a, b)| *a -= dot * b);
        }
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        // A row that was nearly a sum of the others has lost its digits: draw another.
        if norm > 1e-3 {
            row.iter_mut().for_each(|v| *v /= norm);
            rows.push(row);
        }
    }
    rows.iter().flatten().map(|v| *v as f32).collect()
}

/// A source whose residual stream and V heads are rotated. Its norms have gains of 1 and its head is not tied.
///
/// Rows of what writes the residual stream mix all rows of the inner source's tensor, so the last such tensor is kept:
/// one tensor in memory.
#[derive(Debug)]
pub struct Rotated<S> {
    inner: S,
    config: DecoderConfig,
    stream: Rotation,
    head: Rotation,
    /// The tensor that was made last, whole.
    made: Mutex<Option<(TensorName, Vec<f32>)>>,
}

impl<S: ModelSource> Rotated<S> {
    /// `source`, rotated at random by `seed`.
    #[must_use]
    pub fn new(source: S, seed: u64) -> Self {
        let config = DecoderConfig { tie_word_embeddings: false, ..source.config().clone() };
        let stream = Rotation::new(config.hidden_size as usize, seed);
        let head = Rotation::new(config.head_dim as usize, !seed);
        Self { inner: source, config, stream, head, made: Mutex::new(None) }
    }

    /// The inner source's tensor that `name` is made of.
    fn inner_name(&self, name: TensorName) -> TensorName {
        match name {
            TensorName::Head if self.inner.shape(TensorName::Head).is_none() => TensorName::Embed,
            _ => name,
        }
    }

    /// Multiplies the columns of `rows` by the gains of the norm before them.
    fn fold_gain(&self, gain: TensorName, rows: &mut [f32]) -> Result<(), SourceError> {
        let mut gains = Vec::new();
        self.inner.read_rows(gain, 0..1, &mut gains)?;
        for row in rows.chunks_exact_mut(gains.len().max(1)) {
            row.iter_mut().zip(&gains).for_each(|(v, g)| *v *= g);
        }
        Ok(())
    }

    /// Rotates each V head in `matrix`: V's rows behind those of query and key, each of `width`.
    fn rotate_v(&self, matrix: &mut [f32], width: usize) {
        let v = (self.config.q_size() + self.config.kv_size()) * width;
        for head in matrix[v..].chunks_exact_mut((self.head.dim() * width).max(1)) {
            self.head.rotate_columns(head, width);
        }
    }

    /// A whole tensor whose rows are mixed.
    fn make(&self, name: TensorName, tensor: LayerTensor, (n, k): (usize, usize)) -> Result<Vec<f32>, SourceError> {
        let mut matrix = Vec::new();
        self.inner.read_rows(name, 0..n, &mut matrix)?;
        match tensor {
            LayerTensor::Qkv => {
                let TensorName::Layer(layer, _) = name else { return Err(SourceError::NoSuchTensor(name)) };
                self.fold_gain(TensorName::Layer(layer, LayerTensor::AttnNorm), &mut matrix)?;
                self.stream.rotate_rows(&mut matrix);
                self.rotate_v(&mut matrix, k);
            }
            LayerTensor::O => {
                self.head.rotate_rows(&mut matrix);
                self.stream.rotate_columns(&mut matrix, k);
            }
            _ => self.stream.rotate_columns(&mut matrix, k),
        }
        Ok(matrix)
    }
}

impl<S: ModelSource> ModelSource for Rotated<S> {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn tokenizer(&self) -> &TokenizerData {
        self.inner.tokenizer()
    }

    fn shape(&self, name: TensorName) -> Option<(usize, usize)> {
        self.inner.shape(self.inner_name(name))
    }

    fn read_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), SourceError> {
        out.clear();
        let (n, k) = check_rows(name, self.shape(name), &rows)?;
        match name {
            TensorName::Norm | TensorName::Layer(_, LayerTensor::AttnNorm | LayerTensor::FfnNorm) => {
                out.resize(rows.len() * k, 1.0);
            }
            TensorName::Embed => {
                self.inner.read_rows(name, rows, out)?;
                self.stream.rotate_rows(out);
            }
            TensorName::Head => {
                self.inner.read_rows(self.inner_name(name), rows, out)?;
                self.fold_gain(TensorName::Norm, out)?;
                self.stream.rotate_rows(out);
            }
            TensorName::Layer(layer, LayerTensor::GateUp) => {
                self.inner.read_rows(name, rows, out)?;
                self.fold_gain(TensorName::Layer(layer, LayerTensor::FfnNorm), out)?;
                self.stream.rotate_rows(out);
            }
            TensorName::Layer(_, LayerTensor::QkvBias) => {
                self.inner.read_rows(name, rows.clone(), out)?;
                if !rows.is_empty() {
                    self.rotate_v(out, 1);
                }
            }
            TensorName::Layer(_, tensor @ (LayerTensor::Qkv | LayerTensor::O | LayerTensor::Down)) => {
                let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
                if made.as_ref().is_none_or(|(made, _)| *made != name) {
                    *made = None; // the old one's memory first
                    *made = Some((name, self.make(name, tensor, (n, k))?));
                }
                let matrix = made.as_ref().map_or(&[][..], |(_, matrix)| matrix);
                out.extend_from_slice(matrix.get(rows.start * k..rows.end * k).unwrap_or_default());
            }
            TensorName::Layer(..) => self.inner.read_rows(name, rows, out)?,
        }
        Ok(())
    }

    fn read_files(&self) -> crate::output::ReadFiles {
        self.inner.read_files()
    }

    fn describe(&self) -> String {
        format!("{}, residual stream and V heads rotated", self.inner.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_are_orthogonal_and_spread_what_stands_out() {
        for dim in [1, 2, 3, 5, 8, 12, 64, 96, 45, 896] {
            let rotation = Rotation::new(dim, 3);
            let mut q = vec![0.0; dim * dim];
            (0..dim).for_each(|i| q[i * dim + i] = 1.0);
            rotation.rotate_rows(&mut q); // the identity's rows: Q itself
            for (i, a) in q.chunks_exact(dim).enumerate().step_by(1 + dim / 16) {
                for (j, b) in q.chunks_exact(dim).enumerate() {
                    let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-5, "{dim}: rows {i} and {j}: {dot}");
                }
            }
            let mut transposed = vec![0.0; dim * dim];
            (0..dim).for_each(|i| transposed[i * dim + i] = 1.0);
            rotation.rotate_columns(&mut transposed, dim); // Qᵀ
            for i in 0..dim {
                for j in 0..dim {
                    let (a, b) = (q[i * dim + j], transposed[j * dim + i]);
                    assert!((a - b).abs() < 1e-6, "{dim}: {i}, {j}: {a} and {b}");
                }
            }
            if dim.is_power_of_two() {
                let flat = 1.0 / (dim as f32).sqrt();
                assert!(q.iter().all(|v| (v.abs() - flat).abs() < 1e-6), "{dim}: one channel goes to all alike");
            }
        }
    }

    #[test]
    fn seeds_make_rotations() {
        let rotated = |seed| {
            let mut row: Vec<f32> = (0..48).map(|i| i as f32).collect();
            Rotation::new(48, seed).rotate_rows(&mut row);
            row
        };
        assert_eq!(rotated(1), rotated(1));
        assert_ne!(rotated(1), rotated(2));
    }
}
