//! Prompt wake-ups, also when other processes keep the processors busy.

use std::time::Instant;

/// The shortest slice that the kernel takes. A thread that asks for so little at a time runs as soon as it wakes up, before those
/// that may go on for milliseconds (since Linux 6.12; older kernels take no notice). It gets no more of the processor for it.
const SLICE_NS: u64 = 100_000;

/// `struct sched_attr` in its first form (`sched_setattr(2)`), which all kernels know.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

/// Sleeps until `at`, and wakes up promptly. What is to be done at once comes next, then [`relax`].
pub fn sleep_until(at: Instant) {
    be_prompt();
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// Makes this thread wake up promptly from here on.
pub fn be_prompt() {
    ask_for_slices_of(SLICE_NS);
}

/// Makes this thread one like others again: those that it starts have its slices.
pub fn relax() {
    ask_for_slices_of(0);
}

/// Asks for slices of this length; 0 is the kernel's default. It is a wish: where it is refused, waking up takes longer.
fn ask_for_slices_of(slice_ns: u64) {
    let nice = rustix::process::getpriority_process(None).unwrap_or(0);
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        // It may have another policy than the usual one, for batches.
        flags: libc::SCHED_FLAG_KEEP_POLICY as u64,
        nice,
        priority: 0,
        runtime_ns: slice_ns,
        deadline_ns: 0,
        period_ns: 0,
    };
    // SAFETY: the kernel reads `size` bytes of a structure that lives until the call returns.
    unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
    }
}
