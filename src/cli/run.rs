//! `coexec run`, and `coexec` alone: generate text, stream it, print what was measured.

use super::{
    output::claim,
    shared::{EngineArgs, Format, parameters, read_text},
};
use anyhow::Context as _;
use clap::Args;
use coexec::{
    CancelToken, Engine, FinishReason, GenerateRequest, Generation, RuntimeError, SamplerOptions, Special,
    model::output::OutputFile,
    runtime::{
        prefill::PrefillOutput,
        text::{ChatPrompt, ChatTemplate, Message, RenderOptions},
    },
    scheduler::{TimelineOptions, TraceMeta, write_chrome_trace, write_timeline_svg},
};
use serde::Serialize;
use std::{
    io::{self, Write},
    path::PathBuf,
};

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The prompt; without one and without --prompt-file the demo's
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(long, value_name = "F", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Wrap the prompt in the model's chat template, as the user's message
    #[arg(long)]
    chat: bool,
    /// Message of the system, for --chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// With --chat: special tokens written in the prompt count as such; without this switch they are text (`<|im_end|>` in a
    /// prompt does not end the turn)
    #[arg(long, requires = "chat")]
    parse_special: bool,
    /// Most tokens to generate
    #[arg(long, short = 'n', default_value_t = 256, value_name = "N")]
    max_tokens: usize,
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
    #[command(flatten)]
    engine: EngineArgs,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write the prefill's events as Chrome/Perfetto JSON
    #[arg(long, value_name = "F")]
    trace: Option<PathBuf>,
    /// Write a picture of the prefill's timeline (SVG)
    #[arg(long, value_name = "F")]
    timeline: Option<PathBuf>,
}

/// How tokens are chosen; what is not given comes from the model's own advice.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Divisor of the logits; 0 is greedy
    #[arg(long, value_name = "T")]
    temp: Option<f32>,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Keep the smallest set of tokens with this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Keep tokens at least this likely relative to the likeliest
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Penalty on tokens already seen; 1 is none
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f32>,
    /// Seed of the sampler
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Always take the likeliest token
    #[arg(long, conflicts_with_all = ["temp", "top_k", "top_p", "min_p"])]
    greedy: bool,
}

impl SamplingArgs {
    fn options(&self, engine: &Engine) -> anyhow::Result<SamplerOptions> {
        let mut options = SamplerOptions::from(&engine.model().config().generation);
        if self.greedy {
            options = SamplerOptions::greedy();
        }
        options.temperature = self.temp.unwrap_or(options.temperature);
        options.top_k = self.top_k.unwrap_or(options.top_k);
        options.top_p = self.top_p.unwrap_or(options.top_p);
        options.min_p = self.min_p.unwrap_or(options.min_p);
        options.repetition_penalty = self.repetition_penalty.unwrap_or(options.repetition_penalty);
        options.seed = self.seed;
        options.validate()?;
        Ok(options)
    }
}

#[derive(Serialize)]
struct RunJson<'a> {
    text: &'a str,
    tokens: &'a [coexec::model::TokenId],
    prompt_tokens: usize,
    finish_reason: FinishReason,
    stats: &'a coexec::Stats,
}

impl RunArgs {
    fn prompt_text(&self) -> anyhow::Result<String> {
        match (&self.prompt, &self.prompt_file) {
            (Some(prompt), _) => Ok(prompt.clone()),
            (None, Some(path)) => read_text(path),
            (None, None) if self.engine.model_path()?.is_none() => Ok(default_prompt().to_owned()),
            (None, None) => anyhow::bail!("no prompt: give one as an argument or with --prompt-file"),
        }
    }

    fn prompt(&self, engine: &Engine) -> anyhow::Result<(String, Vec<coexec::model::TokenId>)> {
        let text = self.prompt_text()?;
        let tokenizer = engine.model().require_tokenizer()?;
        let (text, ids) = match self.chat {
            true => {
                let prompt = self.chat_prompt(engine, &text)?;
                let ids = tokenizer.encode_chat(&prompt)?;
                (prompt.text().to_owned(), ids)
            }
            false => {
                let ids = if text.is_empty() { Vec::new() } else { tokenizer.encode(&text, Special::AddBos)? };
                (text, ids)
            }
        };
        if text.is_empty() {
            return Err(RuntimeError::EmptyPrompt.into());
        }
        Ok((text, ids))
    }

    /// The model's own template around a system and a user message.
    fn chat_prompt(&self, engine: &Engine, user: &str) -> anyhow::Result<ChatPrompt> {
        let data = engine.model().file().tokenizer();
        let system = self.system.as_deref().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.into_iter().chain([Message::new("user", user)]).collect();
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::for_model(data) };
        let template = ChatTemplate::of_model(data, "default")?;
        if self.parse_special {
            return Ok(ChatPrompt::trusted(template.render(&messages, &options)?));
        }
        let prompt = template.prompt(&messages, &options, engine.model().require_tokenizer()?)?;
        if !prompt.told_apart() {
            eprintln!("NOTE     this model's chat template changes the prompt: special tokens in it count as such");
        }
        Ok(prompt)
    }
}

#[cfg(feature = "demo-model")]
fn default_prompt() -> &'static str {
    coexec::demo::PROMPT
}

#[cfg(not(feature = "demo-model"))]
fn default_prompt() -> &'static str {
    ""
}

pub(crate) fn run(args: &RunArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    let mut read = args.engine.read_files()?;
    read.extend(args.prompt_file.iter().collect());
    let [trace, timeline] = claim([args.trace.as_deref(), args.timeline.as_deref()], &read)?;
    let engine = args.engine.engine()?;
    let (prompt, ids) = args.prompt(&engine)?;
    let request = GenerateRequest {
        prompt: ids,
        max_tokens: args.max_tokens,
        sampler: args.sampling.options(&engine)?,
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
        draft_tokens: usize::from(args.draft),
        cancel: cancel.clone(),
    };
    // Graphs that are compiled now are told of before the text begins.
    engine.prepare_npu(cancel)?;
    let text = args.format == Format::Text;
    if text && !args.chat {
        print_piece(&prompt)?;
    }
    let generation = generate(&engine, &request, text)?;
    let title = format!("{}, {} tokens", args.engine.model_name(), request.prompt.len());
    if let Some(file) = trace {
        write_trace(file, &title, &generation.prefill)?;
    }
    if let Some(file) = timeline {
        write_timeline(file, &title, &generation.prefill)?;
    }
    if text {
        println!();
        eprintln!("\n{}", summary(&engine, &generation, request.prompt.len()));
    } else {
        let json = RunJson {
            text: &generation.text,
            tokens: &generation.tokens,
            prompt_tokens: request.prompt.len(),
            finish_reason: generation.finish_reason,
            stats: &generation.stats,
        };
        serde_json::to_writer(io::stdout().lock(), &json)?;
        println!();
    }
    Ok(())
}

/// The main job: the embedded model on a default prompt.
pub(crate) fn tell_a_tale(cancel: &CancelToken) -> anyhow::Result<()> {
    let engine = Engine::new(super::shared::packed(None)?, coexec::EngineOptions::default())?;
    let ids = engine.model().require_tokenizer()?.encode(default_prompt(), Special::AddBos)?;
    let mut sampler = SamplerOptions::from(&engine.model().config().generation);
    sampler.seed = 7;
    let request = GenerateRequest {
        prompt: ids,
        max_tokens: 220,
        sampler,
        stop: Vec::new(),
        ignore_eos: false,
        draft_tokens: 0,
        cancel: cancel.clone(),
    };
    let millions = parameters(&engine.model().file().summary()) as f64 / 1e6;
    println!("The demo model ({millions:.1} M parameters, in this binary) tells a tale; Ctrl-C ends it.\n");
    print_piece(default_prompt())?;
    let generation = generate(&engine, &request, true)?;
    println!("\n\n{}", summary(&engine, &generation, request.prompt.len()));
    println!("\nTry next:");
    println!(
        "  coexec run \"The little rabbit\" --seed 3 --timeline timeline.svg    another tale, and a picture of its prefill"
    );
    println!(
        "  coexec simulate --prompt-len 1024                                    the schedule of a long prompt on a phone, policy by policy"
    );
    Ok(())
}

fn print_piece(piece: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(piece.as_bytes())?;
    out.flush()
}

fn generate(engine: &Engine, request: &GenerateRequest, stream: bool) -> anyhow::Result<Generation> {
    let mut failed = None;
    let mut session = engine.session();
    let generation = session.generate(request, &mut |piece| {
        let Some(Err(e)) = (stream && failed.is_none()).then(|| print_piece(piece)) else { return };
        // Nobody reads any more: end the generation, not the process.
        request.cancel.cancel();
        failed = Some(e);
    });
    if let Some(e) = failed {
        return Err(e).context("cannot write to stdout");
    }
    Ok(generation?)
}

fn summary(engine: &Engine, g: &Generation, prompt_tokens: usize) -> String {
    let s = &g.stats;
    let decode = s.decode_tokens_per_s.map_or_else(|| "–".to_owned(), |v| format!("{v:.0} tok/s"));
    let rss = s.peak_rss_bytes.map_or_else(|| "–".to_owned(), |b| format!("{:.0} MB", b as f64 / 1e6));
    let shadow = match &s.shadow {
        w if w.corrected == 0 => String::new(),
        w => format!(
            "\nshadow   {} activations of {} channels in {:.1} ms, {:.1} KiB of rows in memory and {:.1} KiB of weights read; \
             the NPU waited {:.2} ms for it",
            w.corrected,
            w.channels,
            w.time_ns as f64 / 1e6,
            w.hot_bytes as f64 / 1024.0,
            w.cold_bytes as f64 / 1024.0,
            w.npu_stall_ns as f64 / 1e6,
        ),
    };
    let clipped = match s.shadow.uncorrected {
        0 => String::new(),
        count => format!(", {count} inputs clipped without shadow"),
    };
    let mut text = format!(
        "prefill  {prompt_tokens} tokens in {} chunk{}, {:.0} tok/s, first token after {:.1} ms\n\
         decode   {} tokens, {decode}; ended by {}\n\
         NPU      {} ({}); busy {:.1} ms, CPU {:.1} ms of the prefill; {} outputs saturated{clipped}{shadow}\n\
         CPU      {} kernels, {} threads; peak memory {rss}",
        s.chunks,
        if s.chunks == 1 { "" } else { "s" },
        s.prefill_tokens_per_s,
        s.ttft_ms,
        g.tokens.len(),
        match g.finish_reason {
            FinishReason::Eos => "the model's end token",
            FinishReason::Stop => "a stop text",
            FinishReason::Length => "the token limit",
            FinishReason::ContextFull => "the full context",
            FinishReason::Cancelled => "Ctrl-C",
        },
        s.npu_device,
        s.npu_reason,
        s.npu_busy_ms,
        s.cpu_busy_ms,
        s.saturated,
        engine.kernels(),
        engine.options().worker_threads(),
    );
    if s.drafted > 0 {
        text.push_str(&format!("\ndraft    {} of {} guessed tokens were right", s.accepted, s.drafted));
    }
    for elsewhere in &s.ran_elsewhere {
        text.push_str(&format!("\nNOTE     {elsewhere}"));
    }
    if let (true, Some(failure)) = (s.ran_elsewhere.is_empty(), s.npu_failures.last()) {
        text.push_str(&format!("\nNOTE     the NPU failed and was opened again: {failure}"));
    }
    text
}

fn write_trace(file: OutputFile, title: &str, prefill: &PrefillOutput) -> anyhow::Result<()> {
    let meta = TraceMeta { title: title.to_owned(), simulated: None, flows: false };
    Ok(file.fill(|out| write_chrome_trace(&prefill.plan.graph, &prefill.report, out, meta))?)
}

fn write_timeline(file: OutputFile, title: &str, prefill: &PrefillOutput) -> anyhow::Result<()> {
    let options = TimelineOptions { title: title.to_owned(), ..TimelineOptions::default() };
    Ok(file.fill(|out| write_timeline_svg(&prefill.plan.graph, &prefill.report, out, &options))?)
}
