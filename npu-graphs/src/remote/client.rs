//! The caller's side: a device and its contexts, whose graphs run in another process.

use super::{
    connection::{Connection, NoAnswer, Peer},
    protocol::{Answer, Hello, MAX_BODY, Request, VERSION},
};
use crate::{
    Bindings, BufferKind, BufferRead, BufferWrite, Completion, ContextSpec, DeviceProfile, GraphId, Manifest,
    NpuBuffer, NpuContext, NpuDevice, NpuError, Ticket, WeightSource,
    manifest::QnnVersions,
    qnn::{LibraryInfo, Target},
    queue::{GraphRunner, Queue},
};
use parking_lot::Mutex;
use rustix::net::{SendFlags, send};
use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How a [`RemoteDevice`] is started.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// For the function that opens the device there, which knows what it means; for [`super::open_qnn`] a
    /// [`crate::QnnOptions`] as JSON.
    pub open: String,
    /// Most time until the device is open.
    pub start_deadline: Duration,
    /// Most time to load a context or to serialize one.
    pub load_deadline: Duration,
    /// How long dropping a context waits for a graph that runs; then the process is ended.
    pub drop_patience: Duration,
}

impl RemoteOptions {
    /// One minute to start, five to load, ten seconds to end the last graph.
    #[must_use]
    pub fn new(open: impl Into<String>) -> Self {
        Self {
            open: open.into(),
            start_deadline: Duration::from_secs(60),
            load_deadline: Duration::from_secs(300),
            drop_patience: Duration::from_secs(10),
        }
    }
}

/// A device in another process. It loads binaries; it cannot compile, because weights do not travel.
///
/// Dropping it and its contexts ends the process.
pub struct RemoteDevice {
    connection: Arc<Connection>,
    hello: Hello,
    process: String,
    options: RemoteOptions,
}

impl std::fmt::Debug for RemoteDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("RemoteDevice");
        out.field("device", &self.hello.profile.device).field("process", &self.process).finish_non_exhaustive()
    }
}

/// Our end of the child's input. A write to a dead child is an error; through a pipe it would be SIGPIPE, which ends a
/// process that does not ignore it.
struct ChildInput(UnixStream);

impl Write for ChildInput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl RemoteDevice {
    /// Starts a program that calls [`super::serve_stdio`]. Its input and output are set here, its other streams and its
    /// environment are as `command` says.
    ///
    /// # Errors
    /// [`NpuError::Process`] when it cannot be started, speaks another version, or cannot open the device;
    /// [`NpuError::DeviceLost`] when it ends or keeps silent.
    pub fn start(mut command: Command, options: &RemoteOptions) -> Result<Self, NpuError> {
        let process = command.get_program().to_string_lossy().into_owned();
        let failed =
            |e: io::Error| NpuError::Process { process: process.clone(), reason: format!("could not be started: {e}") };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped());
        // Ctrl-C at a terminal is for this process, which then ends the child.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(failed)?;
        // The command holds the child's end of the socket.
        drop(command);
        let output = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let connection = Connection::start(output, ChildInput(ours), Peer::Child(child)).map_err(failed)?;
        Self::greet(connection, process, options)
    }

    /// Over any pair of streams to whoever calls [`super::serve`]; `end` must make both streams end.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn connect(
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        end: impl FnOnce() + Send + 'static,
        options: &RemoteOptions,
    ) -> Result<Self, NpuError> {
        let process = "the other end of a stream".to_owned();
        let connection = Connection::start(input, output, Peer::Other(Some(Box::new(end))));
        let connection = connection.map_err(|e| NpuError::Process {
            process: process.clone(),
            reason: format!("could not be reached: {e}"),
        })?;
        Self::greet(connection, process, options)
    }

    fn greet(connection: Connection, process: String, options: &RemoteOptions) -> Result<Self, NpuError> {
        let id = connection.number();
        let hello = Request::Hello { id, version: VERSION, options: options.open.clone() };
        let refused = |reason: String| NpuError::Process { process: process.clone(), reason };
        match connection.call_within(id, &hello, &[], 0, options.start_deadline) {
            Ok((Answer::Hello(hello), _)) if hello.version != VERSION => Err(refused(format!(
                "speaks version {} of the protocol, this is {VERSION}; use one build",
                hello.version
            ))),
            Ok((Answer::Hello(hello), _)) => {
                let mut hello = *hello;
                // Buffers travel as copies.
                hello.profile.buffer_kind = BufferKind::Heap;
                Ok(Self { connection: Arc::new(connection), hello, process, options: options.clone() })
            }
            Ok((Answer::Error(error), _)) => Err(error.into_error(&process)),
            Ok(_) => Err(refused("answered something else than asked".to_owned())),
            Err(NoAnswer::Lost(reason)) => Err(NpuError::DeviceLost { device: process, reason }),
            Err(NoAnswer::Late) => {
                let reason = format!("it did not open the device within {:?}", options.start_deadline);
                connection.kill(&reason);
                Err(NpuError::DeviceLost { device: process, reason })
            }
        }
    }

    /// What the process has loaded, when it is Qualcomm's library.
    #[must_use]
    pub fn library(&self) -> Option<&LibraryInfo> {
        self.hello.library.as_ref()
    }

    /// Where its graphs run, when it is Qualcomm's library.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        self.hello.target
    }

    /// The process's id; `None` for one that was not started here.
    #[must_use]
    pub fn child_id(&self) -> Option<u32> {
        self.connection.child_id()
    }
}

impl NpuDevice for RemoteDevice {
    fn profile(&self) -> &DeviceProfile {
        &self.hello.profile
    }

    fn prepare(&self, spec: &ContextSpec, _: &dyn WeightSource) -> Result<Box<dyn NpuContext>, NpuError> {
        let reason = format!(
            "context `{}` cannot be compiled there, because weights do not travel; compile it in this process or in a \
             compile job, and `load` the binary",
            spec.name
        );
        Err(NpuError::Process { process: self.process.clone(), reason })
    }

    fn load(&self, bytes: &[u8], manifest: &Manifest) -> Result<Box<dyn NpuContext>, NpuError> {
        manifest.check_blob(bytes, &self.hello.profile)?;
        manifest.spec.validate()?;
        let connection = &self.connection;
        let (id, context) = (connection.number(), connection.number());
        let request = Request::Load { id, context, manifest: Box::new(manifest.clone()) };
        let call = Call { connection, device: &self.hello.profile.device, process: &self.process };
        let limit = self.options.load_deadline;
        let answer = connection.call_within(id, &request, bytes, 0, limit);
        let (memory_bytes, versions) = match call.answer(answer, "load a context", limit)? {
            (Answer::Loaded { memory_bytes, versions }, _) => (memory_bytes, versions),
            _ => return Err(call.nonsense("to a load")),
        };
        let runner = Runner {
            connection: Arc::clone(connection),
            process: self.process.clone(),
            profile: self.hello.profile.clone(),
            spec: manifest.spec.clone(),
            context,
            lost: AtomicBool::new(false),
            patience: self.options.drop_patience,
            give_up: Mutex::new(None),
        };
        let queue = Queue::start(runner, "coexec-npu-remote")?;
        Ok(Box::new(RemoteContext { queue, memory_bytes, versions, load_deadline: limit }))
    }

    fn alloc(&self, len_bytes: usize) -> Result<NpuBuffer, NpuError> {
        let limit_bytes = self.hello.profile.max_buffer_bytes;
        if len_bytes > limit_bytes {
            let device = self.hello.profile.device.clone();
            return Err(NpuError::BufferTooLarge { device, len_bytes, limit_bytes });
        }
        Ok(NpuBuffer::heap(len_bytes)?)
    }
}

/// Answers of one connection as results.
struct Call<'a> {
    connection: &'a Connection,
    device: &'a str,
    process: &'a str,
}

impl Call<'_> {
    fn lost(&self, reason: String) -> NpuError {
        NpuError::DeviceLost { device: self.device.to_owned(), reason }
    }

    fn answer(
        &self,
        answer: Result<(Answer, Vec<u8>), NoAnswer>,
        task: &str,
        limit: Duration,
    ) -> Result<(Answer, Vec<u8>), NpuError> {
        match answer {
            Ok((Answer::Error(error), _)) => Err(error.into_error(self.process)),
            Ok(answer) => Ok(answer),
            Err(NoAnswer::Lost(reason)) => Err(self.lost(reason)),
            Err(NoAnswer::Late) => {
                let reason = format!("its process did not {task} within {limit:?}");
                self.connection.kill(&reason);
                Err(self.lost(reason))
            }
        }
    }

    /// An answer to another question: nothing of that process can be trusted.
    fn nonsense(&self, what: &str) -> NpuError {
        let reason = format!("its process sent a wrong answer {what}");
        self.connection.kill(&reason);
        self.lost(reason)
    }
}

/// A context of a [`RemoteDevice`].
pub struct RemoteContext {
    queue: Queue<Runner>,
    memory_bytes: u64,
    versions: Option<QnnVersions>,
    load_deadline: Duration,
}

impl std::fmt::Debug for RemoteContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteContext").field("name", &self.spec().name).finish_non_exhaustive()
    }
}

struct Runner {
    connection: Arc<Connection>,
    process: String,
    profile: DeviceProfile,
    spec: ContextSpec,
    /// The other side's number of the context.
    context: u64,
    /// The device there is gone; its process may live.
    lost: AtomicBool,
    patience: Duration,
    /// When a graph that still runs is taken as hung, once the context is dropped.
    give_up: Mutex<Option<Instant>>,
}

impl Runner {
    fn call(&self) -> Call<'_> {
        Call { connection: &self.connection, device: &self.profile.device, process: &self.process }
    }
}

impl GraphRunner for Runner {
    type Tag = ();

    fn spec(&self) -> &ContextSpec {
        &self.spec
    }

    fn profile(&self) -> &DeviceProfile {
        &self.profile
    }

    fn admit(&self) {}

    fn run(
        &self,
        graph: usize,
        (): (),
        inputs: &[BufferRead],
        outputs: &mut [BufferWrite],
    ) -> Result<Completion, NpuError> {
        let id = self.connection.number();
        // Ids are places in the spec, on both sides; a spec has at most 2^16 graphs.
        let request = Request::Execute { id, context: self.context, graph: graph as u32 };
        let body: Vec<&[u8]> = inputs.iter().map(|b| &**b).collect();
        let total = outputs.iter().map(|b| b.len()).sum::<usize>();
        let answer = self.connection.call(id, &request, &body, total as u64, &|| *self.give_up.lock());
        let answer = self.call().answer(answer, "end a graph", self.patience);
        if let Err(NpuError::DeviceLost { .. } | NpuError::Timeout { .. }) = &answer {
            self.lost.store(true, Ordering::Release);
        }
        match answer? {
            (Answer::Executed { device_ns }, body) if body.len() == total => {
                let mut rest = &body[..];
                for output in outputs {
                    let (first, others) = rest.split_at(output.len());
                    output.copy_from_slice(first);
                    rest = others;
                }
                Ok(Completion { device_ns })
            }
            _ => Err(self.call().nonsense("to an execution")),
        }
    }

    fn lost(&self) -> Option<String> {
        let there = || self.lost.load(Ordering::Acquire).then(|| "the device failed in its process".to_owned());
        self.connection.lost().or_else(there)
    }

    fn interrupt(&self) -> bool {
        *self.give_up.lock() = Instant::now().checked_add(self.patience);
        self.connection.wake();
        true
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if self.connection.lost().is_none() {
            self.connection.tell(&Request::Unload { context: self.context });
        }
    }
}

impl NpuContext for RemoteContext {
    fn spec(&self) -> &ContextSpec {
        self.queue.runner().spec()
    }

    fn graph(&self, name: &str) -> Option<GraphId> {
        self.queue.graph(name)
    }

    fn submit(&self, graph: GraphId, bindings: &Bindings) -> Result<Ticket, NpuError> {
        self.queue.submit(graph, bindings)
    }

    /// A graph that does not end in time costs the process: all contexts of the device are lost.
    fn wait(&self, ticket: Ticket, deadline: Option<Duration>) -> Result<Completion, NpuError> {
        let result = self.queue.wait(ticket, deadline);
        if let Err(error @ NpuError::Timeout { .. }) = &result {
            self.queue.runner().connection.kill(&format!("its process was ended: {error}"));
        }
        result
    }

    fn serialize(&self) -> Result<Vec<u8>, NpuError> {
        let runner = self.queue.runner();
        let id = runner.connection.number();
        let request = Request::Serialize { id, context: runner.context };
        let answer = runner.connection.call_within(id, &request, &[], MAX_BODY, self.load_deadline);
        match runner.call().answer(answer, "serialize a context", self.load_deadline)? {
            (Answer::Serialized, body) => Ok(body),
            _ => Err(runner.call().nonsense("to a serialization")),
        }
    }

    fn qnn_versions(&self) -> Option<QnnVersions> {
        self.versions.clone()
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}
