//! How text is generated: the options that `run` and `chat` have in common.

use super::{
    footer::Sampling,
    usage::{count, is_given, no_effect, number},
};
use clap::Args;
use coexec::{CancelToken, Engine, GenerateRequest, SamplerOptions, runtime::sampler::advises_sampling};

/// How tokens are chosen and when a text ends.
#[derive(Debug, Args)]
pub(crate) struct GenerationArgs {
    #[command(flatten)]
    sampling: SamplingArgs,
    /// End at this text or special token (may be given several times)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on past end-of-sequence tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Most tokens guessed from the text so far and checked together, 0 … 7: same text, faster where it repeats itself
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u8).range(..=7))]
    draft: u8,
}

impl GenerationArgs {
    /// A request without a prompt, and how its tokens are chosen.
    pub(crate) fn request(
        &self,
        engine: &Engine,
        max_tokens: usize,
        cancel: &CancelToken,
    ) -> anyhow::Result<(GenerateRequest, Sampling)> {
        let sampling = self.sampling.sampling(engine)?;
        let request = GenerateRequest {
            prompt: Vec::new(),
            max_tokens,
            sampler: sampling.options.clone(),
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            draft_tokens: usize::from(self.draft),
            cancel: cancel.clone(),
        };
        Ok((request, sampling))
    }
}

/// How tokens are chosen; what is not given comes from the model's own advice.
#[derive(Debug, Args)]
struct SamplingArgs {
    /// Divisor of the logits; 0 is greedy
    #[arg(long, value_name = "T", value_parser = number)]
    temp: Option<f32>,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", value_parser = count::<u32>)]
    top_k: Option<u32>,
    /// Keep the smallest set of tokens with this probability
    #[arg(long, value_name = "P", value_parser = number)]
    top_p: Option<f32>,
    /// Keep tokens at least this likely relative to the likeliest
    #[arg(long, value_name = "P", value_parser = number)]
    min_p: Option<f32>,
    /// Penalty on tokens already seen; 1 is none
    #[arg(long, value_name = "R", value_parser = number)]
    repetition_penalty: Option<f32>,
    /// Seed of the sampler
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = count::<u64>)]
    seed: u64,
    /// Always take the likeliest token
    #[arg(long, conflicts_with_all = ["temp", "top_k", "top_p", "min_p"])]
    greedy: bool,
}

impl SamplingArgs {
    /// How tokens are chosen with a model: what was given, else what its authors advise, else the usual values.
    fn sampling(&self, engine: &Engine) -> anyhow::Result<Sampling> {
        let advice = &engine.model().config().generation;
        let mut options = SamplerOptions::from(advice);
        if self.greedy {
            options = SamplerOptions { repetition_penalty: options.repetition_penalty, ..SamplerOptions::greedy() };
        }
        options.temperature = self.temp.unwrap_or(options.temperature);
        options.top_k = self.top_k.unwrap_or(options.top_k);
        options.top_p = self.top_p.unwrap_or(options.top_p);
        options.min_p = self.min_p.unwrap_or(options.min_p);
        options.repetition_penalty = self.repetition_penalty.unwrap_or(options.repetition_penalty);
        options.seed = self.seed;
        options.validate()?;
        if options.is_greedy() {
            no_effect(&["seed", "top-k", "top-p", "min-p"], "the likeliest token is always taken");
        }
        let is_changed = ["temp", "top-k", "top-p", "min-p", "repetition-penalty"].into_iter().any(is_given);
        let source = match () {
            () if self.greedy => "--greedy",
            () if is_changed => "with the options given",
            () if advice.do_sample == Some(false) || advises_sampling(advice) => "the model's advice",
            () => "usual values: the model advises none",
        };
        Ok(Sampling { options, source })
    }
}
