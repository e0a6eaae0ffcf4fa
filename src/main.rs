use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3, for which the binding has no name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    // Without it everything works, in more memory.
    let _ = ringecho::sys::refuse_huge_pages();
    // What is kept for peers that do not read is freed all at once when they leave. By default that goes back to the
    // system only when the thread allocates again, which a worker hardly does.
    // SAFETY: sets a number in the allocator.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
    ringecho::cli::main_with(std::env::args_os())
}
