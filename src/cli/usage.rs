//! Wrong arguments, which exit with 2, and options without effect, which are told of.

use super::console::note;
use clap::{ArgMatches, parser::ValueSource};
use coexec::{RuntimeError, runtime::sampler::SamplerError};
use std::{collections::BTreeSet, fmt::Display, str::FromStr, sync::OnceLock};

/// Options of the command line that were written, by their long names.
static GIVEN: OnceLock<BTreeSet<String>> = OnceLock::new();

/// Arguments that cannot be, beyond what can be said of each alone.
#[derive(Debug)]
struct Wrong(String);

impl Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

/// An error of the arguments.
pub(crate) fn wrong(text: impl Into<String>) -> anyhow::Error {
    Wrong(text.into()).into()
}

/// Whether an error is one of the arguments.
pub(crate) fn is_wrong(error: &anyhow::Error) -> bool {
    let of_library = |e: &RuntimeError| match e {
        RuntimeError::Option { .. } | RuntimeError::Kernels(_) | RuntimeError::Shape(_) => true,
        RuntimeError::Sampler(e) => matches!(e, SamplerError::InvalidOption { .. }),
        _ => false,
    };
    error.is::<Wrong>()
        || error.downcast_ref().is_some_and(of_library)
        || matches!(error.downcast_ref(), Some(SamplerError::InvalidOption { .. }))
        || error.is::<coexec_cpu::KernelError>()
        || error.is::<coexec::model::random::UnknownShape>()
}

/// Notes which options were written.
pub(crate) fn remember(matches: &ArgMatches) {
    let mut given = BTreeSet::new();
    let mut level = Some(matches);
    while let Some(matches) = level {
        let ids = matches.ids().filter(|id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine));
        given.extend(ids.map(|id| id.as_str().replace('_', "-")));
        level = matches.subcommand().map(|(_, matches)| matches);
    }
    // Arguments are read once.
    let _ = GIVEN.set(given);
}

/// Whether an option was written; `name` is its field's name, with hyphens.
pub(crate) fn is_given(name: &str) -> bool {
    GIVEN.get().is_some_and(|given| given.contains(name))
}

/// Tells of options that were written and change nothing, and why.
pub(crate) fn no_effect(names: &[&str], why: impl Display) {
    for name in names.iter().filter(|name| is_given(name)) {
        note!("note: --{name} has no effect: {why}");
    }
}

/// A whole number, 0 or more.
pub(crate) fn count<T: FromStr + PartialEq + From<u8>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "use a whole number, 0 or more".to_owned())
}

/// A whole number, 1 or more.
pub(crate) fn at_least_one<T: FromStr + PartialEq + From<u8>>(text: &str) -> Result<T, String> {
    let number = text.parse::<T>().ok().filter(|n| *n != T::from(0));
    number.ok_or_else(|| "use a whole number, 1 or more".to_owned())
}

/// A number with or without a fraction.
pub(crate) fn number(text: &str) -> Result<f32, String> {
    text.parse::<f32>().ok().filter(|x| x.is_finite()).ok_or_else(|| "use a number such as 0.7".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_say_what_they_may_be() {
        assert_eq!((count("0"), at_least_one("7"), number("-0.5")), (Ok(0usize), Ok(7u64), Ok(-0.5)));
        assert!(count::<usize>("-1").is_err_and(|e| e.contains("0 or more")));
        for bad in ["0", "-1", "1.5", "x", "99999999999999999999999"] {
            assert!(at_least_one::<usize>(bad).is_err_and(|e| e.contains("1 or more")), "{bad}");
        }
        assert!(number("NaN").is_err() && number("inf").is_err() && number("a").is_err());
    }

    #[test]
    fn wrong_arguments_are_told_from_failures() {
        let option = RuntimeError::Option { option: "--x", value: String::new(), reason: String::new() };
        assert!(is_wrong(&wrong("a")) && is_wrong(&option.into()));
        assert!(!is_wrong(&RuntimeError::EmptyPrompt.into()) && !is_wrong(&anyhow::anyhow!("a")));
    }
}
