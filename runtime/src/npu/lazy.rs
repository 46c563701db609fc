//! A context that is loaded when it is first needed, or by a thread that runs ahead.

use coexec_npu::{Bindings, Completion, ContextSpec, GraphId, NpuContext, NpuError, Ticket};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

type Loader = Box<dyn Fn() -> Result<Box<dyn NpuContext>, NpuError> + Send>;

/// A context whose graphs are known before it is loaded. Shared: whoever comes first loads it, others wait.
pub(super) struct LazyContext {
    spec: ContextSpec,
    /// Tried again after a failure, so that everybody who needs the context meets the same error.
    loader: Mutex<Loader>,
    context: OnceLock<Box<dyn NpuContext>>,
}

impl LazyContext {
    pub(super) fn new(
        spec: ContextSpec,
        loader: impl Fn() -> Result<Box<dyn NpuContext>, NpuError> + Send + 'static,
    ) -> Self {
        Self { spec, loader: Mutex::new(Box::new(loader)), context: OnceLock::new() }
    }

    /// The loaded context.
    pub(super) fn get(&self) -> Result<&dyn NpuContext, NpuError> {
        if let Some(context) = self.context.get() {
            return Ok(&**context);
        }
        let loader = self.loader.lock();
        if let Some(context) = self.context.get() {
            return Ok(&**context);
        }
        let span = tracing::info_span!("load_context", context = self.spec.name);
        let context = span.in_scope(&*loader)?;
        Ok(&**self.context.get_or_init(|| context))
    }
}

/// Loads contexts one after another on a thread of its own, so that the first chunk can begin with the first of them.
/// Errors stay with the contexts: whoever uses one meets them.
///
/// Whoever holds the result's clones waits for that thread when the last goes: a process that ends while the library loads
/// would run into its destructors.
pub(super) fn load_ahead(contexts: &[Arc<LazyContext>]) -> Arc<LoadingAhead> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let contexts: Vec<_> = contexts.iter().map(Arc::downgrade).collect();
    let work = move || {
        for context in contexts {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            // Contexts that nobody holds any more need no loading.
            if let Some(Err(error)) = context.upgrade().map(|c| c.get().map(|_| ())) {
                tracing::debug!(%error, "a context could not be loaded ahead; who needs it will meet the error");
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("coexec-npu-load".to_owned()).spawn(work);
    let thread = thread.inspect_err(
        |error| tracing::info!(%error, "contexts are loaded when they are needed: no thread to load ahead"),
    );
    Arc::new(LoadingAhead { stop, thread: Mutex::new(thread.ok()) })
}

/// The thread that loads contexts ahead; see [`load_ahead`].
pub(super) struct LoadingAhead {
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for LoadingAhead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.get_mut().take().map(JoinHandle::join) {
            tracing::error!("the thread that loads contexts ahead panicked");
        }
    }
}

/// What [`super::OpenNpu`] holds of a shared lazy context.
pub(super) struct Shared(
    pub(super) Arc<LazyContext>,
    #[allow(dead_code, reason = "held until the last goes")] pub(super) Arc<LoadingAhead>,
);

impl NpuContext for Shared {
    fn spec(&self) -> &ContextSpec {
        &self.0.spec
    }

    fn graph(&self, name: &str) -> Option<GraphId> {
        // Ids are places in the spec, on every device.
        let place = self.0.spec.graphs.iter().position(|g| g.name == name)?;
        u32::try_from(place).ok().map(GraphId)
    }

    fn submit(&self, graph: GraphId, bindings: &Bindings) -> Result<Ticket, NpuError> {
        self.0.get()?.submit(graph, bindings)
    }

    fn wait(&self, ticket: Ticket, deadline: Option<Duration>) -> Result<Completion, NpuError> {
        self.0.get()?.wait(ticket, deadline)
    }

    fn serialize(&self) -> Result<Vec<u8>, NpuError> {
        self.0.get()?.serialize()
    }

    fn memory_bytes(&self) -> u64 {
        self.0.context.get().map_or(0, |c| c.memory_bytes())
    }
}
