//! Where two specs differ first, in words that a user can act on.

use super::{ContextSpec, Encoding, GraphSpec, OpSpec, TensorSpec};
use crate::NpuError;

/// What differs, what is wanted, what was found.
type Difference = (String, String, String);

impl ContextSpec {
    /// Checks that a binary's graphs are these, ops and encodings included.
    ///
    /// # Errors
    /// [`NpuError::Graph`] names the first graph that differs, what differs in it, and both values.
    pub fn expect_same(&self, found: &Self) -> Result<(), NpuError> {
        if self == found {
            return Ok(());
        }
        let differ = |graph: &str, (what, wanted, found): Difference| {
            Err(NpuError::Graph { graph: graph.to_owned(), what, wanted, found })
        };
        let named = |spec: &Self, name: &str| spec.graphs.iter().any(|g| g.name == name);
        if let Some(missing) = self.graphs.iter().find(|g| !named(found, &g.name)) {
            return differ(&missing.name, values("the graph itself", "one", "none of that name"));
        }
        if let Some(unwanted) = found.graphs.iter().find(|g| !named(self, &g.name)) {
            return differ(&unwanted.name, values("the graph itself", "none of that name", "one"));
        }
        for (at, (wanted, found)) in self.graphs.iter().zip(&found.graphs).enumerate() {
            if wanted.name != found.name {
                return differ(&wanted.name, values(&format!("the graph at place {at}"), &wanted.name, &found.name));
            }
            if let Some(difference) = wanted.difference(found) {
                return differ(&wanted.name, difference);
            }
        }
        differ("all", values("name of the context", &self.name, &found.name))
    }
}

impl GraphSpec {
    fn difference(&self, found: &Self) -> Option<Difference> {
        let sides = [
            ("input", &self.inputs, &found.inputs),
            ("output", &self.outputs, &found.outputs),
            ("tensor", &self.intermediates, &found.intermediates),
        ];
        let tensors = sides.into_iter().find_map(|(side, wanted, found)| {
            if wanted.len() != found.len() {
                return Some(values(&format!("number of {side}s"), wanted.len(), found.len()));
            }
            wanted.iter().zip(found).find_map(|(wanted, found)| wanted.difference(side, found))
        });
        let nodes = || {
            if self.nodes.len() != found.nodes.len() {
                return Some(values("number of ops", self.nodes.len(), found.nodes.len()));
            }
            let pairs = self.nodes.iter().zip(&found.nodes).enumerate();
            pairs.into_iter().find_map(|(at, (wanted, found))| op_difference(at, wanted, found))
        };
        tensors.or_else(nodes)
    }
}

impl TensorSpec {
    /// `side` is what the tensor is in its graph.
    pub(crate) fn difference(&self, side: &str, found: &Self) -> Option<Difference> {
        let of = |what: &str| format!("{what} of {side} `{}`", self.name);
        if self.name != found.name {
            return Some(values(&format!("name of {side}"), &self.name, &found.name));
        }
        if self.dtype != found.dtype {
            return Some(values(&of("type"), self.dtype, found.dtype));
        }
        if self.dims != found.dims {
            return Some(values(&of("dimensions"), format!("{:?}", self.dims), format!("{:?}", found.dims)));
        }
        (self.encoding != found.encoding)
            .then(|| values(&of("encoding"), encoding(self.encoding), encoding(found.encoding)))
    }
}

fn op_difference(at: usize, wanted: &OpSpec, found: &OpSpec) -> Option<Difference> {
    if wanted == found {
        return None;
    }
    let of = |what: &str| format!("{what} of op {at} ({})", wanted.op_name());
    if wanted.op_name() != found.op_name() {
        return Some(values(&format!("op {at}"), wanted.op_name(), found.op_name()));
    }
    if let (Some(wanted), Some(found)) = (wanted.weights(), found.weights()) {
        if wanted.encoding != found.encoding {
            return Some(values(&of("weights"), wanted.encoding, found.encoding));
        }
        if wanted != found {
            let text = |w: &super::WeightSpec| format!("rows {}..{} of `{}`", w.rows.start, w.rows.end, w.tensor);
            return Some(values(&of("weights"), text(wanted), text(found)));
        }
    }
    Some(values(&of("tensors or parameters"), "others", "not those"))
}

fn values(what: &str, wanted: impl ToString, found: impl ToString) -> Difference {
    (what.to_owned(), wanted.to_string(), found.to_string())
}

/// An encoding in words.
pub(crate) fn encoding(encoding: Encoding) -> String {
    match encoding {
        Encoding::None => "none".to_owned(),
        Encoding::Tensor { scale, zero_point } => format!("scale {scale}, zero point {zero_point}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, WeightEncoding, WeightSpec};
    use coexec_model::{LayerIdx, LayerTensor, TensorName};

    fn context() -> ContextSpec {
        let encoding = |scale| Encoding::Tensor { scale, zero_point: 128 };
        let graph = |name: &str| GraphSpec {
            name: name.to_owned(),
            inputs: vec![TensorSpec::activation("x", 32, 64, Dtype::U8, encoding(0.5))],
            outputs: vec![TensorSpec::activation("y", 32, 64, Dtype::U8, encoding(0.25))],
            intermediates: Vec::new(),
            nodes: vec![OpSpec::Conv2d1x1 {
                input: "x".to_owned(),
                weights: WeightSpec {
                    tensor: TensorName::Layer(LayerIdx(0), LayerTensor::O),
                    rows: 0..64,
                    k: 64,
                    encoding: WeightEncoding::PerChannelI8,
                },
                bias: None,
                output: "y".to_owned(),
            }],
        };
        ContextSpec { name: "split".to_owned(), graphs: vec![graph("a"), graph("b")] }
    }

    /// One line: graph, field, what is there, what is wanted, what to do; never a spec in full.
    #[test]
    fn every_difference_is_named_with_both_values_and_not_swapped() {
        type Change = fn(&mut ContextSpec);
        let cases: [(Change, [&str; 4]); 10] = [
            (|c| _ = c.graphs.pop(), ["`b`", "the graph itself", "none of that name was compiled", "one is wanted"]),
            (
                |c| c.graphs[1].name = "c".to_owned(),
                ["`b`", "the graph itself", "none of that name was compiled", "one is wanted"],
            ),
            (|c| c.graphs.swap(0, 1), ["`a`", "place 0", "b was compiled", "a is wanted"]),
            (
                |c| c.graphs[1].inputs[0].encoding = Encoding::Tensor { scale: 0.125, zero_point: 32768 },
                [
                    "`b`",
                    "encoding of input `x`",
                    "scale 0.125, zero point 32768 was compiled",
                    "scale 0.5, zero point 128 is wanted",
                ],
            ),
            (
                |c| c.graphs[0].outputs[0].dtype = Dtype::U16,
                ["`a`", "type of output `y`", "u16 was compiled", "u8 is wanted"],
            ),
            (
                |c| c.graphs[0].outputs[0].dims = vec![1, 1, 16, 64],
                ["`a`", "dimensions of output `y`", "[1, 1, 16, 64] was compiled", "[1, 1, 32, 64] is wanted"],
            ),
            (
                |c| c.graphs[0].inputs[0].name = "z".to_owned(),
                ["`a`", "name of input", "z was compiled", "x is wanted"],
            ),
            (
                |c| {
                    if let OpSpec::Conv2d1x1 { weights, .. } = &mut c.graphs[0].nodes[0] {
                        weights.encoding = WeightEncoding::PerChannelI4;
                    }
                },
                ["`a`", "weights of op 0", "per_channel_i4 was compiled", "per_channel_i8 is wanted"],
            ),
            (
                |c| {
                    if let OpSpec::Conv2d1x1 { weights, .. } = &mut c.graphs[0].nodes[0] {
                        weights.rows = 0..32;
                    }
                },
                ["`a`", "weights of op 0", "rows 0..32", "rows 0..64"],
            ),
            (
                |c| c.name = "split.0".to_owned(),
                ["all", "name of the context", "split.0 was compiled", "split is wanted"],
            ),
        ];
        let wanted = context();
        assert!(wanted.expect_same(&context()).is_ok());
        for (change, words) in cases {
            let mut found = context();
            change(&mut found);
            let error = wanted.expect_same(&found).expect_err("differs").to_string();
            for word in words {
                assert!(error.contains(word), "`{word}` is not in: {error}");
            }
            assert!(error.contains("compile the model again") && error.len() < 250, "{error}");
        }
    }
}
