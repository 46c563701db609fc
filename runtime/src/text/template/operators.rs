//! Python's operators, attributes and subscripts, as filters: `a + b` is `a|add__(b)`.

use super::calls::{
    Args, Call, Items, ItemsKind, Method, Result, error, fail, integer, is_dict, is_list, is_namespace, iterate,
    length, tuple, type_name, undefined,
};
use super::{methods, python};
use minijinja::{Value, value::ValueKind};
use std::cmp::Ordering;

/// How an operator, a filter or a test is computed from its value and arguments.
pub(super) type Function = fn(&mut Call<'_, '_, '_, '_>, &Value, &Args) -> Result<Value>;

/// Name and function of every operator.
pub(super) const OPERATORS: &[(&str, Function)] = &[
    ("add__", |c, a, args| add(c, a, first(args))),
    ("sub__", |_, a, args| arithmetic("-", a, first(args))),
    ("mul__", |c, a, args| mul(c, a, first(args))),
    ("div__", |_, a, args| arithmetic("/", a, first(args))),
    ("floordiv__", |_, a, args| arithmetic("//", a, first(args))),
    ("mod__", |c, a, args| modulo(c, a, first(args))),
    ("pow__", |_, a, args| arithmetic("**", a, first(args))),
    ("concat__", concat),
    ("neg__", |_, a, _| negate(a)),
    ("pos__", |_, a, _| number(a, "unary +").map(Number::value)),
    ("not__", |_, a, _| Ok(Value::from(!a.is_true()))),
    ("eq__", |c, a, args| equality(c, a, first(args), true)),
    ("ne__", |c, a, args| equality(c, a, first(args), false)),
    ("lt__", |c, a, args| ordering(c, "<", a, first(args), |o| o == Ordering::Less)),
    ("le__", |c, a, args| ordering(c, "<=", a, first(args), |o| o != Ordering::Greater)),
    ("gt__", |c, a, args| ordering(c, ">", a, first(args), |o| o == Ordering::Greater)),
    ("ge__", |c, a, args| ordering(c, ">=", a, first(args), |o| o != Ordering::Less)),
    ("in__", |c, a, args| contains(c, first(args), a).map(Value::from)),
    ("notin__", |c, a, args| contains(c, first(args), a).map(|found| Value::from(!found))),
    ("attr__", |_, a, args| attribute(a, first(args).as_str().unwrap_or_default())),
    ("item__", |_, a, args| subscript(a, first(args))),
    ("slice__", slice),
    ("call__", call_method),
    ("iter__", |_, a, _| match a.kind() {
        // Lists are gone through as they are.
        ValueKind::Seq | ValueKind::Iterable => Ok(a.clone()),
        _ => iterate(a).map(Value::from),
    }),
    ("kept__", |c, a, _| c.budget.charge_kept(a).map(|()| a.clone())),
    ("new__", |c, a, _| c.budget.charge_deep(a).map(|()| a.clone())),
];

fn first(args: &Args) -> &Value {
    args.positional().first().unwrap_or(&Value::UNDEFINED)
}

/// A number, as far as Python's arithmetic tells them apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    pub(super) fn value(self) -> Value {
        match self {
            Self::Integer(n) => i64::try_from(n).map_or_else(|_| Value::from(n), Value::from),
            Self::Float(x) => Value::from(x),
        }
    }

    pub(super) fn float(self) -> f64 {
        match self {
            Self::Integer(n) => n as f64,
            Self::Float(x) => x,
        }
    }
}

pub(super) fn as_number(value: &Value) -> Option<Number> {
    match value.kind() {
        ValueKind::Bool => Some(Number::Integer(i128::from(value.is_true()))),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Number::Integer),
        ValueKind::Number => f64::try_from(value.clone()).ok().map(Number::Float),
        _ => None,
    }
}

fn number(value: &Value, operator: &str) -> Result<Number> {
    match as_number(value) {
        Some(number) => Ok(number),
        None if value.is_undefined() => undefined(),
        None => fail(format!("bad operand type for {operator}: '{}'", type_name(value))),
    }
}

fn unsupported<T>(operator: &str, a: &Value, b: &Value) -> Result<T> {
    if a.is_undefined() || b.is_undefined() {
        return undefined();
    }
    if operator == "+" && a.kind() == ValueKind::String {
        return fail(format!("can only concatenate str (not \"{}\") to str", type_name(b)));
    }
    fail(format!("unsupported operand type(s) for {operator}: '{}' and '{}'", type_name(a), type_name(b)))
}

fn arithmetic(operator: &str, a: &Value, b: &Value) -> Result<Value> {
    use Number::{Float, Integer};
    let (Some(x), Some(y)) = (as_number(a), as_number(b)) else { return unsupported(operator, a, b) };
    let too_large = || error("the result is too large");
    let by_zero = || error("division by zero");
    let result = match (operator, x, y) {
        ("+", Integer(x), Integer(y)) => Integer(x.checked_add(y).ok_or_else(too_large)?),
        ("-", Integer(x), Integer(y)) => Integer(x.checked_sub(y).ok_or_else(too_large)?),
        ("*", Integer(x), Integer(y)) => Integer(x.checked_mul(y).ok_or_else(too_large)?),
        ("//", Integer(x), Integer(y)) => {
            let quotient = x.checked_div(y).ok_or_else(by_zero)?;
            Integer(quotient - i128::from(x % y != 0 && (x < 0) != (y < 0)))
        }
        ("%", Integer(x), Integer(y)) => {
            let rest = x.checked_rem(y).ok_or_else(by_zero)?;
            Integer(if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest })
        }
        ("**", Integer(x), Integer(y)) if y >= 0 => {
            Integer(u32::try_from(y).ok().and_then(|y| x.checked_pow(y)).ok_or_else(too_large)?)
        }
        (_, x, y) => {
            let (x, y) = (x.float(), y.float());
            if y == 0.0 && matches!(operator, "/" | "//" | "%") || operator == "**" && x == 0.0 && y < 0.0 {
                return Err(by_zero());
            }
            Float(match operator {
                "+" => x + y,
                "-" => x - y,
                "*" => x * y,
                "/" => x / y,
                "//" => (x / y).floor(),
                "%" => {
                    let rest = x % y;
                    if rest != 0.0 && (rest < 0.0) != (y < 0.0) { rest + y } else { rest }
                }
                _ => x.powf(y),
            })
        }
    };
    Ok(result.value())
}

fn negate(value: &Value) -> Result<Value> {
    match number(value, "unary -")? {
        Number::Integer(n) => {
            n.checked_neg().map(|n| Number::Integer(n).value()).ok_or_else(|| error("the result is too large"))
        }
        Number::Float(x) => Ok(Value::from(-x)),
    }
}

pub(super) fn add(c: &mut Call<'_, '_, '_, '_>, a: &Value, b: &Value) -> Result<Value> {
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        c.budget.charge((x.len() + y.len()) as u64)?;
        // Text that was escaped escapes what is added to it.
        return Ok(match (a.is_safe(), b.is_safe()) {
            (false, false) => Value::from([x, y].concat()),
            (true, true) => Value::from_safe_string([x, y].concat()),
            (true, false) => Value::from_safe_string([x, &python::escape(y)].concat()),
            (false, true) => Value::from_safe_string([&python::escape(x), y].concat()),
        });
    }
    if is_list(a) && is_list(b) && a.is_tuple() == b.is_tuple() {
        let mut all = iterate(a)?;
        all.extend(iterate(b)?);
        return c.list(all, a.is_tuple());
    }
    arithmetic("+", a, b)
}

fn mul(c: &mut Call<'_, '_, '_, '_>, a: &Value, b: &Value) -> Result<Value> {
    let (repeated, times) = if a.kind() == ValueKind::String || is_list(a) { (a, b) } else { (b, a) };
    if repeated.kind() != ValueKind::String && !is_list(repeated) {
        return arithmetic("*", a, b);
    }
    if !matches!(as_number(times), Some(Number::Integer(_))) {
        return if times.is_undefined() {
            undefined()
        } else {
            fail(format!("can't multiply sequence by non-int of type '{}'", type_name(times)))
        };
    }
    let times = usize::try_from(integer(times)?).unwrap_or(0);
    if let Some(text) = repeated.as_str() {
        c.budget.charge((text.len() as u64).saturating_mul(times as u64))?;
        return Ok(Value::from(text.repeat(times)));
    }
    let items = iterate(repeated)?;
    c.budget.charge_items((items.len() as u64).saturating_mul(times as u64))?;
    let all = items.iter().cycle().take(items.len() * times).cloned().collect();
    Ok(if repeated.is_tuple() { tuple(all) } else { Value::from(all) })
}

fn modulo(c: &mut Call<'_, '_, '_, '_>, a: &Value, b: &Value) -> Result<Value> {
    match a.as_str() {
        Some(format) => python::percent(c.budget, format, b).map(Value::from),
        None => arithmetic("%", a, b),
    }
}

fn concat(c: &mut Call<'_, '_, '_, '_>, a: &Value, args: &Args) -> Result<Value> {
    let mut text = python::Text::new(c.budget.left_bytes());
    for value in std::iter::once(a).chain(args.positional()) {
        python::write_str(&mut text, value)?;
    }
    c.text(text.text)
}

/// `a == b`. Undefined values are equal to each other only.
pub(super) fn equal(a: &Value, b: &Value, depth: usize) -> Result<bool> {
    if depth > python::MAX_VALUE_DEPTH {
        return fail("its values are nested too deeply");
    }
    if let (Some(x), Some(y)) = (as_number(a), as_number(b)) {
        return Ok(match (x, y) {
            (Number::Integer(x), Number::Integer(y)) => x == y,
            _ => x.float() == y.float(),
        });
    }
    match (a.kind(), b.kind()) {
        (ValueKind::String, ValueKind::String) => Ok(a.as_str() == b.as_str()),
        (ValueKind::Undefined, ValueKind::Undefined) | (ValueKind::None, ValueKind::None) => Ok(true),
        _ if is_list(a) && is_list(b) => {
            if a.is_tuple() != b.is_tuple() {
                return Ok(false);
            }
            let (x, y) = (iterate(a)?, iterate(b)?);
            if x.len() != y.len() {
                return Ok(false);
            }
            for (x, y) in x.iter().zip(&y) {
                if !equal(x, y, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ if is_dict(a) && is_dict(b) => {
            if length(a)? != length(b)? {
                return Ok(false);
            }
            for key in a.try_iter()? {
                let (x, y) = (a.get_item(&key)?, b.get_item(&key)?);
                if y.is_undefined() || !equal(&x, &y, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn equality(c: &mut Call<'_, '_, '_, '_>, a: &Value, b: &Value, wanted: bool) -> Result<Value> {
    c.budget.charge_compared(a)?;
    c.budget.charge_compared(b)?;
    equal(a, b, 0).map(|same| Value::from(same == wanted))
}

/// The order of two values that Python can order.
pub(super) fn order(operator: &str, a: &Value, b: &Value, depth: usize) -> Result<Option<Ordering>> {
    if depth > python::MAX_VALUE_DEPTH {
        return fail("its values are nested too deeply");
    }
    if let (Some(x), Some(y)) = (as_number(a), as_number(b)) {
        return Ok(match (x, y) {
            (Number::Integer(x), Number::Integer(y)) => Some(x.cmp(&y)),
            _ => x.float().partial_cmp(&y.float()),
        });
    }
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        return Ok(Some(x.cmp(y)));
    }
    if is_list(a) && is_list(b) && a.is_tuple() == b.is_tuple() {
        let (x, y) = (iterate(a)?, iterate(b)?);
        for (x, y) in x.iter().zip(&y) {
            if !equal(x, y, depth + 1)? {
                return order(operator, x, y, depth + 1);
            }
        }
        return Ok(Some(x.len().cmp(&y.len())));
    }
    if a.is_undefined() || b.is_undefined() {
        return undefined();
    }
    fail(format!("'{operator}' not supported between instances of '{}' and '{}'", type_name(a), type_name(b)))
}

fn ordering(
    c: &mut Call<'_, '_, '_, '_>,
    sign: &str,
    a: &Value,
    b: &Value,
    holds: fn(Ordering) -> bool,
) -> Result<Value> {
    c.budget.charge_compared(a)?;
    c.budget.charge_compared(b)?;
    Ok(Value::from(order(sign, a, b, 0)?.is_some_and(holds)))
}

/// `item in container`.
pub(super) fn contains(c: &mut Call<'_, '_, '_, '_>, container: &Value, item: &Value) -> Result<bool> {
    match container.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::String => {
            let text = container.as_str().unwrap_or_default();
            c.budget.charge(text.len() as u64)?;
            match item.as_str() {
                Some(part) => Ok(text.contains(part)),
                None => fail(format!("'in <string>' requires string as left operand, not {}", type_name(item))),
            }
        }
        ValueKind::Map if is_dict(container) => {
            if matches!(type_name(item), "list" | "dict") {
                return fail(format!("unhashable type: '{}'", type_name(item)));
            }
            Ok(!container.get_item(item)?.is_undefined())
        }
        _ => {
            let items = match container.kind() {
                ValueKind::Seq | ValueKind::Iterable => iterate(container)?,
                _ => return fail(format!("argument of type '{}' is not iterable", type_name(container))),
            };
            for value in items {
                c.budget.charge_compared(&value)?;
                if equal(&value, item, 0)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

fn method(value: &Value, name: &str) -> Option<Value> {
    methods::has(value, name).then(|| Value::from_object(Method { value: value.clone(), name: name.to_owned() }))
}

/// `value.name`: a method of its type first, then an item.
fn attribute(value: &Value, name: &str) -> Result<Value> {
    if value.is_undefined() {
        return undefined();
    }
    if let Some(method) = method(value, name) {
        return Ok(method);
    }
    if value.is_tuple() && matches!(name, "grouper" | "list") {
        // What `groupby` gives are tuples with names.
        return value.get_item_by_index(usize::from(name == "list"));
    }
    match value.kind() {
        ValueKind::Map | ValueKind::Plain => value.get_attr(name),
        _ => Ok(Value::UNDEFINED),
    }
}

/// `value[key]`: an item first, then an attribute.
pub(super) fn subscript(value: &Value, key: &Value) -> Result<Value> {
    match value.kind() {
        ValueKind::Undefined => undefined(),
        ValueKind::String => match as_number(key) {
            Some(Number::Integer(_)) => {
                let text = value.as_str().unwrap_or_default();
                let index = integer(key)?;
                let found = match usize::try_from(index) {
                    Ok(index) => text.chars().nth(index),
                    Err(_) => usize::try_from(-(index + 1)).ok().and_then(|back| text.chars().rev().nth(back)),
                };
                Ok(found.map_or(Value::UNDEFINED, |c| Value::from(c.to_string())))
            }
            _ => Ok(key.as_str().and_then(|name| method(value, name)).unwrap_or(Value::UNDEFINED)),
        },
        ValueKind::Seq | ValueKind::Iterable => match (as_number(key), value.downcast_object_ref::<Items>()) {
            (Some(Number::Integer(_)), None | Some(Items { kind: ItemsKind::Range, .. })) => {
                let items = iterate(value)?;
                let index = integer(key)?;
                let index = if index < 0 { index + items.len() as i64 } else { index };
                Ok(usize::try_from(index).ok().and_then(|at| items.get(at).cloned()).unwrap_or(Value::UNDEFINED))
            }
            _ => match key.as_str() {
                Some(name) => attribute(value, name),
                None => Ok(Value::UNDEFINED),
            },
        },
        ValueKind::Map => {
            let found = value.get_item(key)?;
            match key.as_str() {
                Some(name) if found.is_undefined() => Ok(method(value, name).unwrap_or(Value::UNDEFINED)),
                _ => Ok(found),
            }
        }
        _ => Ok(Value::UNDEFINED),
    }
}

fn slice(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    let part = |at: usize| args.some(at, "").map(integer).transpose();
    let (start, stop, step) = (part(0)?, part(1)?, part(2)?.unwrap_or(1));
    if step == 0 {
        return fail("slice step cannot be zero");
    }
    let pick = |len: usize| -> Vec<usize> {
        let len = len as i64;
        let clamp = |at: i64, low: i64, high: i64| (if at < 0 { at.saturating_add(len) } else { at }).clamp(low, high);
        let (mut at, end) = match step > 0 {
            true => (start.map_or(0, |s| clamp(s, 0, len)), stop.map_or(len, |s| clamp(s, 0, len))),
            false => (start.map_or(len - 1, |s| clamp(s, -1, len - 1)), stop.map_or(-1, |s| clamp(s, -1, len - 1))),
        };
        let mut picked = Vec::new();
        while if step > 0 { at < end } else { at > end } {
            picked.push(at as usize);
            at = at.saturating_add(step);
        }
        picked
    };
    match value.kind() {
        ValueKind::Undefined => undefined(),
        ValueKind::String => {
            let chars: Vec<char> = value.as_str().unwrap_or_default().chars().collect();
            c.budget.charge(chars.len() as u64)?;
            c.text(pick(chars.len()).into_iter().map(|at| chars[at]).collect::<String>())
        }
        _ if is_list(value) || type_name(value) == "range" => {
            let items = iterate(value)?;
            c.list(pick(items.len()).into_iter().map(|at| items[at].clone()).collect(), value.is_tuple())
        }
        _ => fail(format!("'{}' object is not subscriptable", type_name(value))),
    }
}

fn call_method(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    let (Some(name), Some(rest)) = (first(args).as_str(), args.positional().get(1..)) else { return undefined() };
    if value.is_undefined() {
        return undefined();
    }
    let mut values = rest.to_vec();
    if !args.named().is_empty() {
        let named: minijinja::value::Kwargs = args.named().iter().map(|(n, v)| (n.clone(), v.clone())).collect();
        values.push(named.into());
    }
    if methods::has(value, name) {
        c.budget.charge_shallow(value)?;
        args.values().try_for_each(|arg| c.budget.charge_shallow(arg))?;
        return methods::call(c, value, name, Args::new(values)?);
    }
    let object = value.as_object().is_some() && !is_dict(value) && !is_list(value);
    if object && !is_namespace(value) {
        return value.call_method(c.state, name, &values);
    }
    let found = attribute(value, name)?;
    if found.is_undefined() {
        return fail(format!("'{} object' has no attribute '{name}'", type_name(value)));
    }
    found.call(c.state, &values)
}

impl Call<'_, '_, '_, '_> {
    /// A text as a result.
    pub(super) fn text(&self, text: String) -> Result<Value> {
        self.budget.charge(text.len() as u64)?;
        Ok(Value::from(text))
    }

    /// A list or tuple of values that exist already.
    pub(super) fn list(&self, values: Vec<Value>, as_tuple: bool) -> Result<Value> {
        self.budget.charge_items(values.len() as u64)?;
        Ok(if as_tuple { tuple(values) } else { Value::from(values) })
    }

    pub(super) fn generator(&self, values: Vec<Value>) -> Result<Value> {
        self.budget.charge_items(values.len() as u64)?;
        Ok(Items::generator(values))
    }
}
