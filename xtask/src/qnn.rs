//! `cargo xtask qnn`: Qualcomm's HTP library for x86-64 Linux, from the PyPI wheel that carries it, into `target/qnn`.
//!
//! Nothing of it enters git: every user takes it under Qualcomm's licence, whose text lies beside it. The wheel is pinned
//! by version and hash; its libraries find each other by relative run paths, so nobody has to set `LD_LIBRARY_PATH`.

use crate::wheel::{Wheel, target_dir, unpack_into};
use anyhow::{Context as _, bail};
use std::path::PathBuf;

const WHEEL: Wheel = Wheel {
    package: "onnxruntime-qnn==2.7.0",
    sha256: "c56c01562b8534fe8980cfea4601408d950c065f8251fb862ce82101c52c9849",
};
/// QNN version inside; what compiled models name.
const QNN_VERSION: &str = "2.51";
const PLATFORM: [&str; 8] =
    ["--platform", "manylinux_2_35_x86_64", "--python-version", "311", "--implementation", "cp", "--abi", "cp311"];

/// Gets the library unless it is there; returns the directory that holds `libQnnHtp.so`.
pub(crate) fn ensure() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("COEXEC_QNN_LIB_DIR") {
        let dir = PathBuf::from(dir);
        if !dir.join("libQnnHtp.so").is_file() {
            bail!("COEXEC_QNN_LIB_DIR is {}, where no libQnnHtp.so is; correct or unset it", dir.display());
        }
        return Ok(dir);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("Qualcomm's emulated HTP library is published for x86-64 Linux only");
    }
    let root = target_dir().join("qnn");
    let (libraries, stamp) = (root.join("onnxruntime_qnn"), root.join("complete"));
    let is_there = std::fs::read_to_string(&stamp).is_ok_and(|s| s.trim() == WHEEL.sha256);
    if is_there && libraries.join("libQnnHtp.so").is_file() {
        return Ok(libraries);
    }
    unpack_into(&root, WHEEL, &PLATFORM)?;
    std::fs::write(&stamp, format!("{}\n", WHEEL.sha256)).with_context(|| format!("write {}", stamp.display()))?;
    eprintln!(
        "QNN {QNN_VERSION} is in {}. It is Qualcomm's, under the licence in Qualcomm_LICENSE.pdf there: use it to develop and \
         test, do not pass it on by itself.",
        libraries.display()
    );
    Ok(libraries)
}
