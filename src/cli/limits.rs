//! `coexec bench --limits`: what the machine can do at most, beside which speeds are to be read.

use super::bench::cpu_info;
use coexec::EngineOptions;
use coexec_cpu::{Kernels, Limits, Pool, Rate};
use serde::Serialize;

/// One limit, in the unit of its name.
#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    unit: &'static str,
    one_thread: f64,
    all_threads: f64,
}

/// All limits of a machine.
#[derive(Debug, Serialize)]
pub(super) struct LimitsReport {
    build_commit: String,
    cpu_info: String,
    n_threads: usize,
    kernels: &'static str,
    limits: Vec<Line>,
    /// `{arch}-{lhs}{rhs}{out}-{variant}` of each matrix product of the set.
    products: Vec<String>,
}

impl LimitsReport {
    /// Measures with the kernels and threads that the options name.
    pub(super) fn measure(options: &EngineOptions) -> anyhow::Result<Self> {
        let kernels = match &options.kernels {
            Some(name) => Kernels::named(name)?,
            None => Kernels::detect(),
        };
        let pool = Pool::new(options.worker_threads());
        let limits = Limits::measure(kernels, &pool);
        let line =
            |name, unit, rate: Rate| Line { name, unit, one_thread: rate.one / 1e9, all_threads: rate.all / 1e9 };
        Ok(Self {
            build_commit: env!("COEXEC_COMMIT").to_owned(),
            cpu_info: cpu_info(),
            n_threads: limits.threads,
            kernels: kernels.name(),
            limits: vec![
                line("memory read", "GB/s", limits.read),
                line("memory read, pages of weights", "GB/s", limits.read_weights),
                line("int8 multiply-add", "GOP/s", limits.int8),
                line("f32 multiply-add", "GFLOP/s", limits.f32),
            ],
            products: kernels.products(),
        })
    }

    /// A table and the names of the products.
    pub(super) fn markdown(&self) -> String {
        let all = format!("{} threads", self.n_threads);
        let mut out = format!("| {:<29} | {:>14} | {:>14} |\n", "limit", "1 thread", all);
        out.push_str(&format!("| {} | {}: | {}: |\n", "-".repeat(29), "-".repeat(13), "-".repeat(13)));
        for line in &self.limits {
            let cell = |value: f64| format!("{value:.1} {}", line.unit);
            let (one, all) = (cell(line.one_thread), cell(line.all_threads));
            out.push_str(&format!("| {:<29} | {one:>14} | {all:>14} |\n", line.name));
        }
        out.push_str(&format!("\n{}, kernels {}\n", self.cpu_info, self.kernels));
        for product in &self.products {
            out.push_str(&format!("- {product}\n"));
        }
        out
    }
}
