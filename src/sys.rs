//! Single system calls: limits, processors, signals, standard error.

use std::io::{self, Write};
use std::sync::OnceLock;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Raises the soft limit on descriptors to the hard one and returns it (`RLIMIT_NOFILE`, see `getrlimit(2)`).
///
/// The limit bounds the process's descriptor table and each ring's table of direct descriptors, each on its own.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Keeps the kernel from backing this process's memory with huge pages (`PR_SET_THP_DISABLE`, inherited by children).
///
/// The allocator asks for them, which costs every thread 2 MiB that it hardly uses: with dozens of threads more than
/// all connections together. Call it first thing, before memory has been touched.
pub fn refuse_huge_pages() -> io::Result<()> {
    Ok(rustix::thread::disable_transparent_huge_pages(true)?)
}

/// `mi_option_purge_delay` of mimalloc 2 and 3, for which the binding has no name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Has mimalloc give freed memory back to the system at once. By default it does so only when the thread allocates again,
/// which a worker hardly does: the pending output of slow readers would stay when they have left.
///
/// In a program with another allocator nothing changes.
pub fn return_freed_memory_at_once() {
    // SAFETY: sets a number in the allocator.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
}

/// The soft limit on descriptors as it is now.
pub fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The processors this process may run on (its affinity mask, `sched_getaffinity(2)`).
pub fn usable_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Bytes of memory in this machine.
pub fn physical_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}

/// Blocks all signals in the calling thread but those that a fault of its own raises. A handler of the program around it
/// must not run there: what it writes to is a number, and in a descriptor table of a worker's own another socket.
pub fn block_signals() {
    let mut signals = SigSet::all();
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGTRAP] {
        signals.remove(fault);
    }
    signals.thread_block().expect("a set of valid signals");
}

/// Keeps the calling thread on one processor.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The hook to run before the process ends otherwise than by returning from `main`.
static AT_LAST: OnceLock<fn()> = OnceLock::new();

/// Makes [`leave`] and [`die`] call this first.
pub fn at_last(last: fn()) {
    let _ = AT_LAST.set(last);
}

/// Ends the process.
pub fn leave(code: i32) -> ! {
    AT_LAST.get().inspect(|last| last());
    std::process::exit(code)
}

/// Ends the process with a line: in the log, or on standard error if there is none.
pub fn die(message: std::fmt::Arguments) -> ! {
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{message}");
    } else {
        let _ = writeln!(io::stderr(), "ringecho: {message}");
    }
    leave(1)
}
