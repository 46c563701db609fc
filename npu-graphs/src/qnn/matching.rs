//! Whether a context binary is what its manifest says and what this device wants, before the device sees it.

use super::raw::{BinaryInfo, GraphInfo, QnnDtype, TensorInfo};
use crate::{ContextSpec, Dtype, Encoding, GraphSpec, Manifest, NpuError, TensorSpec, manifest::QnnVersions};

/// Compares what the manifest says with the binary, and both with this device's library and chip.
pub(super) fn check_versions(
    manifest: &Manifest,
    info: &BinaryInfo,
    here: &QnnVersions,
) -> Result<QnnVersions, NpuError> {
    let Some(said) = &manifest.qnn else {
        return differ("QNN versions", format!("build {}", info.build_id), "none in the manifest".to_owned());
    };
    let same = |field, wanted: &str, found: &str| {
        if wanted == found { Ok(()) } else { differ(field, wanted.to_owned(), found.to_owned()) }
    };
    // The manifest speaks of this binary.
    same("QNN build", &said.build_id, &info.build_id)?;
    same("QNN core API", &said.core_api, &info.core_api.to_string())?;
    same("QNN HTP API", &said.backend_api, &info.backend_api.to_string())?;
    // The binary is for this chip. Old descriptions do not name the chip; then the manifest's word is taken.
    let soc_id = if info.soc_id == 0 { said.soc_id } else { info.soc_id };
    same("SoC", &here.soc_id.to_string(), &soc_id.to_string())?;
    same("SoC", &said.soc_id.to_string(), &soc_id.to_string())?;
    if let (Some(wanted), Some(found)) = (here.arch, info.arch) {
        same("Hexagon architecture", &format!("v{wanted}"), &format!("v{found}"))?;
    }
    // A library reads binaries of its own version and of older ones.
    for (field, library, binary) in
        [("QNN core API", &here.core_api, info.core_api), ("QNN HTP API", &here.backend_api, info.backend_api)]
    {
        let newest: Vec<u32> = library.split('.').filter_map(|n| n.parse().ok()).collect();
        if newest < vec![binary.major, binary.minor] {
            return differ(field, format!("at most {library}, this library's"), binary.to_string());
        }
    }
    Ok(said.clone())
}

/// Compares the binary's graphs with the spec's: names, and every bound tensor's name, dimensions, type and encoding.
pub(super) fn check_graphs(spec: &ContextSpec, info: &BinaryInfo) -> Result<(), NpuError> {
    let missing = spec.graphs.iter().find(|g| !info.graphs.iter().any(|i| i.name == g.name));
    if let Some(graph) = missing {
        return differs(&graph.name, "the graph itself", "one".to_owned(), "none of that name".to_owned());
    }
    if let Some(graph) = info.graphs.iter().find(|i| !spec.graphs.iter().any(|g| g.name == i.name)) {
        return differs(&graph.name, "the graph itself", "none of that name".to_owned(), "one".to_owned());
    }
    for graph in &spec.graphs {
        if let Some(found) = info.graphs.iter().find(|g| g.name == graph.name) {
            check_graph(graph, found)?;
        }
    }
    Ok(())
}

fn check_graph(spec: &GraphSpec, info: &GraphInfo) -> Result<(), NpuError> {
    for (side, wanted, found) in [("input", &spec.inputs, &info.inputs), ("output", &spec.outputs, &info.outputs)] {
        if wanted.len() != found.len() {
            let what = format!("number of {side}s");
            return differs(&spec.name, &what, wanted.len().to_string(), found.len().to_string());
        }
        for tensor in wanted {
            let what = format!("{side} `{}`", tensor.name);
            let Some(same) = found.iter().find(|t| t.name == tensor.name) else {
                return differs(&spec.name, &what, "one".to_owned(), "none of that name".to_owned());
            };
            if !is_same(tensor, same) {
                return differs(&spec.name, &what, spec_text(tensor), info_text(same));
            }
        }
    }
    Ok(())
}

fn is_same(spec: &TensorSpec, info: &TensorInfo) -> bool {
    spec.dims == info.dims && info.dtype() == Some(qnn_dtype(spec.dtype)) && info.scale_offset == scale_offset(spec)
}

fn scale_offset(spec: &TensorSpec) -> Option<(f32, i32)> {
    match spec.encoding {
        Encoding::None => None,
        Encoding::Tensor { scale, zero_point } => Some((scale, -zero_point)),
    }
}

fn spec_text(spec: &TensorSpec) -> String {
    text(Some(qnn_dtype(spec.dtype)), &spec.dims, scale_offset(spec))
}

fn info_text(info: &TensorInfo) -> String {
    text(info.dtype(), &info.dims, info.scale_offset)
}

fn text(dtype: Option<QnnDtype>, dims: &[u32], scale_offset: Option<(f32, i32)>) -> String {
    let dtype = dtype.map_or_else(|| "a type that graphs do not have".to_owned(), |d| format!("{d:?}").to_lowercase());
    let codes =
        scale_offset.map_or_else(String::new, |(scale, offset)| format!(", scale {scale}, zero point {}", -offset));
    format!("{dtype} {dims:?}{codes}")
}

fn differs(graph: &str, what: &str, wanted: String, found: String) -> Result<(), NpuError> {
    Err(NpuError::Graph { graph: graph.to_owned(), what: what.to_owned(), wanted, found })
}

fn qnn_dtype(dtype: Dtype) -> QnnDtype {
    match dtype {
        Dtype::U8 => QnnDtype::U8,
        Dtype::U16 => QnnDtype::U16,
        Dtype::I8 => QnnDtype::I8,
        Dtype::I32 => QnnDtype::I32,
        Dtype::F16 => QnnDtype::F16,
        Dtype::F32 => QnnDtype::F32,
    }
}

fn differ<T>(field: &'static str, wanted: String, found: String) -> Result<T, NpuError> {
    Err(NpuError::Manifest { field, wanted, found })
}
