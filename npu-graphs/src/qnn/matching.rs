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
    let names = |all: &mut dyn Iterator<Item = &String>| {
        let mut names: Vec<_> = all.cloned().collect();
        names.sort();
        names.join(" ")
    };
    let wanted = names(&mut spec.graphs.iter().map(|g| &g.name));
    let found = names(&mut info.graphs.iter().map(|g| &g.name));
    if wanted != found {
        return differ("graphs", wanted, found);
    }
    for graph in &spec.graphs {
        if let Some(found) = info.graphs.iter().find(|g| g.name == graph.name) {
            check_graph(graph, found)?;
        }
    }
    Ok(())
}

fn check_graph(spec: &GraphSpec, info: &GraphInfo) -> Result<(), NpuError> {
    for (wanted, found) in [(&spec.inputs, &info.inputs), (&spec.outputs, &info.outputs)] {
        if wanted.len() != found.len() {
            let wanted = format!("`{}` with {} tensors", spec.name, wanted.len());
            return differ("graphs", wanted, format!("{} tensors", found.len()));
        }
        for tensor in wanted {
            let same = found.iter().find(|t| t.name == tensor.name);
            if !same.is_some_and(|t| is_same(tensor, t)) {
                let wanted = format!("`{}`: {tensor:?}", spec.name);
                return differ("graphs", wanted, same.map_or_else(|| "none".to_owned(), |t| format!("{t:?}")));
            }
        }
    }
    Ok(())
}

fn is_same(spec: &TensorSpec, info: &TensorInfo) -> bool {
    let scale_offset = match spec.encoding {
        Encoding::None => None,
        Encoding::Tensor { scale, zero_point } => Some((scale, -zero_point)),
    };
    spec.dims == info.dims && info.dtype() == Some(qnn_dtype(spec.dtype)) && info.scale_offset == scale_offset
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
