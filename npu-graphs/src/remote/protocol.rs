//! What travels between the processes: frames of a JSON header and raw bytes, and errors as data.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `cxn1` |
//! | 4 | length of the header, little-endian |
//! | 8 | length of the body, little-endian |
//! | … | header: [`Request`] or [`Reply`] as JSON |
//! | … | body: a context binary, or the buffers of a graph one after another in the order of its spec |

use crate::{
    DeviceProfile, Manifest, NpuError,
    manifest::QnnVersions,
    qnn::{LibraryInfo, Target},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{self, Read, Write},
    time::Duration,
};

/// Both sides must have the same; they are normally one program.
pub(super) const VERSION: u32 = 1;
/// Most bytes of a header: the manifest of a context with all its graphs.
pub(super) const MAX_HEADER: u64 = 64 << 20;
/// Most bytes of a body: a context binary (2 GiB on today's NPUs).
pub(super) const MAX_BODY: u64 = 4 << 30;
const MAGIC: [u8; 4] = *b"cxn1";
/// Memory for a length that is only announced is taken in steps of at least this.
const STEP: usize = 1 << 20;

/// To the device's process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// First, once. `options` go to the function that opens the device.
    Hello { id: u64, version: u32, options: String },
    /// Body: the binary. `context` is the caller's number for it.
    Load { id: u64, context: u64, manifest: Box<Manifest> },
    /// Body: inputs. The reply's body: outputs.
    Execute { id: u64, context: u64, graph: u32 },
    /// The reply's body: the binary.
    Serialize { id: u64, context: u64 },
    /// Has no reply.
    Unload { context: u64 },
}

/// From the device's process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) id: u64,
    pub(super) answer: Answer,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Hello(Box<Hello>),
    Loaded { memory_bytes: u64, versions: Option<QnnVersions> },
    Executed { device_ns: Option<u64> },
    Serialized,
    Error(WireError),
}

/// What the device's process has.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) profile: DeviceProfile,
    pub(super) library: Option<LibraryInfo>,
    pub(super) target: Option<Target>,
}

/// An [`NpuError`] as data: those that a caller tells apart keep their kind, others their text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WireError {
    Code { device: String, operation: String, what: String, code: u32, meaning: String },
    DeviceLost { device: String, reason: String },
    Timeout { graph: String, waited_ns: u64 },
    TooLarge { device: String, context: String, needed_bytes: u64, limit_bytes: u64 },
    Manifest { field: String, wanted: String, found: String },
    Graph { graph: String, what: String, wanted: String, found: String },
    Blob { reason: String },
    Other(String),
}

/// Names of steps and fields are static in [`NpuError`].
const OPERATIONS: [&str; 10] = [
    "execute",
    "load",
    "prepare",
    "serialize",
    "register memory",
    "retrieve graph",
    "create context",
    "size of the binary",
    "open system library",
    "create profile",
];
const FIELDS: [&str; 11] = [
    "manifest version",
    "device",
    "binary length",
    "binary hash",
    "weight sharing",
    "QNN versions",
    "QNN build",
    "QNN core API",
    "QNN HTP API",
    "SoC",
    "Hexagon architecture",
];

fn known(names: &[&'static str], name: &str) -> Option<&'static str> {
    names.iter().find(|n| **n == name).copied()
}

impl From<NpuError> for WireError {
    fn from(error: NpuError) -> Self {
        match error {
            NpuError::Code { device, operation, what, code, meaning } => {
                Self::Code { device, operation: operation.to_owned(), what, code, meaning }
            }
            NpuError::DeviceLost { device, reason } => Self::DeviceLost { device, reason },
            NpuError::Timeout { graph, waited } => {
                Self::Timeout { graph, waited_ns: u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX) }
            }
            NpuError::ContextTooLarge { device, context, needed_bytes, limit_bytes } => {
                Self::TooLarge { device, context, needed_bytes, limit_bytes }
            }
            NpuError::Manifest { field, wanted, found } => Self::Manifest { field: field.to_owned(), wanted, found },
            NpuError::Graph { graph, what, wanted, found } => Self::Graph { graph, what, wanted, found },
            NpuError::Blob { reason } => Self::Blob { reason },
            other => {
                let mut text = other.to_string();
                let mut source = std::error::Error::source(&other);
                while let Some(cause) = source {
                    text = format!("{text}: {cause}");
                    source = cause.source();
                }
                Self::Other(text)
            }
        }
    }
}

impl WireError {
    /// The error on this side; `process` names the other one where only a text came.
    pub(super) fn into_error(self, process: &str) -> NpuError {
        let text = |reason: String| NpuError::Process { process: process.to_owned(), reason };
        match self {
            Self::Code { device, operation, what, code, meaning } => match known(&OPERATIONS, &operation) {
                Some(operation) => NpuError::Code { device, operation, what, code, meaning },
                None => NpuError::Code {
                    device,
                    operation: "a step",
                    what,
                    code,
                    meaning: format!("{operation}: {meaning}"),
                },
            },
            Self::DeviceLost { device, reason } => NpuError::DeviceLost { device, reason },
            Self::Timeout { graph, waited_ns } => NpuError::Timeout { graph, waited: Duration::from_nanos(waited_ns) },
            Self::TooLarge { device, context, needed_bytes, limit_bytes } => {
                NpuError::ContextTooLarge { device, context, needed_bytes, limit_bytes }
            }
            Self::Manifest { field, wanted, found } => match known(&FIELDS, &field) {
                Some(field) => NpuError::Manifest { field, wanted, found },
                None => NpuError::Manifest { field: "a field", wanted, found: format!("{field}: {found}") },
            },
            Self::Graph { graph, what, wanted, found } => NpuError::Graph { graph, what, wanted, found },
            Self::Blob { reason } => NpuError::Blob { reason },
            Self::Other(reason) => text(reason),
        }
    }
}

/// Why a stream of frames cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
    #[error("bytes that are not a frame ({0:02x?}); something else writes to the stream")]
    Magic([u8; 4]),
    #[error("a {part} of {len} bytes where at most {limit} were expected")]
    TooLong { part: &'static str, len: u64, limit: u64 },
    #[error("no memory for a {part} of {len} bytes")]
    Memory { part: &'static str, len: u64 },
    #[error("a header that cannot be read: {0}")]
    Header(#[from] serde_json::Error),
    #[error("{0}")]
    Order(String),
}

/// Writes a frame whose body is `parts` one after another.
pub(super) fn write_frame(out: &mut dyn Write, header: &impl Serialize, parts: &[&[u8]]) -> io::Result<()> {
    let header = serde_json::to_vec(header)?;
    let header_len = u32::try_from(header.len()).map_err(io::Error::other)?;
    let body_len = parts.iter().map(|p| p.len() as u64).sum::<u64>();
    // Small frames in one write.
    let mut out = io::BufWriter::with_capacity(1 << 16, out);
    out.write_all(&MAGIC)?;
    out.write_all(&header_len.to_le_bytes())?;
    out.write_all(&body_len.to_le_bytes())?;
    out.write_all(&header)?;
    parts.iter().try_for_each(|part| out.write_all(part))?;
    out.flush()
}

/// Reads the header of the next frame and the length of the body, which must be read before the next header. `None` when
/// the stream ends between two frames.
pub(super) fn read_header<T: DeserializeOwned>(input: &mut dyn Read) -> Result<Option<(T, u64)>, FrameError> {
    let mut prefix = [0u8; 16];
    loop {
        match input.read(&mut prefix[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    input.read_exact(&mut prefix[1..])?;
    let [m0, m1, m2, m3, h0, h1, h2, h3, body @ ..] = prefix;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(FrameError::Magic([m0, m1, m2, m3]));
    }
    let header = read_part(input, "header", u64::from(u32::from_le_bytes([h0, h1, h2, h3])), MAX_HEADER)?;
    Ok(Some((serde_json::from_slice(&header)?, u64::from_le_bytes(body))))
}

/// Reads a body of `len` bytes if that is at most `limit`.
pub(super) fn read_body(input: &mut dyn Read, len: u64, limit: u64) -> Result<Vec<u8>, FrameError> {
    read_part(input, "body", len, limit.min(MAX_BODY))
}

/// Memory grows with what comes, never beyond `len`.
fn read_part(input: &mut dyn Read, part: &'static str, len: u64, limit: u64) -> Result<Vec<u8>, FrameError> {
    let wanted = usize::try_from(len).ok().filter(|_| len <= limit);
    let wanted = wanted.ok_or(FrameError::TooLong { part, len, limit })?;
    let mut bytes = Vec::new();
    while bytes.len() < wanted {
        let have = bytes.len();
        let step = have.max(STEP).min(wanted - have);
        bytes.try_reserve_exact(step).map_err(|_| FrameError::Memory { part, len })?;
        bytes.resize(have + step, 0);
        input.read_exact(&mut bytes[have..])?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(id: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let reply = Reply { id, answer: Answer::Executed { device_ns: Some(id) } };
        write_frame(&mut bytes, &reply, &[body]).expect("memory");
        bytes
    }

    /// Reads frames until the end or an error; how many, and the most memory of one part.
    fn read_all(mut input: &[u8], limit: u64) -> (usize, usize, Option<FrameError>) {
        let (mut frames, mut most) = (0, 0);
        loop {
            let (_, len) = match read_header::<Reply>(&mut input) {
                Ok(Some(next)) => next,
                Ok(None) => return (frames, most, None),
                Err(e) => return (frames, most, Some(e)),
            };
            match read_body(&mut input, len, limit) {
                Ok(body) => most = most.max(body.capacity()),
                Err(e) => return (frames, most, Some(e)),
            }
            frames += 1;
        }
    }

    #[test]
    fn lengths_are_checked_before_memory_is_taken() {
        let mut long = frame(1, b"abc");
        long[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(read_all(&long, 3).2, Some(FrameError::TooLong { part: "body", len: u64::MAX, limit: 3 })));
        assert!(matches!(read_all(&long, u64::MAX).2, Some(FrameError::TooLong { limit: MAX_BODY, .. })));
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read_all(&long, 3).2, Some(FrameError::TooLong { part: "header", .. })));
        // A length that is allowed but does not come: an error, and memory only for what came.
        let mut short = frame(1, &[7; 100]);
        short[8..16].copy_from_slice(&MAX_BODY.to_le_bytes());
        assert!(matches!(read_all(&short, u64::MAX).2, Some(FrameError::Stream(_))));
        let garbage = b"Hello, World! This is no frame.";
        assert!(matches!(read_all(garbage, 3).2, Some(FrameError::Magic(m)) if &m == b"Hell"));
        let big = frame(2, &vec![1; 3 * STEP + 5]);
        assert!(matches!(read_all(&big, MAX_BODY), (1, most, None) if most == 3 * STEP + 5));
    }

    #[test]
    fn errors_keep_their_kind_or_their_text() {
        let there_and_back = |error: NpuError| {
            let text = error.to_string();
            let json = serde_json::to_string(&WireError::from(error)).expect("JSON");
            let back = serde_json::from_str::<WireError>(&json).expect("reads back").into_error("npu-server");
            (text, back)
        };
        let s = |t: &str| t.to_owned();
        let code = |operation| NpuError::Code { device: s("d"), operation, what: s("w"), code: 1002, meaning: s("m") };
        let typed = [
            code("execute"),
            NpuError::DeviceLost { device: s("d"), reason: s("r") },
            NpuError::Timeout { graph: s("g"), waited: Duration::from_millis(1500) },
            NpuError::ContextTooLarge { device: s("d"), context: s("c"), needed_bytes: 3, limit_bytes: 2 },
            NpuError::Manifest { field: "binary hash", wanted: s("a"), found: s("b") },
            NpuError::Manifest { field: "weight sharing", wanted: s("off"), found: s("on") },
            NpuError::Graph { graph: s("g"), what: s("type of input `x`"), wanted: s("u8"), found: s("u16") },
            NpuError::Blob { reason: s("r") },
        ];
        for error in typed {
            let kind = std::mem::discriminant(&error);
            let (text, back) = there_and_back(error);
            assert_eq!((back.to_string(), std::mem::discriminant(&back)), (text, kind));
        }
        let (_, back) = there_and_back(code("something new"));
        assert!(matches!(&back, NpuError::Code { code: 1002, .. }) && back.to_string().contains("something new"));
        let other = NpuError::Manifest { field: "flavour", wanted: s("sweet"), found: s("sour") };
        let (_, back) = there_and_back(other);
        assert!(matches!(&back, NpuError::Manifest { found, .. } if found == "flavour: sour"), "{back}");
        let (text, back) = there_and_back(NpuError::UnknownGraph { context: s("c"), id: 3 });
        assert!(matches!(&back, NpuError::Process { process, .. } if process == "npu-server"));
        assert!(back.to_string().contains(&text), "{back}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_take_more_than_the_limit(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..4),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            whole in any::<bool>(),
            limit in 0u64..400,
        ) {
            let mut bytes: Vec<u8> = bodies.iter().enumerate().flat_map(|(i, b)| frame(i as u64, b)).collect();
            let honest = changes.is_empty() && whole;
            if !bytes.is_empty() {
                for (at, value) in &changes {
                    let at = at.index(bytes.len());
                    bytes[at] = *value;
                }
                if !whole {
                    bytes.truncate(cut.index(bytes.len() + 1));
                }
            }
            let (frames, most, error) = read_all(&bytes, limit);
            prop_assert!(most as u64 <= limit);
            if honest {
                let fit = bodies.iter().take_while(|b| b.len() as u64 <= limit).count();
                prop_assert_eq!((frames, error.is_some()), (fit, fit < bodies.len()));
            }
        }

        #[test]
        fn any_bytes_at_all(bytes in prop::collection::vec(any::<u8>(), 0..200), framed in any::<bool>()) {
            let mut all = if framed { MAGIC.to_vec() } else { Vec::new() };
            all.extend(bytes);
            let (frames, _, error) = read_all(&all, 50);
            prop_assert!(frames == 0 && (error.is_some() || all.is_empty()));
        }
    }
}
