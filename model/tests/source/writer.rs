//! Writes GGUF files for tests: small, and as wrong as asked.

use coexec_model::source::gguf::{self, Value};
use std::path::Path;

/// A metadata value to be written.
#[derive(Clone, Debug)]
pub(crate) enum Meta {
    U32(u32),
    U16(u16),
    U64(u64),
    I32(i32),
    F32(f32),
    F64(f64),
    Bool(bool),
    Str(String),
    Strs(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor to be written: shape outermost first, GGML's type number, bytes.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
}

/// A file to be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub(crate) meta: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<Tensor>,
}

impl File {
    /// The contents of a real file, for changing.
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let parsed = gguf::parse(&bytes).unwrap();
        let string = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
        let meta = parsed.metadata.iter().map(|(k, v)| {
            let value = match *v {
                Value::Unsigned(v) => Meta::U32(v as u32),
                Value::Signed(v) => Meta::U32(v as u32),
                Value::Float(v) => Meta::F32(v as f32),
                Value::Bool(v) => Meta::Bool(v),
                Value::Str(s) => Meta::Str(string(s)),
                Value::Array(list) => match list.iter().next() {
                    Some(Value::Str(_)) | None => Meta::Strs(
                        list.iter().map(|v| if let Value::Str(s) = v { string(s) } else { unreachable!() }).collect(),
                    ),
                    Some(Value::Float(_)) => Meta::F32s(
                        list.iter().map(|v| if let Value::Float(f) = v { f as f32 } else { unreachable!() }).collect(),
                    ),
                    _ => Meta::I32s(
                        list.iter().map(|v| if let Value::Signed(i) = v { i as i32 } else { unreachable!() }).collect(),
                    ),
                },
            };
            ((*k).to_owned(), value)
        });
        let tensors = parsed.tensors.iter().map(|t| {
            let kind = match t.encoding.as_ref().unwrap().name() {
                "F32" => 0,
                "F16" => 1,
                "Q4_0" => 2,
                "Q8_0" => 8,
                "BF16" => 30,
                other => unreachable!("{other}"),
            };
            Tensor { name: t.name.to_owned(), shape: t.shape.clone(), kind, bytes: bytes[t.bytes.clone()].to_vec() }
        });
        Self { meta: meta.collect(), tensors: tensors.collect() }
    }

    pub(crate) fn set(mut self, key: &str, value: Meta) -> Self {
        self = self.without(key);
        self.meta.push((key.to_owned(), value));
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.meta.retain(|(k, _)| k != key);
        self.tensors.retain(|t| t.name != key);
        self
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            text(&mut out, key);
            match value {
                Meta::U32(v) => put(&mut out, 4, &v.to_le_bytes()),
                Meta::U16(v) => put(&mut out, 2, &v.to_le_bytes()),
                Meta::U64(v) => put(&mut out, 10, &v.to_le_bytes()),
                Meta::I32(v) => put(&mut out, 5, &v.to_le_bytes()),
                Meta::F32(v) => put(&mut out, 6, &v.to_le_bytes()),
                Meta::F64(v) => put(&mut out, 12, &v.to_le_bytes()),
                Meta::Bool(v) => put(&mut out, 7, &[u8::from(*v)]),
                Meta::Str(s) => {
                    put(&mut out, 8, &[]);
                    text(&mut out, s);
                }
                Meta::Strs(list) => {
                    array(&mut out, 8, list.len());
                    list.iter().for_each(|s| text(&mut out, s));
                }
                Meta::I32s(list) => {
                    array(&mut out, 5, list.len());
                    list.iter().for_each(|v| out.extend(v.to_le_bytes()));
                }
                Meta::F32s(list) => {
                    array(&mut out, 6, list.len());
                    list.iter().for_each(|v| out.extend(v.to_le_bytes()));
                }
            }
        }
        let mut offset = 0usize;
        for t in &self.tensors {
            text(&mut out, &t.name);
            out.extend((t.shape.len() as u32).to_le_bytes());
            t.shape.iter().rev().for_each(|d| out.extend((*d as u64).to_le_bytes()));
            out.extend(t.kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset = (offset + t.bytes.len()).next_multiple_of(32);
        }
        for t in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&t.bytes);
        }
        out
    }
}

fn put(out: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(bytes);
}

fn array(out: &mut Vec<u8>, kind: u32, len: usize) {
    put(out, 9, &kind.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn text(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}
