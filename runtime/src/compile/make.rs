//! Compiling a whole model: jobs side by side, as far as memory goes, into a directory that is complete or untouched.

use super::{
    COMPILED_FILE, CompileOptions, CompiledModel, Compiler, ContextReport, JobReply, JobRequest, JobStep, JobTask, job,
    memory,
};
use crate::{Model, RuntimeError};
use coexec_model::output::PartialDir;
use coexec_npu::ContextSpec;
use coexec_scheduler::CancelToken;
use serde::Serialize;
use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

/// What a compilation tells while it runs.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum CompileEvent<'a> {
    /// Another process compiles the same, and this one waits for it.
    Waiting {
        /// That process.
        pid: Option<u32>,
    },
    /// What is going to be done.
    Started(&'a CompilePlan),
    /// A graph is ready.
    Graph {
        /// Graphs of all contexts that are ready.
        done: usize,
        /// All graphs.
        of: usize,
    },
    /// A graph was executed, compared with the simulated NPU and recorded.
    Checked {
        /// Graphs of all contexts for which that is done.
        done: usize,
        /// All graphs.
        of: usize,
    },
    /// A context is ready and on the disk.
    Context {
        /// It.
        report: &'a ContextReport,
        /// Contexts that are ready.
        done: usize,
        /// All contexts.
        of: usize,
    },
}

/// What a compilation will do and take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CompilePlan {
    /// Contexts, each a job.
    pub contexts: usize,
    /// Graphs of all contexts.
    pub graphs: usize,
    /// Whether each graph is also executed, compared with the simulated NPU and recorded, which takes longer than compiling.
    pub record: bool,
    /// Jobs at once.
    pub jobs: usize,
    /// Most memory that they are expected to take together, in bytes.
    pub peak_bytes: u64,
    /// Memory that there is; `None` where the system does not tell.
    pub available_bytes: Option<u64>,
    /// Bytes that the binaries are expected to have.
    pub binary_bytes: u64,
}

impl CompilePlan {
    /// Whether more memory is expected to be needed than there is.
    #[must_use]
    pub fn exceeds_memory(&self) -> bool {
        self.available_bytes.is_some_and(|available| self.peak_bytes > available)
    }
}

/// Who is told what a compilation does; nobody by default.
#[derive(Clone, Default)]
pub struct CompileProgress(Option<Arc<Listener>>);

type Listener = dyn Fn(&CompileEvent<'_>) + Send + Sync;

impl CompileProgress {
    /// Calls `f` for every event.
    pub fn new(f: impl Fn(&CompileEvent<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(f)))
    }

    pub(crate) fn tell(&self, event: &CompileEvent<'_>) {
        if let Some(listener) = &self.0 {
            listener(event);
        }
    }
}

impl std::fmt::Debug for CompileProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "CompileProgress(somebody)" } else { "CompileProgress(nobody)" })
    }
}

/// Compiles a model into a directory that is there: every context as a job of its own, then the index. A compiled model that
/// is there already is replaced when the new one is complete; otherwise the directory stays as it was.
///
/// # Errors
/// The first job's that fails; [`RuntimeError::Cancelled`].
pub fn compile(
    model: &Model,
    options: &CompileOptions,
    library_dir: Option<&Path>,
    dir: &Path,
    compiler: &Compiler,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(&CompileEvent<'_>),
) -> Result<CompiledModel, RuntimeError> {
    let failed = |path: &Path, e: std::io::Error| {
        let reason = format!("cannot be written: {e}");
        RuntimeError::Compiled { path: path.to_owned(), reason }
    };
    let temp = PartialDir::inside(dir).map_err(|e| failed(dir, e))?;
    let temp = temp.path();
    let compiled = compile_into(model, options, library_dir, temp, compiler, cancel, progress)?;
    // From here on nothing waits: the old index goes, the new files come, the new index is last.
    let old = CompiledModel::read(dir).ok();
    match fs::remove_file(dir.join(COMPILED_FILE)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(&dir.join(COMPILED_FILE), e)),
        _ => {}
    }
    for file in compiled.files() {
        fs::rename(temp.join(file), dir.join(file)).map_err(|e| failed(&dir.join(file), e))?;
    }
    fs::rename(temp.join(COMPILED_FILE), dir.join(COMPILED_FILE)).map_err(|e| failed(dir, e))?;
    for file in old.iter().flat_map(CompiledModel::files).filter(|file| !compiled.files().any(|new| new == *file)) {
        // Nothing names it any more.
        let _ = fs::remove_file(dir.join(file));
    }
    Ok(compiled)
}

/// The same into an empty directory.
pub(crate) fn compile_into(
    model: &Model,
    options: &CompileOptions,
    library_dir: Option<&Path>,
    dir: &Path,
    compiler: &Compiler,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(&CompileEvent<'_>),
) -> Result<CompiledModel, RuntimeError> {
    let (options, contexts) = cut(model, options, library_dir)?;
    let plan = plan(&contexts, options.record, compiler);
    enough_disk(dir, plan.binary_bytes, free_bytes(dir))?;
    progress(&CompileEvent::Started(&plan));
    let mut compiled = CompiledModel::new(model, &options, "");
    let request = |index| JobRequest {
        options: options.clone(),
        library_dir: library_dir.map(Path::to_owned),
        shape: None,
        task: JobTask::Context { index, dir: dir.to_owned() },
    };
    let mut reports = run_jobs(&plan, compiler, &request, model, cancel, progress)?;
    reports.sort_by_key(|(index, _)| *index);
    for (_, report) in reports {
        if let Some(made_by) = &report.context.manifest.qnn {
            compiled.library.clone_from(&made_by.build_id);
        }
        compiled.contexts.push(report.context);
    }
    compiled.write(dir)?;
    Ok(compiled)
}

/// The contexts, cut smaller where a job would take more memory than there is; with the options that say so.
fn cut(
    model: &Model,
    options: &CompileOptions,
    library_dir: Option<&Path>,
) -> Result<(CompileOptions, Vec<ContextSpec>), RuntimeError> {
    // The library is opened where the jobs run, not here.
    let profile = job::qnn_options(options, library_dir).device_profile()?;
    let with = |graphs_per_context| CompileOptions { graphs_per_context, ..options.clone() };
    if options.graphs_per_context.is_some() {
        return Ok((options.clone(), options.contexts_of(model, &profile)?));
    }
    let available = memory::available_bytes().unwrap_or(u64::MAX);
    let cut = |most| with(most).contexts_of(model, &profile);
    let (most, contexts) = memory::fitting(available / 10 * 9, options.record, &cut)?;
    if most.is_some() {
        tracing::info!(available, contexts = contexts.len(), "contexts are cut smaller, for the memory there is");
    }
    Ok((with(most), contexts))
}

fn plan(contexts: &[ContextSpec], record: bool, compiler: &Compiler) -> CompilePlan {
    let available_bytes = memory::available_bytes();
    let jobs = match compiler {
        Compiler::InProcess => 1,
        Compiler::Child(_) => memory::jobs(contexts, record, available_bytes),
    };
    let mut peaks: Vec<u64> = contexts.iter().map(|c| memory::peak_bytes(c, record)).collect();
    peaks.sort_unstable_by(|a, b| b.cmp(a));
    CompilePlan {
        contexts: contexts.len(),
        graphs: contexts.iter().map(|c| c.graphs.len()).sum(),
        record,
        jobs,
        peak_bytes: peaks.iter().take(jobs).sum(),
        available_bytes,
        binary_bytes: contexts.iter().map(|c| c.device_bytes(60_000)).sum(),
    }
}

/// Bytes that may still be written below a directory; `None` where the system does not tell.
fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

fn enough_disk(dir: &Path, needed: u64, free: Option<u64>) -> Result<(), RuntimeError> {
    let mb = |bytes: u64| bytes / 1_000_000;
    match free {
        Some(free) if free < needed => Err(RuntimeError::Compiled {
            path: dir.to_owned(),
            reason: format!(
                "needs about {} MB, its disk has {} MB left; make room (`coexec cache clear`) or take another disk",
                mb(needed),
                mb(free)
            ),
        }),
        _ => Ok(()),
    }
}

enum Message {
    Step(JobStep),
    Done(usize, Result<JobReply, RuntimeError>),
}

/// Runs the jobs of all contexts, as many at once as planned.
fn run_jobs(
    plan: &CompilePlan,
    compiler: &Compiler,
    request: &(dyn Fn(usize) -> JobRequest + Sync),
    model: &Model,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(&CompileEvent<'_>),
) -> Result<Vec<(usize, ContextReport)>, RuntimeError> {
    let next = AtomicUsize::new(0);
    // Set by the caller's token, and by the first failure: then the other jobs are of no use.
    let stop = CancelToken::new();
    let (sender, receiver) = mpsc::channel();
    let work = |sender: mpsc::Sender<Message>| {
        while !stop.is_cancelled() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= plan.contexts {
                return;
            }
            // Whoever listens is there until all have ended.
            let mut step = |done| _ = sender.send(Message::Step(done));
            let reply = compiler.run(&request(index), Some(model), &stop, &mut step);
            let _ = sender.send(Message::Done(index, reply));
        }
    };
    std::thread::scope(|s| {
        for _ in 0..plan.jobs {
            let sender = sender.clone();
            s.spawn(|| work(sender));
        }
        drop(sender);
        let (mut reports, mut failed, mut compiled, mut checked) = (Vec::new(), None, 0, 0);
        loop {
            if cancel.is_cancelled() {
                stop.cancel();
            }
            match receiver.recv_timeout(Duration::from_millis(20)) {
                Ok(Message::Step(JobStep::Compiled)) => {
                    compiled += 1;
                    progress(&CompileEvent::Graph { done: compiled, of: plan.graphs });
                }
                Ok(Message::Step(JobStep::Checked)) => {
                    checked += 1;
                    progress(&CompileEvent::Checked { done: checked, of: plan.graphs });
                }
                Ok(Message::Done(index, Ok(JobReply::Context(report)))) => {
                    let done = reports.len() + 1;
                    progress(&CompileEvent::Context { report: &report, done, of: plan.contexts });
                    reports.push((index, *report));
                }
                Ok(Message::Done(_, reply)) => {
                    stop.cancel();
                    let error = match reply {
                        Ok(other) => {
                            RuntimeError::Schedule(format!("a compile job answered {other:?}; this is a bug of coexec"))
                        }
                        Err(error) => error,
                    };
                    // The others end because of this one.
                    failed.get_or_insert(error);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        if cancel.is_cancelled() {
            return Err(RuntimeError::Cancelled);
        }
        failed.map_or(Ok(reports), Err)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_beforehand_with_both_numbers() {
        let dir = tempfile::tempdir().expect("a directory");
        let free = free_bytes(dir.path()).expect("Linux");
        enough_disk(dir.path(), 0, Some(free)).expect("nothing always fits");
        enough_disk(dir.path(), 1 << 40, None).expect("not known");
        let text = enough_disk(dir.path(), 2_000_000, Some(1_000_000)).expect_err("full").to_string();
        assert!(text.contains("about 2 MB") && text.contains("1 MB left") && text.contains("cache clear"), "{text}");
        assert_eq!(free_bytes(&dir.path().join("nowhere")), None);
    }
}
