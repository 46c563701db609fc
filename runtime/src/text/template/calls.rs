//! What filters, operators, tests and methods get: their arguments as Python passes them, the rendering's allowance, and the
//! errors that they give.

use super::limits::{Budget, MAX_CHARACTERS};
use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Enumerator, Kwargs, Object, ObjectRepr, ValueKind},
};
use std::sync::Arc;

/// The result of a filter, an operator, a test or a method.
pub(super) type Result<T> = std::result::Result<T, Error>;

/// One call.
pub(super) struct Call<'c, 's, 't, 'e> {
    pub(super) state: &'c mut State<'t, 'e>,
    pub(super) budget: &'s Budget,
}

/// Arguments by place and by name.
#[derive(Debug, Default)]
pub(super) struct Args {
    positional: Vec<Value>,
    named: Vec<(String, Value)>,
}

impl Args {
    pub(super) fn new(mut values: Vec<Value>) -> Result<Self> {
        let named = match values.last() {
            Some(last) if last.is_kwargs() => {
                let kwargs = Kwargs::try_from(last.clone())?;
                values.pop();
                let names: Vec<String> = kwargs.args().map(str::to_owned).collect();
                names.into_iter().map(|name| Ok((name.clone(), kwargs.peek::<Value>(&name)?))).collect::<Result<_>>()?
            }
            _ => Vec::new(),
        };
        Ok(Self { positional: values, named })
    }

    /// Refuses arguments beyond those of `names`.
    pub(super) fn expect(self, call: &str, names: &[&str]) -> Result<Self> {
        if self.positional.len() > names.len() {
            return fail(format!("{call} takes at most {} arguments ({} given)", names.len(), self.positional.len()));
        }
        match self.named.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            Some((name, _)) => fail(format!("{call} got an unexpected keyword argument '{name}'")),
            None => Ok(self),
        }
    }

    pub(super) fn get(&self, at: usize, name: &str) -> Option<&Value> {
        self.positional.get(at).or_else(|| self.named.iter().find(|(n, _)| n == name).map(|(_, value)| value))
    }

    /// As [`Self::get`], with `None` for Python's None too.
    pub(super) fn some(&self, at: usize, name: &str) -> Option<&Value> {
        self.get(at, name).filter(|value| !value.is_none())
    }

    pub(super) fn required(&self, at: usize, name: &str) -> Result<&Value> {
        self.get(at, name).ok_or_else(|| error(format!("missing required argument '{name}'")))
    }

    pub(super) fn flag(&self, at: usize, name: &str, default: bool) -> bool {
        self.get(at, name).map_or(default, Value::is_true)
    }

    pub(super) fn integer(&self, at: usize, name: &str, default: i64) -> Result<i64> {
        self.some(at, name).map_or(Ok(default), integer)
    }

    /// A text, `None` where there is none or it is Python's None.
    pub(super) fn text(&self, at: usize, name: &str) -> Result<Option<&str>> {
        match self.some(at, name) {
            None => Ok(None),
            Some(value) => match value.as_str() {
                Some(text) => Ok(Some(text)),
                None => fail(format!("'{name}' must be str, not {}", type_name(value))),
            },
        }
    }

    pub(super) fn positional(&self) -> &[Value] {
        &self.positional
    }

    pub(super) fn named(&self) -> &[(String, Value)] {
        &self.named
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.positional.iter().chain(self.named.iter().map(|(_, value)| value))
    }
}

pub(super) fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub(super) fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(error(message))
}

/// An operation on something undefined.
pub(super) fn undefined<T>() -> Result<T> {
    Err(Error::new(ErrorKind::UndefinedError, "a value is undefined"))
}

/// A whole number, `True` and `False` included.
pub(super) fn integer(value: &Value) -> Result<i64> {
    match value.kind() {
        ValueKind::Bool => Ok(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => {
            value.as_i64().ok_or_else(|| error("Python int too large to be used here"))
        }
        _ => fail(format!("'{}' object cannot be interpreted as an integer", type_name(value))),
    }
}

/// Python's name of a value's type.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Map if is_namespace(value) => "Namespace",
        ValueKind::Map if is_dict(value) => "dict",
        ValueKind::Seq | ValueKind::Iterable => match value.downcast_object_ref::<Items>() {
            Some(items) => items.kind.type_name(),
            None if value.is_tuple() => "tuple",
            None => "list",
        },
        _ => "object",
    }
}

/// Whether it is one of `{% set ns.x = … %}`.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("namespace_object::Namespace"))
}

/// Whether it is a dict: other things with names, as `loop`, namespaces and macros, are none.
pub(super) fn is_dict(value: &Value) -> bool {
    let own = |name: &str| {
        name.contains("minijinja::vm::") || name.contains("namespace_object") || name.starts_with("coexec")
    };
    value.kind() == ValueKind::Map && !value.as_object().is_some_and(|object| own(object.type_name()))
}

/// Whether it is a list or a tuple.
pub(super) fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) && value.downcast_object_ref::<Items>().is_none()
}

pub(super) fn tuple(values: Vec<Value>) -> Value {
    Value::from(minijinja::value::Tuple::from(values))
}

/// What something in Python that is gone through, and is neither list nor tuple, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemsKind {
    /// The result of `map`, `select` and the like: true even when it is empty, without a length.
    Generator,
    DictItems,
    DictKeys,
    DictValues,
    Range,
}

impl ItemsKind {
    pub(super) fn type_name(self) -> &'static str {
        match self {
            Self::Generator => "generator",
            Self::DictItems => "dict_items",
            Self::DictKeys => "dict_keys",
            Self::DictValues => "dict_values",
            Self::Range => "range",
        }
    }
}

/// A [`ItemsKind`] with what is in it.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) kind: ItemsKind,
    pub(super) values: Vec<Value>,
}

impl Items {
    pub(super) fn value(kind: ItemsKind, values: Vec<Value>) -> Value {
        Value::from_object(Self { kind, values })
    }

    pub(super) fn generator(values: Vec<Value>) -> Value {
        Self::value(ItemsKind::Generator, values)
    }
}

impl Object for Items {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.values.clone())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.kind == ItemsKind::Generator || !self.values.is_empty()
    }
}

/// A method of a value, not called: `x.items`.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) value: Value,
    pub(super) name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value> {
        let mut all = vec![self.value.clone(), Value::from(self.name.as_str())];
        all.extend_from_slice(args);
        state.apply_filter("call__", &all)
    }
}

/// The items of something that Python can go through.
pub(super) fn iterate(value: &Value) -> Result<Vec<Value>> {
    match value.kind() {
        ValueKind::Undefined => Ok(Vec::new()),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            if text.len() > MAX_CHARACTERS {
                return fail(format!("a text of {} bytes is too large to go through its characters", text.len()));
            }
            Ok(text.chars().map(|c| Value::from(c.to_string())).collect())
        }
        ValueKind::Seq | ValueKind::Iterable => match value.downcast_object_ref::<Items>() {
            Some(items) => Ok(items.values.clone()),
            None => Ok(value.try_iter()?.collect()),
        },
        ValueKind::Map if is_dict(value) => Ok(value.try_iter()?.collect()),
        _ => fail(format!("'{}' object is not iterable", type_name(value))),
    }
}

/// `len(value)`.
pub(super) fn length(value: &Value) -> Result<usize> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().chars().count()),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map
            if !is_namespace(value) && type_name(value) != "generator" && type_name(value) != "object" =>
        {
            match value.downcast_object_ref::<Items>() {
                Some(items) => Ok(items.values.len()),
                None => value.len().map_or_else(|| Ok(value.try_iter()?.count()), Ok),
            }
        }
        _ => fail(format!("object of type '{}' has no len()", type_name(value))),
    }
}

/// `value.name` as filters look it up: an item of that key, a number as an index, dots for what lies deeper.
pub(super) fn dig(value: &Value, path: &Value) -> Result<Value> {
    let Some(text) = path.as_str() else { return super::operators::subscript(value, path) };
    let mut value = value.clone();
    for part in text.split('.') {
        let key = match part.parse::<i64>() {
            Ok(number) if part.chars().all(|c| c.is_ascii_digit()) => Value::from(number),
            _ => Value::from(part),
        };
        value = super::operators::subscript(&value, &key)?;
    }
    Ok(value)
}
