//! The program `fullrank`: a thin shell around the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fullrank::cli::log::start();
    fullrank::cli::main(std::env::args_os())
}
