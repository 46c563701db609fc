//! `cargo xtask arm`: what phones run, without a phone. Kernel and engine tests for 64-bit Arm under an emulated CPU, and
//! the static library for Android.
//!
//! The kernels' unit tests run on three CPUs, one for each kernel set; `COEXEC_EXPECT_KERNELS` makes them fail when another
//! set than the expected one is detected. The engine's tests run on the newest and the oldest of them. What is missing is installed by rustup and apt; see docs/arm.md.

use anyhow::{Context as _, bail};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

const LINUX: &str = "aarch64-unknown-linux-gnu";
const ANDROID: &str = "aarch64-linux-android";
const CC: &str = "aarch64-linux-gnu-gcc";
const QEMU: &str = "qemu-aarch64-static";
/// Debian's compiler, C library and emulator.
const PACKAGES: [&str; 3] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user-static"];
/// Only what computes is optimised, and nobody debugs there: most of the time here is building.
const PROFILE: [&str; 10] = [
    "opt-level=0",
    "debug=false",
    "incremental=false",
    "package.bytemuck.opt-level=2",
    "package.coexec-cpu.opt-level=2",
    "package.coexec-model.opt-level=2",
    "package.coexec-npu.opt-level=2",
    "package.half.opt-level=2",
    "package.xxhash-rust.opt-level=2",
    "package.zstd-sys.opt-level=2",
];
/// Where Debian puts the libraries of the other architecture.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// Emulated CPUs, the kernel sets that each must have, best first, and what runs there.
const CPUS: [(&str, &str, &[Kind]); 3] = [
    ("max", "i8mm,dotprod,neon,generic,reference", &[Kind::Kernels, Kind::Functions, Kind::Engine]),
    ("cortex-a76", "dotprod,neon,generic,reference", &[Kind::Kernels]),
    ("cortex-a53", "neon,generic,reference", &[Kind::Kernels, Kind::Engine]),
];

/// What a test binary tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Unit tests of `coexec-cpu`: every kernel set of the CPU against `reference`.
    Kernels,
    /// Tests of `coexec-cpu`'s interface.
    Functions,
    /// Tests of the root package.
    Engine,
}

/// The folder of the kernels' package.
const KERNELS: &str = "cpu-fallback";
/// Tests of the root package that exercise the engine from a model file to logits.
const ENGINE_TESTS: [&str; 2] = ["determinism", "golden"];

/// Gets compiler, emulator and Rust's libraries unless they are there.
pub(crate) fn ensure() -> anyhow::Result<()> {
    let starts = |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success());
    if !starts(CC) || !starts(QEMU) || !PathBuf::from(LIBRARIES).join("include").is_dir() {
        crate::apt_install(&PACKAGES)
            .with_context(|| format!("{} are needed to build and run Arm's tests", PACKAGES.join(", ")))?;
    }
    crate::run(Command::new("rustup").args(["target", "add", LINUX, ANDROID]).current_dir(crate::root()))
        .context("Rust's libraries for Arm come by rustup")
}

/// A compiled test binary.
struct TestBinary {
    executable: PathBuf,
    /// The folder of its package, which tests expect to start in.
    package: PathBuf,
    kind: Kind,
}

impl TestBinary {
    /// The tests on an emulated CPU. `COEXEC_EMULATED` makes the engine's tests smaller.
    fn on(&self, cpu: &str) -> Command {
        let mut command = Command::new(QEMU);
        command.args(["-cpu", cpu, "-L", LIBRARIES]).arg(&self.executable).current_dir(&self.package);
        command.env("COEXEC_EMULATED", "1");
        command
    }
}

/// Builds all tests of the kernels' package and those of [`ENGINE_TESTS`], in one call: another choice of packages would
/// choose other features and build everything again.
fn build() -> anyhow::Result<Vec<TestBinary>> {
    let mut command = crate::cargo(&["test", "--no-run", "--target", LINUX]);
    command.args(PROFILE.iter().flat_map(|setting| ["--config".into(), format!("profile.test.{setting}")]));
    command.args([
        "--message-format",
        "json-render-diagnostics",
        "--package",
        "coexec-cpu",
        "--package",
        "coexec",
        "--lib",
    ]);
    let kernel_tests = crate::root().join(KERNELS).join("tests");
    for entry in std::fs::read_dir(&kernel_tests).with_context(|| format!("list {}", kernel_tests.display()))? {
        let path = entry?.path();
        if let (Some(name), Some("rs")) = (path.file_stem(), path.extension().and_then(|e| e.to_str())) {
            command.arg("--test").arg(name);
        }
    }
    command.args(ENGINE_TESTS.iter().flat_map(|test| ["--test", test]));
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", CC).env("CC_aarch64_unknown_linux_gnu", CC);
    eprintln!("$ {command:?}");
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", output.status);
    }
    let mut binaries = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("cargo's messages are JSON")?;
        let is_test = message["profile"]["test"] == true;
        if let (true, Some(executable), Some(manifest)) =
            (is_test, message["executable"].as_str(), message["manifest_path"].as_str())
        {
            let package = Path::new(manifest).parent().context("a manifest lies in a folder")?.to_owned();
            let kind = match (package.ends_with(KERNELS), message["target"]["kind"][0] == "test") {
                (true, false) => Kind::Kernels,
                (true, true) => Kind::Functions,
                (false, _) => Kind::Engine,
            };
            binaries.push(TestBinary { executable: executable.into(), package, kind });
        }
    }
    Ok(binaries)
}

/// Everything for Arm. Tests that skip themselves say so in `skips`.
pub(crate) fn run(skips: Option<&Path>) -> anyhow::Result<()> {
    let mut times = Vec::new();
    let mut start = Instant::now();
    let mut done = |what: String| {
        times.push((what, start.elapsed().as_secs()));
        start = Instant::now();
    };
    let binaries = build()?;
    done("build tests".into());
    for (cpu, sets, kinds) in CPUS {
        for kind in kinds {
            let mut chosen = binaries.iter().filter(|b| b.kind == *kind).peekable();
            chosen.peek().with_context(|| format!("cargo named no test binary of {kind:?}"))?;
            for binary in chosen {
                let mut command = binary.on(cpu);
                command.env("COEXEC_EXPECT_KERNELS", sets);
                if let Some(skips) = skips {
                    command.env("COEXEC_SKIP_LOG", skips);
                }
                crate::run(&mut command)?;
            }
            done(format!("{kind:?} on {cpu}"));
        }
    }
    crate::run(&mut android())?;
    done("static library for Android".into());
    for (what, seconds) in times {
        println!("{seconds:>5} s  {what}");
    }
    Ok(())
}

/// What Android links, without optimisation: this shows that it compiles.
fn android() -> Command {
    let mut command = crate::cargo(&["rustc", "--package", "coexec-runtime", "--lib", "--crate-type", "staticlib"]);
    command.args(["--target", ANDROID]);
    command.args(PROFILE[..3].iter().flat_map(|setting| ["--config".into(), format!("profile.dev.{setting}")]));
    // zstd is C. An NDK's tools are named by the same variables.
    for (variable, tool) in [("CC_aarch64_linux_android", CC), ("AR_aarch64_linux_android", "aarch64-linux-gnu-ar")] {
        if std::env::var_os(variable).is_none() {
            command.env(variable, tool);
        }
    }
    command
}
