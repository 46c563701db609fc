//! `coexec bench`: speed of prefill and decode, with llama-bench's tests, columns and names.

use super::{
    console::{bar, out, outln},
    limits::LimitsReport,
    shared::{EngineArgs, parameters},
    usage::{at_least_one, count, no_effect, wrong},
};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use coexec::{
    CancelToken, Engine, RuntimeError,
    model::TokenId,
    runtime::{npu::NpuKind, prefill::PrefillOptions},
};
use indicatif::ProgressBar;
use serde::Serialize;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Md,
    Csv,
    Json,
    Jsonl,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Prompt lengths to prefill, comma-separated; 0 is none
    #[arg(short = 'p', long = "n-prompt", default_value = "512", value_delimiter = ',', value_name = "N", value_parser = count::<usize>)]
    n_prompt: Vec<usize>,
    /// Tokens to decode, comma-separated; 0 is none
    #[arg(short = 'n', long = "n-gen", default_value = "128", value_delimiter = ',', value_name = "N", value_parser = count::<usize>)]
    n_gen: Vec<usize>,
    /// Tokens already in the context, comma-separated
    #[arg(short = 'd', long = "n-depth", default_value = "0", value_delimiter = ',', value_name = "N", value_parser = count::<usize>)]
    n_depth: Vec<usize>,
    /// Repetitions of each test
    #[arg(short = 'r', long, default_value_t = 5, value_name = "N", value_parser = at_least_one::<usize>)]
    repetitions: usize,
    /// What to print
    #[arg(short = 'o', long, value_enum, default_value = "md")]
    output: Output,
    /// Measure what this machine can do at most (memory reads, int8 and f32 multiply-adds) instead of a model
    #[arg(long)]
    limits: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// One test's result; field names are llama-bench's, then ours.
#[derive(Debug, Serialize)]
struct Row {
    build_commit: String,
    cpu_info: String,
    backends: String,
    model_filename: String,
    model_type: String,
    model_size: u64,
    model_n_params: u64,
    n_batch: usize,
    n_threads: usize,
    type_k: &'static str,
    type_v: &'static str,
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    test_time: String,
    avg_ns: u64,
    stddev_ns: u64,
    avg_ts: f64,
    stddev_ts: f64,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
    npu_device: String,
    /// Whether the NPU is a chip: the speed of an imitation is this machine's.
    npu_kind: NpuKind,
    policy: String,
    kernels: String,
    activations: String,
    /// Lengths that chunks may have; `n_batch` is the longest.
    chunk_lens: Vec<usize>,
    chunks: usize,
}

pub(crate) fn bench(args: &BenchArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    if args.limits {
        no_effect(&["n-prompt", "n-gen", "n-depth", "repetitions", "model"], "--limits measures the machine");
        let report = LimitsReport::measure(&args.engine.options()?)?;
        match args.output {
            Output::Md => out!("{}", report.markdown())?,
            Output::Csv => return Err(wrong("option --limits: use -o md, json or jsonl")),
            Output::Json => outln!("{}", serde_json::to_string_pretty(&report)?)?,
            Output::Jsonl => outln!("{}", serde_json::to_string(&report)?)?,
        }
        return Ok(());
    }
    if args.n_prompt.iter().chain(&args.n_depth).all(|n| *n == 0) {
        no_effect(&["npu", "npu-profile", "chunk-len", "activations"], "nothing is prefilled");
    }
    let engine = args.engine.engine()?;
    let (mut rows, mut failed) = (Vec::new(), None);
    let bar = bar("tests");
    let pairs = args.n_prompt.iter().chain(&args.n_gen).filter(|n| **n > 0).count() * args.n_depth.len();
    bar.set_length((pairs * (1 + args.repetitions)) as u64);
    'tests: for &depth in &args.n_depth {
        let tests = args.n_prompt.iter().map(|p| (*p, 0)).chain(args.n_gen.iter().map(|n| (0, *n)));
        for (prompt, gen_tokens) in tests.filter(|t| *t != (0, 0)) {
            bar.set_message(test_name(prompt, gen_tokens, depth));
            match measure(args, &engine, (prompt, gen_tokens, depth), cancel, &bar) {
                Ok(row) => rows.push(row),
                Err(error) => {
                    failed = Some(error);
                    break 'tests;
                }
            }
            if let (Output::Jsonl, Some(row)) = (args.output, rows.last()) {
                bar.suspend(|| anyhow::Ok(outln!("{}", serde_json::to_string(row)?)?))?;
            }
        }
    }
    bar.finish_and_clear();
    if rows.is_empty() {
        return failed.map_or(Ok(()), Err);
    }
    // What was measured before something failed is printed.
    match args.output {
        Output::Md => out!("{}", markdown(&rows))?,
        Output::Csv => out!("{}", csv(&rows)?)?,
        Output::Json => outln!("{}", serde_json::to_string_pretty(&rows)?)?,
        Output::Jsonl => {}
    }
    failed.map_or(Ok(()), Err)
}

fn measure(
    args: &BenchArgs,
    engine: &Engine,
    (n_prompt, n_gen, n_depth): (usize, usize, usize),
    cancel: &CancelToken,
    bar: &ProgressBar,
) -> anyhow::Result<Row> {
    let config = engine.model().config();
    let token = |i: usize| TokenId((i as u32).wrapping_mul(2_654_435_761) % config.vocab_size);
    let tokens = |n: usize| (0..n).map(token).collect::<Vec<_>>();
    let options = PrefillOptions { cancel: cancel.clone(), ..PrefillOptions::default() };
    let mut session = engine.session();
    let mut chunks = 0;
    if n_depth > 0 {
        session.prefill(&tokens(n_depth), &options)?;
    }
    let mut once = || -> anyhow::Result<u64> {
        session.truncate(n_depth);
        let start = Instant::now();
        if n_prompt > 0 {
            chunks = session.prefill(&tokens(n_prompt), &options)?.plan.chunks.len();
        }
        for i in 0..n_gen {
            if cancel.is_cancelled() {
                return Err(RuntimeError::Cancelled.into());
            }
            session.decode(token(i))?;
        }
        bar.inc(1);
        Ok(u64::try_from(start.elapsed().as_nanos())?)
    };
    once()?; // warm-up: static graphs, page cache, buffers
    let samples_ns = (0..args.repetitions).map(|_| once()).collect::<anyhow::Result<Vec<_>>>()?;
    let samples_ts: Vec<f64> =
        samples_ns.iter().map(|ns| (n_prompt + n_gen) as f64 * 1e9 / (*ns).max(1) as f64).collect();
    let ns: Vec<f64> = samples_ns.iter().map(|v| *v as f64).collect();
    let summary = engine.model().file().summary();
    let kv = engine.options().kv.name();
    let format = engine.model().linear(0, coexec::model::LinearKind::Qkv).format();
    Ok(Row {
        build_commit: env!("COEXEC_COMMIT").to_owned(),
        cpu_info: cpu_info(),
        backends: if n_prompt > 0 { backends(engine) } else { "CPU".to_owned() },
        model_filename: args.engine.model_name(),
        model_type: format!("{} {} {format}", config.architecture, in_words(parameters(&summary))),
        model_size: summary.total.raw_bytes,
        model_n_params: parameters(&summary),
        n_batch: engine.options().chunk_lens.iter().copied().max().unwrap_or(0),
        n_threads: engine.options().worker_threads(),
        type_k: kv,
        type_v: kv,
        n_prompt,
        n_gen,
        n_depth,
        test_time: utc_now()?,
        avg_ns: mean(&ns) as u64,
        stddev_ns: deviation(&ns) as u64,
        avg_ts: mean(&samples_ts),
        stddev_ts: deviation(&samples_ts),
        samples_ns,
        samples_ts,
        npu_device: if n_prompt > 0 { engine.npu_device() } else { "none" }.to_owned(),
        npu_kind: if n_prompt > 0 { engine.npu_kind() } else { NpuKind::None },
        policy: engine.options().policy.name().to_owned(),
        kernels: engine.kernels().to_owned(),
        activations: engine.options().schedule.to_string(),
        chunk_lens: engine.options().ladder(),
        chunks,
    })
}

fn backends(engine: &Engine) -> String {
    match engine.npu_kind() {
        NpuKind::None => "CPU".to_owned(),
        NpuKind::Chip => "CPU+NPU".to_owned(),
        kind => format!("CPU+{}", kind.name()),
    }
}

fn in_words(parameters: u64) -> String {
    let n = parameters as f64;
    if n >= 1e9 { format!("{:.2}B", n / 1e9) } else { format!("{:.1}M", n / 1e6) }
}

fn mean(v: &[f64]) -> f64 {
    v.iter().sum::<f64>() / v.len() as f64
}

/// Standard deviation of the sample (n − 1), 0 for one value.
fn deviation(v: &[f64]) -> f64 {
    let m = mean(v);
    (v.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (v.len().max(2) - 1) as f64).sqrt()
}

pub(super) fn cpu_info() -> String {
    std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|s| {
            s.lines()
                .find_map(|l| l.strip_prefix("model name").map(|r| r.trim_start_matches(['\t', ' ', ':']).to_owned()))
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Now, as `YYYY-MM-DDTHH:MM:SSZ` (days to date by the civil calendar's 400-year cycle).
fn utc_now() -> anyhow::Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    Ok(utc(seconds))
}

fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let era_day = z % 146_097;
    let year_of_era = (era_day - era_day / 1460 + era_day / 36_524 - era_day / 146_096) / 365;
    let day_of_year = era_day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + z / 146_097 * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

fn test_name(n_prompt: usize, n_gen: usize, n_depth: usize) -> String {
    let name = if n_gen == 0 { format!("pp{n_prompt}") } else { format!("tg{n_gen}") };
    if n_depth > 0 { format!("{name} @ d{n_depth}") } else { name }
}

fn markdown(rows: &[Row]) -> String {
    let mut table = vec![["model", "size", "params", "backend", "threads", "test", "t/s"].map(str::to_owned)];
    for row in rows {
        table.push([
            row.model_type.clone(),
            format!("{:.2} MiB", row.model_size as f64 / f64::from(1 << 20)),
            format!("{:.2} M", row.model_n_params as f64 / 1e6),
            row.backends.clone(),
            row.n_threads.to_string(),
            test_name(row.n_prompt, row.n_gen, row.n_depth),
            format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts),
        ]);
    }
    let widths: Vec<usize> = (0..7).map(|c| table.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for (i, row) in table.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(c, (cell, w))| {
                let pad = " ".repeat(w - cell.chars().count());
                if c == 0 || c == 3 { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
            })
            .collect();
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
        if i == 0 {
            let rules: Vec<String> = widths
                .iter()
                .enumerate()
                .map(|(c, w)| if c == 0 || c == 3 { "-".repeat(*w) } else { format!("{}:", "-".repeat(w - 1)) })
                .collect();
            out.push_str(&format!("| {} |\n", rules.join(" | ")));
        }
    }
    if let Some(row) = rows.first() {
        let lens: Vec<String> = row.chunk_lens.iter().map(ToString::to_string).collect();
        out.push_str(&format!(
            "\nbuild: {}, kernels: {}, policy: {}, chunk {}\n",
            row.build_commit,
            row.kernels,
            row.policy,
            lens.join(",")
        ));
    }
    if let Some(row) = rows.iter().find(|row| row.npu_kind.is_imitation()) {
        out.push_str(&format!("{}: prefill's speed is this machine's, not a phone's\n", row.npu_kind.name()));
    }
    out
}

fn csv(rows: &[Row]) -> anyhow::Result<String> {
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let json = serde_json::to_value(row)?;
        let fields: Vec<_> = json
            .as_object()
            .context("a row is an object")?
            .iter()
            .filter(|(k, _)| !k.starts_with("samples_"))
            .collect();
        if i == 0 {
            out.push_str(&fields.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>().join(","));
            out.push('\n');
        }
        let cell = |v: &serde_json::Value| match v {
            serde_json::Value::String(s) => format!("\"{}\"", s.replace('"', "\"\"")),
            other => format!("\"{other}\""),
        };
        out.push_str(&fields.iter().map(|(_, v)| cell(v)).collect::<Vec<_>>().join(","));
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(utc(1_795_219_199), "2026-11-20T23:59:59Z");
    }

    #[test]
    fn statistics() {
        assert_eq!(mean(&[1.0, 3.0]), 2.0);
        assert!((deviation(&[1.0, 3.0]) - 2f64.sqrt()).abs() < 1e-12);
        assert_eq!(deviation(&[5.0]), 0.0);
    }
}
