//! The ops of static graphs: what HTP computes (measured), in the field's terms. Shapes follow the tensors; [`check`] holds
//! every rule that all devices share.

use super::{Dtype, Encoding, TensorSpec, WeightSpec};
use coexec_model::{TensorName, layout::GROUP};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Largest K: sums of u8 × i8 products stay exact in 32 bits.
pub(crate) const MAX_K: usize = 1 << 16;
/// Most dimensions of a tensor that an op reads or writes (HTP's transposes and matmuls go no further).
pub(crate) const MAX_RANK: usize = 5;

/// An elementwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// `1 / (1 + e⁻ˣ)`; `x · sigmoid(x)` is SiLU.
    Sigmoid,
}

/// One op of a graph. Tensors are named; their specs stand in the graph.
///
/// Arithmetic is in real numbers, rounded to the output's dtype and encoding; how exactly is the device's (linears in codes
/// follow HTP's measured rule on every device).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OpSpec {
    /// A linear as a 1×1 convolution: `[1, 1, M, K]` with weights `[N, K]` gives `[1, 1, M, N]`.
    Conv2d1x1 {
        /// Name of the input tensor.
        input: String,
        /// Static weights.
        weights: WeightSpec,
        /// Float vector added to the outputs; its elements at `weights.rows` are taken.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<TensorName>,
        /// Name of the output tensor.
        output: String,
    },
    /// `x · gain / √(mean(x²) + epsilon)` over the last dimension.
    RmsNorm {
        /// Name of the input tensor.
        input: String,
        /// Float vector of the last dimension's length.
        gain: TensorName,
        /// Added to the mean square, positive.
        epsilon: f32,
        /// Name of the output tensor, shaped like the input.
        output: String,
    },
    /// `a + b`; dimensions of `b` are equal to `a`'s or 1.
    Add {
        /// First input.
        a: String,
        /// Second input.
        b: String,
        /// Output, shaped like `a`.
        output: String,
    },
    /// `a · b`, element by element; dimensions of `b` are equal to `a`'s or 1.
    Mul {
        /// First input.
        a: String,
        /// Second input.
        b: String,
        /// Output, shaped like `a`.
        output: String,
    },
    /// A function of every element.
    Neuron {
        /// The function.
        function: Function,
        /// Input.
        input: String,
        /// Output, shaped like the input.
        output: String,
    },
    /// Softmax over the last dimension.
    Softmax {
        /// Input.
        input: String,
        /// Output, shaped like the input.
        output: String,
    },
    /// `a [.., M, K] × b [.., K, N]` (or `b [.., N, K]` when `transpose_b`) gives `[.., M, N]`; leading dimensions are equal.
    MatMul {
        /// First input.
        a: String,
        /// Second input.
        b: String,
        /// Whether `b` is stored `[.., N, K]`.
        transpose_b: bool,
        /// Output.
        output: String,
    },
    /// Rotary embedding, half-split: `x [1, heads, tokens, D]`, `cos` and `sin` `[1, tokens, D/2]`; channel `i` pairs with
    /// `i + D/2`.
    Rope {
        /// Input.
        input: String,
        /// Cosines, one per token and pair.
        cos: String,
        /// Sines.
        sin: String,
        /// Output, shaped like the input.
        output: String,
    },
    /// The same numbers in another dtype or encoding (quantise, dequantise, requantise, cast).
    Convert {
        /// Input.
        input: String,
        /// Output, shaped like the input.
        output: String,
    },
    /// The same elements in other dimensions.
    Reshape {
        /// Input.
        input: String,
        /// Output, of as many elements.
        output: String,
    },
    /// Dimensions in another order: `output.dims[i] = input.dims[perm[i]]`.
    Transpose {
        /// Input.
        input: String,
        /// Order of the dimensions.
        perm: Vec<u32>,
        /// Output.
        output: String,
    },
    /// Tensors one after another along a dimension.
    Concat {
        /// Inputs, equal in all other dimensions.
        inputs: Vec<String>,
        /// Dimension along which they follow each other.
        axis: u32,
        /// Output.
        output: String,
    },
}

impl OpSpec {
    /// Names of all op types, as [`Self::op_name`] gives them.
    pub const NAMES: [&str; 12] = [
        "conv2d_1x1",
        "rms_norm",
        "add",
        "mul",
        "sigmoid",
        "softmax",
        "mat_mul",
        "rope",
        "convert",
        "reshape",
        "transpose",
        "concat",
    ];

    /// The op's type, as profiles and errors name it.
    #[must_use]
    pub fn op_name(&self) -> &'static str {
        match self {
            Self::Conv2d1x1 { .. } => "conv2d_1x1",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Add { .. } => "add",
            Self::Mul { .. } => "mul",
            Self::Neuron { function: Function::Sigmoid, .. } => "sigmoid",
            Self::Softmax { .. } => "softmax",
            Self::MatMul { .. } => "mat_mul",
            Self::Rope { .. } => "rope",
            Self::Convert { .. } => "convert",
            Self::Reshape { .. } => "reshape",
            Self::Transpose { .. } => "transpose",
            Self::Concat { .. } => "concat",
        }
    }

    /// Names of the tensors that the op reads.
    #[must_use]
    pub fn inputs(&self) -> Vec<&str> {
        match self {
            Self::Conv2d1x1 { input, .. }
            | Self::RmsNorm { input, .. }
            | Self::Neuron { input, .. }
            | Self::Softmax { input, .. }
            | Self::Convert { input, .. }
            | Self::Reshape { input, .. }
            | Self::Transpose { input, .. } => vec![input],
            Self::Add { a, b, .. } | Self::Mul { a, b, .. } | Self::MatMul { a, b, .. } => vec![a, b],
            Self::Rope { input, cos, sin, .. } => vec![input, cos, sin],
            Self::Concat { inputs, .. } => inputs.iter().map(String::as_str).collect(),
        }
    }

    /// Name of the tensor that the op writes.
    #[must_use]
    pub fn output(&self) -> &str {
        match self {
            Self::Conv2d1x1 { output, .. }
            | Self::RmsNorm { output, .. }
            | Self::Add { output, .. }
            | Self::Mul { output, .. }
            | Self::Neuron { output, .. }
            | Self::Softmax { output, .. }
            | Self::MatMul { output, .. }
            | Self::Rope { output, .. }
            | Self::Convert { output, .. }
            | Self::Reshape { output, .. }
            | Self::Transpose { output, .. }
            | Self::Concat { output, .. } => output,
        }
    }

    /// Static weights of a linear.
    #[must_use]
    pub fn weights(&self) -> Option<&WeightSpec> {
        match self {
            Self::Conv2d1x1 { weights, .. } => Some(weights),
            _ => None,
        }
    }

    /// A static float vector that the op needs (a norm's gain, a linear's bias), with the range of it that is taken.
    #[must_use]
    pub fn vector(&self, tensors: &HashMap<&str, &TensorSpec>) -> Option<(TensorName, std::ops::Range<usize>)> {
        match self {
            Self::Conv2d1x1 { weights, bias: Some(bias), .. } => Some((*bias, weights.rows.clone())),
            Self::RmsNorm { input, gain, .. } => Some((*gain, 0..tensors.get(input.as_str())?.width())),
            _ => None,
        }
    }
}

type Bad = (String, String);

/// Checks an op against its tensors: `(tensor, reason)` when something is wrong.
pub(super) fn check(op: &OpSpec, tensors: &HashMap<&str, &TensorSpec>) -> Result<(), Bad> {
    let get = |name: &str| {
        let missing = || (name.to_owned(), "declared nowhere in the graph".to_owned());
        tensors.get(name).copied().ok_or_else(missing)
    };
    let ins = op.inputs().into_iter().map(get).collect::<Result<Vec<_>, _>>()?;
    let y = get(op.output())?;
    let bad = |tensor: &TensorSpec, reason: String| Err((tensor.name.clone(), reason));
    if let Some(t) = ins.iter().chain([&y]).find(|t| t.dims.len() > MAX_RANK) {
        return bad(t, format!("{} dimensions, ops take at most {MAX_RANK}", t.dims.len()));
    }
    let Some(&x) = ins.first() else {
        return bad(y, format!("{} needs an input", op.op_name()));
    };
    let same_dtype = |others: &[&TensorSpec]| match others.iter().find(|t| t.dtype != x.dtype) {
        Some(t) => bad(t, format!("{} beside {}: types of this op are equal", t.dtype, x.dtype)),
        None => Ok(()),
    };
    let same_dims = || {
        let reason = || format!("dimensions {:?} but the op gives {:?}", y.dims, x.dims);
        if y.dims == x.dims { Ok(()) } else { bad(y, reason()) }
    };
    let same_encoding = |t: &TensorSpec| {
        let reason = || format!("encoding {:?} beside {:?}: this op only moves codes", t.encoding, x.encoding);
        if t.encoding == x.encoding { Ok(()) } else { bad(t, reason()) }
    };
    match op {
        OpSpec::Conv2d1x1 { weights, .. } => {
            check_linear(x, weights, y)?;
            same_dtype(&[y])
        }
        OpSpec::RmsNorm { epsilon, .. } => {
            if !(epsilon.is_finite() && *epsilon > 0.0) {
                return bad(x, format!("epsilon {epsilon} is not a positive number"));
            }
            same_dtype(&[y])?;
            same_dims()
        }
        OpSpec::Add { .. } | OpSpec::Mul { .. } => {
            let b = ins[1];
            let fits = b.dims.len() == x.dims.len() && b.dims.iter().zip(&x.dims).all(|(b, a)| b == a || *b == 1);
            if !fits {
                return bad(b, format!("dimensions {:?} are neither {:?} nor 1", b.dims, x.dims));
            }
            same_dtype(&[b, y])?;
            same_dims()
        }
        OpSpec::Neuron { .. } | OpSpec::Softmax { .. } => {
            same_dtype(&[y])?;
            same_dims()
        }
        OpSpec::MatMul { transpose_b, .. } => check_mat_mul(x, ins[1], *transpose_b, y),
        OpSpec::Rope { .. } => {
            same_dtype(&[y])?;
            same_dims()?;
            let [1, _, tokens, width] = x.dims[..] else {
                return bad(x, format!("dimensions {:?}: rope takes [1, heads, tokens, D]", x.dims));
            };
            for table in &ins[1..] {
                if width % 2 != 0 || table.dims != [1, tokens, width / 2] {
                    return bad(table, format!("dimensions {:?}: [1, {tokens}, {}] wanted", table.dims, width / 2));
                }
                same_dtype(&[table])?;
            }
            Ok(())
        }
        OpSpec::Convert { .. } => same_dims(),
        OpSpec::Reshape { .. } => {
            same_dtype(&[y])?;
            same_encoding(y)?;
            if x.elems() != y.elems() {
                return bad(y, format!("dimensions {:?} hold other elements than {:?}", y.dims, x.dims));
            }
            Ok(())
        }
        OpSpec::Transpose { perm, .. } => {
            same_dtype(&[y])?;
            same_encoding(y)?;
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..x.dims.len() as u32) {
                return bad(x, format!("order {perm:?} is no permutation of its {} dimensions", x.dims.len()));
            }
            if !perm.iter().map(|p| x.dims[*p as usize]).eq(y.dims.iter().copied()) {
                return bad(y, format!("dimensions {:?} are not {:?} in the order {perm:?}", y.dims, x.dims));
            }
            Ok(())
        }
        OpSpec::Concat { axis, .. } => {
            let axis = *axis as usize;
            if axis >= x.dims.len() {
                return bad(x, format!("axis {axis} of {} dimensions", x.dims.len()));
            }
            let mut sum = 0u32;
            for t in &ins {
                same_dtype(&[t])?;
                same_encoding(t)?;
                let others = |d: &[u32]| d.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| *d).collect();
                let (a, b): (Vec<u32>, Vec<u32>) = (others(&t.dims), others(&x.dims));
                if t.dims.len() != x.dims.len() || a != b {
                    return bad(t, format!("dimensions {:?} beside {:?} along axis {axis}", t.dims, x.dims));
                }
                sum = sum.saturating_add(t.dims[axis]);
            }
            same_dtype(&[y])?;
            same_encoding(y)?;
            let mut wanted = x.dims.clone();
            wanted[axis] = sum;
            if y.dims != wanted {
                return bad(y, format!("dimensions {:?} but the op gives {wanted:?}", y.dims));
            }
            Ok(())
        }
    }
}

fn check_linear(x: &TensorSpec, weights: &WeightSpec, y: &TensorSpec) -> Result<(), Bad> {
    for t in [x, y] {
        if t.dims.len() != 4 || t.dims[0] != 1 || t.dims[1] != 1 {
            return Err((t.name.clone(), format!("dimensions {:?}: a linear takes [1, 1, M, K]", t.dims)));
        }
    }
    let name = || weights.tensor.to_string();
    if weights.rows.start >= weights.rows.end || weights.k == 0 || weights.k > MAX_K {
        let shape = format!("rows {:?} with K {}", weights.rows, weights.k);
        return Err((name(), format!("{shape}: neither may be empty, K at most {MAX_K}")));
    }
    if weights.encoding.is_grouped() && !weights.k.is_multiple_of(GROUP) {
        return Err((name(), format!("K {} is no multiple of {GROUP}, which block expansion needs", weights.k)));
    }
    if x.width() != weights.k {
        return Err((x.name.clone(), format!("width {} but the weights have K {}", x.width(), weights.k)));
    }
    if y.width() != weights.n() || y.rows() != x.rows() {
        let want = format!("[1, 1, {}, {}]", x.rows(), weights.n());
        return Err((y.name.clone(), format!("dimensions {:?} but the op gives {want}", y.dims)));
    }
    Ok(())
}

fn check_mat_mul(a: &TensorSpec, b: &TensorSpec, transpose_b: bool, y: &TensorSpec) -> Result<(), Bad> {
    let rank = a.dims.len();
    if rank < 2 || b.dims.len() != rank || a.dims[..rank - 2] != b.dims[..rank - 2] {
        return Err((b.name.clone(), format!("dimensions {:?} beside {:?}: leading ones are equal", b.dims, a.dims)));
    }
    let (k_of_b, n) =
        if transpose_b { (b.dims[rank - 1], b.dims[rank - 2]) } else { (b.dims[rank - 2], b.dims[rank - 1]) };
    if k_of_b != a.dims[rank - 1] {
        return Err((b.name.clone(), format!("sums over {k_of_b} elements, `{}` over {}", a.name, a.dims[rank - 1])));
    }
    let mut wanted = a.dims.clone();
    wanted[rank - 1] = n;
    if y.dims != wanted {
        return Err((y.name.clone(), format!("dimensions {:?} but the op gives {wanted:?}", y.dims)));
    }
    // Measured on HTP: u8 × u8, f16 × f16, and u16 × i8 (symmetric); u8 × i8 computes garbage with several heads.
    let allowed = match a.dtype {
        Dtype::U8 => b.dtype == Dtype::U8,
        Dtype::U16 => {
            b.dtype == Dtype::I8 && matches!(b.encoding, Encoding::Tensor { zero_point: 0, .. }) || b.dtype == Dtype::U8
        }
        _ => a.dtype == b.dtype,
    };
    if !allowed {
        return Err((
            b.name.clone(),
            format!("{} beside {}: u8×u8, u16×i8 (zero point 0), u16×u8 or equal floats", b.dtype, a.dtype),
        ));
    }
    if y.dtype != a.dtype {
        return Err((y.name.clone(), format!("{} out of {}", y.dtype, a.dtype)));
    }
    Ok(())
}
