//! What a compilation of static graphs tells its user: on stderr, a bar on a terminal, lines elsewhere.

use super::console::{bar, has_bars, note};
use coexec::runtime::compile::{CompileEvent, CompilePlan, CompileProgress, ContextReport, SelftestStep};
use indicatif::{HumanBytes, ProgressBar};
use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Prints events; `why` says what the graphs are compiled for, where the user did not ask for them.
pub(crate) struct CompilePrinter {
    why: &'static str,
    state: Mutex<State>,
}

struct State {
    started: Instant,
    bar: Option<ProgressBar>,
    compiled: usize,
    checked: usize,
}

impl CompilePrinter {
    pub(crate) fn new(why: &'static str) -> Self {
        Self { why, state: Mutex::new(State { started: Instant::now(), bar: None, compiled: 0, checked: 0 }) }
    }

    /// For an engine, which compiles on first use.
    pub(crate) fn first_use() -> CompileProgress {
        let printer = Self::new("first use of this model on this chip; they are kept");
        CompileProgress::new(move |event| printer.print(event))
    }

    pub(crate) fn print(&self, event: &CompileEvent<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            CompileEvent::Waiting { pid } => {
                let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                note!("waiting for {who}, which compiles the same graphs; Ctrl-C ends the wait");
            }
            CompileEvent::Started(plan) => {
                note!("{}", describe(plan, self.why));
                state.started = Instant::now();
                state.bar = has_bars().then(|| graphs(plan.graphs * if plan.record { 2 } else { 1 }));
            }
            CompileEvent::Graph { done, .. } => {
                state.compiled = *done;
                state.show();
            }
            CompileEvent::Checked { done, of } => {
                state.checked = *done;
                if state.bar.is_none() && is_told(*done, *of) {
                    let seconds = state.started.elapsed().as_secs_f64();
                    note!("  {done} of {of} graphs compared with the simulated NPU after {seconds:.1} s");
                }
                state.show();
            }
            CompileEvent::Context { report, done, of } => {
                let seconds = state.started.elapsed().as_secs_f64();
                let line = format!("  {done} of {of} contexts ready after {seconds:.1} s: {}", context(report));
                match &state.bar {
                    Some(bar) => bar.println(line),
                    None => note!("{line}"),
                }
                if done == of {
                    _ = state.bar.take().map(|bar| bar.finish_and_clear());
                }
            }
            _ => {}
        }
    }
}

impl State {
    fn show(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position((self.compiled + self.checked) as u64);
            let checked = if self.checked > 0 { format!(", {} compared", self.checked) } else { String::new() };
            bar.set_message(format!("{} compiled{checked}", self.compiled));
        }
    }
}

/// Whether a line is due where there is no bar: a tenth more is done.
fn is_told(done: usize, of: usize) -> bool {
    let tenths = |n: usize| n * 10 / of.max(1);
    tenths(done) > tenths(done.saturating_sub(1))
}

impl Drop for CompilePrinter {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        _ = state.bar.take().map(|bar| bar.finish_and_clear());
    }
}

fn graphs(count: usize) -> ProgressBar {
    let bar = bar("graphs");
    bar.set_length(count as u64);
    bar
}

/// What is going to be done, in one line; a second one where memory may not do.
fn describe(plan: &CompilePlan, why: &str) -> String {
    let CompilePlan { contexts, graphs, jobs, .. } = plan;
    let at_once = if *jobs > 1 { format!(", {jobs} at once") } else { String::new() };
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    let mut text = format!(
        "compiling {graphs} static graphs in {contexts} context{}{at_once}{why}: about {} of memory, {} on the disk",
        if *contexts == 1 { "" } else { "s" },
        HumanBytes(plan.peak_bytes),
        HumanBytes(plan.binary_bytes),
    );
    if let (true, Some(available)) = (plan.exceeds_memory(), plan.available_bytes) {
        text.push_str(&format!(
            "\nwarning: only {} of memory are free: the system may end the compiler; free some, or compile fewer chunk lengths",
            HumanBytes(available)
        ));
    }
    text
}

fn context(report: &ContextReport) -> String {
    let peak =
        report.peak_rss_bytes.map_or_else(String::new, |bytes| format!(", took {} of memory", HumanBytes(bytes)));
    format!("{}, {} graphs{peak}", report.context.manifest.spec.name, report.graphs)
}

/// Prints how far a self-test is, like [`CompilePrinter`].
#[derive(Default)]
pub(crate) struct SelftestPrinter {
    bar: Option<ProgressBar>,
}

impl SelftestPrinter {
    pub(crate) fn print(&mut self, step: SelftestStep) {
        match step {
            SelftestStep::Replayed { done, of } if has_bars() => {
                let bar = self.bar.get_or_insert_with(|| graphs(of).with_message("replaying"));
                bar.set_position(done as u64);
            }
            SelftestStep::Replayed { done, of } if is_told(done, of) => note!("  {done} of {of} graphs replayed"),
            SelftestStep::Prompt { chunk_len } => {
                _ = self.bar.take().map(|bar| bar.finish_and_clear());
                note!("  a prompt of {chunk_len} tokens runs on the simulated NPU and on this one");
            }
            _ => {}
        }
    }
}

impl Drop for SelftestPrinter {
    fn drop(&mut self) {
        _ = self.bar.take().map(|bar| bar.finish_and_clear());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_bar_ten_lines_tell_how_far_it_is() {
        for of in [10, 192, 480] {
            assert_eq!((1..=of).filter(|done| is_told(*done, of)).count(), 10, "{of}");
        }
        assert_eq!((1..=3).filter(|done| is_told(*done, 3)).count(), 3);
        assert!(is_told(1, 1) && is_told(480, 480) && !is_told(0, 0));
    }

    #[test]
    fn the_plan_says_what_it_takes_and_when_that_is_too_much() {
        let plan = CompilePlan {
            contexts: 3,
            graphs: 576,
            record: false,
            jobs: 2,
            peak_bytes: 3 << 30,
            available_bytes: Some(4 << 30),
            binary_bytes: 400 << 20,
        };
        let text = describe(&plan, "first use");
        for words in ["576 static graphs", "3 contexts, 2 at once", "first use", "3.00 GiB of memory", "400.00 MiB"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("warning"), "{text}");
        let text = describe(&CompilePlan { available_bytes: Some(1 << 30), ..plan }, "first use");
        assert!(text.contains("warning: only 1.00 GiB"), "{text}");
    }
}
