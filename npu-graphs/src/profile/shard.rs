//! Cutting the graphs of a model into as few contexts as a device's limits allow, before anything is prepared.

use super::DeviceProfile;
use crate::{ContextSpec, GraphSpec, NpuError, OpSpec, WeightSpec};
use std::collections::HashSet;

impl DeviceProfile {
    /// Contexts that each keep this device's limits (bytes, and graphs where they share weights) and hold at most
    /// `most_graphs` graphs, where that is given and one linear's chunk lengths are not more. They are named `NAME.0`,
    /// `NAME.1`, … in the order of the graphs; one context of the same name when all fits. Graphs that share weights and
    /// follow each other (the chunk lengths of a linear) stay together, so no weight is there twice.
    ///
    /// # Errors
    /// [`NpuError::ContextTooLarge`] or [`NpuError::TooManyGraphs`] when graphs that share weights do not fit one context,
    /// or all do not fit the device.
    pub fn shard(&self, spec: &ContextSpec, most_graphs: Option<usize>) -> Result<Vec<ContextSpec>, NpuError> {
        let too_large = |context: &str, needed_bytes, limit_bytes| NpuError::ContextTooLarge {
            device: self.device.clone(),
            context: context.to_owned(),
            needed_bytes,
            limit_bytes,
        };
        let total = spec.device_bytes(self.graph_overhead_bytes);
        if total > self.max_device_bytes {
            return Err(too_large(&spec.name, total, self.max_device_bytes));
        }
        let limit = if spec.shares_weights() { self.max_sharing_graphs } else { usize::MAX };
        let most_graphs = most_graphs.unwrap_or(usize::MAX).min(limit);
        if total <= self.max_context_bytes && spec.graphs.len() <= most_graphs {
            return Ok(vec![spec.clone()]);
        }
        let mut shards: Vec<ContextSpec> = Vec::new();
        let mut used_bytes = u64::MAX;
        for group in groups(&spec.graphs) {
            let part = ContextSpec { name: String::new(), graphs: group.to_vec() };
            let bytes = part.device_bytes(self.graph_overhead_bytes);
            if bytes > self.max_context_bytes {
                return Err(too_large(&group[0].name, bytes, self.max_context_bytes));
            }
            if group.len() > limit {
                return Err(NpuError::TooManyGraphs {
                    device: self.device.clone(),
                    context: group[0].name.clone(),
                    graphs: group.len(),
                    limit,
                });
            }
            match shards.last_mut() {
                Some(last)
                    if used_bytes.saturating_add(bytes) <= self.max_context_bytes
                        && last.graphs.len() + group.len() <= most_graphs =>
                {
                    last.graphs.extend(part.graphs);
                    used_bytes += bytes;
                }
                _ => {
                    shards.push(ContextSpec { name: format!("{}.{}", spec.name, shards.len()), ..part });
                    used_bytes = bytes;
                }
            }
        }
        Ok(shards)
    }
}

/// Runs of consecutive graphs, each sharing a weight with one before it in the run.
fn groups(graphs: &[GraphSpec]) -> Vec<&[GraphSpec]> {
    let mut groups = Vec::new();
    let mut start = 0;
    let mut seen: HashSet<&WeightSpec> = HashSet::new();
    for (i, graph) in graphs.iter().enumerate() {
        let weights: Vec<_> = graph.nodes.iter().filter_map(OpSpec::weights).collect();
        if i > start && !weights.iter().any(|w| seen.contains(w)) {
            groups.push(&graphs[start..i]);
            start = i;
            seen.clear();
        }
        seen.extend(weights);
    }
    if start < graphs.len() {
        groups.push(&graphs[start..]);
    }
    groups
}
