//! The caller's end of a connection: requests go out on the caller's thread, a thread of its own brings replies in, and a
//! connection that broke stays broken and says why.

use super::protocol::{Answer, FrameError, Reply, Request, read_body, read_header, write_frame};
use parking_lot::{Condvar, Mutex};
use std::{
    collections::HashMap,
    io::{self, BufReader, Read, Write},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a child whose streams have ended may take to end itself. Freeing large contexts takes a while.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Who is at the other end.
pub(super) enum Peer {
    /// A process.
    Child(Child),
    /// Somebody who is made to end by calling this.
    Other(Option<Box<dyn FnOnce() + Send>>),
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The connection is broken, for this reason.
    Lost(String),
    /// The time is over. The request is still out, so the connection has to be broken next.
    Late,
}

/// A connection; dropping it ends the other side.
pub(super) struct Connection {
    shared: Arc<Shared>,
    /// Taken when the connection ends.
    output: Mutex<Option<Box<dyn Write + Send>>>,
    next: AtomicU64,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes whoever waits for a reply.
    changed: Condvar,
    peer: Mutex<Peer>,
}

#[derive(Default)]
struct State {
    pending: HashMap<u64, Pending>,
    lost: Option<String>,
}

struct Pending {
    /// Most bytes that the reply's body may have.
    body_limit: u64,
    reply: Option<(Answer, Vec<u8>)>,
}

impl Connection {
    /// Starts the thread that reads.
    pub(super) fn start(
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        peer: Peer,
    ) -> io::Result<Self> {
        let (state, changed, peer) = (Mutex::default(), Condvar::new(), Mutex::new(peer));
        let shared = Arc::new(Shared { state, changed, peer });
        let connection = Self { shared, output: Mutex::new(Some(Box::new(output))), next: AtomicU64::new(0) };
        let on_thread = Arc::clone(&connection.shared);
        std::thread::Builder::new()
            .name("coexec-npu-replies".to_owned())
            .spawn(move || on_thread.read(&mut BufReader::with_capacity(1 << 16, input)))?;
        Ok(connection)
    }

    /// A number that was not given out before.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Why the connection is broken, if it is.
    pub(super) fn lost(&self) -> Option<String> {
        self.shared.state.lock().lost.clone()
    }

    /// Breaks the connection and ends the other side at once.
    pub(super) fn kill(&self, reason: &str) {
        self.shared.lose(|| reason.to_owned());
        self.shared.peer.lock().kill();
    }

    /// Looks at deadlines again.
    pub(super) fn wake(&self) {
        let _state = self.shared.state.lock();
        self.shared.changed.notify_all();
    }

    /// The process at the other end.
    pub(super) fn child_id(&self) -> Option<u32> {
        match &*self.shared.peer.lock() {
            Peer::Child(child) => Some(child.id()),
            Peer::Other(_) => None,
        }
    }

    /// Sends a request that has no reply.
    pub(super) fn tell(&self, request: &Request) {
        let mut output = self.output.lock();
        let sent = output.as_mut().map_or(Ok(()), |out| write_frame(out, request, &[]));
        if sent.is_err() {
            // Gone or going: the reading thread finds out how.
            self.shared.peer.lock().kill();
        }
    }

    /// Sends a request, whose id must come from [`Self::number`], and waits for its reply; `until` may change with every
    /// [`Self::wake`].
    pub(super) fn call(
        &self,
        id: u64,
        request: &Request,
        body: &[&[u8]],
        body_limit: u64,
        until: &dyn Fn() -> Option<Instant>,
    ) -> Result<(Answer, Vec<u8>), NoAnswer> {
        {
            let mut state = self.shared.state.lock();
            if let Some(reason) = &state.lost {
                return Err(NoAnswer::Lost(reason.clone()));
            }
            state.pending.insert(id, Pending { body_limit, reply: None });
        }
        let sent = match self.output.lock().as_mut() {
            Some(out) => write_frame(out, request, body),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        if sent.is_err() {
            // A child that crashed is dead already; this makes sure of any other, and the reading thread says how it ended.
            self.shared.peer.lock().kill();
        }
        self.wait(id, until)
    }

    /// The same, with a deadline also for a peer that stopped reading.
    pub(super) fn call_within(
        &self,
        id: u64,
        request: &Request,
        body: &[u8],
        body_limit: u64,
        limit: Duration,
    ) -> Result<(Answer, Vec<u8>), NoAnswer> {
        let until = Instant::now().checked_add(limit);
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| self.call(id, request, &[body], body_limit, &|| until));
            while !caller.is_finished() {
                if until.is_some_and(|until| Instant::now() > until + Duration::from_millis(100)) {
                    self.kill(&format!("it took no request within {limit:?}"));
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            caller.join().unwrap_or_else(|_| Err(NoAnswer::Lost("its caller panicked".to_owned())))
        })
    }

    fn wait(&self, id: u64, until: &dyn Fn() -> Option<Instant>) -> Result<(Answer, Vec<u8>), NoAnswer> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(reply) = state.pending.get_mut(&id).and_then(|p| p.reply.take()) {
                state.pending.remove(&id);
                return Ok(reply);
            }
            if let Some(reason) = state.lost.clone() {
                state.pending.remove(&id);
                return Err(NoAnswer::Lost(reason));
            }
            match until() {
                None => self.shared.changed.wait(&mut state),
                Some(until) if Instant::now() >= until => return Err(NoAnswer::Late),
                Some(until) => {
                    self.shared.changed.wait_until(&mut state, until);
                }
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The end of its input is the sign for the other side to end.
        drop(self.output.lock().take());
        let ended = self.shared.ended(END_PATIENCE);
        self.shared.lose(|| "the connection was closed".to_owned());
        if ended.is_none() {
            self.shared.peer.lock().kill();
            self.shared.ended(END_PATIENCE);
        }
    }
}

impl Shared {
    /// The reading thread: until the stream ends or makes no sense.
    fn read(&self, input: &mut dyn Read) {
        let error = loop {
            match self.read_reply(input) {
                Ok(true) => {}
                Ok(false) => break None,
                Err(error) => break Some(error),
            }
        };
        match error {
            None | Some(FrameError::Stream(_)) => {
                // Whoever waits shall know how the process ended, so the process goes first.
                let ended = self.ended(END_PATIENCE);
                self.lose(|| ended.unwrap_or_else(|| "its process closed the connection".to_owned()));
            }
            Some(error) => self.lose(|| format!("its process sent {error}")),
        }
        self.peer.lock().kill();
    }

    fn read_reply(&self, input: &mut dyn Read) -> Result<bool, FrameError> {
        let Some((Reply { id, answer }, len)) = read_header::<Reply>(input)? else { return Ok(false) };
        let unknown = || FrameError::Order(format!("a reply to request {id}, which is not out"));
        let limit = {
            let state = self.state.lock();
            state.pending.get(&id).filter(|p| p.reply.is_none()).ok_or_else(unknown)?.body_limit
        };
        let body = read_body(input, len, limit)?;
        let mut state = self.state.lock();
        state.pending.get_mut(&id).ok_or_else(unknown)?.reply = Some((answer, body));
        self.changed.notify_all();
        Ok(true)
    }

    /// Sets the reason once.
    fn lose(&self, reason: impl FnOnce() -> String) {
        let mut state = self.state.lock();
        if state.lost.is_none() {
            state.lost = Some(reason());
        }
        self.changed.notify_all();
    }

    /// Waits for the process to end, and says how it did.
    fn ended(&self, patience: Duration) -> Option<String> {
        let started = Instant::now();
        loop {
            match &mut *self.peer.lock() {
                Peer::Other(_) => return None,
                Peer::Child(child) => match child.try_wait() {
                    Ok(Some(status)) => return Some(format!("its process ended with {status}")),
                    Ok(None) => {}
                    Err(e) => return Some(format!("its process cannot be waited for: {e}")),
                },
            }
            if started.elapsed() > patience {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Peer {
    /// Ends it, if it has not ended.
    fn kill(&mut self) {
        match self {
            // Fails only when it has ended.
            Self::Child(child) => drop(child.kill()),
            Self::Other(end) => {
                if let Some(end) = end.take() {
                    end();
                }
            }
        }
    }
}
