//! What a template may use: steps, and bytes of text and values that it makes.
//!
//! Every filter, function and method that makes values, every operand (see [`rewrite`](super::rewrite)) and every
//! output is charged before it happens. Values can share parts (`[l, l]`), so they are charged as if they did not:
//! then also comparing and printing them is bounded.

use super::{
    CivilTime,
    python::{self, JsonStyle, MAX_VALUE_DEPTH, Text},
    rewrite::{CHARGE, FACTOR},
};
use minijinja::{
    Environment, Error, ErrorKind, State, Value, filters, functions, tests,
    value::{FunctionArgs, FunctionResult, Kwargs, Rest, ValueKind, ValueOrKwargs},
};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Longest template.
pub(super) const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Instructions of the template engine: some dozens per message are usual.
pub(super) const MAX_FUEL: u64 = 4_000_000;
/// Macros that call themselves.
pub(super) const MAX_RECURSION: usize = 64;
/// Bytes that any template may make.
const BASE_BYTES: u64 = 32 << 20;
/// Bytes that it may make for each byte of messages and variables.
const BYTES_PER_INPUT_BYTE: u64 = 256;
/// What a value counts besides its text.
const VALUE_BYTES: u64 = 16;
/// Largest repetition, width or group that a template may ask for.
const MAX_COUNT: i64 = 10_000;

/// What is left of a rendering's allowance.
#[derive(Debug)]
pub(super) struct Budget {
    left_bytes: AtomicU64,
    /// The products that are being computed, innermost last.
    products: Mutex<Vec<Product>>,
}

/// A chain of `*`, as far as its factors are known.
#[derive(Clone, Copy, Debug)]
struct Product {
    /// Bytes of the text or list that is repeated; 0 while there are only numbers.
    repeated_bytes: u64,
    times: u64,
}

impl Budget {
    pub(super) fn new(input_bytes: usize) -> Arc<Self> {
        let scaled = (input_bytes as u64).saturating_mul(BYTES_PER_INPUT_BYTE);
        let left_bytes = AtomicU64::new(BASE_BYTES.saturating_add(scaled));
        Arc::new(Self { left_bytes, products: Mutex::new(Vec::new()) })
    }

    fn charge(&self, bytes: u64) -> Result<(), Error> {
        let take = |left: u64| left.checked_sub(bytes);
        match self.left_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::InvalidOperation, "it makes too much text or too many values")),
        }
    }

    fn left_bytes(&self) -> u64 {
        self.left_bytes.load(Ordering::Relaxed)
    }

    /// Charges a value with everything in it.
    fn charge_deep(&self, value: &Value) -> Result<(), Error> {
        self.charge_nested(value, 0)
    }

    fn charge_nested(&self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_VALUE_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "its values are nested too deeply"));
        }
        self.charge(VALUE_BYTES + value.as_str().map_or(0, str::len) as u64)?;
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                value.try_iter()?.try_for_each(|item| self.charge_nested(&item, depth + 1))
            }
            ValueKind::Map => value.try_iter()?.try_for_each(|key| {
                self.charge_nested(&key, depth + 1)?;
                self.charge_nested(&value.get_item(&key)?, depth + 1)
            }),
            _ => Ok(()),
        }
    }

    /// Charges a factor of a product with itself and with how often it is repeated.
    ///
    /// `place` is where it stands in the chain of factors (see [`rewrite`](super::rewrite)). The factors of a chain
    /// are computed one after another, chains inside of them first: a stack of chains is enough.
    fn charge_factor(&self, value: &Value, place: &str) -> Result<(), Error> {
        let before = self.left_bytes();
        self.charge_deep(value)?;
        let value_bytes = before.saturating_sub(self.left_bytes());
        let mut products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        let mut product = match place {
            "first" | "first_power" => Product { repeated_bytes: 0, times: 1 },
            // A chain that begins with something else than a value (`a is defined * 'b'`) is refused.
            _ => products.pop().unwrap_or(Product { repeated_bytes: 1, times: u64::MAX }),
        };
        if !value.is_number() {
            product.repeated_bytes = product.repeated_bytes.saturating_add(value_bytes);
        } else if place.ends_with("_power") {
            product.times = u64::MAX;
        } else if value.is_integer() {
            let times = value.as_i64().map_or(u64::MAX, i64::unsigned_abs);
            product.times = product.times.saturating_mul(times.max(1));
        }
        if !place.starts_with("last") {
            products.push(product);
        }
        if product.repeated_bytes > 0 {
            self.charge(product.repeated_bytes.saturating_mul(product.times))
        } else {
            Ok(())
        }
    }

    /// Charges a value with its text or its direct parts only.
    fn charge_shallow(&self, value: &Value) -> Result<(), Error> {
        let parts = if value.as_str().is_some() { 0 } else { value.len().unwrap_or(0) as u64 };
        self.charge(VALUE_BYTES * (1 + parts) + value.as_str().map_or(0, str::len) as u64)
    }
}

/// Puts filters, tests, functions and output that charge `budget` in the place of the engine's.
pub(super) fn install(environment: &mut Environment<'_>, budget: &Arc<Budget>, now: CivilTime) {
    install_output(environment, budget);
    install_filters(environment, budget);
    install_tests(environment, budget);
    install_functions(environment, budget, now);
    let own = Arc::clone(budget);
    environment.set_unknown_method_callback(move |state, value, method, args| {
        check_counts(method, args)?;
        check_growth(&own, method, value, args)?;
        own.charge_shallow(value)?;
        args.iter().try_for_each(|arg| own.charge_deep(arg))?;
        let result = match python::text_method(value, method, args)? {
            Some(result) => result,
            None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)?,
        };
        own.charge_shallow(&result)?;
        Ok(result)
    });
}

fn install_output(environment: &mut Environment<'_>, budget: &Arc<Budget>) {
    let to_text = |budget: &Budget, value: &Value| -> Result<String, Error> {
        let mut text = Text::new(budget.left_bytes());
        python::write_str(&mut text, value)?;
        budget.charge(text.text.len() as u64)?;
        Ok(text.text)
    };
    let own = Arc::clone(budget);
    environment.set_formatter(move |out, _, value| {
        let written = match value.as_str() {
            Some(text) => own.charge(text.len() as u64).map(|()| out.write_str(text))?,
            None => out.write_str(&to_text(&own, value)?),
        };
        written.map_err(|_| Error::new(ErrorKind::WriteFailure, "the output cannot be written"))
    });
    let own = Arc::clone(budget);
    environment.add_filter("string", move |value: Value| match value.as_str() {
        Some(text) => own.charge(text.len() as u64).map(|()| value),
        None => to_text(&own, &value).map(Value::from),
    });
    let own = Arc::clone(budget);
    environment.add_filter("tojson", move |value: Value, ensure_ascii: Option<bool>, arguments: Kwargs| {
        let style = JsonStyle::new(ensure_ascii, &arguments)?;
        let mut text = Text::new(own.left_bytes());
        python::write_json(&mut text, &style, &value, 0)?;
        own.charge(text.text.len() as u64)?;
        Ok::<_, Error>(text.text)
    });
    let own = Arc::clone(budget);
    environment.add_filter(CHARGE, move |value: Value| own.charge_deep(&value).map(|()| value));
    let own = Arc::clone(budget);
    environment.add_filter(FACTOR, move |value: Value, place: &str| own.charge_factor(&value, place).map(|()| value));
}

fn install_filters(environment: &mut Environment<'_>, budget: &Arc<Budget>) {
    // Work on a text, or on the direct parts of a list.
    shallow(environment, budget, "lower", filters::lower);
    shallow(environment, budget, "upper", filters::upper);
    shallow(environment, budget, "title", filters::title);
    shallow(environment, budget, "capitalize", filters::capitalize);
    shallow(environment, budget, "trim", filters::trim);
    shallow(environment, budget, "reverse", filters::reverse);
    shallow(environment, budget, "list", filters::list);
    shallow(environment, budget, "select", filters::select);
    shallow(environment, budget, "reject", filters::reject);
    shallow(environment, budget, "selectattr", filters::selectattr);
    shallow(environment, budget, "rejectattr", filters::rejectattr);
    shallow(environment, budget, "map", filters::map);
    shallow(environment, budget, "items", filters::items);
    // Look into what they get, or put it into something new.
    deep(environment, budget, "replace", filters::replace);
    deep(environment, budget, "dictsort", filters::dictsort);
    deep(environment, budget, "join", filters::join);
    deep(environment, budget, "split", filters::split);
    deep(environment, budget, "lines", filters::lines);
    deep(environment, budget, "min", filters::min);
    deep(environment, budget, "max", filters::max);
    deep(environment, budget, "sort", filters::sort);
    deep(environment, budget, "batch", filters::batch);
    deep(environment, budget, "slice", filters::slice);
    deep(environment, budget, "sum", filters::sum);
    deep(environment, budget, "indent", filters::indent);
    deep(environment, budget, "groupby", filters::groupby);
    deep(environment, budget, "unique", filters::unique);
    deep(environment, budget, "chain", filters::chain);
    deep(environment, budget, "zip", filters::zip);
    deep(environment, budget, "pprint", filters::pprint);
    deep(environment, budget, "format", filters::format);
    deep(environment, budget, "escape", filters::escape);
    deep(environment, budget, "e", filters::escape);
    deep(environment, budget, "safe", filters::safe);
    deep(environment, budget, "int", filters::int);
    deep(environment, budget, "float", filters::float);
}

fn shallow<F, R, A>(environment: &mut Environment<'_>, budget: &Arc<Budget>, name: &'static str, filter: F)
where
    F: minijinja::functions::Function<R, A>,
    R: FunctionResult,
    A: for<'a> FunctionArgs<'a>,
{
    wrap(environment, budget, name, filter, Budget::charge_shallow);
}

fn deep<F, R, A>(environment: &mut Environment<'_>, budget: &Arc<Budget>, name: &'static str, filter: F)
where
    F: minijinja::functions::Function<R, A>,
    R: FunctionResult,
    A: for<'a> FunctionArgs<'a>,
{
    wrap(environment, budget, name, filter, Budget::charge_deep);
}

/// Replaces a filter by one that charges its input, its arguments and its result.
fn wrap<F, R, A>(
    environment: &mut Environment<'_>,
    budget: &Arc<Budget>,
    name: &'static str,
    filter: F,
    charge_input: fn(&Budget, &Value) -> Result<(), Error>,
) where
    F: minijinja::functions::Function<R, A>,
    R: FunctionResult,
    A: for<'a> FunctionArgs<'a>,
{
    let filter = Value::from_function(filter);
    let budget = Arc::clone(budget);
    environment.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        if let Some((input, rest)) = args.split_first() {
            charge_input(&budget, input)?;
            rest.iter().try_for_each(|arg| budget.charge_deep(arg))?;
            check_counts(name, rest)?;
            check_growth(&budget, name, input, rest)?;
        }
        let result = filter.call(state, &args)?;
        budget.charge_shallow(&result)?;
        Ok::<_, Error>(result)
    });
}

fn install_tests(environment: &mut Environment<'_>, budget: &Arc<Budget>) {
    let all: [(&[&str], Value); 7] = [
        (&["eq", "equalto", "=="], Value::from_function(tests::is_eq)),
        (&["ne", "!="], Value::from_function(tests::is_ne)),
        (&["lt", "lessthan", "<"], Value::from_function(tests::is_lt)),
        (&["le", "<="], Value::from_function(tests::is_le)),
        (&["gt", "greaterthan", ">"], Value::from_function(tests::is_gt)),
        (&["ge", ">="], Value::from_function(tests::is_ge)),
        (&["in"], Value::from_function(tests::is_in)),
    ];
    for (names, test) in all {
        for &name in names {
            let (budget, test) = (Arc::clone(budget), test.clone());
            environment.add_test(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
                let args = args.into_values();
                args.iter().try_for_each(|arg| budget.charge_deep(arg))?;
                test.call(state, &args).map(|v| v.is_true())
            });
        }
    }
}

fn install_functions(environment: &mut Environment<'_>, budget: &Arc<Budget>, now: CivilTime) {
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: String| now.format(&format));
    // Prints the template's state: nothing for a prompt.
    environment.remove_global("debug");
    for (name, function) in
        [("namespace", Value::from_function(functions::namespace)), ("dict", Value::from_function(functions::dict))]
    {
        let own = Arc::clone(budget);
        environment.add_function(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            args.iter().try_for_each(|arg| own.charge_deep(arg))?;
            function.call(state, &args)
        });
    }
    let own = Arc::clone(budget);
    let range = Value::from_function(functions::range);
    environment.add_function("range", move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        let result = range.call(state, &args)?;
        own.charge_shallow(&result)?;
        Ok::<_, Error>(result)
    });
}

/// Refuses numbers that make a result long by themselves: widths, counts of groups, repetitions.
fn check_counts(name: &str, args: &[Value]) -> Result<(), Error> {
    if !matches!(name, "batch" | "slice" | "indent" | "format" | "center" | "ljust" | "rjust" | "zfill") {
        return Ok(());
    }
    let too_many = args.iter().any(|arg| arg.is_integer() && arg.as_i64().is_none_or(|n| n.abs() > MAX_COUNT));
    if too_many {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("{name} with a number above {MAX_COUNT}")));
    }
    Ok(())
}

/// Charges what a result is longer than its parts.
fn check_growth(budget: &Budget, name: &str, input: &Value, args: &[Value]) -> Result<(), Error> {
    let text = input.as_str().unwrap_or_default();
    let argument = |at: usize| args.get(at).and_then(Value::as_str).unwrap_or_default();
    match name {
        "replace" => {
            let count = text.matches(argument(0)).count() as u64;
            budget.charge(count.saturating_mul(argument(1).len() as u64))
        }
        // As a method the separator is the input, as a filter the first argument.
        "join" => {
            let (separator, items) = if input.as_str().is_some() && args.len() == 1 && args[0].as_str().is_none() {
                (text, args[0].len())
            } else {
                (argument(0), input.len().or(Some(text.len())))
            };
            budget.charge((items.unwrap_or(0) as u64).saturating_mul(separator.len() as u64))
        }
        "indent" => {
            let width = args.first().and_then(Value::as_i64).unwrap_or(4).unsigned_abs().max(argument(0).len() as u64);
            budget.charge(width.saturating_mul(text.lines().count() as u64))
        }
        // Widths and precisions are written in the text.
        "format" => {
            let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
            let mut fields = numbers.map(|digits| digits.parse().unwrap_or(i64::MAX));
            if fields.any(|n: i64| n > MAX_COUNT) {
                return Err(Error::new(ErrorKind::InvalidOperation, format!("format with a number above {MAX_COUNT}")));
            }
            let count = text.matches(['%', '{']).count() as u64;
            let arguments: u64 = args.iter().map(|a| a.as_str().map_or(32, str::len) as u64).sum();
            budget.charge(count.saturating_mul(arguments.max(32)))
        }
        // Lists of short texts: each costs more than its characters.
        "split" | "rsplit" | "list" | "lines" | "splitlines" => {
            budget.charge((text.len() as u64).saturating_mul(VALUE_BYTES))
        }
        _ => Ok(()),
    }
}
