use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Without it everything works, in more memory.
    let _ = ringecho::sys::refuse_huge_pages();
    ringecho::cli::main_with(std::env::args_os())
}
