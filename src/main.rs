//! The program `eds`.

fn main() -> std::process::ExitCode {
    eds::cli::main()
}
