//! What a context binary says of itself, read by Qualcomm's system library without a device.

use super::{
    log,
    tensor::{QnnDtype, Quant, TensorDef, TensorKind},
};
use crate::{NpuError, error::describe_code};
use qnn_sys::{
    Qnn_DataType_t, Qnn_Definition_t, Qnn_QuantizationEncoding_t, Qnn_QuantizeParams_t, Qnn_Tensor_t,
    Qnn_TensorVersion_t, Qnn_Version_t, QnnSystemContext_BinaryInfo_t, QnnSystemContext_BinaryInfoVersion_t,
    QnnSystemContext_GraphInfo_t, QnnSystemContext_GraphInfoVersion_t, SystemLibrary, Version, entry,
};
use std::{
    ffi::{CStr, c_char, c_void},
    ptr::{null, null_mut},
};

/// More graphs or tensors than any binary has: a larger number is a sign of memory read wrongly.
const MOST: u32 = 1 << 16;

/// A binary's description.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BinaryInfo {
    pub(crate) build_id: String,
    pub(crate) core_api: Version,
    pub(crate) backend_api: Version,
    /// 0 where the binary does not say.
    pub(crate) soc_id: u32,
    /// Hexagon architecture (75 for v75), where the binary says.
    pub(crate) arch: Option<u32>,
    pub(crate) graphs: Vec<GraphInfo>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GraphInfo {
    pub(crate) name: String,
    pub(crate) inputs: Vec<TensorInfo>,
    pub(crate) outputs: Vec<TensorInfo>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorInfo {
    pub(crate) name: String,
    pub(super) id: u32,
    data_type: u32,
    pub(crate) dims: Vec<u32>,
    /// Scale and offset, where the tensor has them.
    pub(crate) scale_offset: Option<(f32, i32)>,
}

impl TensorInfo {
    /// Element type; `None` for one that no graph of ours binds.
    pub(crate) fn dtype(&self) -> Option<QnnDtype> {
        use QnnDtype as D;
        let all = [D::U8, D::U16, D::I8, D::I16, D::I32, D::U32, D::F16, D::F32, D::Bool];
        let wanted = Some(Qnn_DataType_t(self.data_type));
        all.into_iter().find(|d| d.qnn(self.scale_offset.is_some()) == wanted)
    }

    pub(super) fn def<'a>(&'a self, kind: TensorKind<'a>) -> Option<TensorDef<'a>> {
        let quant = match self.scale_offset {
            Some((scale, offset)) => Quant::Tensor { scale, offset },
            None => Quant::None,
        };
        Some(TensorDef { name: &self.name, kind, dtype: self.dtype()?, dims: &self.dims, quant })
    }
}

impl BinaryInfo {
    /// Reads the description. `device` names the device in errors.
    pub(crate) fn read(system: &SystemLibrary, device: &str, bytes: &[u8]) -> Result<Self, NpuError> {
        let (create, free) = (entry!(system, systemContextCreate)?, entry!(system, systemContextFree)?);
        let read = entry!(system, systemContextGetMetaData)?;
        let mark = log::mark();
        let fail = |answer: u64, operation| {
            let code = (answer & 0xffff) as u32;
            let mut meaning = describe_code(code);
            if let Some(lines) = log::errors_since(mark) {
                meaning = format!("{meaning}; the library says: {lines}");
            }
            let what = "context binary".to_owned();
            NpuError::Code { device: device.to_owned(), operation, what, code, meaning }
        };
        let mut handle = null_mut();
        // SAFETY: the argument is a local.
        let answer = unsafe { create(&raw mut handle) };
        if answer != 0 {
            return Err(fail(answer, "open system library"));
        }
        let mut info: *const QnnSystemContext_BinaryInfo_t = null();
        // SAFETY: the handle just made; the bytes are readable for the length given and only read.
        let answer = unsafe { read(handle, bytes.as_ptr().cast(), bytes.len() as u64, &raw mut info) };
        let out = if answer != 0 {
            Err(fail(answer, "read binary"))
        } else if info.is_null() {
            Err(NpuError::Blob { reason: "the system library describes nothing".to_owned() })
        } else {
            // SAFETY: on success the struct and all that it points to live until the handle is freed.
            unsafe { read_info(&*info) }
        };
        // SAFETY: the handle just made, freed once; nothing of it is used any more.
        let answer = unsafe { free(handle) };
        if answer != 0 {
            tracing::warn!(target: "qnn", "freeing the system context answered code {}", answer & 0xffff);
        }
        out
    }
}

/// # Safety
/// `info` must be as the system library gave it: versions say which union member is there, pointers and counts fit.
unsafe fn read_info(info: &QnnSystemContext_BinaryInfo_t) -> Result<BinaryInfo, NpuError> {
    type Tag = QnnSystemContext_BinaryInfoVersion_t;
    let union = &info.__bindgen_anon_1;
    // SAFETY: the version names the member; the caller vouches for the rest.
    unsafe {
        let (build, core, backend, graphs, count, soc_id, metadata) = match info.version {
            Tag::QNN_SYSTEM_CONTEXT_BINARY_INFO_VERSION_1 => {
                let i = &union.contextBinaryInfoV1;
                (i.buildId, i.coreApiVersion, i.backendApiVersion, i.graphs, i.numGraphs, 0, (null_mut(), 0))
            }
            Tag::QNN_SYSTEM_CONTEXT_BINARY_INFO_VERSION_2 => {
                let i = &union.contextBinaryInfoV2;
                (i.buildId, i.coreApiVersion, i.backendApiVersion, i.graphs, i.numGraphs, 0, (null_mut(), 0))
            }
            Tag::QNN_SYSTEM_CONTEXT_BINARY_INFO_VERSION_3 => {
                let i = &union.contextBinaryInfoV3;
                let metadata = (i.contextMetadata, i.contextMetadataSize);
                (i.buildId, i.coreApiVersion, i.backendApiVersion, i.graphs, i.numGraphs, i.socModel, metadata)
            }
            other => return Err(blob(format!("its description has form {}, coexec reads 1 to 3", other.0))),
        };
        Ok(BinaryInfo {
            build_id: text(build),
            core_api: version(core),
            backend_api: version(backend),
            soc_id,
            arch: arch(metadata),
            graphs: list(graphs, count)?.iter().map(|g| read_graph(g)).collect::<Result<_, _>>()?,
        })
    }
}

/// # Safety
/// As [`read_info`].
unsafe fn read_graph(graph: &QnnSystemContext_GraphInfo_t) -> Result<GraphInfo, NpuError> {
    type Tag = QnnSystemContext_GraphInfoVersion_t;
    let union = &graph.__bindgen_anon_1;
    // SAFETY: the version names the member; the caller vouches for the rest.
    unsafe {
        let (name, inputs, num_inputs, outputs, num_outputs) = match graph.version {
            Tag::QNN_SYSTEM_CONTEXT_GRAPH_INFO_VERSION_1 => {
                let g = &union.graphInfoV1;
                (g.graphName, g.graphInputs, g.numGraphInputs, g.graphOutputs, g.numGraphOutputs)
            }
            Tag::QNN_SYSTEM_CONTEXT_GRAPH_INFO_VERSION_2 => {
                let g = &union.graphInfoV2;
                (g.graphName, g.graphInputs, g.numGraphInputs, g.graphOutputs, g.numGraphOutputs)
            }
            Tag::QNN_SYSTEM_CONTEXT_GRAPH_INFO_VERSION_3 => {
                let g = &union.graphInfoV3;
                (g.graphName, g.graphInputs, g.numGraphInputs, g.graphOutputs, g.numGraphOutputs)
            }
            other => return Err(blob(format!("a graph's description has form {}, coexec reads 1 to 3", other.0))),
        };
        let tensors = |all: *mut Qnn_Tensor_t, count| -> Result<Vec<TensorInfo>, NpuError> {
            list(all, count)?.iter().map(|t| read_tensor(t)).collect()
        };
        Ok(GraphInfo {
            name: text(name),
            inputs: tensors(inputs, num_inputs)?,
            outputs: tensors(outputs, num_outputs)?,
        })
    }
}

/// # Safety
/// As [`read_info`].
unsafe fn read_tensor(tensor: &Qnn_Tensor_t) -> Result<TensorInfo, NpuError> {
    let union = &tensor.__bindgen_anon_1;
    // SAFETY: the version names the member; the caller vouches for the rest.
    unsafe {
        let (id, name, data_type, quant, rank, dims) = match tensor.version {
            Qnn_TensorVersion_t::QNN_TENSOR_VERSION_1 => {
                let t = &union.v1;
                (t.id, t.name, t.dataType, t.quantizeParams, t.rank, t.dimensions)
            }
            Qnn_TensorVersion_t::QNN_TENSOR_VERSION_2 => {
                let t = &union.v2;
                (t.id, t.name, t.dataType, t.quantizeParams, t.rank, t.dimensions)
            }
            other => return Err(blob(format!("a tensor's description has form {}, coexec reads 1 and 2", other.0))),
        };
        let name = text(name);
        let dims = list(dims, rank)?.to_vec();
        let scale_offset = scale_offset(&name, &quant)?;
        Ok(TensorInfo { name, id, data_type: data_type.0, dims, scale_offset })
    }
}

/// # Safety
/// The encoding must say which union member is there.
unsafe fn scale_offset(name: &str, quant: &Qnn_QuantizeParams_t) -> Result<Option<(f32, i32)>, NpuError> {
    if quant.encodingDefinition != Qnn_Definition_t::QNN_DEFINITION_DEFINED {
        return Ok(None);
    }
    match quant.quantizationEncoding {
        Qnn_QuantizationEncoding_t::QNN_QUANTIZATION_ENCODING_UNDEFINED => Ok(None),
        Qnn_QuantizationEncoding_t::QNN_QUANTIZATION_ENCODING_SCALE_OFFSET => {
            // SAFETY: the encoding names the member.
            let so = unsafe { quant.__bindgen_anon_1.scaleOffsetEncoding };
            Ok(Some((so.scale, so.offset)))
        }
        other => Err(blob(format!("tensor `{name}` has encoding {}, graphs of coexec bind scale and offset", other.0))),
    }
}

/// u32 {version, architecture} at the start of the context's metadata, as QNN 2.51 writes it.
///
/// # Safety
/// The pointer must be null or have as many bytes as said.
unsafe fn arch((data, len): (*mut c_void, u32)) -> Option<u32> {
    if data.is_null() || len < 8 {
        return None;
    }
    let words = data.cast::<u32>();
    // SAFETY: 8 bytes are there; reads need no alignment.
    unsafe { (words.read_unaligned() == 1).then(|| words.add(1).read_unaligned()) }
}

/// # Safety
/// Unless null, `all` must point to `count` values that live as long as the caller uses the slice.
unsafe fn list<'a, T>(all: *const T, count: u32) -> Result<&'a [T], NpuError> {
    if count == 0 {
        return Ok(&[]);
    }
    if all.is_null() || count > MOST {
        return Err(blob(format!("its description lists {count} things that are not there")));
    }
    // SAFETY: the caller vouches for it.
    Ok(unsafe { std::slice::from_raw_parts(all, count as usize) })
}

/// # Safety
/// `text` must be null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn version(v: Qnn_Version_t) -> Version {
    v.into()
}

fn blob(reason: String) -> NpuError {
    NpuError::Blob { reason }
}
