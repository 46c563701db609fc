//! Which cores a pool uses. Phones have fast and slow cores: a part that a slow core takes late makes all others wait, and slow
//! cores share the memory's bandwidth, so decode is faster on the fast ones alone.

use crate::CpuError;
use std::{fmt, path::Path, str::FromStr};

/// Cores with less than this share of the fastest core's capacity count as slow.
const FAST_SHARE: f64 = 0.5;
/// Highest core number that is looked at.
const MAX_CORES: usize = 1024;

/// A choice of cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cores {
    /// The fast ones on Android, where the system would use slow ones too; elsewhere the system decides.
    #[default]
    Auto,
    /// All that the process may use; the system decides.
    All,
    /// Those with at least half the capacity of the fastest.
    Big,
    /// These.
    List(Vec<usize>),
}

impl Cores {
    /// The cores that workers are bound to; `None` leaves it to the system.
    ///
    /// # Errors
    /// When a listed core is not one that the process may use.
    pub fn resolve(&self) -> Result<Option<Vec<usize>>, CpuError> {
        match self {
            Self::All => Ok(None),
            Self::Auto if !cfg!(target_os = "android") => Ok(None),
            Self::Auto | Self::Big => Ok(Some(fast(Path::new("/sys/devices/system/cpu"), &allowed()))),
            Self::List(list) => {
                let allowed = allowed();
                match list.iter().find(|core| !allowed.contains(core)) {
                    Some(core) => Err(CpuError::Argument {
                        what: "cores",
                        value: core.to_string(),
                        why: "cores that this process may use",
                    }),
                    None => Ok(Some(list.clone())),
                }
            }
        }
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::All => f.write_str("all"),
            Self::Big => f.write_str("big"),
            Self::List(list) => f.write_str(&list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

impl FromStr for Cores {
    type Err = CpuError;

    /// `auto`, `all`, `big`, or a list such as `0,2,4-7`.
    fn from_str(s: &str) -> Result<Self, CpuError> {
        match s {
            "auto" => return Ok(Self::Auto),
            "all" => return Ok(Self::All),
            "big" => return Ok(Self::Big),
            _ => {}
        }
        let mut list = Vec::new();
        for part in s.split(',') {
            let number = |s: &str| s.trim().parse::<usize>().ok().filter(|core| *core < MAX_CORES);
            let range = match part.split_once('-') {
                Some((first, last)) => number(first).zip(number(last)),
                None => number(part).map(|core| (core, core)),
            };
            let Some((first, last)) = range.filter(|(first, last)| first <= last) else {
                return Err(CpuError::Argument {
                    what: "cores",
                    value: s.to_owned(),
                    why: "auto, all, big, or a list such as 0,2,4-7",
                });
            };
            list.extend(first..=last);
        }
        list.sort_unstable();
        list.dedup();
        Ok(Self::List(list))
    }
}

/// Cores that the process may use.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn allowed() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..MAX_CORES).filter(|core| set.is_set(*core)).collect(),
        Err(error) => {
            tracing::warn!(%error, "the system does not say which cores may be used");
            (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn allowed() -> Vec<usize> {
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// Binds the calling thread to `cores`; a refusal is logged, and the thread runs on.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn bind(cores: &[usize]) {
    let mut set = rustix::thread::CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(%error, ?cores, "a thread cannot be bound to cores");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn bind(_: &[usize]) {}

/// Those of `cores` that are fast by what the system says under `sys`; all of them where it says nothing.
fn fast(sys: &Path, cores: &[usize]) -> Vec<usize> {
    let read = |core: usize, file: &str| -> Option<f64> {
        let text = std::fs::read_to_string(sys.join(format!("cpu{core}/{file}"))).ok()?;
        text.trim().parse().ok()
    };
    for file in ["cpu_capacity", "cpufreq/cpuinfo_max_freq"] {
        let speeds: Option<Vec<f64>> = cores.iter().map(|core| read(*core, file)).collect();
        if let Some(speeds) = speeds {
            let best = speeds.iter().copied().fold(0.0, f64::max);
            return cores.iter().zip(&speeds).filter(|(_, s)| **s >= FAST_SHARE * best).map(|(c, _)| *c).collect();
        }
    }
    cores.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_words() {
        assert_eq!("auto".parse(), Ok(Cores::Auto));
        assert_eq!("big".parse(), Ok(Cores::Big));
        assert_eq!("4-6,0,5".parse(), Ok(Cores::List(vec![0, 4, 5, 6])));
        assert_eq!(Cores::List(vec![0, 4]).to_string(), "0,4");
        for bad in ["", "a", "3-1", "1,,2", "-1", "0-99999999999", "2000"] {
            assert!(bad.parse::<Cores>().is_err(), "{bad}");
        }
        assert!(Cores::List(vec![1023]).resolve().is_err(), "this machine has no core 1023");
        let all = allowed();
        assert!(!all.is_empty());
        assert_eq!(Cores::List(vec![all[0]]).resolve(), Ok(Some(vec![all[0]])));
        assert_eq!(Cores::All.resolve(), Ok(None));
    }

    #[test]
    fn slow_cores_are_left_out() {
        let dir = std::env::temp_dir().join(format!("coexec-cores-{}", std::process::id()));
        // A phone: four slow, three middle, one fast.
        for (core, capacity) in [300, 300, 300, 300, 780, 780, 780, 1024].iter().enumerate() {
            let at = dir.join(format!("cpu{core}"));
            std::fs::create_dir_all(&at).expect("a temporary directory");
            std::fs::write(at.join("cpu_capacity"), format!("{capacity}\n")).expect("a file in it");
        }
        let found = (fast(&dir, &[0, 1, 2, 3, 4, 5, 6, 7]), fast(&dir, &[0, 1]), fast(&dir, &[7, 8]));
        std::fs::remove_dir_all(&dir).expect("our own directory");
        assert_eq!(found.0, [4, 5, 6, 7]);
        assert_eq!(found.1, [0, 1], "the fastest that may be used sets the measure");
        assert_eq!(found.2, [7, 8], "nothing is known of core 8");
    }
}
