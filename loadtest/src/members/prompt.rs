//! Prompt wake-ups, even when other processes keep the processors busy.

use std::time::Instant;

/// The shortest time slice that the kernel accepts. Since Linux 6.12 a thread with a short slice preempts threads with
/// longer slices when it wakes up; older kernels ignore the request. Its share of the processor stays the same.
const SLICE_NS: u64 = 100_000;

/// The first version of `struct sched_attr` (`sched_setattr(2)`), which all kernels accept.
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

/// Sleeps until `at` and wakes up promptly. The caller does its urgent work and then calls [`relax`].
pub fn sleep_until(at: Instant) {
    be_prompt();
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// Makes this thread wake up promptly from here on.
pub fn be_prompt() {
    ask_for_slices_of(SLICE_NS);
}

/// Restores the default slice of this thread: threads that it starts inherit the slice.
pub fn relax() {
    ask_for_slices_of(0);
}

/// Requests slices of this length; 0 is the kernel's default. If the kernel refuses, wake-ups take longer.
fn ask_for_slices_of(slice_ns: u64) {
    let nice = rustix::process::getpriority_process(None).unwrap_or(0);
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        // The thread may have a policy other than the default, such as SCHED_BATCH.
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
