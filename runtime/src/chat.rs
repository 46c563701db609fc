//! A chat: messages, and a session whose context follows them.
//!
//! The conversation is its messages. Before every answer the model's template renders all of them, and the context is made to hold
//! exactly those tokens: what it holds already stays up to the first token that differs, the rest is run through the model.
//! So an answer never depends on how the last one ended, and a template that rewrites the past (thoughts of former turns are
//! left out, say) costs the tokens from there on, not correctness.

use crate::{
    Engine, FinishReason, GenerateRequest, Generation, RuntimeError, Session,
    text::{ChatPrompt, ChatTemplate, CivilTime, Message, RenderOptions},
};
use coexec_model::TokenId;

/// Who may write special tokens in a chat: the operator. What a model says is text as well; its special tokens are not part of it.
const TRUSTED_ROLES: [&str; 2] = ["system", "developer"];

/// How a chat turns its messages into tokens.
#[derive(Clone, Debug)]
pub struct ChatOptions {
    /// Which of the model's chat templates is used.
    pub template: String,
    /// More variables of the template, e.g. `tools` or `enable_thinking`.
    pub variables: serde_json::Map<String, serde_json::Value>,
    /// Special tokens that users or the model spell count as such; otherwise they are text.
    pub parse_special: bool,
    /// When the context is full, the oldest turns are left out of the prompt, a quarter of the context at a time. Otherwise
    /// that is [`RuntimeError::ChatFull`].
    pub drop_oldest: bool,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            template: "default".to_owned(),
            variables: serde_json::Map::new(),
            parse_special: false,
            drop_oldest: false,
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct ChatReply {
    /// Text, tokens, how it ended, and what was measured: [`Stats::reused_tokens`](crate::Stats::reused_tokens) and
    /// [`Stats::prefilled_tokens`](crate::Stats::prefilled_tokens) say how much of the conversation the context held already.
    pub generation: Generation,
    /// Messages that are left out of the prompt now, the oldest after the system's ([`ChatOptions::drop_oldest`]).
    pub dropped_messages: usize,
    /// Whether special tokens that were typed could be told from the template's own ([`ChatPrompt::told_apart`]).
    pub told_apart: bool,
}

/// A conversation with a model.
///
/// ```no_run
/// use coexec_runtime::{Chat, ChatOptions, Engine, EngineOptions, GenerateRequest};
///
/// let engine = Engine::open("smollm2.coexec".as_ref(), EngineOptions::default())?;
/// let mut chat = Chat::new(&engine, ChatOptions::default())?;
/// chat.set_system(Some("Answer briefly."));
/// for question in ["Why is the sky blue?", "And at sunset?"] {
///     let reply = chat.send(question, &GenerateRequest::default(), &mut |piece| print!("{piece}"))?;
///     println!("\n[{} tokens reused]", reply.generation.stats.reused_tokens);
/// }
/// # Ok::<(), coexec_runtime::RuntimeError>(())
/// ```
#[derive(Debug)]
pub struct Chat {
    session: Session,
    template: ChatTemplate,
    render: RenderOptions,
    options: ChatOptions,
    messages: Vec<Message>,
    /// Messages after the system's that are left out.
    dropped: usize,
}

impl Chat {
    /// An empty chat in a new session. The template's date is that of this moment, for the whole chat: otherwise the past
    /// would change at midnight.
    ///
    /// # Errors
    /// A model without a tokenizer, or without a template of that name; a template that does not compile.
    pub fn new(engine: &Engine, options: ChatOptions) -> Result<Self, RuntimeError> {
        engine.model().require_tokenizer()?;
        let data = engine.model().file().tokenizer();
        let template = ChatTemplate::of_model(data, &options.template)?;
        let mut render = RenderOptions { now: Some(CivilTime::now_utc()), ..RenderOptions::for_model(data) };
        render.variables.extend(options.variables.clone());
        Ok(Self { session: engine.session(), template, render, options, messages: Vec::new(), dropped: 0 })
    }

    /// The conversation so far; those left out of the prompt are there too.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Replaces the whole conversation.
    ///
    /// # Errors
    /// When the template refuses it; the chat is then as it was before. Without a message of a user it is not asked: many
    /// templates want one.
    pub fn set_messages(&mut self, messages: Vec<Message>) -> Result<(), RuntimeError> {
        if messages.iter().any(|message| message.role == "user") {
            self.template.render(&messages, &RenderOptions { add_generation_prompt: false, ..self.render.clone() })?;
        }
        (self.messages, self.dropped) = (messages, 0);
        Ok(())
    }

    /// Sets what the system says at the beginning, or removes it. The conversation stays.
    pub fn set_system(&mut self, text: Option<&str>) {
        self.messages.drain(..self.system_messages());
        if let Some(text) = text {
            self.messages.insert(0, Message::new("system", text));
        }
    }

    /// Forgets the conversation, but not what the system says.
    pub fn clear(&mut self) {
        self.messages.truncate(self.system_messages());
        self.dropped = 0;
    }

    /// Takes the last turn back, from the user's last message on; returns that message.
    pub fn undo(&mut self) -> Option<Message> {
        let at = self.messages.iter().rposition(|message| message.role == "user")?;
        let turn = self.messages.split_off(at);
        self.dropped = self.dropped.min(self.messages.len() - self.system_messages());
        turn.into_iter().next()
    }

    /// Adds a message without asking for an answer (a tool's result, an example).
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// The session: its tokens, how much room is left.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Adds a user's message and answers it, see [`Self::reply`]. After an error the message is not part of the chat.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub fn send(
        &mut self,
        text: &str,
        request: &GenerateRequest,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<ChatReply, RuntimeError> {
        self.messages.push(Message::new("user", text));
        let reply = self.reply(request, on_text);
        if reply.is_err() {
            self.messages.pop();
        }
        reply
    }

    /// Answers the conversation as it stands and adds the answer to it: the text that was shown, also when it was cut short by
    /// its length, by a full context or by cancellation. `request.prompt` is to be empty.
    ///
    /// # Errors
    /// [`RuntimeError::ChatFull`]; [`RuntimeError::Cancelled`] when there was no answer yet; the template's; those of
    /// [`Session::generate`]. The messages are then as they were before.
    pub fn reply(
        &mut self,
        request: &GenerateRequest,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<ChatReply, RuntimeError> {
        if !request.prompt.is_empty() {
            return Err(RuntimeError::Option {
                option: "prompt",
                value: format!("{} tokens", request.prompt.len()),
                reason: "a chat makes its prompt of its messages: leave it empty".to_owned(),
            });
        }
        let dropped = self.dropped;
        let reply = self.answer(request, on_text);
        if reply.is_err() {
            self.dropped = dropped;
        }
        reply
    }

    fn answer(&mut self, request: &GenerateRequest, on_text: &mut dyn FnMut(&str)) -> Result<ChatReply, RuntimeError> {
        let (ids, told_apart) = self.prompt(request.max_tokens)?;
        // The last token runs in any case: its logits are wanted.
        let same = ids.iter().zip(self.session.tokens()).take_while(|(a, b)| a == b).count();
        let same = same.min(ids.len().saturating_sub(1));
        self.session.truncate(same);
        let request = GenerateRequest { prompt: ids[same..].to_vec(), ..request.clone() };
        let generation = self.session.generate(&request, on_text)?;
        if generation.finish_reason == FinishReason::Cancelled && generation.tokens.is_empty() {
            return Err(RuntimeError::Cancelled);
        }
        self.messages.push(Message::new("assistant", generation.text.clone()));
        Ok(ChatReply { generation, dropped_messages: self.dropped, told_apart })
    }

    /// The tokens of the conversation and of the beginning of an answer, which has room after them.
    fn prompt(&mut self, max_tokens: usize) -> Result<(Vec<TokenId>, bool), RuntimeError> {
        let limit = self.session.engine().model().config().max_position_embeddings as usize;
        let mut room = if self.options.drop_oldest { max_tokens.min(limit / 4).max(1) } else { 1 };
        loop {
            let prompt = self.rendered()?;
            let tokenizer = self.session.engine().model().require_tokenizer()?;
            let ids = tokenizer.encode_chat(&prompt)?;
            if ids.len() + room <= limit {
                return Ok((ids, prompt.told_apart()));
            }
            // More than has to go, so that the next turns find room.
            room = (limit / 4).max(1);
            if !(self.options.drop_oldest && self.drop_turn()) {
                if self.options.drop_oldest && ids.len() < limit {
                    return Ok((ids, prompt.told_apart()));
                }
                return Err(RuntimeError::ChatFull { tokens: ids.len(), limit });
            }
        }
    }

    fn rendered(&self) -> Result<ChatPrompt, RuntimeError> {
        let (system, rest) = self.messages.split_at(self.system_messages());
        let messages = [system, &rest[self.dropped..]].concat();
        if self.options.parse_special {
            return Ok(ChatPrompt::trusted(self.template.render(&messages, &self.render)?));
        }
        let tokenizer = self.session.engine().model().require_tokenizer()?;
        Ok(self.template.prompt_trusting(&TRUSTED_ROLES, &messages, &self.render, tokenizer)?)
    }

    /// Leaves one more turn out, unless it is the last.
    fn drop_turn(&mut self) -> bool {
        let rest = &self.messages[self.system_messages()..];
        let next = rest.iter().enumerate().skip(self.dropped + 1).find(|(_, message)| message.role == "user");
        if let Some((next, _)) = next {
            self.dropped = next;
        }
        next.is_some()
    }

    /// How many messages at the beginning are the operator's.
    fn system_messages(&self) -> usize {
        self.messages.iter().take_while(|message| TRUSTED_ROLES.contains(&message.role.as_str())).count()
    }
}
