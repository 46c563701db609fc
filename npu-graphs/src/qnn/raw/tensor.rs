//! Tensors as the lowering describes them, checked before QNN sees them (it checks neither static data sizes nor
//! scales nor zero dimensions), and as the structs that QNN reads.

use super::refused;
use crate::NpuError;
use qnn_sys::{
    Qnn_AxisScaleOffset_t, Qnn_BlockwiseExpansion_t, Qnn_BlockwiseExpansionBlockScaleStorageType_t,
    Qnn_BwAxisScaleOffset_t, Qnn_ClientBuffer_t, Qnn_DataType_t, Qnn_Definition_t, Qnn_QuantizationEncoding_t,
    Qnn_QuantizeParams_t, Qnn_ScaleOffset_t, Qnn_Tensor_t, Qnn_TensorMemType_t, Qnn_TensorType_t, Qnn_TensorV1_t,
    Qnn_TensorVersion_t,
};
use std::{ffi::CString, marker::PhantomData, sync::Arc};

/// Most dimensions of a tensor that QNN takes.
const MAX_RANK: usize = 6;
/// Static data up to this size (parameters, biases, gains) is kept for validation.
const SMALL_DATA_BYTES: usize = 1 << 16;

/// Element type. Codes (with a [`Quant`]) become QNN's fixed-point types, the same without one its integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "the types that HTP has; graphs use those that the lowering needs")]
pub(crate) enum QnnDtype {
    U8,
    U16,
    I8,
    I16,
    I32,
    U32,
    F16,
    F32,
    Bool,
}

impl QnnDtype {
    /// Size of one element in bytes.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32)
    }

    /// QNN's type of elements with or without an encoding; `None` where there is none.
    pub(crate) fn qnn(self, quantised: bool) -> Option<Qnn_DataType_t> {
        Some(match (self, quantised) {
            (Self::U8, true) => Qnn_DataType_t::QNN_DATATYPE_UFIXED_POINT_8,
            (Self::U16, true) => Qnn_DataType_t::QNN_DATATYPE_UFIXED_POINT_16,
            (Self::I8, true) => Qnn_DataType_t::QNN_DATATYPE_SFIXED_POINT_8,
            (Self::I16, true) => Qnn_DataType_t::QNN_DATATYPE_SFIXED_POINT_16,
            (Self::I32, true) => Qnn_DataType_t::QNN_DATATYPE_SFIXED_POINT_32,
            (Self::U8, false) => Qnn_DataType_t::QNN_DATATYPE_UINT_8,
            (Self::U16, false) => Qnn_DataType_t::QNN_DATATYPE_UINT_16,
            (Self::I8, false) => Qnn_DataType_t::QNN_DATATYPE_INT_8,
            (Self::I16, false) => Qnn_DataType_t::QNN_DATATYPE_INT_16,
            (Self::I32, false) => Qnn_DataType_t::QNN_DATATYPE_INT_32,
            (Self::U32, false) => Qnn_DataType_t::QNN_DATATYPE_UINT_32,
            (Self::F16, false) => Qnn_DataType_t::QNN_DATATYPE_FLOAT_16,
            (Self::F32, false) => Qnn_DataType_t::QNN_DATATYPE_FLOAT_32,
            (Self::Bool, false) => Qnn_DataType_t::QNN_DATATYPE_BOOL_8,
            (Self::U32 | Self::F16 | Self::F32 | Self::Bool, true) => return None,
        })
    }
}

/// What a tensor is in its graph.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TensorKind<'a> {
    /// The caller writes it (QNN's APP_WRITE).
    Input,
    /// The caller reads it (QNN's APP_READ).
    Output,
    /// Lives only inside the graph (NATIVE).
    Intermediate,
    /// Constant; QNN copies the bytes (STATIC).
    Static(&'a [u8]),
}

/// How codes stand for numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Quant<'a> {
    /// The elements are the numbers.
    None,
    /// `value = scale · (code + offset)`: the offset is minus the zero point.
    Tensor { scale: f32, offset: i32 },
    /// One scale per slice along `axis`, offsets 0.
    Axis { axis: i32, scales: &'a [f32] },
    /// The same with codes of `bits` bits, stored one per byte.
    AxisBits { axis: i32, bits: u32, scales: &'a [f32] },
    /// Block expansion (LPBQ): a float scale per slice along `axis` times a 4-bit scale per `block` inputs, the block
    /// scales channel-major `[N][K / block]`.
    BlockExpansion { axis: i32, block: u32, scales: &'a [f32], block_scales: &'a [u8] },
}

/// A tensor to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorDef<'a> {
    /// Name, unique in its graph.
    pub(crate) name: &'a str,
    pub(crate) kind: TensorKind<'a>,
    pub(crate) dtype: QnnDtype,
    /// 1 to 6 dimensions, none of them 0.
    pub(crate) dims: &'a [u32],
    pub(crate) quant: Quant<'a>,
}

/// A tensor of a graph: what nodes refer to.
#[derive(Clone, Debug)]
pub(crate) struct TensorRef(pub(super) Arc<OwnedTensor>);

impl TensorRef {
    /// Size of the tensor's data in bytes.
    pub(crate) fn len_bytes(&self) -> usize {
        self.0.len_bytes
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name_text
    }

    /// Dimensions and QNN's element type.
    pub(super) fn form(&self) -> (&[u32], Qnn_DataType_t) {
        (&self.0.dims, self.0.data_type)
    }

    pub(super) fn same_form(&self, other: &Self) -> bool {
        self.form() == other.form()
    }
}

/// Everything that QNN's tensor struct points to.
#[derive(Debug)]
pub(super) struct OwnedTensor {
    pub(super) id: u32,
    name: CString,
    name_text: String,
    kind: Qnn_TensorType_t,
    pub(super) dtype: QnnDtype,
    data_type: Qnn_DataType_t,
    dims: Vec<u32>,
    len_bytes: usize,
    pub(super) quant: OwnedQuant,
    /// Data of a static tensor of at most [`SMALL_DATA_BYTES`]; empty for all others. The library reads parameters
    /// through the pointer that it was given at creation when a node is added.
    small_data: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) enum OwnedQuant {
    None,
    Tensor(Qnn_ScaleOffset_t),
    Axis { axis: i32, scale_offsets: Vec<Qnn_ScaleOffset_t> },
    AxisBits { axis: i32, bits: u32, scales: Vec<f32>, offsets: Vec<i32> },
    BlockExpansion(Arc<Expansion>),
}

/// QNN's struct of a block expansion and what it points to. QNN 2.51 keeps the pointer that it gets when a tensor is made
/// and reads through it when nodes are added, so this has to live as long as the graph is built.
pub(super) struct Expansion {
    qnn: Qnn_BlockwiseExpansion_t,
    _scale_offsets: Vec<Qnn_ScaleOffset_t>,
    _block_scales: Vec<u8>,
}

impl std::fmt::Debug for Expansion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expansion").field("block_scales", &self._block_scales.len()).finish_non_exhaustive()
    }
}

// SAFETY: the pointers in `qnn` are into the two vectors beside it, which are never changed.
unsafe impl Send for Expansion {}
// SAFETY: as above.
unsafe impl Sync for Expansion {}

impl OwnedTensor {
    /// Checks a definition and copies it, all but static data.
    pub(super) fn new(graph: &str, def: &TensorDef<'_>) -> Result<Self, NpuError> {
        let bad = |reason: String| refused(graph, "tensor", def.name, &reason);
        if def.name.is_empty() {
            return Err(bad("it has no name".to_owned()));
        }
        let name = CString::new(def.name).map_err(|_| bad("its name has a zero byte".to_owned()))?;
        if def.dims.is_empty() || def.dims.len() > MAX_RANK || def.dims.contains(&0) {
            return Err(bad(format!("dimensions {:?}: 1 to {MAX_RANK} of them, none 0", def.dims)));
        }
        let elems = def.dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d as usize));
        let len_bytes = elems.and_then(|n| n.checked_mul(def.dtype.bytes())).filter(|n| u32::try_from(*n).is_ok());
        let (Some(elems), Some(len_bytes)) = (elems, len_bytes) else {
            return Err(bad(format!("dimensions {:?} take more than 4 GiB", def.dims)));
        };
        let kind = match def.kind {
            TensorKind::Input => Qnn_TensorType_t::QNN_TENSOR_TYPE_APP_WRITE,
            TensorKind::Output => Qnn_TensorType_t::QNN_TENSOR_TYPE_APP_READ,
            TensorKind::Intermediate => Qnn_TensorType_t::QNN_TENSOR_TYPE_NATIVE,
            TensorKind::Static(data) => {
                if data.len() != len_bytes {
                    return Err(bad(format!("{} bytes of data, its dimensions take {len_bytes}", data.len())));
                }
                Qnn_TensorType_t::QNN_TENSOR_TYPE_STATIC
            }
        };
        let quant = OwnedQuant::new(def, elems).map_err(bad)?;
        let data_type = def.dtype.qnn(!matches!(quant, OwnedQuant::None));
        let data_type = data_type.ok_or_else(|| bad(format!("{:?} elements take no encoding", def.dtype)))?;
        Ok(Self {
            id: 0,
            name,
            name_text: def.name.to_owned(),
            kind,
            dtype: def.dtype,
            data_type,
            dims: def.dims.to_vec(),
            len_bytes,
            quant,
            small_data: match def.kind {
                TensorKind::Static(data) if data.len() <= SMALL_DATA_BYTES => data.to_vec(),
                _ => Vec::new(),
            },
        })
    }

    /// Whether this holds a copy of its static data.
    pub(super) fn keeps_data(&self) -> bool {
        !self.small_data.is_empty()
    }

    /// QNN's struct as a node refers to it: small static data goes with it, because validation reads parameters.
    pub(super) fn view_in_node(&self) -> TensorView<'_> {
        let data = &self.small_data;
        if data.is_empty() {
            self.view(std::ptr::null_mut(), 0)
        } else {
            self.view(data.as_ptr().cast_mut().cast(), data.len())
        }
    }

    pub(super) fn is_static(&self) -> bool {
        self.kind == Qnn_TensorType_t::QNN_TENSOR_TYPE_STATIC
    }

    /// QNN's struct over this tensor and `data` (null where a call takes none).
    pub(super) fn view(&self, data: *mut std::ffi::c_void, data_bytes: usize) -> TensorView<'_> {
        let buffer = Qnn_ClientBuffer_t { data, dataSize: u32::try_from(data_bytes).unwrap_or(u32::MAX) };
        self.view_of(|tensor| {
            tensor.memType = Qnn_TensorMemType_t::QNN_TENSORMEMTYPE_RAW;
            tensor.__bindgen_anon_1.clientBuf = buffer;
        })
    }

    /// The same with memory that is registered with the device.
    pub(super) fn view_registered(&self, memory: qnn_sys::Qnn_MemHandle_t) -> TensorView<'_> {
        self.view_of(|tensor| {
            tensor.memType = Qnn_TensorMemType_t::QNN_TENSORMEMTYPE_MEMHANDLE;
            tensor.__bindgen_anon_1.memHandle = memory;
        })
    }

    fn view_of(&self, set_memory: impl FnOnce(&mut Qnn_TensorV1_t)) -> TensorView<'_> {
        let quantize_params = self.quant.qnn();
        let mut v1 = Qnn_TensorV1_t {
            id: self.id,
            name: self.name.as_ptr(),
            type_: self.kind,
            dataFormat: qnn_sys::QNN_TENSOR_DATA_FORMAT_DENSE,
            dataType: self.data_type,
            quantizeParams: quantize_params,
            rank: self.dims.len() as u32,
            dimensions: self.dims.as_ptr().cast_mut(),
            ..Default::default()
        };
        set_memory(&mut v1);
        let mut tensor = Qnn_Tensor_t { version: Qnn_TensorVersion_t::QNN_TENSOR_VERSION_1, ..Default::default() };
        tensor.__bindgen_anon_1.v1 = v1;
        TensorView { tensor, _owner: PhantomData }
    }
}

/// QNN's struct together with what keeps its pointers valid. QNN reads through the pointers and never writes there.
pub(super) struct TensorView<'a> {
    pub(super) tensor: Qnn_Tensor_t,
    _owner: PhantomData<&'a OwnedTensor>,
}

impl OwnedQuant {
    fn new(def: &TensorDef<'_>, elems: usize) -> Result<Self, String> {
        let good = |scale: f32| {
            let fits = scale.is_finite() && scale > 0.0;
            fits.then_some(scale).ok_or_else(|| format!("scale {scale} is not a positive number"))
        };
        let along = |axis: i32, scales: &[f32]| {
            let dim = usize::try_from(axis).ok().and_then(|a| def.dims.get(a)).copied();
            if dim.is_none_or(|d| d as usize != scales.len()) {
                return Err(format!("{} scales along axis {axis} of dimensions {:?}", scales.len(), def.dims));
            }
            scales.iter().try_for_each(|s| good(*s).map(|_| ()))
        };
        let scale_offsets =
            |scales: &[f32]| scales.iter().map(|s| Qnn_ScaleOffset_t { scale: *s, offset: 0 }).collect();
        Ok(match def.quant {
            Quant::None => Self::None,
            Quant::Tensor { scale, offset } => Self::Tensor(Qnn_ScaleOffset_t { scale: good(scale)?, offset }),
            Quant::Axis { axis, scales } => {
                along(axis, scales)?;
                Self::Axis { axis, scale_offsets: scale_offsets(scales) }
            }
            Quant::AxisBits { axis, bits, scales } => {
                along(axis, scales)?;
                if bits == 0 || bits > 8 || def.dtype.bytes() != 1 {
                    return Err(format!("codes of {bits} bits in {:?}: 1 to 8 bits, one code per byte", def.dtype));
                }
                Self::AxisBits { axis, bits, scales: scales.to_vec(), offsets: vec![0; scales.len()] }
            }
            Quant::BlockExpansion { axis, block, scales, block_scales } => {
                along(axis, scales)?;
                let (n, block) = (scales.len(), block as usize);
                let k = elems / n;
                if block == 0 || !k.is_multiple_of(block) {
                    return Err(format!("blocks of {block} do not divide {k} inputs per channel"));
                }
                if block_scales.len() != n * (k / block) {
                    return Err(format!(
                        "{} block scales for {n} channels of {} blocks",
                        block_scales.len(),
                        k / block
                    ));
                }
                let (scale_offsets, block_scales) = (scale_offsets(scales), block_scales.to_vec());
                let mut qnn = Qnn_BlockwiseExpansion_t {
                    axis,
                    scaleOffsets: scale_offsets.as_ptr().cast_mut(),
                    numBlocksPerAxis: (k / block) as u32,
                    blockScaleBitwidth: 4,
                    blockScaleStorageType:
                        Qnn_BlockwiseExpansionBlockScaleStorageType_t::QNN_BLOCKWISE_EXPANSION_BITWIDTH_SCALE_STORAGE_8,
                    ..Default::default()
                };
                qnn.__bindgen_anon_1.blocksScale8 = block_scales.as_ptr().cast_mut();
                Self::BlockExpansion(Arc::new(Expansion {
                    qnn,
                    _scale_offsets: scale_offsets,
                    _block_scales: block_scales,
                }))
            }
        })
    }

    pub(super) fn is_per_axis(&self) -> bool {
        matches!(self, Self::Axis { .. } | Self::AxisBits { .. })
    }

    /// QNN's struct; its pointers are into `self`.
    fn qnn(&self) -> Qnn_QuantizeParams_t {
        let mut out =
            Qnn_QuantizeParams_t { encodingDefinition: Qnn_Definition_t::QNN_DEFINITION_DEFINED, ..Default::default() };
        let mut set = |encoding| out.quantizationEncoding = encoding;
        match self {
            Self::None => {
                set(Qnn_QuantizationEncoding_t::QNN_QUANTIZATION_ENCODING_UNDEFINED);
                out.encodingDefinition = Qnn_Definition_t::QNN_DEFINITION_UNDEFINED;
            }
            Self::Tensor(scale_offset) => {
                set(Qnn_QuantizationEncoding_t::QNN_QUANTIZATION_ENCODING_SCALE_OFFSET);
                out.__bindgen_anon_1.scaleOffsetEncoding = *scale_offset;
            }
            Self::Axis { axis, scale_offsets } => {
                set(Qnn_QuantizationEncoding_t::QNN_QUANTIZATION_ENCODING_AXIS_SCALE_OFFSET);
                out.__bindgen_anon_1.axisScaleOffsetEncoding = Qnn_AxisScaleOffset_t {
                    axis: *axis,
                    numScaleOffsets: scale_offsets.len() as u32,
                    scaleOffset: scale_offsets.as_ptr().cast_mut(),
                };
            }
            Self::AxisBits { axis, bits, scales, offsets } => {
                set(Qnn_QuantizationEncoding_t::QNN_QUANTIZATION_ENCODING_BW_AXIS_SCALE_OFFSET);
                out.__bindgen_anon_1.bwAxisScaleOffsetEncoding = Qnn_BwAxisScaleOffset_t {
                    bitwidth: *bits,
                    axis: *axis,
                    numElements: scales.len() as u32,
                    scales: scales.as_ptr().cast_mut(),
                    offsets: offsets.as_ptr().cast_mut(),
                };
            }
            Self::BlockExpansion(expansion) => {
                set(Qnn_QuantizationEncoding_t::QNN_QUANTIZATION_ENCODING_BLOCKWISE_EXPANSION);
                out.__bindgen_anon_1.blockwiseExpansion = (&raw const expansion.qnn).cast_mut();
            }
        }
        out
    }
}
