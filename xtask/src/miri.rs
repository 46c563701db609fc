//! `cargo xtask miri`: the unsafe code that is not instruction sets, under Miri on the nightly toolchain: blocks of rows and
//! columns that threads write at the same time, the pool, and the portable kernels through them.

use std::process::Command;

/// Tests small enough for an interpreter.
const TESTS: [&str; 8] = [
    "kernels::disjoint::tests::",
    "kernels::tests::a_row_does_not_depend_on_the_others",
    "kernels::tests::extreme_codes_do_not_saturate",
    "kernels::tests::quantised_groups_equal_the_reference",
    "kernels::tests::sets_are_found_by_name",
    "kernels::tests::tiles_of_every_height_equal_the_reference",
    "pool::tests::lanes_are_really_used_and_never_exceeded",
    "pool::tests::panics_reach_the_caller_and_the_pool_lives_on",
];

/// Runs the selection; installs Miri where rustup can.
pub(crate) fn run() -> anyhow::Result<()> {
    crate::run(Command::new("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))?;
    crate::run(Command::new("rustup").args(["component", "add", "--toolchain", "nightly", "miri", "rust-src"]))?;
    let mut command = Command::new("cargo");
    command.args(["+nightly", "miri", "test", "--package", "coexec-cpu", "--lib", "--"]).args(TESTS);
    // Test binaries look at the clock and the environment; nothing here is random.
    crate::run(command.env("MIRIFLAGS", "-Zmiri-disable-isolation").current_dir(crate::root()))
}
