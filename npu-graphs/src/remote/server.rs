//! The device's side: any [`NpuDevice`] behind two streams. One thread reads requests; each context has a thread that loads
//! it and runs its graphs in order, so that one can run while another is loaded.

use super::protocol::{
    Answer, FrameError, Hello, MAX_BODY, Reply, Request, VERSION, WireError, read_body, read_header, write_frame,
};
use crate::{
    Bindings, Completion, GraphId, Manifest, NpuBuffer, NpuContext, NpuDevice, NpuError, QnnDevice, QnnOptions,
    qnn::{LibraryInfo, Target},
};
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long the end waits for graphs that run.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// A device and what is to be told of it.
pub struct Served {
    /// The device.
    pub device: Box<dyn NpuDevice>,
    /// What was loaded, for Qualcomm's.
    pub library: Option<LibraryInfo>,
    /// Where graphs run, for Qualcomm's.
    pub target: Option<Target>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("device", &self.device.profile().device).finish_non_exhaustive()
    }
}

impl Served {
    /// A device without Qualcomm's library.
    #[must_use]
    pub fn new(device: Box<dyn NpuDevice>) -> Self {
        Self { device, library: None, target: None }
    }
}

/// Opens Qualcomm's NPU for [`serve`]; the options are a [`QnnOptions`] as JSON.
///
/// # Errors
/// Options that are not such; whatever [`QnnDevice::open`] refuses.
pub fn open_qnn(options: &str) -> Result<Served, NpuError> {
    let options = serde_json::from_str::<QnnOptions>(options).map_err(|e| NpuError::Option {
        name: "open",
        value: options.to_owned(),
        reason: format!("not the options of Qualcomm's NPU: {e}"),
    })?;
    let device = QnnDevice::open(options)?;
    Ok(Served { library: Some(device.library()), target: Some(device.target()), device: Box::new(device) })
}

/// [`serve`] on the standard streams. What anybody else in this process prints goes to standard error from now on.
///
/// # Errors
/// As [`serve`].
pub fn serve_stdio(open: impl FnOnce(&str) -> Result<Served, NpuError>) -> Result<(), NpuError> {
    let streams = || -> io::Result<(File, File)> {
        let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        // A line that a library prints would break the stream.
        rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
        Ok((input.into(), output.into()))
    };
    let (input, output) = streams().map_err(|e| broken(&format!("its standard streams cannot be used: {e}")))?;
    serve(open, input, output)
}

fn broken(reason: &str) -> NpuError {
    NpuError::Process { process: "NPU server".to_owned(), reason: reason.to_owned() }
}

/// Opens a device as the first request says, and serves it until `input` ends.
///
/// The caller learns from a reply that the device cannot be opened; that is not an error here.
///
/// # Errors
/// [`NpuError::Process`] when the streams break or make no sense.
pub fn serve(
    open: impl FnOnce(&str) -> Result<Served, NpuError>,
    input: impl Read,
    output: impl Write + Send + 'static,
) -> Result<(), NpuError> {
    let mut input = BufReader::with_capacity(1 << 16, input);
    let out = Arc::new(Replies(Mutex::new(Box::new(output))));
    let wrong = |e: FrameError| broken(&format!("the caller's stream: {e}"));
    let id = match read_header::<Request>(&mut input).map_err(wrong)? {
        Some((Request::Hello { id, version: VERSION, options }, 0)) => match open(&options) {
            Ok(served) => return Server::new(served, out, id).run(&mut input).map_err(wrong),
            Err(error) => {
                out.error(id, error);
                return Ok(());
            }
        },
        Some((Request::Hello { id, .. }, _)) => id,
        Some(_) => return Err(broken("the caller did not begin with a greeting")),
        None => return Ok(()),
    };
    out.error(id, broken(&format!("speaks version {VERSION} of the protocol only; use one build")));
    Ok(())
}

/// Where replies go.
struct Replies(Mutex<Box<dyn Write + Send>>);

impl Replies {
    fn send(&self, id: u64, answer: Answer, body: &[&[u8]]) {
        if let Err(error) = write_frame(&mut **self.0.lock(), &Reply { id, answer }, body) {
            // The caller is gone; the reading thread sees that too.
            tracing::debug!(%error, "a reply could not be sent");
        }
    }

    fn error(&self, id: u64, error: NpuError) {
        self.send(id, Answer::Error(WireError::from(error)), &[]);
    }
}

struct Server {
    device: Arc<dyn NpuDevice>,
    out: Arc<Replies>,
    contexts: HashMap<u64, Worker>,
}

/// The thread of a context. It ends when nobody can send any more.
struct Worker {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

enum Job {
    Execute { id: u64, graph: u32, inputs: Vec<u8> },
    Serialize { id: u64 },
}

impl Server {
    fn new(served: Served, out: Arc<Replies>, id: u64) -> Self {
        let Served { device, library, target } = served;
        let hello = Hello { version: VERSION, profile: device.profile().clone(), library, target };
        out.send(id, Answer::Hello(Box::new(hello)), &[]);
        Self { device: Arc::from(device), out, contexts: HashMap::new() }
    }

    fn run(mut self, input: &mut dyn Read) -> Result<(), FrameError> {
        let mut ending = Vec::new();
        let result = self.requests(input, &mut ending);
        ending.extend(self.contexts.drain().map(|(_, worker)| worker.thread));
        // A graph that hangs in the driver must not keep this process.
        let until = Instant::now() + END_PATIENCE;
        while ending.iter().any(|t| !t.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        result
    }

    fn requests(&mut self, input: &mut dyn Read, ending: &mut Vec<JoinHandle<()>>) -> Result<(), FrameError> {
        while let Some((request, len)) = read_header::<Request>(input)? {
            let body = read_body(input, len, MAX_BODY)?;
            match request {
                Request::Hello { .. } => return Err(FrameError::Order("a second greeting".to_owned())),
                Request::Load { id, context, manifest } => self.load(id, context, manifest, body)?,
                Request::Execute { id, context, graph } => {
                    self.give(id, context, Job::Execute { id, graph, inputs: body });
                }
                Request::Serialize { id, context } => self.give(id, context, Job::Serialize { id }),
                // Its thread ends after its last graph.
                Request::Unload { context } => ending.extend(self.contexts.remove(&context).map(|w| w.thread)),
            }
            ending.retain(|thread| !thread.is_finished());
        }
        Ok(())
    }

    fn load(&mut self, id: u64, context: u64, manifest: Box<Manifest>, bytes: Vec<u8>) -> Result<(), FrameError> {
        let (jobs, queue) = crossbeam_channel::unbounded();
        let (device, out) = (Arc::clone(&self.device), Arc::clone(&self.out));
        let work = move || {
            let loaded = guarded(|| device.load(&bytes, &manifest));
            drop(bytes);
            match loaded {
                Ok(loaded) => {
                    Context { device: &*device, context: &*loaded, free: HashMap::new(), out }.run(id, &queue)
                }
                Err(error) => out.error(id, error),
            }
        };
        let thread = std::thread::Builder::new().name("coexec-npu-serve".to_owned()).spawn(work)?;
        match self.contexts.insert(context, Worker { jobs, thread }) {
            None => Ok(()),
            Some(_) => Err(FrameError::Order(format!("context {context} twice"))),
        }
    }

    fn give(&self, id: u64, context: u64, job: Job) {
        // A context that could not be loaded has no thread any more.
        let given = self.contexts.get(&context).is_some_and(|worker| worker.jobs.send(job).is_ok());
        if !given {
            self.out.error(id, broken(&format!("there is no context {context}")));
        }
    }
}

/// A panic of the device as an error: the caller must get an answer.
fn guarded<T>(work: impl FnOnce() -> Result<T, NpuError>) -> Result<T, NpuError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(NpuError::DeviceLost { device: "NPU server".to_owned(), reason: "the device's code panicked".to_owned() })
    })
}

struct Context<'a> {
    device: &'a dyn NpuDevice,
    context: &'a dyn NpuContext,
    /// Buffers of earlier graphs, by size.
    free: HashMap<usize, Vec<NpuBuffer>>,
    out: Arc<Replies>,
}

impl Context<'_> {
    fn run(&mut self, id: u64, queue: &Receiver<Job>) {
        let memory_bytes = self.context.memory_bytes();
        let versions = self.context.qnn_versions();
        self.out.send(id, Answer::Loaded { memory_bytes, versions }, &[]);
        while let Ok(job) = queue.recv() {
            match job {
                Job::Execute { id, graph, inputs } => {
                    if let Err(error) = guarded(|| self.execute(id, GraphId(graph), &inputs)) {
                        self.out.error(id, error);
                    }
                }
                Job::Serialize { id } => match guarded(|| self.context.serialize()) {
                    Ok(bytes) => self.out.send(id, Answer::Serialized, &[&bytes]),
                    Err(error) => self.out.error(id, error),
                },
            }
        }
    }

    fn execute(&mut self, id: u64, graph: GraphId, inputs: &[u8]) -> Result<(), NpuError> {
        let spec = self.context.spec();
        let spec = spec
            .graphs
            .get(graph.0 as usize)
            .ok_or_else(|| NpuError::UnknownGraph { context: spec.name.clone(), id: graph.0 })?;
        let mut bound = Bindings::default();
        let mut rest = inputs;
        for tensor in &spec.inputs {
            let len = tensor.len_bytes().unwrap_or(usize::MAX);
            let Some((first, others)) = rest.split_at_checked(len) else { break };
            let buffer = self.buffer(len)?;
            buffer.write()?.copy_from_slice(first);
            bound.inputs.push(buffer);
            rest = others;
        }
        if !rest.is_empty() || bound.inputs.len() != spec.inputs.len() {
            return Err(broken(&format!("{} bytes are not the inputs of graph `{}`", inputs.len(), spec.name)));
        }
        for tensor in &spec.outputs {
            let buffer = self.buffer(tensor.len_bytes().unwrap_or(usize::MAX))?;
            bound.outputs.push(buffer);
        }
        let ticket = self.context.submit(graph, &bound)?;
        let Completion { device_ns } = self.context.wait(ticket, None)?;
        let outputs = bound.outputs.iter().map(NpuBuffer::read).collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<&[u8]> = outputs.iter().map(|b| &**b).collect();
        self.out.send(id, Answer::Executed { device_ns }, &parts);
        drop(outputs);
        for buffer in bound.inputs.into_iter().chain(bound.outputs) {
            self.free.entry(buffer.len_bytes()).or_default().push(buffer);
        }
        Ok(())
    }

    fn buffer(&mut self, len: usize) -> Result<NpuBuffer, NpuError> {
        match self.free.get_mut(&len).and_then(Vec::pop) {
            Some(buffer) => Ok(buffer),
            None => self.device.alloc(len),
        }
    }
}
