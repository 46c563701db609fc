//! Signals: Ctrl-C, SIGTERM and a closed terminal ask the work to end, and end the process where it does not listen.
//!
//! The first signal cancels the command's token, so that it ends in good order: what was measured is printed, unfinished
//! files are removed. Work that does not look at the token (a read that blocks, a library that parses for seconds) is given
//! [`GRACE`]; then the process ends without it. A second signal ends it at once. The exit code is 128 + the signal's number.

use coexec::{CancelToken, model::output::remove_partials};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// How long work may take to end after the first signal.
const GRACE: Duration = Duration::from_millis(700);

/// How long the last steps of [`end`] may take: a file system or a pipe may block them too.
const LAST_STEPS: Duration = Duration::from_millis(150);

/// The first signal that asked this process to end; 0 before.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// What Ctrl-C ends in place of the whole command: see [`Answer`].
static ANSWER: Mutex<Option<CancelToken>> = Mutex::new(None);

/// While it lives, Ctrl-C cancels one answer and not the command; a second Ctrl-C during the same answer ends the command.
#[derive(Debug)]
pub(crate) struct Answer(());

impl Answer {
    /// From now on Ctrl-C cancels `token`.
    pub(crate) fn new(token: &CancelToken) -> Self {
        *answer() = Some(token.clone());
        Self(())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        *answer() = None;
    }
}

fn answer() -> MutexGuard<'static, Option<CancelToken>> {
    ANSWER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens on a thread of its own; the first signal cancels `cancel`.
pub(crate) fn listen(cancel: &CancelToken) -> io::Result<()> {
    let terminal = io::stdin().is_terminal().then(|| tcgetattr(io::stdin()).ok()).flatten();
    // Under `nohup` the end of the terminal is no reason to end.
    let heard = if is_ignored(SIGHUP) { &[SIGINT, SIGTERM][..] } else { &[SIGINT, SIGTERM, SIGHUP] };
    let mut signals = Signals::new(heard)?;
    let cancel = cancel.clone();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            let one_answer = (signal == SIGINT).then(|| answer().clone()).flatten();
            if let Some(token) = one_answer.filter(|token| !token.is_cancelled()) {
                token.cancel();
                continue;
            }
            if RECEIVED.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                end(terminal.clone());
            }
            cancel.cancel();
            if let Some(token) = answer().as_ref() {
                token.cancel();
            }
            let terminal = terminal.clone();
            thread::spawn(move || {
                thread::sleep(GRACE);
                end(terminal.clone());
            });
        }
    })?;
    Ok(())
}

/// A process that serves another one: Ctrl-C reaches both, and the other one decides.
pub(crate) fn leave_ctrl_c_to_the_parent() -> io::Result<()> {
    signal_hook::flag::register(SIGINT, std::sync::Arc::default())?;
    Ok(())
}

/// Exit code of a command that was cancelled.
pub(crate) fn exit_code() -> u8 {
    let signal = match RECEIVED.load(Ordering::Relaxed) {
        0 => SIGINT,
        signal => signal,
    };
    128 + signal as u8
}

/// Ends the process without its other threads: one of them is busy or blocked, so nothing is unwound and no destructor of a
/// library runs beside it.
fn end(terminal: Option<Termios>) -> ! {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        remove_partials();
        if let Some(terminal) = terminal {
            // A line editor may have left it raw. Nothing can be done where that fails.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &terminal);
        }
        let _ = writeln!(io::stderr(), "cancelled");
        let _ = done.send(());
    });
    let _ = is_done.recv_timeout(LAST_STEPS);
    signal_hook::low_level::exit(i32::from(exit_code()))
}

/// Whether a signal was ignored when this process began; not where the system does not say.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}
