//! Jinja2's filters, with transformers' `tojson`.

use super::calls::{Args, Call, Result, dig, error, fail, is_dict, iterate, length, tuple, type_name};
use super::methods::{self, pad};
use super::operators::{self, Function, Number, as_number};
use super::python::{self, JsonStyle, Text};
use minijinja::Value;
use std::cmp::Ordering;

/// Name and function of every filter.
pub(super) const FILTERS: &[(&str, Function)] = &[
    ("abs", |_, v, _| match as_number(v) {
        Some(Number::Integer(n)) => {
            n.checked_abs().map(|n| Number::Integer(n).value()).ok_or_else(|| error("too large"))
        }
        Some(Number::Float(x)) => Ok(Value::from(x.abs())),
        None => fail(format!("bad operand type for abs(): '{}'", type_name(v))),
    }),
    ("attr", |_, v, args| {
        let name = args.text(0, "name")?.unwrap_or_default();
        let is_item = is_dict(v) && !methods::has(v, name);
        Ok(if is_item { Value::UNDEFINED } else { dig(v, &Value::from(name)).unwrap_or(Value::UNDEFINED) })
    }),
    ("batch", |c, v, args| batch(c, v, args)),
    ("capitalize", |c, v, _| c.text(methods::capitalize(&c.soft_text(v)?))),
    ("center", |c, v, args| {
        let width = usize::try_from(args.integer(0, "width", 80)?).unwrap_or(0);
        c.budget.charge(width as u64)?;
        c.text(pad(&c.soft_text(v)?, width, ' ', "center"))
    }),
    ("count", |_, v, _| length(v).map(Value::from)),
    ("d", |_, v, args| default(v, args)),
    ("default", |_, v, args| default(v, args)),
    ("dictsort", dictsort),
    ("e", |c, v, _| escape(c, v)),
    ("escape", |c, v, _| escape(c, v)),
    ("first", |_, v, _| Ok(iterate(v)?.first().cloned().unwrap_or(Value::UNDEFINED))),
    ("float", |_, v, args| {
        let default = args.get(0, "default").cloned().unwrap_or_else(|| Value::from(0.0));
        if v.is_undefined() {
            return super::calls::undefined();
        }
        Ok(as_number(v).map(|n| n.float()).or_else(|| parse_float(v.as_str()?)).map_or(default, Value::from))
    }),
    ("forceescape", |c, v, _| c.text(python::escape(&c.soft_text(v)?))),
    ("format", |c, v, args| {
        let arguments = match args.named() {
            [] => tuple(args.positional().to_vec()),
            named => Value::from_pairs(named.iter().map(|(name, value)| (Value::from(name.as_str()), value.clone()))),
        };
        let format = c.soft_text(v)?;
        python::percent(c.budget, &format, &arguments).map(Value::from)
    }),
    ("groupby", groupby),
    ("indent", indent),
    ("int", |_, v, args| int(v, args)),
    ("items", |c, v, _| match v {
        v if v.is_undefined() => c.generator(Vec::new()),
        v if is_dict(v) => c.generator(methods::pairs(v)?),
        _ => fail("Can only get item pairs from a mapping."),
    }),
    ("join", join),
    ("last", |_, v, _| Ok(iterate(v)?.last().cloned().unwrap_or(Value::UNDEFINED))),
    ("length", |_, v, _| length(v).map(Value::from)),
    ("list", |c, v, _| c.list(iterate(v)?, false)),
    ("lower", |c, v, _| c.text(c.soft_text(v)?.to_lowercase())),
    ("map", map),
    ("max", |c, v, args| extreme(c, v, args, Ordering::Greater)),
    ("min", |c, v, args| extreme(c, v, args, Ordering::Less)),
    ("reject", |c, v, args| select(c, v, args, false, false)),
    ("rejectattr", |c, v, args| select(c, v, args, true, false)),
    ("replace", |c, v, args| {
        let (old, new) = (c.soft_text(args.required(0, "old")?)?, c.soft_text(args.required(1, "new")?)?);
        let most = args.some(2, "count").map(super::calls::integer).transpose()?.and_then(|n| usize::try_from(n).ok());
        methods::replace(&*c, &c.soft_text(v)?, &old, &new, most)
    }),
    ("reverse", |c, v, _| {
        let mut items = iterate(v)?;
        items.reverse();
        match v.as_str() {
            Some(text) => c.text(text.chars().rev().collect()),
            None => c.generator(items),
        }
    }),
    ("round", |_, v, args| round(v, args)),
    ("safe", |c, v, _| Ok(Value::from_safe_string(c.soft_text(v)?))),
    ("select", |c, v, args| select(c, v, args, false, true)),
    ("selectattr", |c, v, args| select(c, v, args, true, true)),
    ("slice", |c, v, args| slices(c, v, args)),
    ("sort", sort),
    ("string", |c, v, _| c.soft_text(v).map(Value::from)),
    ("sum", |c, v, args| {
        let mut sum = args.get(1, "start").cloned().unwrap_or_else(|| Value::from(0));
        for item in iterate(v)? {
            c.budget.charge_work(1)?;
            let item = args.some(0, "attribute").map_or_else(|| Ok(item.clone()), |path| dig(&item, path))?;
            sum = operators::add(c, &sum, &item)?;
        }
        Ok(sum)
    }),
    ("title", |c, v, _| c.text(title(&c.soft_text(v)?))),
    ("tojson", |c, v, args| {
        let mut text = Text::new(c.budget.left_bytes());
        python::write_json(&mut text, &JsonStyle::new(args)?, v, 0)?;
        c.text(text.text)
    }),
    ("trim", |c, v, args| c.text(methods::strip(&c.soft_text(v)?, args.text(0, "chars")?, true, true).to_owned())),
    ("truncate", truncate),
    ("unique", unique),
    ("upper", |c, v, _| c.text(c.soft_text(v)?.to_uppercase())),
    ("wordcount", |c, v, _| {
        let text = c.soft_text(v)?;
        Ok(Value::from(text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty()).count()))
    }),
];

impl Call<'_, '_, '_, '_> {
    /// `str(value)`, charged.
    fn soft_text(&self, value: &Value) -> Result<String> {
        let mut text = Text::new(self.budget.left_bytes());
        python::write_str(&mut text, value)?;
        self.budget.charge(text.text.len() as u64)?;
        Ok(text.text)
    }
}

fn default(value: &Value, args: &Args) -> Result<Value> {
    let replaced = value.is_undefined() || args.flag(1, "boolean", false) && !value.is_true();
    Ok(if replaced { args.get(0, "default_value").cloned().unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

fn escape(c: &mut Call<'_, '_, '_, '_>, value: &Value) -> Result<Value> {
    let text = c.soft_text(value)?;
    Ok(Value::from_safe_string(if value.is_safe() { text } else { python::escape(&text) }))
}

fn parse_float(text: &str) -> Option<f64> {
    let text = methods::strip(text, None, true, true);
    let digits = text.trim_start_matches(['-', '+']);
    let named = ["inf", "infinity", "nan"].contains(&digits.to_lowercase().as_str());
    (named || digits.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
        .then(|| text.replace('_', "").parse().ok())?
}

fn int(value: &Value, args: &Args) -> Result<Value> {
    if value.is_undefined() {
        return super::calls::undefined();
    }
    let default = || args.get(0, "default").cloned().unwrap_or_else(|| Value::from(0));
    let whole = |x: f64| x.is_finite().then(|| Number::Integer(x.trunc() as i128).value());
    let found = match as_number(value) {
        Some(Number::Integer(n)) => Some(Number::Integer(n).value()),
        Some(Number::Float(x)) => whole(x),
        None => match value.as_str() {
            None => None,
            Some(text) => {
                let base =
                    u32::try_from(args.integer(1, "base", 10)?).ok().filter(|b| (2..=36).contains(b)).unwrap_or(10);
                let text = methods::strip(text, None, true, true);
                let (sign, digits) =
                    text.strip_prefix('-').map_or((1, text.strip_prefix('+').unwrap_or(text)), |d| (-1, d));
                let prefixed = match base {
                    16 => digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")),
                    8 => digits.strip_prefix("0o").or_else(|| digits.strip_prefix("0O")),
                    2 => digits.strip_prefix("0b").or_else(|| digits.strip_prefix("0B")),
                    _ => None,
                };
                let digits = prefixed.unwrap_or(digits);
                let plain = digits.starts_with(|c: char| c.is_alphanumeric())
                    && !digits.contains("__")
                    && !digits.ends_with('_');
                let number = plain.then(|| i128::from_str_radix(&digits.replace('_', ""), base).ok()).flatten();
                number.map(|n| Number::Integer(sign * n).value()).or_else(|| parse_float(text).and_then(whole))
            }
        },
    };
    Ok(found.unwrap_or_else(default))
}

fn round(value: &Value, args: &Args) -> Result<Value> {
    let precision = args.integer(0, "precision", 0)?.clamp(-400, 400) as i32;
    let Some(number) = as_number(value) else {
        return fail(format!("type {} doesn't define __round__ method", type_name(value)));
    };
    let scale = 10f64.powi(precision);
    match (args.text(1, "method")?.unwrap_or("common"), number) {
        ("common", Number::Integer(n)) if precision >= 0 => Ok(Number::Integer(n).value()),
        ("common", Number::Integer(n)) => {
            let unit =
                10i128.checked_pow(precision.unsigned_abs()).ok_or_else(|| error("the precision is too large"))?;
            let (down, rest) = (n.div_euclid(unit), n.rem_euclid(unit));
            let up = rest * 2 > unit || rest * 2 == unit && down % 2 != 0;
            Ok(Number::Integer((down + i128::from(up)) * unit).value())
        }
        // The nearest decimal, as Python takes it: of two equally near the even one.
        ("common", Number::Float(x)) if precision >= 0 => {
            Ok(Value::from(format!("{x:.*}", precision as usize).parse().unwrap_or(x)))
        }
        ("common", Number::Float(x)) => Ok(Value::from((x * scale).round_ties_even() / scale)),
        ("ceil", x) => Ok(Value::from((x.float() * scale).ceil() / scale)),
        ("floor", x) => Ok(Value::from((x.float() * scale).floor() / scale)),
        _ => fail("method must be common, ceil or floor"),
    }
}

fn title(text: &str) -> String {
    let breaks = |c: char| methods::is_space(c) || "-({[<".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut first = true;
    for c in text.chars() {
        match first {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        first = breaks(c);
    }
    out
}

fn join(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    let separator = args.get(0, "d").map(|d| c.soft_text(d)).transpose()?.unwrap_or_default();
    let mut text = Text::new(c.budget.left_bytes());
    for (i, item) in iterate(value)?.into_iter().enumerate() {
        text.push(if i > 0 { &separator } else { "" })?;
        match args.some(1, "attribute") {
            Some(path) => python::write_str(&mut text, &dig(&item, path)?)?,
            None => python::write_str(&mut text, &item)?,
        }
    }
    c.text(text.text)
}

fn indent(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    if value.as_str().is_none() {
        return fail(format!("indent takes a text, not {}", type_name(value)));
    }
    let indention = match args.get(0, "width") {
        Some(width) if width.as_str().is_some() => c.soft_text(width)?,
        Some(width) => match usize::try_from(super::calls::integer(width)?).unwrap_or(0) {
            width if width > super::limits::MAX_COUNT => {
                return fail(format!("indent with a number above {}", super::limits::MAX_COUNT));
            }
            width => " ".repeat(width),
        },
        None => "    ".to_owned(),
    };
    let (first, blank) = (args.flag(1, "first", false), args.flag(2, "blank", false));
    let text = c.soft_text(value)? + "\n";
    let lines = methods::lines(&text, false);
    c.budget.charge((lines.len() as u64).saturating_mul(indention.len() as u64))?;
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if (i > 0 || first) && (blank || !line.is_empty() || i == 0) {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    c.text(out)
}

/// What values are compared by: lower case unless told otherwise.
fn key(value: &Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value.clone(),
    }
}

/// Sorts by keys; an error where Python cannot order two of them.
fn sorted(c: &Call<'_, '_, '_, '_>, mut items: Vec<(Vec<Value>, Value)>, reverse: bool) -> Result<Vec<Value>> {
    for key in items.iter().flat_map(|(keys, _)| keys) {
        c.budget.charge_compared(key)?;
    }
    let mut failed = None;
    items.sort_by(|(a, _), (b, _)| {
        let mut order = Ordering::Equal;
        // Two that lack what is sorted by are alike.
        for (a, b) in a.iter().zip(b).filter(|(a, b)| !(a.is_undefined() && b.is_undefined())) {
            match operators::order("<", a, b, 0) {
                Ok(Some(Ordering::Equal) | None) => {}
                Ok(Some(found)) => {
                    order = found;
                    break;
                }
                Err(e) => {
                    failed.get_or_insert(e);
                    break;
                }
            }
        }
        if reverse { order.reverse() } else { order }
    });
    match failed {
        Some(e) => Err(e),
        None => Ok(items.into_iter().map(|(_, value)| value).collect()),
    }
}

fn dictsort(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    let by = match args.text(1, "by")?.unwrap_or("key") {
        "key" => 0,
        "value" => 1,
        _ => return fail("You can only sort by either \"key\" or \"value\""),
    };
    if !is_dict(value) {
        return fail(format!("'{} object' has no attribute 'items'", type_name(value)));
    }
    let case = args.flag(0, "case_sensitive", false);
    let keyed = methods::pairs(value)?
        .into_iter()
        .map(|pair| Ok((vec![key(&pair.get_item_by_index(by)?, case)], pair)))
        .collect::<Result<_>>()?;
    let all = sorted(c, keyed, args.flag(2, "reverse", false))?;
    c.list(all, false)
}

fn sort(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    let case = args.flag(1, "case_sensitive", false);
    let keys = |item: &Value| -> Result<Vec<Value>> {
        match args.some(2, "attribute") {
            None => Ok(vec![key(item, case)]),
            Some(path) => match path.as_str() {
                Some(text) => text.split(',').map(|path| Ok(key(&dig(item, &Value::from(path))?, case))).collect(),
                None => Ok(vec![key(&dig(item, path)?, case)]),
            },
        }
    };
    let keyed = iterate(value)?.into_iter().map(|item| Ok((keys(&item)?, item))).collect::<Result<_>>()?;
    let all = sorted(c, keyed, args.flag(0, "reverse", false))?;
    c.list(all, false)
}

fn extreme(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args, wanted: Ordering) -> Result<Value> {
    let case = args.flag(0, "case_sensitive", false);
    let mut best: Option<(Value, Value)> = None;
    for item in iterate(value)? {
        let by = args.some(1, "attribute").map_or_else(|| Ok(item.clone()), |path| dig(&item, path))?;
        let by = key(&by, case);
        c.budget.charge_compared(&by)?;
        let better = match &best {
            None => true,
            Some((best, _)) => operators::order("<", &by, best, 0)? == Some(wanted),
        };
        if better {
            best = Some((by, item));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}

fn unique(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    let case = args.flag(0, "case_sensitive", false);
    let (mut seen, mut all): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for item in iterate(value)? {
        let by = args.some(1, "attribute").map_or_else(|| Ok(item.clone()), |path| dig(&item, path))?;
        let by = key(&by, case);
        let mut known = false;
        c.budget.charge_work(seen.len() as u64)?;
        for other in &seen {
            c.budget.charge_compared(&by)?;
            known = known || operators::equal(other, &by, 0)?;
        }
        if !known {
            seen.push(by);
            all.push(item);
        }
    }
    c.generator(all)
}

fn groupby(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    let path = args.required(0, "attribute")?;
    let case = args.flag(2, "case_sensitive", false);
    let of = |item: &Value| -> Result<Value> {
        let found = dig(item, path)?;
        Ok(if found.is_undefined() { args.get(1, "default").cloned().unwrap_or(found) } else { found })
    };
    let keyed = iterate(value)?
        .into_iter()
        .map(|item| {
            let by = of(&item)?;
            Ok((vec![key(&by, case)], tuple(vec![by, item])))
        })
        .collect::<Result<_>>()?;
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for pair in sorted(c, keyed, false)? {
        let (by, item) = (pair.get_item_by_index(0)?, pair.get_item_by_index(1)?);
        let compared = key(&by, case);
        match groups.last_mut() {
            Some((last, _, items)) if operators::equal(last, &compared, 0)? => items.push(item),
            _ => groups.push((compared, by, vec![item])),
        }
    }
    c.list(groups.into_iter().map(|(_, by, items)| tuple(vec![by, Value::from(items)])).collect(), false)
}

/// The items of what a filter goes through only if it is true: nothing of `none`.
fn items_if_true(value: &Value) -> Result<Vec<Value>> {
    if value.is_true() { iterate(value) } else { Ok(Vec::new()) }
}

fn map(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    let items = items_if_true(value)?;
    let mut all = Vec::with_capacity(items.len());
    match (args.named().iter().find(|(name, _)| name == "attribute"), args.positional().split_first()) {
        (Some((_, path)), None) => {
            let default = args.named().iter().find(|(name, _)| name == "default").map(|(_, value)| value);
            for item in &items {
                let found = dig(item, path)?;
                all.push(if found.is_undefined() { default.cloned().unwrap_or(found) } else { found });
            }
        }
        (None, Some((filter, rest))) => {
            let name = filter.as_str().ok_or_else(|| error("map takes the name of a filter"))?;
            let named = (!args.named().is_empty())
                .then(|| args.named().iter().cloned().collect::<minijinja::value::Kwargs>().into());
            for item in items {
                let values: Vec<Value> = [item].into_iter().chain(rest.iter().cloned()).chain(named.clone()).collect();
                all.push(c.state.apply_filter(name, &values)?);
            }
        }
        _ => return fail("map requires a filter argument"),
    }
    c.generator(all)
}

fn select(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args, by_attribute: bool, wanted: bool) -> Result<Value> {
    let mut rest = args.positional();
    let mut path = None;
    if by_attribute {
        let Some((first, others)) = rest.split_first() else { return fail("Missing parameter for attribute name") };
        (path, rest) = (Some(first), others);
    }
    let test = rest.split_first().map(|(name, rest)| (name.as_str().unwrap_or_default(), rest));
    let mut all = Vec::new();
    for item in items_if_true(value)? {
        let looked_at = path.map_or_else(|| Ok(item.clone()), |path| dig(&item, path))?;
        let holds = match test {
            None => looked_at.is_true(),
            Some((name, rest)) => {
                let values: Vec<Value> = [looked_at].into_iter().chain(rest.iter().cloned()).collect();
                c.state.perform_test(name, &values)?
            }
        };
        if holds == wanted {
            all.push(item);
        }
    }
    c.generator(all)
}

fn batch(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    let size = usize::try_from(args.integer(0, "linecount", 0)?).unwrap_or(0).max(1);
    let fill = args.some(1, "fill_with");
    let mut batches: Vec<Vec<Value>> = iterate(value)?.chunks(size).map(<[Value]>::to_vec).collect();
    if let (Some(fill), Some(last)) = (fill, batches.last_mut()) {
        c.budget.charge_items(size as u64)?;
        last.resize(size, fill.clone());
    }
    c.budget.charge_items(batches.iter().map(|b| b.len() as u64).sum())?;
    c.generator(batches.into_iter().map(Value::from).collect())
}

fn slices(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    let items = iterate(value)?;
    let count = usize::try_from(args.integer(0, "slices", 1)?).unwrap_or(0).max(1);
    c.budget.charge_items((count + items.len()) as u64)?;
    let (each, longer) = (items.len() / count, items.len() % count);
    let (mut all, mut at) = (Vec::new(), 0);
    for i in 0..count {
        let end = at + each + usize::from(i < longer);
        let mut part = items[at..end].to_vec();
        if let (Some(fill), true) = (args.some(1, "fill_with"), i >= longer) {
            part.push(fill.clone());
        }
        all.push(Value::from(part));
        at = end;
    }
    c.generator(all)
}

fn truncate(c: &mut Call<'_, '_, '_, '_>, value: &Value, args: &Args) -> Result<Value> {
    let length_of = length(value)?;
    let text = c.soft_text(value)?;
    let length = usize::try_from(args.integer(0, "length", 255)?).unwrap_or(0);
    let end = args.text(2, "end")?.unwrap_or("...").to_owned();
    let leeway = usize::try_from(args.integer(3, "leeway", 5)?).unwrap_or(0);
    if length_of <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    if value.as_str().is_none() {
        return fail(format!("truncate takes a text, not {}", type_name(value)));
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept = match args.flag(1, "killwords", false) {
        true => kept,
        false => kept.rsplit_once(' ').map_or(kept.clone(), |(head, _)| head.to_owned()),
    };
    c.text(kept + &end)
}
