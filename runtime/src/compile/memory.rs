//! Memory that compile jobs take, beforehand: how many graphs one may hold, and how many jobs run at once.

use coexec_npu::{ContextSpec, OpSpec};
use std::fs;

// Fitted to 15 jobs on SmolLM2 (i8, i4, block), the 0.5B and the demo model, which they meet within 9 % (QNN 2.51, x86-64,
// with the environment that a child compiler gets).

/// The library and the program.
const BASE_BYTES: u64 = 108 << 20;
/// Per graph, beside its weights.
const GRAPH_BYTES: u64 = 400 << 10;
/// Bytes that the library holds per code of a graph's weights until the context is freed, times 100.
const PER_CODE_X100: u64 = 115;
/// The same per byte of a graph's weights as the binary has them (4-bit codes take half a byte there), times 100.
const PER_WEIGHT_BYTE_X100: u64 = 270;
/// Per byte of the binary's weights, where graphs that share them have them once, times 100.
const PER_BINARY_BYTE_X100: u64 = 150;
/// Executing graphs here and on the simulated NPU, to record what comes out.
const RECORD_BYTES: u64 = 70 << 20;

/// Most memory that the job of a context is expected to take. Each graph has its own copy of its weights until the context
/// is saved, shared or not; the binary and the pages of the model's file come on top, and what recording takes.
#[must_use]
pub fn peak_bytes(spec: &ContextSpec, record: bool) -> u64 {
    let weights = |g: &coexec_npu::GraphSpec| -> u64 {
        g.nodes.iter().filter_map(OpSpec::weights).map(coexec_npu::WeightSpec::device_bytes).sum()
    };
    let codes = |g: &coexec_npu::GraphSpec| -> u64 {
        g.nodes.iter().filter_map(OpSpec::weights).map(|w| (w.n() as u64).saturating_mul(w.k as u64)).sum()
    };
    let share = |bytes: u64, x100: u64| bytes.saturating_mul(x100) / 100;
    let graph = |g| [GRAPH_BYTES, share(codes(g), PER_CODE_X100), share(weights(g), PER_WEIGHT_BYTE_X100)];
    let graphs = spec.graphs.iter().flat_map(graph);
    let once = [BASE_BYTES, share(spec.device_bytes(0), PER_BINARY_BYTE_X100), if record { RECORD_BYTES } else { 0 }];
    graphs.chain(once).fold(0, u64::saturating_add)
}

/// Contexts whose jobs each keep within `available` bytes, and the number of graphs per context that makes them so (`None`
/// where none is needed); where not even one graph per context is small enough, the smallest. `cut` makes the contexts.
pub(super) fn fitting<E>(
    available: u64,
    record: bool,
    cut: &dyn Fn(Option<usize>) -> Result<Vec<ContextSpec>, E>,
) -> Result<(Option<usize>, Vec<ContextSpec>), E> {
    let largest = |contexts: &[ContextSpec]| contexts.iter().map(|c| peak_bytes(c, record)).max().unwrap_or(0);
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
pub(super) fn jobs(contexts: &[ContextSpec], record: bool, available: Option<u64>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let largest = contexts.iter().map(|c| peak_bytes(c, record)).max().unwrap_or(0).max(1);
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
        contexts_in(shape, NpuWeights::PerChannelI8, options)
    }

    fn contexts_in(shape: &str, weights: NpuWeights, options: &CompileOptions) -> Vec<ContextSpec> {
        let config = random::named_config(shape).expect("known");
        let (calibration, ranges) = (synthetic_calibration(&config), Ranges::synthetic(&config));
        let numbers = Numbers { config: &config, calibration: &calibration, ranges: &ranges, weights };
        options.contexts(&numbers, &QnnOptions::chip("sm8650").device_profile().expect("known")).expect("builds")
    }

    /// Holds expectations to what the compiler took, in MiB.
    fn near(contexts: &[ContextSpec], record: bool, took: &[u64]) {
        let expected: Vec<u64> = contexts.iter().map(|c| peak_bytes(c, record) >> 20).collect();
        assert_eq!(expected.len(), took.len(), "{expected:?}");
        assert!(expected.iter().zip(took).all(|(e, t)| e.abs_diff(*t) * 8 <= *t), "{expected:?} for {took:?}");
    }

    #[test]
    fn expectations_are_near_what_was_measured() {
        let options = CompileOptions::default();
        let one = CompileOptions { chunk_lens: vec![128], share_weights: false, ..options.clone() };
        let two = CompileOptions { chunk_lens: vec![128, 256], ..options };
        near(&contexts("qwen2.5-0.5b", &two), false, &[3439]);
        near(&contexts("qwen2.5-0.5b", &two), true, &[3504]);
        near(&contexts("smollm2-135m", &two), false, &[1221]);
        near(&contexts("smollm2-135m", &one), false, &[683]);
        let with = |weights, options: &CompileOptions| contexts_in("smollm2-135m", weights, options);
        near(&with(NpuWeights::PerChannelI4, &one), false, &[489]);
        near(&with(NpuWeights::PerChannelI4, &two), false, &[818]);
        near(&with(NpuWeights::BlockExpansion, &two), false, &[828]);
    }

    #[test]
    fn fewer_graphs_per_context_need_less_memory_and_keep_within_what_there_is() {
        let options = CompileOptions { chunk_lens: vec![32, 64, 128, 256], ..CompileOptions::default() };
        let cut = |graphs_per_context| {
            Ok::<_, ()>(contexts("qwen2.5-0.5b", &CompileOptions { graphs_per_context, ..options.clone() }))
        };
        let peak = |contexts: &[ContextSpec]| contexts.iter().map(|c| peak_bytes(c, false)).max().unwrap_or(0);
        let graphs = |contexts: &[ContextSpec]| contexts.iter().map(|c| c.graphs.len()).sum::<usize>();
        let (most, whole) = fitting(u64::MAX, false, &cut).expect("builds");
        assert_eq!((most, whole.len()), (None, 2), "384 graphs, 256 per context");
        near(&whole, false, &[3872, 2020]);
        for available in [3u64 << 30, 1 << 30, 600 << 20] {
            let (most, cut) = fitting(available, false, &cut).expect("builds");
            assert!(
                most.is_some() && cut.len() > whole.len() && peak(&cut) <= available,
                "{} of {available}",
                peak(&cut)
            );
            assert_eq!(graphs(&cut), graphs(&whole));
        }
        // Less than any graph needs: as small as can be, chunk lengths of a linear together.
        let (most, cut) = fitting(0, false, &cut).expect("builds");
        assert_eq!((most, cut.len()), (Some(1), 96));
        assert_eq!(jobs(&whole, false, Some(0)), 1);
        assert_eq!(jobs(&whole, false, None), 1, "one at a time where the memory is not known");
        assert!(jobs(&whole, false, Some(u64::MAX)) <= whole.len());
    }

    #[test]
    fn the_system_tells_what_is_available() {
        assert_eq!(field_kib("MemTotal: 5 kB\nMemAvailable:   12 kB\n", "MemAvailable:"), Some(12 * 1024));
        assert_eq!(field_kib("MemAvailable: x kB", "MemAvailable:"), None);
        let bytes = available_bytes().expect("Linux");
        assert!(bytes > 1 << 20, "{bytes}");
    }
}
