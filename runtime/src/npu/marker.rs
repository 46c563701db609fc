//! Markers of NPU runs that may take the process down.
//!
//! A crash inside a chip's driver cannot be caught, and an app that starts again would run into it again. So a file is
//! written before the first graph of a real NPU runs and removed after it has ended, well or with an error. A file whose
//! process is gone tells of a crash: `auto` then leaves that NPU out. One file per process and run, so processes never
//! touch each other's; whether a process is gone is told by its id, its start time and the boot it ran in (`/proc`; where
//! there is none, no markers are written).

use coexec_model::output::write_whole;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// A process, so that its id cannot be mistaken for that of a later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// When it started, in ticks since boot.
    pub start_ticks: u64,
    /// The boot it runs in; `None` where the system does not tell.
    pub boot_id: Option<String>,
}

/// What a marker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The device, as its profile names it.
    pub device: String,
    /// Who ran it.
    pub process: Process,
    /// When, in seconds since 1970.
    pub unix_time_s: u64,
}

/// What is known now of the process of a marker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Start of the process that has this id now; `None` when there is none.
    pub start_ticks: Option<u64>,
    /// The present boot.
    pub boot_id: Option<String>,
}

impl Process {
    /// This process; `None` where the system does not tell.
    #[must_use]
    pub fn this() -> Option<Self> {
        let pid = std::process::id();
        let now = Observed::of(pid);
        Some(Self { pid, start_ticks: now.start_ticks?, boot_id: now.boot_id })
    }

    /// Whether this process has ended, judged from what is known now.
    #[must_use]
    pub fn is_gone(&self, now: &Observed) -> bool {
        let other_boot = matches!((&self.boot_id, &now.boot_id), (Some(a), Some(b)) if a != b);
        other_boot || now.start_ticks != Some(self.start_ticks)
    }
}

impl Observed {
    /// Looks for the process with this id.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|s| s.trim().to_owned());
        Self { start_ticks: stat.as_deref().and_then(start_ticks), boot_id }
    }
}

/// Field 22 of `/proc/PID/stat`. The second field is a name in parentheses that may hold anything, so count from its end.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    // A zombie has ended.
    if matches!(state, "Z" | "X" | "x") { None } else { fields.nth(18)?.parse().ok() }
}

/// A marker that is there until this is dropped.
#[derive(Debug)]
pub struct Armed {
    path: PathBuf,
}

impl Drop for Armed {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %e, "an NPU marker could not be removed");
        }
    }
}

/// Leaves a marker in `dir` and takes those of crashed runs of the same NPU away. `None` where processes cannot be told
/// apart.
///
/// # Errors
/// When the directory cannot be made or written.
pub fn arm(dir: &Path, npu: &str, device: &str) -> io::Result<Option<Armed>> {
    let Some(process) = Process::this() else { return Ok(None) };
    static RUNS: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(dir)?;
    for crashed in crashed(dir, Some(npu)) {
        remove(&crashed.path)?;
    }
    let name = format!("{}{}.{}", prefix(npu), process.pid, RUNS.fetch_add(1, Ordering::Relaxed));
    let unix_time_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let marker = Marker { device: device.to_owned(), process, unix_time_s };
    let path = dir.join(format!("{name}{SUFFIX}"));
    // On the disk before the graph runs, whole or not at all: a chip's crash can take the whole phone down.
    write_whole(&path, &serde_json::to_vec(&marker)?).map_err(io::Error::other)?;
    Ok(Some(Armed { path }))
}

/// A marker whose process is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crashed {
    /// The file.
    pub path: PathBuf,
    /// What it says; `None` when it cannot be read.
    pub marker: Option<Marker>,
}

const SUFFIX: &str = ".json";

fn prefix(npu: &str) -> String {
    format!("npu-{npu}.")
}

/// Markers of crashed runs in `dir`, of one NPU or of all, by name. None where the directory is not there.
#[must_use]
pub fn crashed(dir: &Path, npu: Option<&str>) -> Vec<Crashed> {
    let prefix = npu.map_or_else(|| "npu-".to_owned(), prefix);
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<Crashed> = entries
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix) && n.ends_with(SUFFIX)))
        .filter_map(|e| {
            let path = e.path();
            let bytes = match fs::read(&path) {
                // Its process just removed it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
                bytes => bytes.unwrap_or_default(),
            };
            let marker: Option<Marker> = serde_json::from_slice(&bytes).ok();
            let alive = marker.as_ref().is_some_and(|m| !m.process.is_gone(&Observed::of(m.process.pid)));
            (!alive).then_some(Crashed { path, marker })
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Removes the markers of crashed runs, so that `auto` tries these NPUs again; how many there were.
///
/// # Errors
/// When one cannot be removed.
pub fn clear(dir: &Path) -> io::Result<usize> {
    let found = crashed(dir, None);
    found.iter().try_for_each(|c| remove(&c.path))?;
    Ok(found.len())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // Somebody else was faster.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Why `auto` should leave this NPU out, and what to do about it; `None` when no run of it crashed.
#[must_use]
pub fn crash_report(dir: &Path, npu: &str) -> Option<String> {
    let found = crashed(dir, Some(npu)).into_iter().next()?;
    let who = match &found.marker {
        Some(m) => format!("process {} ended while {} ran its first graph", m.process.pid, m.device),
        None => "a process ended while it ran its first graph".to_owned(),
    };
    Some(format!(
        "{who} (marker {}); to try again clear it with `coexec doctor --clear` or ask for `--npu {npu}`",
        found.path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NPU: &str = "qnn";

    fn write(dir: &Path, name: &str, process: Process) -> PathBuf {
        let marker = Marker { device: "qnn:v75".to_owned(), process, unix_time_s: 1 };
        let path = dir.join(name);
        fs::write(&path, serde_json::to_vec(&marker).expect("JSON")).expect("the temporary directory");
        path
    }

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn stat_lines_are_read_past_strange_names() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        for name in ["coexec", "a b", "x) R 1 2", "((", ""] {
            assert_eq!(start_ticks(&format!("77 ({name}) {fields}")), Some(4242), "{name}");
        }
        assert_eq!(start_ticks(&format!("77 (a) {}", fields.replacen('S', "Z", 1))), None, "a zombie");
        for bad in ["", "77 (a", "77 (a) S 1 2", "77 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x"] {
            assert_eq!(start_ticks(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_process_is_gone_when_its_id_is_free_or_anothers_or_of_another_boot() {
        let boot = |s: &str| Some(s.to_owned());
        let process = Process { pid: 7, start_ticks: 100, boot_id: boot("a") };
        let now = |start_ticks, boot_id| Observed { start_ticks, boot_id };
        assert!(!process.is_gone(&now(Some(100), boot("a"))));
        assert!(!process.is_gone(&now(Some(100), None)), "no boot id to compare");
        assert!(process.is_gone(&now(None, boot("a"))));
        assert!(process.is_gone(&now(Some(101), boot("a"))));
        assert!(process.is_gone(&now(Some(100), boot("b"))));
        let me = Process::this().expect("Linux");
        assert!(!me.is_gone(&Observed::of(me.pid)));
        assert!(me.is_gone(&Observed::of(u32::MAX)));
    }

    #[test]
    fn a_marker_lives_as_long_as_its_run_and_is_no_crash_meanwhile() {
        let dir = dir();
        let path = dir.path().join("not/yet/there");
        let first = arm(&path, NPU, "qnn:v75").expect("writable").expect("Linux");
        let second = arm(&path, NPU, "qnn:v75").expect("writable").expect("Linux");
        assert_eq!(fs::read_dir(&path).expect("made").count(), 2, "one each, no temporary left");
        assert_eq!(crashed(&path, None), [], "its process lives");
        assert_eq!(crash_report(&path, NPU), None);
        assert_eq!(clear(&path).expect("nothing to do"), 0);
        drop(first);
        assert!(second.path.exists(), "the other run's stays");
        drop(second);
        assert_eq!(fs::read_dir(&path).expect("made").count(), 0);
    }

    #[test]
    fn a_crash_is_told_until_cleared_or_run_again() {
        let dir = dir();
        let me = Process::this().expect("Linux");
        let gone = Process { start_ticks: me.start_ticks + 1, ..me.clone() };
        let reboot = Process { boot_id: Some("another boot".to_owned()), ..me.clone() };
        write(dir.path(), "npu-qnn.1.0.json", gone.clone());
        write(dir.path(), "npu-other.1.0.json", reboot);
        let alive = write(dir.path(), "npu-qnn.2.0.json", me);
        fs::write(dir.path().join("npu-qnn.3.0.tmp"), b"half").expect("writable");
        fs::write(dir.path().join("notes.json"), b"{}").expect("writable");
        let report = crash_report(dir.path(), NPU).expect("a crash");
        for part in [&format!("process {}", gone.pid), "qnn:v75", "coexec doctor --clear", "--npu qnn", "npu-qnn.1.0"] {
            assert!(report.contains(part), "{part}: {report}");
        }
        assert!(crash_report(dir.path(), "other").is_some() && crash_report(dir.path(), "oth").is_none());

        let armed = arm(dir.path(), NPU, "qnn:v75").expect("writable").expect("Linux");
        assert_eq!(crash_report(dir.path(), NPU), None, "a new run takes the old marker away");
        assert!(alive.exists() && armed.path.exists(), "but no living one");
        assert!(crash_report(dir.path(), "other").is_some(), "nor another NPU's");
        assert_eq!(clear(dir.path()).expect("writable"), 1);
        assert_eq!(crashed(dir.path(), None), []);
    }

    #[test]
    fn a_damaged_marker_counts_as_a_crash() {
        let dir = dir();
        fs::write(dir.path().join("npu-qnn.9.0.json"), b"").expect("writable");
        assert!(crash_report(dir.path(), NPU).expect("a crash").contains("a process ended"));
        assert_eq!(crash_report(&dir.path().join("nowhere"), NPU), None);
        assert_eq!(clear(dir.path()).expect("writable"), 1);
    }

    #[test]
    fn a_killed_process_leaves_a_crash() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = child.id();
        let now = Observed::of(pid);
        let process = Process { pid, start_ticks: now.start_ticks.expect("runs"), boot_id: now.boot_id };
        let dir = dir();
        write(dir.path(), &format!("npu-qnn.{pid}.0.json"), process);
        assert_eq!(crashed(dir.path(), None), [], "it runs");
        child.kill().expect("ours");
        child.wait().expect("ours");
        assert_eq!(crashed(dir.path(), None).len(), 1);
    }
}
