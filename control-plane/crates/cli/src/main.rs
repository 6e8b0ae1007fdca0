//! weir: the operator's command. Everything is in the library, so that tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    cp_cli::main()
}
