//! `cargo xtask bindgen`: `sys/include/qnn.h` → `sys/src/bindings.rs`.
//!
//! The bindgen crate is behind a feature of xtask, so that `cargo xtask test` does not wait for it: without the feature
//! this command starts xtask again with it.

/// Writes the bindings, or with `check` compares them.
#[cfg(not(feature = "bindgen"))]
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    libclang()?;
    let mut args = vec!["run", "--quiet", "--package", "xtask", "--features", "bindgen", "--", "bindgen"];
    if check {
        args.push("--check");
    }
    crate::run(&mut crate::cargo(&args))
}

/// Installs libclang where apt can; elsewhere bindgen says that it found none and how to name one.
#[cfg(not(feature = "bindgen"))]
fn libclang() -> anyhow::Result<()> {
    use anyhow::Context as _;
    if std::env::var_os("LIBCLANG_PATH").is_some() || has_libclang() {
        return Ok(());
    }
    crate::apt_install(&["libclang-dev"]).context(
        "libclang is missing, which bindgen reads C with: install LLVM (apt install libclang-dev, dnf install \
         clang-devel, brew install llvm) or set LIBCLANG_PATH to the folder of the library",
    )
}

/// Whether a libclang is where Linux distributions and Homebrew put it.
#[cfg(not(feature = "bindgen"))]
fn has_libclang() -> bool {
    let lists = |dir: &std::path::Path| {
        std::fs::read_dir(dir).into_iter().flatten().flatten().any(|e| {
            let name = e.file_name();
            let name = name.to_string_lossy();
            // Not libclang-cpp, which is another library and comes with LLVM's tools.
            let rest = name.strip_prefix("libclang").unwrap_or_default();
            rest.starts_with('.') || rest.strip_prefix('-').is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    let mut dirs: Vec<_> = [
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/opt/homebrew/opt/llvm/lib",
        "/Library/Developer/CommandLineTools/usr/lib",
    ]
    .map(Into::into)
    .into();
    for entry in std::fs::read_dir("/usr/lib").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("llvm") {
            dirs.push(entry.path().join("lib"));
        }
    }
    dirs.iter().any(|d| lists(d))
}

#[cfg(feature = "bindgen")]
#[path = "../../sys/build/generate.rs"]
mod generate;

/// Targets whose bindings must be one text. `-ffreestanding` keeps clang to its own headers: no NDK is needed.
#[cfg(feature = "bindgen")]
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-linux-android"];

/// Writes the bindings, or with `check` compares them.
#[cfg(feature = "bindgen")]
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    use anyhow::{Context as _, bail};
    let root = crate::root();
    let file = root.join("sys/src/bindings.rs");
    let header = root.join("sys/include/qnn.h");
    let header = header.to_str().context("the path of the repository is not UTF-8")?;
    let mut texts = Vec::new();
    for target in TARGETS {
        let args = [&format!("--target={target}"), "-ffreestanding"];
        let text = generate::generate(header, &args).with_context(|| format!("{header} for {target}"))?;
        texts.push(format!("// Made by `cargo xtask bindgen` of include/qnn.h; do not edit.\n\n{text}"));
    }
    if texts[0] != texts[1] {
        bail!(
            "the bindings of {} and {} differ; find the type in {header} that depends on the target",
            TARGETS[0],
            TARGETS[1]
        );
    }
    if !check {
        std::fs::write(&file, &texts[0]).with_context(|| format!("cannot write {}", file.display()))?;
        println!("{}: {} lines, equal for {}", file.display(), texts[0].lines().count(), TARGETS.join(" and "));
        return Ok(());
    }
    let old = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    if let Some((at, (old, new))) = old.lines().zip(texts[0].lines()).enumerate().find(|(_, (a, b))| a != b) {
        bail!("{}:{}: is `{old}`, should be `{new}`; run `cargo xtask bindgen`", file.display(), at + 1);
    }
    if old != texts[0] {
        bail!("{} has another length than its header makes; run `cargo xtask bindgen`", file.display());
    }
    println!("bindings are up to date, equal for {}", TARGETS.join(" and "));
    Ok(())
}
