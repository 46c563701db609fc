//! `cargo xtask miri`: the unsafe code that is not instruction sets, under Miri on the nightly toolchain: blocks of rows and
//! columns that threads write at the same time, the pool, and the portable kernels through them.

use std::process::Command;

/// The toolchain: Miris from October 2026 on stop at how `parking_lot_core` 0.9.12 passes a futex to `syscall`.
const TOOLCHAIN: &str = "nightly-2026-08-01";
/// Tests small enough for an interpreter.
const TESTS: [&str; 9] = [
    "kernels::disjoint::tests::",
    "kernels::tests::a_row_does_not_depend_on_the_others",
    "kernels::tests::extreme_codes_do_not_saturate",
    "kernels::tests::quantised_groups_equal_the_reference",
    "kernels::tests::requantising_equals_the_reference",
    "kernels::tests::sets_are_found_by_name",
    "kernels::tests::tiles_of_every_height_equal_the_reference",
    "pool::tests::lanes_are_really_used_and_never_exceeded",
    "pool::tests::panics_reach_the_caller_and_the_pool_lives_on",
];

/// Runs the selection; installs Miri where rustup can.
pub(crate) fn run() -> anyhow::Result<()> {
    let install = ["toolchain", "install", TOOLCHAIN, "--profile", "minimal", "--component", "miri,rust-src"];
    crate::run(Command::new("rustup").args(install))?;
    let mut command = Command::new("cargo");
    command.args([&format!("+{TOOLCHAIN}"), "miri", "test", "--package", "coexec-cpu", "--lib", "--"]).args(TESTS);
    // Test binaries look at the clock and the environment; nothing here is random.
    crate::run(command.env("MIRIFLAGS", "-Zmiri-disable-isolation").current_dir(crate::root()))
}
