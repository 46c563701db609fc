//! What a compilation of static graphs tells its user: on stderr, a bar on a terminal, lines elsewhere.

use coexec::runtime::compile::{CompileEvent, CompilePlan, CompileProgress, ContextReport};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal as _,
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
}

impl CompilePrinter {
    pub(crate) fn new(why: &'static str) -> Self {
        Self { why, state: Mutex::new(State { started: Instant::now(), bar: None }) }
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
                eprintln!("waiting for {who}, which compiles the same graphs; Ctrl-C ends the wait");
            }
            CompileEvent::Started(plan) => {
                eprintln!("{}", describe(plan, self.why));
                state.started = Instant::now();
                state.bar = std::io::stderr().is_terminal().then(|| bar(plan.graphs));
            }
            CompileEvent::Graph { done, .. } => _ = state.bar.as_ref().map(|bar| bar.set_position(*done as u64)),
            CompileEvent::Context { report, done, of } => {
                let seconds = state.started.elapsed().as_secs_f64();
                let line = format!("  {done} of {of} contexts ready after {seconds:.1} s: {}", context(report));
                match &state.bar {
                    Some(bar) => bar.println(line),
                    None => eprintln!("{line}"),
                }
                if done == of {
                    _ = state.bar.take().map(|bar| bar.finish_and_clear());
                }
            }
            _ => {}
        }
    }
}

impl Drop for CompilePrinter {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        _ = state.bar.take().map(|bar| bar.finish_and_clear());
    }
}

fn bar(graphs: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:32} {pos} of {len} graphs  {elapsed}, {eta} left");
    let bar = ProgressBar::new(graphs as u64);
    style.map(|style| bar.clone().with_style(style.progress_chars("━━╌"))).unwrap_or(bar)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_says_what_it_takes_and_when_that_is_too_much() {
        let plan = CompilePlan {
            contexts: 3,
            graphs: 576,
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
