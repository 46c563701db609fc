//! `coexec cache`: what is kept of expensive work, and how it goes.

use super::{
    console::outln,
    shared::{Format, cache},
};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use coexec::runtime::cache::{Cache, Cleared, Entry};
use indicatif::{HumanBytes, HumanDuration};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Show what is kept: size, when it was used last, whether it is in use
    List {
        /// What to print
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Remove what is kept and not in use, and what dead processes left
    Clear {
        /// Only these, by the names that `list` shows
        names: Vec<String>,
        /// What to print
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

pub(crate) fn run(args: &CacheArgs) -> anyhow::Result<()> {
    let cache = cache()?.context("there is no directory for a cache: set COEXEC_CACHE_DIR")?;
    match &args.command {
        CacheCommand::List { format } => list(&cache, *format),
        CacheCommand::Clear { names, format } => clear(&cache, names, *format),
    }
}

fn list(cache: &Cache, format: Format) -> anyhow::Result<()> {
    let entries = cache.list();
    if format == Format::Json {
        let (dir, limit) = (cache.root(), cache.limit_bytes());
        outln!("{}", serde_json::json!({ "dir": dir, "limit_bytes": limit, "entries": entries }))?;
        return Ok(());
    }
    let total: u64 = entries.iter().map(|e| e.bytes).sum();
    for entry in &entries {
        outln!("{}", row(entry, SystemTime::now()))?;
    }
    outln!(
        "{} in {}, {} of at most {} (COEXEC_CACHE_LIMIT)",
        count(entries.len()),
        cache.root().display(),
        HumanBytes(total),
        HumanBytes(cache.limit_bytes())
    )?;
    Ok(())
}

fn clear(cache: &Cache, names: &[String], format: Format) -> anyhow::Result<()> {
    let known = cache.list();
    if let Some(unknown) = names.iter().find(|name| !known.iter().any(|e| e.key == **name)) {
        anyhow::bail!("the cache keeps nothing called `{unknown}`; `coexec cache list` shows the names");
    }
    let done = cache.clear(&|e| names.is_empty() || names.contains(&e.key))?;
    if format == Format::Json {
        outln!("{}", serde_json::to_string(&done)?)?;
        return Ok(());
    }
    let Cleared { removed, kept } = done;
    let bytes: u64 = removed.iter().map(|e| e.bytes).sum();
    outln!("{} removed, {} freed", count(removed.len()), HumanBytes(bytes))?;
    for entry in &kept {
        outln!("in use, kept: {}", entry.key)?;
    }
    Ok(())
}

fn count(entries: usize) -> String {
    format!("{entries} {}", if entries == 1 { "entry" } else { "entries" })
}

fn row(entry: &Entry, now: SystemTime) -> String {
    let age = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(Duration::from_secs(entry.used_unix_s));
    let used = if entry.in_use { "in use".to_owned() } else { format!("used {} ago", HumanDuration(age)) };
    let label = if entry.label.is_empty() { "made by an older version" } else { &entry.label };
    format!("{}\n  {}, {used}: {label}", entry.key, HumanBytes(entry.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_what_it_is_how_large_and_how_old() {
        let entry = Entry {
            kind: "npu".to_owned(),
            key: "abc-sm8650-def".to_owned(),
            label: "a.coexec, graphs for sm8650".to_owned(),
            path: "/c/npu/abc-sm8650-def".into(),
            bytes: 3 << 20,
            used_unix_s: 1000,
            in_use: false,
        };
        let now = UNIX_EPOCH + Duration::from_secs(1000 + 7200);
        let text = row(&entry, now);
        assert_eq!(text, "abc-sm8650-def\n  3.00 MiB, used 2 hours ago: a.coexec, graphs for sm8650");
        let text = row(&Entry { in_use: true, label: String::new(), ..entry }, now);
        assert!(text.contains("in use: made by an older version"), "{text}");
    }
}
