//! Nodes as the lowering describes them and as the structs that QNN reads.

use super::{
    TensorRef, refused,
    tensor::{OwnedQuant, QnnDtype, TensorView},
};
use crate::NpuError;
use qnn_sys::{
    Qnn_DataType_t, Qnn_OpConfig_t, Qnn_OpConfigV1_t, Qnn_OpConfigVersion_t, Qnn_Param_t, Qnn_ParamType_t,
    Qnn_Scalar_t, Qnn_Tensor_t,
};
use std::{ffi::CString, marker::PhantomData};

/// The package of HTP's own ops.
const PACKAGE: &std::ffi::CStr = c"qti.aisw";

/// A parameter of a node.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "the kinds that HTP's ops take; graphs use those that the lowering needs")]
pub(crate) enum Param<'a> {
    Bool(bool),
    U32(u32),
    I32(i32),
    F32(f32),
    /// A static tensor of the same graph.
    Tensor(&'a TensorRef),
}

/// A node to be added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeDef<'a> {
    pub(crate) name: &'a str,
    /// QNN's op type, e.g. `Conv2d`.
    pub(crate) op_type: &'a str,
    pub(crate) params: &'a [(&'a str, Param<'a>)],
    pub(crate) inputs: &'a [&'a TensorRef],
    pub(crate) outputs: &'a [&'a TensorRef],
}

impl NodeDef<'_> {
    /// Refuses what kills the process inside QNN's own validation.
    pub(super) fn refuse_crashes(&self, graph: &str) -> Result<(), NpuError> {
        let transposed = self.params.iter().any(|(name, p)| *name == "transpose_in1" && matches!(p, Param::Bool(true)));
        if self.op_type != "MatMul" || transposed {
            return Ok(());
        }
        if let [a, b, ..] = self.inputs
            && b.0.is_static()
            && b.0.dtype == QnnDtype::I8
            && b.0.quant.is_per_axis()
            && !a.0.dtype.is_float()
        {
            let reason = "MatMul of codes with static per-axis i8 weights [K, N] crashes QNN 2.51; store the weights \
                [N, K] and transpose, or use Conv2d";
            return Err(refused(graph, "node", self.name, reason));
        }
        if let Some(b) = self.inputs.get(1)
            && matches!(b.0.quant, OwnedQuant::BlockExpansion(_))
            && a_is_float(self.inputs)
        {
            return Err(refused(graph, "node", self.name, "MatMul of floats with block scales crashes QNN 2.51"));
        }
        Ok(())
    }
}

fn a_is_float(inputs: &[&TensorRef]) -> bool {
    inputs.first().is_some_and(|a| a.0.dtype.is_float())
}

/// QNN's struct of a node with everything that it points to.
pub(super) struct NodeView<'a> {
    name: CString,
    op_type: CString,
    params: Vec<Qnn_Param_t>,
    inputs: Vec<Qnn_Tensor_t>,
    outputs: Vec<Qnn_Tensor_t>,
    _param_names: Vec<CString>,
    _views: Vec<TensorView<'a>>,
    _def: PhantomData<&'a ()>,
}

impl<'a> NodeView<'a> {
    pub(super) fn new(graph: &str, def: &NodeDef<'a>) -> Result<Self, NpuError> {
        let text = |s: &str| {
            CString::new(s).map_err(|_| refused(graph, "node", def.name, "a name or op type has a zero byte"))
        };
        let mut views = Vec::new();
        let mut tensor = |t: &'a TensorRef| {
            let view = t.0.view_in_node();
            let tensor = view.tensor;
            views.push(view);
            tensor
        };
        let inputs = def.inputs.iter().map(|t| tensor(t)).collect();
        let outputs = def.outputs.iter().map(|t| tensor(t)).collect();
        let mut param_names = Vec::with_capacity(def.params.len());
        let mut params = Vec::with_capacity(def.params.len());
        for (name, value) in def.params {
            let name = text(name)?;
            let mut param = Qnn_Param_t { name: name.as_ptr(), ..Default::default() };
            param_names.push(name);
            if let Param::Tensor(t) = value {
                param.paramType = Qnn_ParamType_t::QNN_PARAMTYPE_TENSOR;
                param.__bindgen_anon_1.tensorParam = tensor(t);
            } else {
                param.paramType = Qnn_ParamType_t::QNN_PARAMTYPE_SCALAR;
                param.__bindgen_anon_1.scalarParam = scalar(value);
            }
            params.push(param);
        }
        let (name, op_type) = (text(def.name)?, text(def.op_type)?);
        Ok(Self { name, op_type, params, inputs, outputs, _param_names: param_names, _views: views, _def: PhantomData })
    }

    /// QNN's struct, valid while `self` is.
    pub(super) fn qnn(&mut self) -> Qnn_OpConfig_t {
        let v1 = Qnn_OpConfigV1_t {
            name: self.name.as_ptr(),
            packageName: PACKAGE.as_ptr(),
            typeName: self.op_type.as_ptr(),
            numOfParams: self.params.len() as u32,
            params: self.params.as_mut_ptr(),
            numOfInputs: self.inputs.len() as u32,
            inputTensors: self.inputs.as_mut_ptr(),
            numOfOutputs: self.outputs.len() as u32,
            outputTensors: self.outputs.as_mut_ptr(),
        };
        let mut config =
            Qnn_OpConfig_t { version: Qnn_OpConfigVersion_t::QNN_OPCONFIG_VERSION_1, ..Default::default() };
        config.__bindgen_anon_1.v1 = v1;
        config
    }
}

fn scalar(value: &Param<'_>) -> Qnn_Scalar_t {
    let mut out = Qnn_Scalar_t::default();
    match value {
        Param::Bool(v) => {
            out.dataType = Qnn_DataType_t::QNN_DATATYPE_BOOL_8;
            out.__bindgen_anon_1.bool8Value = u8::from(*v);
        }
        Param::U32(v) => {
            out.dataType = Qnn_DataType_t::QNN_DATATYPE_UINT_32;
            out.__bindgen_anon_1.uint32Value = *v;
        }
        Param::I32(v) => {
            out.dataType = Qnn_DataType_t::QNN_DATATYPE_INT_32;
            out.__bindgen_anon_1.int32Value = *v;
        }
        Param::F32(v) => {
            out.dataType = Qnn_DataType_t::QNN_DATATYPE_FLOAT_32;
            out.__bindgen_anon_1.floatValue = *v;
        }
        // Written as a tensor by the caller of this function.
        Param::Tensor(_) => {}
    }
    out
}
