//! What a sweep measured, and its tables.

use super::SPEED_SHAPE;
use coexec::runtime::{eval::Quality, study::RankCorrelation};
use serde::Serialize;
use std::fmt::Write as _;

/// What stands before the tables, behind the texts.
const HEAD: &str = "[recipes.md](recipes.md) says what the recipes are and what follows. Perplexity is against the float
model over the same windows of 256 tokens, second half scored; divergence is the mean KL of the model's distribution from
float's, with its standard error over windows; *shadow* is the float rows that stay in memory. `cpu:` is the CPU path, which is
decode's; all others run prefill on the simulated NPU. Speeds are simulated.
";
const PRUNING: &str = "
## Quality against pruning

`q8,u8+shadow`; more and more linears run without shadow, the least important ones by measurement first.

![divergence against the pruning rate](accuracy-pruning.svg)
![divergence against the bytes of float rows in memory](accuracy-shadow-bytes.svg)
![divergence against simulated prefill speed](accuracy-speed.svg)

";
const IMPORTANCE: &str = "
## Does importance rank linears?

Spearman's correlation, over linears, of an importance found on the calibration text's last windows with what leaving that
linear's shadow out does to the divergence from the CPU path on the text to measure on; 95 % bootstrap intervals. *Halves*:
how leaving one out on one half of that text correlates with the other half, h. An estimate without any error could be
expected to reach √(2h / (1 + h)) (Spearman and Brown). More text, `--importance-windows`, makes both surer.

";
/// Longest line of the tables' text.
const WIDTH: usize = 120;
/// A recipe on a model.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) model: String,
    pub(super) recipe: String,
    pub(super) file_bytes: u64,
    /// Float rows of hot channels.
    pub(super) shadow_bytes: u64,
    /// Simulated, as if the model had [`SPEED_SHAPE`].
    pub(super) simulated_tokens_per_s: Option<f64>,
    pub(super) quality: Quality,
}

/// A point of the curve of pruning.
#[derive(Debug, Serialize)]
pub(super) struct Pruned {
    pub(super) model: String,
    pub(super) pruning_rate: f64,
    pub(super) shadow_bytes: u64,
    pub(super) simulated_tokens_per_s: f64,
    pub(super) quality: Quality,
}

#[derive(Debug, Serialize)]
pub(super) struct Importance {
    pub(super) model: String,
    /// Of our estimate on the calibration text with leaving one out on the other text.
    pub(super) measured: RankCorrelation,
    /// Of llm.npu's largest activation over scale.
    pub(super) max_over_scale: RankCorrelation,
    /// Of leaving one out on one half of that text with the other half.
    pub(super) halves: RankCorrelation,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Sweep {
    /// Which texts were used for what.
    pub(super) texts: String,
    pub(super) simulated: String,
    pub(super) rows: Vec<Row>,
    pub(super) pruned: Vec<Pruned>,
    pub(super) importance: Vec<Importance>,
}

impl Sweep {
    pub(super) fn markdown(&self) -> Result<String, std::fmt::Error> {
        let mut out = format!("# Accuracy\n\n{}\n{HEAD}\n", wrapped(&self.texts));
        writeln!(
            out,
            "| model | recipe | perplexity | against float | divergence, nats | same top-1 | file KiB | shadow KiB | simulated tok/s |"
        )?;
        writeln!(out, "|---|---|---:|---:|---:|---:|---:|---:|---:|")?;
        for r in &self.rows {
            let Some(a) = &r.quality.reference else { continue };
            writeln!(
                out,
                "| {} | `{}` | {:.3} | {:+.2} % | {:.5} ± {:.5} | {:.2} % | {} | {} | {} |",
                r.model,
                r.recipe,
                r.quality.perplexity,
                100.0 * (r.quality.perplexity / a.perplexity - 1.0),
                a.kl,
                a.kl_std_error,
                100.0 * a.top1,
                r.file_bytes / 1024,
                r.shadow_bytes / 1024,
                r.simulated_tokens_per_s.map_or_else(|| "–".to_owned(), |s| format!("{s:.0}")),
            )?;
        }
        if !self.pruned.is_empty() {
            self.pruning_markdown(&mut out)?;
        }
        if !self.simulated.is_empty() {
            let simulated = format!("Simulated: the shape of {SPEED_SHAPE}, {}.", self.simulated);
            write!(out, "\n{}", wrapped(&simulated))?;
        }
        Ok(out)
    }

    fn pruning_markdown(&self, out: &mut String) -> std::fmt::Result {
        out.push_str(PRUNING);
        writeln!(
            out,
            "| model | without shadow | perplexity against float | divergence, nats | shadow KiB | simulated tok/s |"
        )?;
        writeln!(out, "|---|---:|---:|---:|---:|---:|")?;
        for p in &self.pruned {
            let Some(a) = &p.quality.reference else { continue };
            writeln!(
                out,
                "| {} | {:.1} % | {:+.2} % | {:.5} | {} | {:.0} |",
                p.model,
                100.0 * p.pruning_rate,
                100.0 * (p.quality.perplexity / a.perplexity - 1.0),
                a.kl,
                p.shadow_bytes / 1024,
                p.simulated_tokens_per_s,
            )?;
        }
        out.push_str(IMPORTANCE);
        writeln!(
            out,
            "| model | our estimate | 95 % interval | largest activation / scale | 95 % interval | halves |"
        )?;
        writeln!(out, "|---|---:|---|---:|---|---:|")?;
        for i in &self.importance {
            let (a, b, halves) = (i.measured, i.max_over_scale, i.halves.value);
            writeln!(
                out,
                "| {} | {:.2} | {:.2} … {:.2} | {:.2} | {:.2} … {:.2} | {halves:.2} |",
                i.model, a.value, a.low, a.high, b.value, b.low, b.high
            )?;
        }
        Ok(())
    }
}

/// Lines of at most [`WIDTH`] characters, where words allow; each ends.
fn wrapped(text: &str) -> String {
    let (mut out, mut used) = (String::new(), 0);
    for word in text.split_whitespace() {
        let len = word.chars().count();
        let fits = used + 1 + len <= WIDTH;
        if used > 0 {
            out.push(if fits { ' ' } else { '\n' });
        }
        used = if used > 0 && fits { used + 1 + len } else { len };
        out.push_str(word);
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_between_words() {
        let long = "a word ".repeat(60) + &"x".repeat(200);
        let text = wrapped(&long);
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), long.split_whitespace().collect::<Vec<_>>());
        assert!(text.lines().all(|line| line.len() <= WIDTH || !line.contains(' ')), "{text}");
        assert_eq!(wrapped("one"), "one\n");
    }
}
