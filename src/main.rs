//! The command line: `coexec`.

#![forbid(unsafe_code)]
// Everything is said through `cli::console`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
