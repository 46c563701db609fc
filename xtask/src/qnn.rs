//! `cargo xtask qnn`: Qualcomm's HTP library for x86-64 Linux, from the PyPI wheel that carries it, into `target/qnn`.
//!
//! Nothing of it enters git: every user takes it under Qualcomm's licence, whose text lies beside it. The wheel is pinned
//! by version and hash; its libraries find each other by relative run paths, so nobody has to set `LD_LIBRARY_PATH`.

use anyhow::{Context as _, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

const PACKAGE: &str = "onnxruntime-qnn==2.7.0";
const SHA256: &str = "c56c01562b8534fe8980cfea4601408d950c065f8251fb862ce82101c52c9849";
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
    let is_there = std::fs::read_to_string(&stamp).is_ok_and(|s| s.trim() == SHA256);
    if is_there && libraries.join("libQnnHtp.so").is_file() {
        return Ok(libraries);
    }
    download(&root)?;
    std::fs::write(&stamp, format!("{SHA256}\n")).with_context(|| format!("write {}", stamp.display()))?;
    eprintln!(
        "QNN {QNN_VERSION} is in {}. It is Qualcomm's, under the licence in Qualcomm_LICENSE.pdf there: use it to develop and \
         test, do not pass it on by itself.",
        libraries.display()
    );
    Ok(libraries)
}

/// Cargo's target directory, where binaries and tests look for the library.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => crate::root().join(dir),
        None => crate::root().join("target"),
    }
}

fn download(root: &Path) -> anyhow::Result<()> {
    if root.exists() {
        std::fs::remove_dir_all(root).with_context(|| format!("remove the incomplete {}", root.display()))?;
    }
    std::fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
    install_pip()?;
    // With a hash in a requirements file, pip itself refuses a wheel that differs.
    let requirements = root.join("requirements.txt");
    std::fs::write(&requirements, format!("{PACKAGE} --hash=sha256:{SHA256}\n"))?;
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"];
    crate::run(Command::new("python3").args(pip).args(PLATFORM).arg("--dest").arg(root).arg("-r").arg(&requirements))?;
    let wheel = std::fs::read_dir(root)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .context("pip downloaded no wheel")?;
    crate::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(root))?;
    std::fs::remove_file(&wheel).with_context(|| format!("remove {}", wheel.display()))?;
    Ok(())
}

/// Installs pip by apt where python3 or pip is missing.
fn install_pip() -> anyhow::Result<()> {
    let has_pip = Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|o| o.status.success());
    if has_pip {
        return Ok(());
    }
    crate::apt_install(&["python3", "python3-pip"]).context("python3 with pip is needed to get Qualcomm's library")
}
