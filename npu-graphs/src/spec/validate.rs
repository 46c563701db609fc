//! What every device may rely on about a spec. Called by builders' tests and by each device's `prepare`.

use super::{ContextSpec, Dtype, Encoding, GraphSpec, OpSpec, TensorSpec, op::check as check_op};
use std::collections::{HashMap, HashSet};

/// Largest tensor that a graph may bind, in bytes.
pub(crate) const MAX_TENSOR_BYTES: usize = 1 << 30;

/// A spec that no device can take. Every variant names the graph; the builder that made it has to be corrected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Two graphs have one name.
    #[error("context `{context}`: two graphs are called `{graph}`; give each its own name")]
    DuplicateGraph {
        /// Context.
        context: String,
        /// Name used twice.
        graph: String,
    },
    /// A context without graphs, or a graph without nodes, inputs or outputs.
    #[error("`{name}` has no {what}; a static graph needs at least one")]
    Empty {
        /// Context or graph.
        name: String,
        /// What is missing.
        what: &'static str,
    },
    /// A tensor that cannot exist.
    #[error("graph `{graph}`, tensor `{tensor}`: {reason}")]
    Tensor {
        /// Graph.
        graph: String,
        /// Tensor.
        tensor: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// An op that does not fit its tensors.
    #[error("graph `{graph}`, op {op}, tensor `{tensor}`: {reason}")]
    Op {
        /// Graph.
        graph: String,
        /// Op type.
        op: &'static str,
        /// Tensor the reason is about.
        tensor: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
}

impl ContextSpec {
    /// Checks every graph and that names are unique.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        if self.graphs.is_empty() {
            return Err(SpecError::Empty { name: self.name.clone(), what: "graphs" });
        }
        let mut names = HashSet::new();
        for graph in &self.graphs {
            graph.validate()?;
            if !names.insert(graph.name.as_str()) {
                return Err(SpecError::DuplicateGraph { context: self.name.clone(), graph: graph.name.clone() });
            }
        }
        Ok(())
    }
}

impl GraphSpec {
    /// Checks shapes, encodings, names, topological order, and that every output is produced once.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        for (list, what) in [(&self.inputs, "inputs"), (&self.outputs, "outputs")] {
            if list.is_empty() {
                return Err(SpecError::Empty { name: self.name.clone(), what });
            }
        }
        if self.name.is_empty() || self.nodes.is_empty() {
            let what = if self.name.is_empty() { "name" } else { "nodes" };
            return Err(SpecError::Empty { name: self.name.clone(), what });
        }
        let mut tensors: HashMap<&str, &TensorSpec> = HashMap::new();
        for tensor in self.inputs.iter().chain(&self.outputs).chain(&self.intermediates) {
            check_tensor(tensor).map_err(|reason| self.bad_tensor(&tensor.name, reason))?;
            if tensors.insert(&tensor.name, tensor).is_some() {
                return Err(self.bad_tensor(&tensor.name, "the name is used twice in this graph".to_owned()));
            }
        }
        let mut ready: HashSet<&str> = self.inputs.iter().map(|t| t.name.as_str()).collect();
        for node in &self.nodes {
            for name in node.inputs() {
                if !ready.contains(name) {
                    let reason = "read before it is produced; put nodes in topological order".to_owned();
                    return Err(self.bad_op(node, name, reason));
                }
            }
            let name = node.output();
            if !tensors.contains_key(name) {
                return Err(self.bad_op(node, name, "declared nowhere in the graph".to_owned()));
            }
            if !ready.insert(name) {
                return Err(self.bad_op(node, name, "written twice, or written although an input".to_owned()));
            }
            check_op(node, &tensors).map_err(|(tensor, reason)| self.bad_op(node, &tensor, reason))?;
        }
        for tensor in self.outputs.iter().chain(&self.intermediates) {
            if !ready.contains(tensor.name.as_str()) {
                return Err(self.bad_tensor(&tensor.name, "no node produces it".to_owned()));
            }
        }
        Ok(())
    }

    fn bad_tensor(&self, tensor: &str, reason: String) -> SpecError {
        SpecError::Tensor { graph: self.name.clone(), tensor: tensor.to_owned(), reason }
    }

    fn bad_op(&self, op: &OpSpec, tensor: &str, reason: String) -> SpecError {
        SpecError::Op { graph: self.name.clone(), op: op.op_name(), tensor: tensor.to_owned(), reason }
    }
}

fn check_tensor(tensor: &TensorSpec) -> Result<(), String> {
    if tensor.name.is_empty() {
        return Err("a tensor needs a name".to_owned());
    }
    if tensor.dims.is_empty() || tensor.dims.len() > 5 || tensor.dims.contains(&0) {
        return Err(format!("dimensions {:?}: 1 to 5 of them, none 0, all static", tensor.dims));
    }
    match tensor.len_bytes() {
        Some(bytes) if bytes <= MAX_TENSOR_BYTES => {}
        _ => return Err(format!("dimensions {:?} take more than {MAX_TENSOR_BYTES} bytes", tensor.dims)),
    }
    let code_range = match tensor.dtype {
        Dtype::U8 => 0..=i32::from(u8::MAX),
        Dtype::U16 => 0..=i32::from(u16::MAX),
        Dtype::I8 => i32::from(i8::MIN)..=i32::from(i8::MAX),
        Dtype::I32 | Dtype::F16 | Dtype::F32 => {
            return match tensor.encoding {
                Encoding::None => Ok(()),
                Encoding::Tensor { .. } => Err(format!("{} elements take no encoding", tensor.dtype)),
            };
        }
    };
    match tensor.encoding {
        Encoding::None => Err(format!("{} codes need a scale and a zero point", tensor.dtype)),
        Encoding::Tensor { scale, .. } if !(scale.is_normal() && scale > 0.0) => {
            Err(format!("scale {scale} is not a positive normal number"))
        }
        Encoding::Tensor { zero_point, .. } if !code_range.contains(&zero_point) => {
            Err(format!("zero point {zero_point} is no {} code", tensor.dtype))
        }
        Encoding::Tensor { .. } => Ok(()),
    }
}
