//! Memory that compile jobs take, beforehand: how many graphs one may hold, and how many jobs run at once.

use coexec_npu::{ContextSpec, OpSpec};
use std::fs;

/// The library and the program (fitted, like the next two, to jobs on SmolLM2 and the 0.5B; QNN 2.51, x86-64).
const BASE_BYTES: u64 = 75 << 20;
/// Per graph, beside its weights.
const GRAPH_BYTES: u64 = 300 << 10;
/// Bytes that the library holds per byte of a graph's weights until the context is freed, times 10.
const PER_WEIGHT_BYTE_X10: u64 = 47;

/// Most memory that the job of a context is expected to take. Each graph has its own copy of its weights until the context
/// is saved, shared or not; the binary and the pages of the model's file come on top.
#[must_use]
pub fn peak_bytes(spec: &ContextSpec) -> u64 {
    let weights = |g: &coexec_npu::GraphSpec| -> u64 {
        g.nodes.iter().filter_map(OpSpec::weights).map(coexec_npu::WeightSpec::device_bytes).sum()
    };
    // 4-bit codes have a byte each while they are compiled.
    let codes = |g: &coexec_npu::GraphSpec| -> u64 {
        g.nodes.iter().filter_map(OpSpec::weights).map(|w| (w.n() as u64).saturating_mul(w.k as u64)).sum()
    };
    let graphs: u64 = spec
        .graphs
        .iter()
        .map(|g| GRAPH_BYTES.saturating_add(codes(g).max(weights(g)).saturating_mul(PER_WEIGHT_BYTE_X10) / 10))
        .fold(0, u64::saturating_add);
    BASE_BYTES.saturating_add(graphs).saturating_add(spec.device_bytes(0).saturating_mul(2))
}

/// Contexts whose jobs each keep within `available` bytes, and the number of graphs per context that makes them so (`None`
/// where none is needed); where not even one graph per context is small enough, the smallest. `cut` makes the contexts.
pub(super) fn fitting<E>(
    available: u64,
    cut: &dyn Fn(Option<usize>) -> Result<Vec<ContextSpec>, E>,
) -> Result<(Option<usize>, Vec<ContextSpec>), E> {
    let largest = |contexts: &[ContextSpec]| contexts.iter().map(peak_bytes).max().unwrap_or(0);
    let (mut most, mut contexts) = (None, cut(None)?);
    while largest(&contexts) > available {
        let graphs = contexts.iter().map(|c| c.graphs.len()).max().unwrap_or(0);
        // Graphs of one linear stay together, so the number that was asked for may be less than what came.
        let fewer = most.unwrap_or(graphs).min(graphs) * 3 / 4;
        if fewer == 0 {
            break;
        }
        (most, contexts) = (Some(fewer), cut(Some(fewer))?);
    }
    Ok((most, contexts))
}

/// Jobs that may run at once: as many as there are cores and contexts, within the memory.
#[must_use]
pub(super) fn jobs(contexts: &[ContextSpec], available: Option<u64>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let largest = contexts.iter().map(peak_bytes).max().unwrap_or(0).max(1);
    let fitting = available.map_or(1, |bytes| usize::try_from(bytes / largest).unwrap_or(usize::MAX));
    cores.min(contexts.len()).min(fitting).max(1)
}

/// Memory that processes may still take: what the system calls available, less where a control group allows less. `None`
/// where the system does not tell.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let system = field_kib(&meminfo, "MemAvailable:")?;
    let number = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok();
    let group = || {
        let (limit, used) = (number("memory.max")?, number("memory.current")?);
        // Pages of files go when memory is needed.
        let stat = fs::read_to_string("/sys/fs/cgroup/memory.stat").unwrap_or_default();
        let cached = stat.lines().find_map(|l| l.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok());
        Some(limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
    };
    Some(group().map_or(system, |group| group.min(system)))
}

/// A field of `/proc/meminfo`, in bytes.
fn field_kib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{CompileOptions, Numbers, estimate::synthetic_calibration};
    use coexec_model::random;
    use coexec_npu::{NpuWeights, QnnOptions, Ranges};

    fn contexts(shape: &str, options: &CompileOptions) -> Vec<ContextSpec> {
        let config = random::named_config(shape).expect("known");
        let (calibration, ranges) = (synthetic_calibration(&config), Ranges::synthetic(&config));
        let weights = NpuWeights::PerChannelI8;
        let numbers = Numbers { config: &config, calibration: &calibration, ranges: &ranges, weights };
        options.contexts(&numbers, &QnnOptions::chip("sm8650").device_profile().expect("known")).expect("builds")
    }

    #[test]
    fn fewer_graphs_per_context_need_less_memory_and_keep_within_what_there_is() {
        let options = CompileOptions { chunk_lens: vec![32, 64, 128, 256], ..CompileOptions::default() };
        let cut = |graphs_per_context| {
            Ok::<_, ()>(contexts("qwen2.5-0.5b", &CompileOptions { graphs_per_context, ..options.clone() }))
        };
        let peak = |contexts: &[ContextSpec]| contexts.iter().map(peak_bytes).max().unwrap_or(0);
        let graphs = |contexts: &[ContextSpec]| contexts.iter().map(|c| c.graphs.len()).sum::<usize>();
        let (most, whole) = fitting(u64::MAX, &cut).expect("builds");
        assert_eq!((most, whole.len()), (None, 2), "384 graphs, 256 per context");
        // 4.79 and 2.43 GiB were measured.
        let mib: Vec<u64> = whole.iter().map(|c| peak_bytes(c) >> 20).collect();
        assert!((4600..5200).contains(&mib[0]) && (2300..2700).contains(&mib[1]), "{mib:?}");
        for available in [3u64 << 30, 1 << 30, 600 << 20] {
            let (most, cut) = fitting(available, &cut).expect("builds");
            assert!(
                most.is_some() && cut.len() > whole.len() && peak(&cut) <= available,
                "{} of {available}",
                peak(&cut)
            );
            assert_eq!(graphs(&cut), graphs(&whole));
        }
        // Less than any graph needs: as small as can be, chunk lengths of a linear together.
        let (most, cut) = fitting(0, &cut).expect("builds");
        assert_eq!((most, cut.len()), (Some(1), 96));
        assert_eq!(jobs(&whole, Some(0)), 1);
        assert_eq!(jobs(&whole, None), 1, "one at a time where the memory is not known");
        assert!(jobs(&whole, Some(u64::MAX)) <= whole.len());
    }

    #[test]
    fn the_system_tells_what_is_available() {
        assert_eq!(field_kib("MemTotal: 5 kB\nMemAvailable:   12 kB\n", "MemAvailable:"), Some(12 * 1024));
        assert_eq!(field_kib("MemAvailable: x kB", "MemAvailable:"), None);
        let bytes = available_bytes().expect("Linux");
        assert!(bytes > 1 << 20, "{bytes}");
    }
}
