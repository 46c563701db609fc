//! `coexec run`, and `coexec` alone: generate text, stream it, print what was measured.

use super::{
    console::{note, out, outln},
    footer::{self, Sampling},
    generation::GenerationArgs,
    output::claim,
    shared::{EngineArgs, Format, parameters, read_limited, read_stdin, stdin_file},
    usage::{count, no_effect, wrong},
};
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
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The prompt; without one and without --prompt-file it is read from standard input, where that is no terminal
    prompt: Option<String>,
    /// Read the prompt from a file, or from standard input (-); a line end at its end is not part of it
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
    #[arg(long, short = 'n', default_value_t = 256, value_name = "N", value_parser = count::<usize>)]
    max_tokens: usize,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Tell all that was measured: what the NPU and shadow did, what saturated, kernels, memory (JSON has it always)
    #[arg(long)]
    stats: bool,
    /// Write the prefill's events as Chrome/Perfetto JSON
    #[arg(long, value_name = "F")]
    trace: Option<PathBuf>,
    /// Write a picture of the prefill's timeline (SVG)
    #[arg(long, value_name = "F")]
    timeline: Option<PathBuf>,
}

#[derive(Serialize)]
struct RunJson<'a> {
    text: &'a str,
    tokens: &'a [coexec::model::TokenId],
    prompt_tokens: usize,
    finish_reason: FinishReason,
    sampling: &'a SamplerOptions,
    stats: &'a coexec::Stats,
}

impl RunArgs {
    fn prompt_text(&self) -> anyhow::Result<String> {
        match (&self.prompt, &self.prompt_file) {
            (Some(prompt), _) => Ok(prompt.clone()),
            (None, Some(path)) if !is_stdin(path) => read_limited(path).map(without_last_line_end),
            (None, Some(_)) => read_stdin().map(without_last_line_end),
            (None, None) => {
                let is_terminal = io::stdin().is_terminal();
                match if is_terminal { String::new() } else { without_last_line_end(read_stdin()?) } {
                    text if !text.is_empty() => Ok(text),
                    _ if self.engine.model_path()?.is_none() => Ok(default_prompt().to_owned()),
                    _ => Err(wrong(format!(
                        "no prompt{}: give one as an argument, with --prompt-file or on standard input; `coexec chat` holds \
                         a conversation",
                        if is_terminal { "" } else { ", and standard input is empty" }
                    ))),
                }
            }
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
            note!("NOTE     this model's chat template changes the prompt: special tokens in it count as such");
        }
        Ok(prompt)
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// Editors and `echo` end a text with a line end that nobody means.
fn without_last_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
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
    match &args.prompt_file {
        Some(path) if !is_stdin(path) => read.add(path),
        _ => read.extend(stdin_file()),
    }
    let [trace, timeline] = claim([args.trace.as_deref(), args.timeline.as_deref()], &read)?;
    let engine = args.engine.engine()?;
    let (prompt, ids) = args.prompt(&engine)?;
    let (request, sampling) = args.generation.request(&engine, args.max_tokens, cancel)?;
    let request = GenerateRequest { prompt: ids, ..request };
    // Graphs that are compiled now are told of before the text begins.
    engine.prepare_npu(cancel)?;
    let text = args.format == Format::Text;
    if !text {
        no_effect(&["stats"], "JSON has them always");
    }
    if text && !args.chat {
        out!("{prompt}")?;
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
        outln!()?;
        note!("\n{}", footer::short(&generation, request.prompt.len(), &sampling));
        if args.stats {
            note!("{}", footer::details(&engine, &generation));
        }
    } else {
        let json = RunJson {
            text: &generation.text,
            tokens: &generation.tokens,
            prompt_tokens: request.prompt.len(),
            finish_reason: generation.finish_reason,
            sampling: &request.sampler,
            stats: &generation.stats,
        };
        outln!("{}", serde_json::to_string(&json)?)?;
    }
    match generation.finish_reason {
        FinishReason::Cancelled => Err(RuntimeError::Cancelled.into()),
        _ => Ok(()),
    }
}

/// The main job: the embedded model on a default prompt.
pub(crate) fn tell_a_tale(cancel: &CancelToken) -> anyhow::Result<()> {
    let engine = Engine::new(super::shared::packed(None)?, coexec::EngineOptions::default())?;
    let ids = engine.model().require_tokenizer()?.encode(default_prompt(), Special::AddBos)?;
    let options = SamplerOptions { seed: 7, ..SamplerOptions::from(&engine.model().config().generation) };
    let sampling = Sampling { options, source: "the model's advice" };
    let request = GenerateRequest {
        prompt: ids,
        max_tokens: 220,
        sampler: sampling.options.clone(),
        stop: Vec::new(),
        ignore_eos: false,
        draft_tokens: 0,
        cancel: cancel.clone(),
    };
    let millions = parameters(&engine.model().file().summary()) as f64 / 1e6;
    outln!("The demo model ({millions:.1} M parameters, in this binary) tells a tale; Ctrl-C ends it.\n")?;
    out!("{}", default_prompt())?;
    let generation = generate(&engine, &request, true)?;
    outln!("\n\n{}", footer::short(&generation, request.prompt.len(), &sampling))?;
    outln!("\nTry next:")?;
    outln!(
        "  coexec run \"The little rabbit\" --seed 3 --timeline timeline.svg    another tale, and a picture of its prefill"
    )?;
    outln!(
        "  coexec simulate --prompt-len 1024                                    the schedule of a long prompt on a phone, policy by policy"
    )?;
    Ok(())
}

fn generate(engine: &Engine, request: &GenerateRequest, stream: bool) -> anyhow::Result<Generation> {
    let mut failed = None;
    let mut session = engine.session();
    let generation = session.generate(request, &mut |piece| {
        let Some(Err(e)) = (stream && failed.is_none()).then(|| out!("{piece}")) else { return };
        // Nobody reads any more: end the generation, not the process.
        request.cancel.cancel();
        failed = Some(e);
    });
    failed.map_or(Ok(()), Err)?;
    Ok(generation?)
}

fn write_trace(file: OutputFile, title: &str, prefill: &PrefillOutput) -> anyhow::Result<()> {
    let meta = TraceMeta { title: title.to_owned(), simulated: None, flows: false };
    Ok(file.fill(|out| write_chrome_trace(&prefill.plan.graph, &prefill.report, out, meta))?)
}

fn write_timeline(file: OutputFile, title: &str, prefill: &PrefillOutput) -> anyhow::Result<()> {
    let options = TimelineOptions { title: title.to_owned(), ..TimelineOptions::default() };
    Ok(file.fill(|out| write_timeline_svg(&prefill.plan.graph, &prefill.report, out, &options))?)
}
