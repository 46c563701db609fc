//! What a template may use: steps, bytes of text and values that it makes, and items that it goes through.
//!
//! Every operator, filter, test, function and method of a template is one of ours, and pays before it makes a text or a
//! list. Values can share parts (`[l, l]`), so literals, comparisons and texts are paid for as if they did not: then
//! also comparing and printing is bounded.

use super::calls::{Args, Call, Items, ItemsKind, Method, error, fail, integer, is_dict, iterate, type_name};
use super::operators::{Function, OPERATORS};
use super::{CivilTime, filters::FILTERS, methods, predicates::TESTS, python};
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, State, Value, functions,
    value::{Rest, ValueKind, ValueOrKwargs},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Instructions of the template engine: some hundreds per message are usual.
pub(super) const MAX_FUEL: u64 = 8_000_000;
/// Macros that call themselves: the most that the engine allows, some 60 deep.
pub(super) const MAX_RECURSION: usize = 500;
/// Largest width, indentation or precision that a template may ask for.
pub(super) const MAX_COUNT: usize = 10_000;
/// Bytes that any template may make.
const BASE_BYTES: u64 = 32 << 20;
/// Bytes that it may make for each byte of messages and variables.
const BYTES_PER_INPUT_BYTE: u64 = 256;
/// What a value counts besides its text.
const VALUE_BYTES: u64 = 16;
/// Items that operators and filters may go through, for any template: a second's work or two.
const BASE_WORK: u64 = 16 << 20;
/// Items that they may go through for each byte of messages and variables.
const WORK_PER_INPUT_BYTE: u64 = 4096;
/// Bytes of a text that are gone through as quickly as an item.
const BYTES_PER_ITEM: u64 = 16;
/// Longest text whose characters are gone through one by one.
pub(super) const MAX_CHARACTERS: usize = 1 << 20;
/// Longest `range`, as in Jinja2's sandbox.
const MAX_RANGE: i64 = 100_000;

/// What is left of a rendering's allowance.
#[derive(Debug)]
pub(super) struct Budget {
    left_bytes: AtomicU64,
    left_work: AtomicU64,
}

impl Budget {
    pub(super) fn new(input_bytes: usize) -> Arc<Self> {
        let scaled =
            |base: u64, each: u64| AtomicU64::new(base.saturating_add(each.saturating_mul(input_bytes as u64)));
        Arc::new(Self {
            left_bytes: scaled(BASE_BYTES, BYTES_PER_INPUT_BYTE),
            left_work: scaled(BASE_WORK, WORK_PER_INPUT_BYTE),
        })
    }

    pub(super) fn charge(&self, bytes: u64) -> Result<(), Error> {
        match take(&self.left_bytes, bytes) {
            true => Ok(()),
            false => fail("it makes too much text or too many values"),
        }
    }

    /// Charges the time that going through `items` items takes.
    pub(super) fn charge_work(&self, items: u64) -> Result<(), Error> {
        match take(&self.left_work, items) {
            true => Ok(()),
            false => fail("it takes too many steps: a loop without end?"),
        }
    }

    /// Charges the time that going through a value once takes.
    fn charge_pass(&self, value: &Value) -> Result<(), Error> {
        let items = match value.kind() {
            ValueKind::String => value.as_str().map_or(0, str::len) as u64 / BYTES_PER_ITEM,
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => match value.downcast_object_ref::<Items>() {
                Some(items) => items.values.len() as u64,
                None => value.len().unwrap_or(0) as u64,
            },
            _ => 0,
        };
        self.charge_work(items)
    }

    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes.load(Ordering::Relaxed)
    }

    /// Charges a list of `count` values that exist already.
    pub(super) fn charge_items(&self, count: u64) -> Result<(), Error> {
        self.charge(VALUE_BYTES.saturating_mul(count.saturating_add(1)))
    }

    /// Charges a value with everything in it.
    pub(super) fn charge_deep(&self, value: &Value) -> Result<(), Error> {
        self.charge_nested(value, 0, false)
    }

    /// The same for a value that a namespace is going to keep, where a loop could hang each on the one before: whatever
    /// may hold values that are not seen here is refused, and namespaces, which could come to hold themselves.
    pub(super) fn charge_kept(&self, value: &Value) -> Result<(), Error> {
        self.charge_nested(value, 0, true)
    }

    /// Charges what a comparison may look at.
    pub(super) fn charge_compared(&self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => self.charge_deep(value),
            ValueKind::String => self.charge(value.as_str().map_or(0, str::len) as u64),
            _ => Ok(()),
        }
    }

    fn charge_nested(&self, value: &Value, depth: usize, kept: bool) -> Result<(), Error> {
        if depth > python::MAX_VALUE_DEPTH {
            return fail("its values are nested too deeply");
        }
        self.charge(VALUE_BYTES + value.as_str().map_or(0, str::len) as u64)?;
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                iterate(value)?.iter().try_for_each(|item| self.charge_nested(item, depth + 1, kept))
            }
            ValueKind::Map if kept && !is_dict(value) => {
                fail(format!("a namespace cannot keep a value of type {}", type_name(value)))
            }
            ValueKind::Map => value.try_iter()?.try_for_each(|key| {
                self.charge_nested(&key, depth + 1, kept)?;
                self.charge_nested(&value.get_item(&key)?, depth + 1, kept)
            }),
            ValueKind::Plain => match value.downcast_object_ref::<Method>() {
                Some(method) => self.charge_nested(&method.value, depth + 1, kept),
                None if kept => fail("a namespace cannot keep a macro or a function"),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Charges a value with its text or its direct parts only.
    pub(super) fn charge_shallow(&self, value: &Value) -> Result<(), Error> {
        let parts = if value.as_str().is_some() { 0 } else { value.len().unwrap_or(0) as u64 };
        self.charge(VALUE_BYTES * (1 + parts) + value.as_str().map_or(0, str::len) as u64)
    }
}

/// Takes `amount` of what is left, if there is that much.
fn take(left: &AtomicU64, amount: u64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(amount)).is_ok()
}

/// Puts our filters, tests, functions and output, which charge `budget`, in the place of the engine's.
pub(super) fn install(environment: &mut Environment<'_>, budget: &Arc<Budget>, now: CivilTime) {
    for name in ["bool", "lines", "split", "chain", "zip", "pprint"] {
        // Not Jinja2's.
        environment.remove_filter(name);
    }
    for name in ["safe", "startingwith", "endingwith", "int"] {
        environment.remove_test(name);
    }
    for &(name, function) in OPERATORS.iter().chain(FILTERS) {
        let own = Arc::clone(budget);
        environment.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            apply(state, &own, function, args)
        });
    }
    for &(name, function) in TESTS {
        let own = Arc::clone(budget);
        environment.add_test(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            apply(state, &own, function, args).map(|holds| holds.is_true())
        });
    }
    install_functions(environment, budget, now);
    let own = Arc::clone(budget);
    environment.set_formatter(move |out, state, value| {
        // In `{% autoescape true %}`.
        let escapes = *state.auto_escape() != AutoEscape::None && !value.is_safe();
        let written = match value.as_str() {
            Some(text) if !escapes => own.charge(text.len() as u64).map(|()| out.write_str(text))?,
            _ => {
                let mut text = python::Text::new(own.left_bytes());
                python::write_str(&mut text, value)?;
                let text = if escapes { python::escape(&text.text) } else { text.text };
                own.charge(text.len() as u64)?;
                out.write_str(&text)
            }
        };
        written.map_err(|_| Error::new(ErrorKind::WriteFailure, "the output cannot be written"))
    });
}

fn apply(
    state: &mut State<'_, '_>,
    budget: &Budget,
    function: Function,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let mut values = args.into_values();
    if values.is_empty() {
        return fail("a filter or a test without a value");
    }
    budget.charge(VALUE_BYTES)?;
    values.iter().try_for_each(|value| budget.charge_pass(value))?;
    let value = values.remove(0);
    function(&mut Call { state, budget }, &value, &Args::new(values)?)
}

fn install_functions(environment: &mut Environment<'_>, budget: &Arc<Budget>, now: CivilTime) {
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        let mut text = python::Text::new(u64::from(u16::MAX));
        python::write_str(&mut text, &message)?;
        Err(Error::new(ErrorKind::InvalidOperation, text.text))
    });
    environment.add_function("strftime_now", move |format: String| now.format(&format));
    // Prints the template's state: nothing for a prompt.
    environment.remove_global("debug");
    let (own, namespace) = (Arc::clone(budget), Value::from_function(functions::namespace));
    environment.add_function("namespace", move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        args.iter().try_for_each(|arg| own.charge_deep(arg))?;
        namespace.call(state, &args)
    });
    let own = Arc::clone(budget);
    environment.add_function("dict", move |args: Rest<ValueOrKwargs>| dict(&own, &Args::new(args.into_values())?));
    let own = Arc::clone(budget);
    environment.add_function("range", move |args: Rest<Value>| range(&own, &args));
}

/// `dict(mapping)`, `dict(pairs)`, `dict(name=value)`.
fn dict(budget: &Budget, args: &Args) -> Result<Value, Error> {
    let mut pairs = Vec::new();
    for from in args.positional() {
        let items = if is_dict(from) { methods::pairs(from)? } else { iterate(from)? };
        for pair in items {
            match &iterate(&pair)?[..] {
                [key, value] => pairs.push((key.clone(), value.clone())),
                other => return fail(format!("dict takes pairs, not {} values", other.len())),
            }
        }
    }
    pairs.extend(args.named().iter().map(|(name, value)| (Value::from(name.as_str()), value.clone())));
    let result = Value::from_pairs(pairs);
    budget.charge_deep(&result)?;
    Ok(result)
}

/// `range(stop)`, `range(start, stop, step)`.
fn range(budget: &Budget, args: &[Value]) -> Result<Value, Error> {
    let numbers = args.iter().map(integer).collect::<Result<Vec<_>, _>>()?;
    let (mut at, end, step) = match numbers[..] {
        [end] => (0, end, 1),
        [start, end] => (start, end, 1),
        [start, end, step] if step != 0 => (start, end, step),
        _ => return fail("range() takes 1 to 3 numbers, and no step of 0"),
    };
    let mut values = Vec::new();
    while if step > 0 { at < end } else { at > end } {
        if values.len() as i64 >= MAX_RANGE {
            return fail(format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."));
        }
        values.push(Value::from(at));
        at = at.checked_add(step).ok_or_else(|| error("range: a number is too large"))?;
    }
    budget.charge_items(values.len() as u64)?;
    Ok(Items::value(ItemsKind::Range, values))
}
