//! The GGUF container, versions 2 and 3: metadata and tensor list, zero-copy over the file's bytes.
//!
//! Nothing in a file is believed: counts are compared with the bytes that are left before anything is allocated, offsets
//! with the length of the file. [`parse`] takes time and memory in proportion to the header, whatever the bytes are.

use super::super::encoding::Encoding;
use super::super::settings::shorten;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// First bytes of every GGUF file.
pub const MAGIC: &[u8] = b"GGUF";
/// Dimensions of a tensor.
const MAX_DIMS: u32 = 4;
/// Arrays may hold arrays, this deep.
const MAX_DEPTH: u8 = 4;
const DEFAULT_ALIGNMENT: u32 = 32;
const MAX_ALIGNMENT: u32 = 1 << 20;
/// Longest name of a key or tensor, in bytes (the format says 65535 and 64).
const MAX_NAME_BYTES: u64 = 65_535;

/// A rule of the format that the bytes break, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GgufError(String);

fn fail<T>(reason: impl Into<String>) -> Result<T, GgufError> {
    Err(GgufError(reason.into()))
}

/// A metadata value; strings and arrays lie in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string; not necessarily UTF-8.
    Str(&'a [u8]),
    /// An array.
    Array(Array<'a>),
}

/// An array of metadata; its elements are decoded when asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    kind: Kind,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (kind, mut cursor) = (self.kind, Cursor { bytes: self.bytes, at: 0 });
        // parse() has walked these bytes already: every element is there.
        (0..self.len).map_while(move |_| cursor.value(kind, 0).ok())
    }
}

/// Type of a metadata value, as the file numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn from_id(id: u32) -> Option<Self> {
        use Kind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// Size of an element, the least one for strings (their length) and arrays (type and length).
    fn min_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::Str | Self::U64 | Self::I64 | Self::F64 => 8,
            Self::Array => 12,
        }
    }
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Outermost first (files write the innermost first).
    pub shape: Vec<usize>,
    /// Element type; `Err` holds the name of a type that cannot be read.
    pub encoding: Result<Encoding, String>,
    /// Bytes inside the file. Empty for a type that cannot be read.
    pub bytes: Range<usize>,
}

/// The header of a file.
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    /// Version of the format.
    pub version: u32,
    /// Metadata by key.
    pub metadata: BTreeMap<&'a str, Value<'a>>,
    /// Tensors in the order of the file.
    pub tensors: Vec<Tensor<'a>>,
}

/// Reads the header of the GGUF file that `bytes` is, whole; the tensors are checked to lie inside it.
///
/// # Errors
/// When the bytes break a rule of the format. Never panics, whatever they are.
pub fn parse(bytes: &[u8]) -> Result<Gguf<'_>, GgufError> {
    let mut c = Cursor { bytes, at: 0 };
    if c.take(4).ok() != Some(MAGIC) {
        return fail("does not begin with GGUF's magic");
    }
    let version = c.u32()?;
    match version {
        2 | 3 => {}
        1 => return fail("version 1 is too old: convert the original weights again"),
        v if v.swap_bytes() <= 3 => return fail("big-endian: convert the original weights again, little-endian"),
        v => return fail(format!("version {v} is unknown (2 and 3 are known): a newer coexec may read it")),
    }
    let (tensor_count, key_count) = (c.u64()?, c.u64()?);
    let mut metadata = BTreeMap::new();
    c.check_count(key_count, 8 + 4 + 1, "metadata keys")?;
    for _ in 0..key_count {
        let key = c.name("a metadata key")?;
        let kind = c.kind(key)?;
        let value = c.value(kind, 0).map_err(|e| GgufError(format!("metadata `{}`: {e}", shorten(key))))?;
        if metadata.insert(key, value).is_some() {
            return fail(format!("metadata `{}` occurs twice", shorten(key)));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Unsigned(v)) => match u32::try_from(*v) {
            Ok(a) if a.is_power_of_two() && a <= MAX_ALIGNMENT => a,
            _ => return fail(format!("`general.alignment` {v} is no power of two up to {MAX_ALIGNMENT}")),
        },
        Some(_) => return fail("`general.alignment` is no unsigned integer"),
    };

    c.check_count(tensor_count, 8 + 4 + 8 + 4 + 8, "tensors")?;
    let mut infos = Vec::new();
    let mut names = BTreeSet::new();
    for _ in 0..tensor_count {
        let info = c.tensor_info()?;
        if !names.insert(info.name) {
            return fail(format!("tensor `{}` occurs twice", shorten(info.name)));
        }
        infos.push(info);
    }
    let data_start = c.at.checked_next_multiple_of(alignment as usize).unwrap_or(usize::MAX);
    let tensors = infos
        .into_iter()
        .map(|info| info.place(data_start, u64::from(alignment), bytes.len()))
        .collect::<Result<_, _>>()?;
    Ok(Gguf { version, metadata, tensors })
}

struct TensorInfo<'a> {
    name: &'a str,
    shape: Vec<usize>,
    type_id: u32,
    offset: u64,
}

impl<'a> TensorInfo<'a> {
    fn place(self, data_start: usize, alignment: u64, file_bytes: usize) -> Result<Tensor<'a>, GgufError> {
        let Self { name, shape, type_id, offset } = self;
        let broken = |reason: &str| fail(format!("tensor `{}`: {reason}", shorten(name)));
        let encoding = match encoding(type_id) {
            Ok(encoding) => encoding,
            Err(unreadable) => return Ok(Tensor { name, shape, encoding: Err(unreadable), bytes: 0..0 }),
        };
        if !offset.is_multiple_of(alignment) {
            return broken(&format!("offset {offset} is not aligned to {alignment}"));
        }
        let cols = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().rev().skip(1).try_fold(1usize, |n, d| n.checked_mul(*d));
        let size = encoding.row_bytes(cols).zip(rows).and_then(|(bytes, rows)| bytes.checked_mul(rows));
        let Some(size) = size else {
            return broken(&format!("{shape:?} elements are no whole number of {encoding} blocks"));
        };
        let range = usize::try_from(offset)
            .ok()
            .and_then(|o| data_start.checked_add(o))
            .and_then(|start| Some(start..start.checked_add(size)?))
            .filter(|r| r.end <= file_bytes);
        match range {
            Some(bytes) => Ok(Tensor { name, shape, encoding: Ok(encoding), bytes }),
            None => broken("lies outside the file: the download is incomplete or damaged"),
        }
    }
}

/// The element type by GGML's number; `Err` names one that cannot be read.
fn encoding(type_id: u32) -> Result<Encoding, String> {
    let readable = Encoding::ALL.into_iter().find(|e| e.gguf_type() == type_id);
    readable.ok_or_else(|| {
        match type_id {
            9 => "Q8_1",
            10 => "Q2_K",
            11 => "Q3_K",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            28 => "F64",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            other => return format!("number {other}"),
        }
        .to_owned()
    })
}

/// Types that can be read, for messages.
pub(super) const SUPPORTED: &[Encoding] = &Encoding::ALL;

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], GgufError> {
        if len > self.left() {
            return fail(format!(
                "the header ends at byte {}, in the middle: the download is incomplete",
                self.bytes.len()
            ));
        }
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<&'a [u8], GgufError> {
        let len = self.u64()?;
        match usize::try_from(len) {
            Ok(len) if len <= self.left() => self.take(len),
            _ => fail(format!("a string of {len} bytes goes past the end: the download is incomplete or damaged")),
        }
    }

    fn name(&mut self, what: &str) -> Result<&'a str, GgufError> {
        let name = self.string()?;
        if name.len() as u64 > MAX_NAME_BYTES {
            return fail(format!("{what} is {} bytes long", name.len()));
        }
        std::str::from_utf8(name).map_err(|_| GgufError(format!("{what} is not UTF-8")))
    }

    fn kind(&mut self, key: &str) -> Result<Kind, GgufError> {
        let id = self.u32()?;
        Kind::from_id(id).ok_or_else(|| GgufError(format!("metadata `{}` has the unknown type {id}", shorten(key))))
    }

    /// Refuses a count that the bytes left cannot hold.
    fn check_count(&self, count: u64, min_bytes: usize, what: &str) -> Result<(), GgufError> {
        let most = (self.left() / min_bytes) as u64;
        if count > most { fail(format!("{count} {what} do not fit the file")) } else { Ok(()) }
    }

    fn value(&mut self, kind: Kind, depth: u8) -> Result<Value<'a>, GgufError> {
        Ok(match kind {
            Kind::U8 => Value::Unsigned(self.array::<1>()?[0].into()),
            Kind::I8 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            Kind::U16 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            Kind::I16 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            Kind::U32 => Value::Unsigned(self.u32()?.into()),
            Kind::I32 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            Kind::F32 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            Kind::Bool => match self.array::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return fail(format!("{other} is no boolean")),
            },
            Kind::Str => Value::Str(self.string()?),
            Kind::U64 => Value::Unsigned(self.u64()?),
            Kind::I64 => Value::Signed(i64::from_le_bytes(self.array()?)),
            Kind::F64 => Value::Float(f64::from_le_bytes(self.array()?)),
            Kind::Array => Value::Array(self.nested(depth)?),
        })
    }

    fn nested(&mut self, depth: u8) -> Result<Array<'a>, GgufError> {
        if depth >= MAX_DEPTH {
            return fail(format!("arrays nested deeper than {MAX_DEPTH}"));
        }
        let id = self.u32()?;
        let kind = Kind::from_id(id).ok_or_else(|| GgufError(format!("array elements of unknown type {id}")))?;
        let len = self.u64()?;
        self.check_count(len, kind.min_bytes(), "array elements")?;
        let len = len as usize; // at most the bytes left
        let start = self.at;
        if matches!(kind, Kind::Str | Kind::Array | Kind::Bool) {
            for _ in 0..len {
                self.value(kind, depth + 1)?;
            }
        } else {
            self.take(len * kind.min_bytes())?;
        }
        Ok(Array { kind, len, bytes: &self.bytes[start..self.at] })
    }

    fn tensor_info(&mut self) -> Result<TensorInfo<'a>, GgufError> {
        let name = self.name("a tensor's name")?;
        let broken = |reason: String| fail(format!("tensor `{}`: {reason}", shorten(name)));
        let dims = self.u32()?;
        if dims == 0 || dims > MAX_DIMS {
            return broken(format!("{dims} dimensions"));
        }
        let mut shape = Vec::with_capacity(dims as usize);
        for _ in 0..dims {
            match usize::try_from(self.u64()?) {
                Ok(dim) if dim >= 1 => shape.push(dim),
                _ => return broken("a dimension is 0 or too large".to_owned()),
            }
        }
        shape.reverse();
        Ok(TensorInfo { name, shape, type_id: self.u32()?, offset: self.u64()? })
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
