//! `coexec chat`: a conversation, in a terminal or over a pipe.
//!
//! In a terminal lines are edited, Ctrl-C ends an answer, and an error ends a turn. Over a pipe every line is a turn, answers are
//! all that standard output gets, and the first error ends the command. `docs/chat.md` is the user's page.

mod command;
mod entry;
mod file;
mod input;

use super::{
    console::{note, out, outln, warning},
    footer::{self, Sampling},
    generation::GenerationArgs,
    shared::{EngineArgs, stdin_file},
    signals::Answer,
    usage::at_least_one,
};
use clap::Args;
use coexec::{
    CancelToken, Chat, ChatOptions, FinishReason, GenerateRequest, Generation, RuntimeError,
    model::output::ReadFiles,
    runtime::{error::chain, npu::NpuKind},
};
use command::{Command, HELP};
use entry::Entry;
use input::Input;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// The .coexec file of a model that has a chat template
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    file: Option<PathBuf>,
    /// Message of the system
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Go on with a conversation that /save wrote
    #[arg(long, value_name = "F")]
    load: Option<PathBuf>,
    /// When the context is full, leave the oldest turns out of the prompt
    #[arg(long)]
    drop_oldest: bool,
    /// Neither read nor write the history of what was typed
    #[arg(long)]
    no_history: bool,
    /// Special tokens written in messages count as such; without this switch they are text
    #[arg(long)]
    parse_special: bool,
    /// Most tokens of an answer
    #[arg(long, short = 'n', default_value_t = 1024, value_name = "N", value_parser = at_least_one::<usize>)]
    max_tokens: usize,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What ended a turn without an answer.
enum Trouble {
    /// Results cannot be written any more: the end of the command.
    Output(anyhow::Error),
    /// Anything else: in a terminal the conversation goes on.
    Turn(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Turn(error)
    }
}

impl From<RuntimeError> for Trouble {
    fn from(error: RuntimeError) -> Self {
        Self::Turn(error.into())
    }
}

struct Talk {
    chat: Chat,
    /// Of every answer; the seed counts up from one to the next.
    request: GenerateRequest,
    sampling: Sampling,
    /// Files that /save must not write.
    read: ReadFiles,
    model: String,
    in_terminal: bool,
    answers: u64,
    dropped_messages: usize,
    last: Option<Generation>,
}

pub(crate) fn chat(args: &ChatArgs, cancel: &CancelToken) -> anyhow::Result<()> {
    let mut engine_args = args.engine.clone();
    engine_args.model = args.file.clone().or(engine_args.model);
    let engine = engine_args.engine()?;
    let options =
        ChatOptions { parse_special: args.parse_special, drop_oldest: args.drop_oldest, ..ChatOptions::default() };
    let mut chat = Chat::new(&engine, options)?;
    if let Some(path) = &args.load {
        chat.set_messages(file::load(path)?)?;
    }
    if let Some(text) = &args.system {
        chat.set_system(Some(text));
    }
    let (request, sampling) = args.generation.request(&engine, args.max_tokens, cancel)?;
    // Graphs that are compiled now are told of before the first prompt.
    engine.prepare_npu(cancel)?;
    let mut input = Input::new(!args.no_history)?;
    let mut read = engine_args.read_files()?;
    read.extend(input.history_path().into_iter().collect());
    read.extend(stdin_file());
    let mut talk = Talk {
        chat,
        request,
        sampling,
        read,
        model: engine_args.model_name(),
        in_terminal: input.is_terminal(),
        answers: 0,
        dropped_messages: 0,
        last: None,
    };
    if talk.in_terminal {
        note!("{}, prefill on {}. /help shows the commands, Ctrl-D ends.", talk.model, talk.place());
    }
    while let Some(entry) = input.next()? {
        let quit = matches!(entry, Entry::Command(Command::Quit));
        match if quit { Ok(()) } else { talk.turn(entry, cancel) } {
            Err(Trouble::Output(error)) => return Err(error),
            Err(Trouble::Turn(error)) if !talk.in_terminal || cancel.is_cancelled() => return Err(error),
            Err(Trouble::Turn(error)) => warning!("error: {}", chain(error.as_ref())),
            Ok(()) => {}
        }
        if quit {
            break;
        }
    }
    Ok(())
}

impl Talk {
    fn turn(&mut self, entry: Entry, cancel: &CancelToken) -> Result<(), Trouble> {
        match entry {
            Entry::Text(text) => self.answer(Some(&text), cancel)?,
            Entry::Command(Command::Quit) => {}
            Entry::Command(Command::Help) => warning!("{HELP}"),
            Entry::Command(Command::Stats) => warning!("{}", self.stats()),
            Entry::Command(Command::Clear) => {
                self.chat.clear();
                note!("[the conversation is empty]");
            }
            Entry::Command(Command::System(text)) => {
                self.chat.set_system(text.as_deref());
                note!("[{} message of the system]", if text.is_some() { "a new" } else { "no" });
            }
            Entry::Command(Command::Undo) => match self.chat.undo() {
                Some(_) => note!("[the last turn is taken back; {} messages are left]", self.chat.messages().len()),
                None => return Err(anyhow::anyhow!("there is no turn to take back").into()),
            },
            Entry::Command(Command::Regen) => self.regenerate(cancel)?,
            Entry::Command(Command::Save(path)) => {
                file::save(&path, &self.read, &self.model, self.chat.messages())?;
                note!("[{} messages saved in {}]", self.chat.messages().len(), path.display());
            }
            Entry::Command(Command::Load(path)) => {
                self.chat.set_messages(file::load(&path)?)?;
                self.dropped_messages = 0;
                note!("[{} messages loaded from {}]", self.chat.messages().len(), path.display());
            }
        }
        Ok(())
    }

    /// Answers the last question once more, with the next seed.
    fn regenerate(&mut self, cancel: &CancelToken) -> Result<(), Trouble> {
        let before = self.chat.messages().to_vec();
        let question = self.chat.undo().ok_or_else(|| anyhow::anyhow!("there is no answer to give again"))?;
        self.chat.push(question);
        let answer = self.answer(None, cancel);
        if answer.is_err() {
            // The old answer is better than none.
            self.chat.set_messages(before)?;
        }
        answer
    }

    /// Answers a new question, or the conversation as it stands.
    fn answer(&mut self, question: Option<&str>, cancel: &CancelToken) -> Result<(), Trouble> {
        let token = if self.in_terminal { CancelToken::new() } else { cancel.clone() };
        let mut request = GenerateRequest { cancel: token.clone(), ..self.request.clone() };
        request.sampler.seed = request.sampler.seed.wrapping_add(self.answers);
        self.sampling.options.seed = request.sampler.seed;
        let mut failed = None;
        let mut on_text = |piece: &str| {
            if failed.is_none()
                && let Err(error) = out!("{piece}")
            {
                // Nobody reads any more.
                token.cancel();
                failed = Some(error);
            }
        };
        let reply = {
            let _listening = self.in_terminal.then(|| Answer::new(&token));
            match question {
                Some(text) => self.chat.send(text, &request, &mut on_text),
                None => self.chat.reply(&request, &mut on_text),
            }
        };
        if let Some(error) = failed {
            return Err(Trouble::Output(error));
        }
        let reply = match reply {
            Ok(reply) => reply,
            Err(RuntimeError::Cancelled) if self.in_terminal && !cancel.is_cancelled() => {
                note!("\n[stopped before the answer began: the question is not part of the conversation]");
                return Ok(());
            }
            Err(error @ RuntimeError::ChatFull { .. }) => {
                let hint = "here: /clear, /undo, or start with --drop-oldest";
                return Err(Trouble::Turn(anyhow::anyhow!("{error} ({hint})")));
            }
            Err(error) => return Err(error.into()),
        };
        self.answers += 1;
        let generation = reply.generation;
        outln!("{}", if self.in_terminal { "\n" } else { "" }).map_err(Trouble::Output)?;
        match generation.finish_reason {
            FinishReason::Length => note!("[ended after {} tokens: --max-tokens]", generation.tokens.len()),
            FinishReason::ContextFull => note!("[the context is full: /clear, /undo, or start with --drop-oldest]"),
            FinishReason::Cancelled if self.in_terminal => note!("[stopped; what was said stays in the conversation]"),
            _ => {}
        }
        if reply.dropped_messages > self.dropped_messages {
            note!("[the context is full: the oldest {} messages are left out of the prompt]", reply.dropped_messages);
        }
        self.dropped_messages = reply.dropped_messages;
        if !reply.told_apart {
            note!("[the chat template changes what is typed: special tokens in it count as such]");
        }
        for elsewhere in &generation.stats.ran_elsewhere {
            note!("NOTE     {elsewhere}");
        }
        let cancelled = generation.finish_reason == FinishReason::Cancelled;
        self.last = Some(generation);
        // Over a pipe, or by SIGTERM: the command was to end.
        if cancelled && cancel.is_cancelled() { Err(RuntimeError::Cancelled.into()) } else { Ok(()) }
    }

    fn place(&self) -> String {
        match self.chat.session().engine().npu_kind() {
            NpuKind::None => "the CPU".to_owned(),
            kind => format!("the {} and the CPU", kind.name()),
        }
    }

    /// What `/stats` tells.
    fn stats(&self) -> String {
        let session = self.chat.session();
        let used = session.tokens().len();
        let context = format!(
            "context  {used} of {} tokens, {:.1} MB; {} messages, {} left out",
            used + session.room(),
            session.kv_bytes() as f64 / 1e6,
            self.chat.messages().len(),
            self.dropped_messages,
        );
        let Some(last) = &self.last else { return context };
        let stats = &last.stats;
        format!(
            "{context}\nreused   {} tokens were in the context already\n{}",
            stats.reused_tokens,
            footer::short(last, stats.prefilled_tokens, &self.sampling),
        )
    }
}
