//! Chat templates: from messages to the prompt a model was trained on.
//!
//! Templates are Jinja as transformers runs it (`trim_blocks`, `lstrip_blocks`, Python's string methods,
//! `raise_exception`, `strftime_now`, `tojson`, `break` and `continue`, `{% generation %}`). They come with the model,
//! from strangers: time, memory and output are limited, files are out of reach, and every failure is an error that
//! names the template, the line and the cause.
//!
//! Used by the command line and by embedders; sessions take tokens and know no templates.

mod bounds;
mod calls;
mod clock;
mod expression;
mod filters;
mod limits;
mod methods;
mod operators;
mod predicates;
mod python;
mod rewrite;

pub use clock::CivilTime;

use super::{TextError, error::no_panic, stack::with_stack};
use bounds::MAX_SOURCE_BYTES;
use coexec_model::TokenizerData;
use expression::Unreadable;
use limits::{Budget, MAX_FUEL};
use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior, Value,
    syntax::SyntaxConfig,
    value::{Object, ObjectRepr},
};
use rewrite::rewrite;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// One turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What is said: a text, a list of parts (`{"type": "text", "text": …}`), or null beside tool calls.
    #[serde(default)]
    pub content: serde_json::Value,
    /// Whatever else the template looks at (`name`, `tool_calls`, `reasoning_content`).
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message of text.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into().into(), extra: serde_json::Map::new() }
    }
}

/// What a template knows besides the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RenderOptions {
    /// End with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Text of the BOS token, as `bos_token`; undefined in the template if `None`.
    pub bos_token: Option<String>,
    /// Text of the EOS token, as `eos_token`; undefined in the template if `None`.
    pub eos_token: Option<String>,
    /// More variables (`tools`, `enable_thinking`, `date_string`); they win over the others of the same name.
    pub variables: serde_json::Map<String, serde_json::Value>,
    /// What `strftime_now` shows; the system's clock in UTC if `None`.
    pub now: Option<CivilTime>,
}

impl RenderOptions {
    /// The model's own tokens, all that have a name, and the beginning of the assistant's turn at the end.
    #[must_use]
    pub fn for_model(data: &TokenizerData) -> Self {
        Self {
            add_generation_prompt: true,
            bos_token: data.bos_token.clone(),
            eos_token: data.eos_token.clone(),
            variables: data.special_tokens.iter().map(|(name, text)| (name.clone(), text.clone().into())).collect(),
            ..Self::default()
        }
    }
}

/// A template's own blocks, as `self`: chat templates have none, so every attribute of it is undefined, and it is true.
#[derive(Debug)]
struct OwnBlocks;

impl Object for OwnBlocks {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    name: String,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles a template under the name `default`.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line of the syntax error.
    pub fn new(source: &str) -> Result<Self, TextError> {
        Self::named("default", source)
    }

    /// Compiles a template; errors will name it.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line of the syntax error.
    pub fn named(name: &str, source: &str) -> Result<Self, TextError> {
        match compiled(name, source)? {
            Ok(environment) => Ok(Self { environment, name: name.to_owned() }),
            Err(Uncompiled::Refused(line, cause)) => {
                Err(TextError::Template { template: name.to_owned(), line, cause })
            }
            Err(Uncompiled::Engine(error)) => Err(template_error(name, &error)),
        }
    }

    /// Refuses a model whose templates are beyond what will be compiled. A template that is merely wrong is refused when it is
    /// used.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line of what is too long or too deep.
    pub(crate) fn check_limits(data: &TokenizerData) -> Result<(), TextError> {
        for (name, source) in &data.chat_templates {
            if let Err(Uncompiled::Refused(line, cause)) = compiled(name, source)? {
                return Err(TextError::Template { template: name.clone(), line, cause });
            }
        }
        Ok(())
    }

    /// The model's template of that name (the usual one is called `default`).
    ///
    /// # Errors
    /// [`TextError::NoTemplate`] with the names there are, [`TextError::Template`] if it does not compile.
    pub fn of_model(data: &TokenizerData, name: &str) -> Result<Self, TextError> {
        let source = data.chat_templates.get(name).ok_or_else(|| TextError::NoTemplate {
            name: name.to_owned(),
            available: data.chat_templates.keys().cloned().collect(),
        })?;
        Self::named(name, source)
    }

    /// Name of the template.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The prompt for a conversation.
    ///
    /// It holds every special token that belongs to it: encode it with [`Special::Plain`](super::Special::Plain). In the result
    /// what users wrote cannot be told from what the template wrote; [`Self::prompt`] does that.
    ///
    /// # Errors
    /// [`TextError::Template`]: the template refused the messages (`raise_exception`), failed, or exceeded its limits.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, TextError> {
        let failed = |cause| TextError::Template { template: self.name.clone(), line: None, cause };
        let work = || {
            let mut input = Input::default();
            let messages = messages.iter().map(|m| input.message(m)).collect::<Result<Vec<_>, _>>()?;
            let mut context = vec![
                ("messages", Value::from(messages)),
                ("add_generation_prompt", options.add_generation_prompt.into()),
                // Templates ask `tools is not none`.
                ("tools", ().into()),
                ("documents", ().into()),
                ("self", Value::from_object(OwnBlocks)),
            ];
            for (key, token) in [("bos_token", &options.bos_token), ("eos_token", &options.eos_token)] {
                context.extend(token.as_deref().map(|token| (key, Value::from(token))));
            }
            for (key, value) in &options.variables {
                context.push((key, input.value(value, 0)?));
            }
            let context = Value::from_pairs(context);
            let input_bytes = input.bytes;
            let mut environment = self.environment.clone();
            let now = options.now.unwrap_or_else(CivilTime::now_utc);
            limits::install(&mut environment, &Budget::new(input_bytes), now);
            Ok(environment.get_template(TEMPLATE).and_then(|template| template.render(context)))
        };
        let result = with_stack(|| no_panic(work, failed)).unwrap_or_else(|cause| Err(failed(cause)));
        result?.map_err(|e| template_error(&self.name, &e))
    }
}

/// Why a template was not compiled.
enum Uncompiled {
    /// The line, where it is one, and why it was not even tried.
    Refused(Option<usize>, String),
    /// What the engine says.
    Engine(Error),
}

/// Compiles the translation of `source` on a thread with stack enough.
fn compiled(name: &str, source: &str) -> Result<Result<Environment<'static>, Uncompiled>, TextError> {
    let failed = |cause| TextError::Template { template: name.to_owned(), line: None, cause };
    with_stack(|| no_panic(|| Ok(compile(source)), failed)).unwrap_or_else(|cause| Err(failed(cause)))
}

fn compile(source: &str) -> Result<Environment<'static>, Uncompiled> {
    if source.len() > MAX_SOURCE_BYTES {
        let cause = format!("it has {} bytes, more than the {MAX_SOURCE_BYTES} allowed", source.len());
        return Err(Uncompiled::Refused(None, cause));
    }
    // As Jinja2: every line break of a template is one character.
    let unix = source.contains('\r').then(|| source.replace("\r\n", "\n").replace('\r', "\n"));
    let source = unix.as_deref().unwrap_or(source);
    let add = |source: String| {
        let mut environment = environment()?;
        environment.add_template_owned(TEMPLATE, source).map(|()| environment)
    };
    let syntax = syntax().map_err(Uncompiled::Engine)?;
    let refused = |(line, cause)| Uncompiled::Refused(Some(line), cause);
    bounds::check(source, &syntax).map_err(refused)?;
    let error = match rewrite(source) {
        Ok(translated) => {
            bounds::check_translated(&translated, &syntax).map_err(refused)?;
            match add(translated) {
                Ok(environment) => return Ok(environment),
                Err(error) => error,
            }
        }
        Err((line, Unreadable::Deep)) => {
            return Err(Uncompiled::Refused(Some(line), "its expressions are nested too deeply".to_owned()));
        }
        Err((line, Unreadable::Long)) => {
            return Err(Uncompiled::Refused(Some(line), "an expression is too long".to_owned()));
        }
        Err((_, Unreadable::Syntax)) => Error::new(ErrorKind::SyntaxError, "an expression that cannot be read here"),
    };
    // The engine says what is wrong with what was written, if anything is.
    Err(Uncompiled::Engine(add(source.to_owned()).err().unwrap_or(error)))
}

/// Name of the one template of an environment. No extension: nothing is escaped for HTML.
const TEMPLATE: &str = "chat";

fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(false).build()
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax()?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(limits::MAX_FUEL));
    environment.set_recursion_limit(limits::MAX_RECURSION);
    Ok(environment)
}

/// The names of a message's thoughts, the usual one first.
const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Messages and variables on their way into a template.
#[derive(Default)]
struct Input {
    /// Length of all texts so far, and a little for other values.
    bytes: usize,
}

impl Input {
    fn text(&mut self, text: &str) -> Value {
        self.bytes += text.len();
        Value::from(text)
    }

    fn message(&mut self, message: &Message) -> Result<Value, String> {
        let mut pairs = vec![
            (Value::from("role"), self.text(&message.role)),
            (Value::from("content"), self.value(&message.content, 0)?),
        ];
        for (key, value) in &message.extra {
            pairs.push((self.text(key), self.value(value, 0)?));
        }
        // As transformers: thoughts under one of their names are there under the names that templates look at.
        let thoughts = THOUGHTS.iter().find_map(|name| message.extra.get(*name).filter(|value| !value.is_null()));
        if let Some(thoughts) = thoughts {
            pairs.retain(|(key, _)| key.as_str() != Some("reasoning_content"));
            pairs.push((Value::from("reasoning_content"), self.value(thoughts, 0)?));
            if !message.extra.contains_key("thinking") {
                pairs.insert(0, (Value::from("thinking"), self.value(thoughts, 0)?));
            }
        }
        Ok(Value::from_pairs(pairs))
    }

    fn value(&mut self, json: &serde_json::Value, depth: usize) -> Result<Value, String> {
        if depth > python::MAX_VALUE_DEPTH {
            return Err("a variable is nested too deeply".to_owned());
        }
        self.bytes += 8;
        Ok(match json {
            serde_json::Value::Null => ().into(),
            serde_json::Value::Bool(flag) => (*flag).into(),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(integer), _) => integer.into(),
                (_, Some(integer)) => integer.into(),
                _ => number.as_f64().unwrap_or(f64::NAN).into(),
            },
            serde_json::Value::String(text) => self.text(text),
            serde_json::Value::Array(items) => {
                items.iter().map(|item| self.value(item, depth + 1)).collect::<Result<Vec<_>, _>>()?.into()
            }
            serde_json::Value::Object(object) => {
                let pair = |(key, value): (&String, _)| Ok((self.text(key), self.value(value, depth + 1)?));
                Value::from_pairs(object.iter().map(pair).collect::<Result<Vec<_>, String>>()?)
            }
        })
    }
}

/// Where and why, with what lies beneath.
fn template_error(name: &str, error: &Error) -> TextError {
    let mut cause = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("it takes more than {MAX_FUEL} steps: a loop without end?"),
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    let mut beneath = std::error::Error::source(error);
    // A template that includes itself fails as deep as it goes.
    while let Some(source) = beneath.filter(|_| cause.len() < 300) {
        cause.push_str(": ");
        cause.push_str(&source.to_string());
        beneath = source.source();
    }
    TextError::Template { template: name.to_owned(), line: error.line(), cause }
}
