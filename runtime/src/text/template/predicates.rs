//! Jinja2's tests: what stands after `is`.

use super::calls::{Args, Call, Result, error, fail, is_dict, is_namespace, iterate, type_name};
use super::operators::{self, Function, Number, as_number};
use minijinja::{Value, value::ValueKind};
use std::cmp::Ordering;

/// Name and function of every test.
pub(super) const TESTS: &[(&str, Function)] = &[
    ("odd", |_, v, _| Ok(Value::from(rest(v, &Value::from(2))? == 1.0))),
    ("even", |_, v, _| Ok(Value::from(rest(v, &Value::from(2))? == 0.0))),
    ("divisibleby", |_, v, args| Ok(Value::from(rest(v, args.required(0, "num")?)? == 0.0))),
    ("defined", |_, v, _| Ok(Value::from(!v.is_undefined()))),
    ("undefined", |_, v, _| Ok(Value::from(v.is_undefined()))),
    ("none", |_, v, _| Ok(Value::from(v.is_none()))),
    ("boolean", |_, v, _| Ok(Value::from(v.kind() == ValueKind::Bool))),
    ("true", |_, v, _| Ok(Value::from(v.kind() == ValueKind::Bool && v.is_true()))),
    ("false", |_, v, _| Ok(Value::from(v.kind() == ValueKind::Bool && !v.is_true()))),
    ("integer", |_, v, _| Ok(Value::from(type_name(v) == "int"))),
    ("float", |_, v, _| Ok(Value::from(type_name(v) == "float"))),
    ("number", |_, v, _| Ok(Value::from(as_number(v).is_some()))),
    ("string", |_, v, _| Ok(Value::from(v.kind() == ValueKind::String))),
    ("mapping", |_, v, _| Ok(Value::from(is_dict(v)))),
    ("sequence", |_, v, _| {
        // What has a length and can be subscripted: dicts and undefined values too.
        Ok(Value::from(matches!(type_name(v), "str" | "list" | "tuple" | "dict" | "range" | "Undefined" | "bytes")))
    }),
    ("iterable", |_, v, _| Ok(Value::from(iterate(v).is_ok() || v.is_undefined()))),
    ("callable", |_, v, _| {
        let plain = matches!(v.kind(), ValueKind::Plain) || type_name(v) == "object" && !is_namespace(v);
        Ok(Value::from(plain || v.is_undefined()))
    }),
    ("sameas", |_, v, args| {
        let other = args.required(0, "other")?;
        let same_type = type_name(v) == type_name(other);
        let is_value = matches!(type_name(v), "NoneType" | "bool" | "int" | "str" | "float");
        Ok(Value::from(same_type && is_value && operators::equal(v, other, 0)?))
    }),
    ("escaped", |_, v, _| Ok(Value::from(v.is_safe()))),
    ("lower", |c, v, _| case(c, v, char::is_lowercase, char::is_uppercase)),
    ("upper", |c, v, _| case(c, v, char::is_uppercase, char::is_lowercase)),
    ("in", |c, v, args| operators::contains(c, args.required(0, "seq")?, v).map(Value::from)),
    ("filter", |_, v, _| Ok(Value::from(super::filters::FILTERS.iter().any(|(name, _)| Some(*name) == v.as_str())))),
    ("test", |_, v, _| Ok(Value::from(is_test(v)))),
    ("==", |c, v, args| equality(c, v, args, true)),
    ("eq", |c, v, args| equality(c, v, args, true)),
    ("equalto", |c, v, args| equality(c, v, args, true)),
    ("!=", |c, v, args| equality(c, v, args, false)),
    ("ne", |c, v, args| equality(c, v, args, false)),
    (">", |c, v, args| ordering(c, v, args, |o| o == Ordering::Greater)),
    ("gt", |c, v, args| ordering(c, v, args, |o| o == Ordering::Greater)),
    ("greaterthan", |c, v, args| ordering(c, v, args, |o| o == Ordering::Greater)),
    (">=", |c, v, args| ordering(c, v, args, |o| o != Ordering::Less)),
    ("ge", |c, v, args| ordering(c, v, args, |o| o != Ordering::Less)),
    ("<", |c, v, args| ordering(c, v, args, |o| o == Ordering::Less)),
    ("lt", |c, v, args| ordering(c, v, args, |o| o == Ordering::Less)),
    ("lessthan", |c, v, args| ordering(c, v, args, |o| o == Ordering::Less)),
    ("<=", |c, v, args| ordering(c, v, args, |o| o != Ordering::Greater)),
    ("le", |c, v, args| ordering(c, v, args, |o| o != Ordering::Greater)),
];

fn is_test(name: &Value) -> bool {
    TESTS.iter().any(|(known, _)| Some(*known) == name.as_str())
}

/// `a % b`.
fn rest(a: &Value, b: &Value) -> Result<f64> {
    match (as_number(a), as_number(b)) {
        (Some(Number::Integer(x)), Some(Number::Integer(y))) if y != 0 => Ok(x.rem_euclid(y) as f64),
        (Some(x), Some(y)) if y.float() != 0.0 => Ok(x.float().rem_euclid(y.float())),
        (Some(_), Some(_)) => fail("integer modulo by zero"),
        _ => Err(error(format!("unsupported operand type(s) for %: '{}' and '{}'", type_name(a), type_name(b)))),
    }
}

fn case(
    c: &mut Call<'_, '_, '_, '_>,
    value: &Value,
    wanted: fn(char) -> bool,
    other: fn(char) -> bool,
) -> Result<Value> {
    let mut text = super::python::Text::new(c.budget.left_bytes());
    super::python::write_str(&mut text, value)?;
    Ok(Value::from(text.text.chars().any(wanted) && !text.text.chars().any(other)))
}

fn equality(c: &mut Call<'_, '_, '_, '_>, a: &Value, args: &Args, wanted: bool) -> Result<Value> {
    let b = args.required(0, "other")?;
    c.budget.charge_compared(a)?;
    c.budget.charge_compared(b)?;
    operators::equal(a, b, 0).map(|same| Value::from(same == wanted))
}

fn ordering(c: &mut Call<'_, '_, '_, '_>, a: &Value, args: &Args, holds: fn(Ordering) -> bool) -> Result<Value> {
    let b = args.required(0, "other")?;
    c.budget.charge_compared(a)?;
    c.budget.charge_compared(b)?;
    Ok(Value::from(operators::order("<", a, b, 0)?.is_some_and(holds)))
}
