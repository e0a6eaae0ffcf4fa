//! One `io_uring` and how this project drives it: push submissions, enter, reap everything.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::Timespec;
use io_uring::{EnterFlags, IoUring, Submitter, cqueue, squeue};

/// `IORING_REGISTER_RING_FDS` and its opposite: a ring can be entered by an index, without looking up its descriptor.
const REGISTER_RING_FDS: libc::c_long = 20;
const UNREGISTER_RING_FDS: libc::c_long = 21;

/// How often a full submission queue is offered to a kernel that takes nothing.
const SUBMIT_ATTEMPTS_MAX: u32 = 10_000;

/// The shape of a ring.
#[derive(Clone, Copy, Debug)]
pub struct RingOptions {
    /// Submission queue entries: how many operations one `io_uring_enter` can carry.
    pub entries: u32,
    /// Completion queue entries. A burst beyond them costs a kernel allocation per completion and ends multishots, and
    /// what is beyond is seen only after another enter ([`Ring::has_overflow`]).
    pub cq_entries: u32,
    /// Size of the table of direct descriptors. Bounded by `RLIMIT_NOFILE`, for each ring on its own.
    pub direct_descriptors: u32,
}

/// How long one turn of the loop waits in the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait {
    /// Completions to wait for; 0: none, but let those happen that can. Since Linux 6.13 also the bound on deferred
    /// completions run per pass (at least 20).
    pub want: usize,
    /// After this long a single completion is enough (Linux 6.12). Without it one is enough at once.
    pub min_wait_us: u32,
    /// Give up waiting after this long.
    pub timeout: Option<Duration>,
}

/// A ring that one thread created and only that thread drives (`IORING_SETUP_SINGLE_ISSUER`).
pub struct Ring {
    inner: IoUring,
    has_min_wait: bool,
    /// The index that this thread may enter the ring by (Linux 5.18).
    index: Option<u32>,
    /// On another thread the index is another ring's.
    stays_on_its_thread: PhantomData<*const ()>,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArguments {
    signal_mask: u64,
    signal_mask_size: u32,
    min_wait_us: u32,
    timeout: u64,
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct IndexUpdate {
    index: u32,
    reserved: u32,
    descriptor: u64,
}

const _: () = assert!(size_of::<WaitArguments>() == 24 && size_of::<IndexUpdate>() == 16, "as the kernel has them");

impl Ring {
    /// Sets up a ring with the newest flags that this kernel takes. Call it on the thread that will drive it.
    pub fn new(options: &RingOptions) -> io::Result<Self> {
        let inner = build(options)?;
        if options.direct_descriptors > 0 {
            inner.submitter().register_files_sparse(options.direct_descriptors)?;
        }
        let has_min_wait = inner.params().is_feature_min_timeout();
        let index = register_index(inner.as_raw_fd());
        Ok(Self { inner, has_min_wait, index, stays_on_its_thread: PhantomData })
    }

    /// Queues one submission; what does not fit any more is handed to the kernel first.
    ///
    /// # Safety
    /// Every address in `sqe` must stay valid until the operation's last completion has been reaped.
    #[inline]
    pub unsafe fn push(&mut self, sqe: &squeue::Entry) {
        // SAFETY: passed on.
        unsafe { self.push_linked(std::slice::from_ref(sqe)) };
    }

    /// Queues submissions that are linked to each other: they must reach the kernel in the same enter.
    ///
    /// # Safety
    /// As for [`Ring::push`].
    pub unsafe fn push_linked(&mut self, sqes: &[squeue::Entry]) {
        let mut attempts = 0;
        // SAFETY: the caller's promise is exactly what `push_multiple` asks for.
        while unsafe { self.inner.submission().push_multiple(sqes) }.is_err() {
            self.submit().expect("io_uring_enter with a full submission queue");
            attempts += 1;
            assert!(attempts < SUBMIT_ATTEMPTS_MAX, "the kernel takes no submissions: it must be out of memory");
        }
    }

    /// Hands queued submissions to the kernel without waiting.
    pub fn submit(&mut self) -> io::Result<()> {
        match self.inner.submit() {
            Ok(_) => Ok(()),
            Err(e) if is_transient(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// One `io_uring_enter`: submits everything and waits as `wait` says. Running out of time is not an error.
    ///
    /// Returns whether the kernel has taken all submissions; short of memory it may leave some for the next call.
    pub fn submit_and_wait(&mut self, wait: Wait) -> io::Result<bool> {
        let deadline = wait.timeout.map(Timespec::from);
        // Without a minimum wait, waiting for several completions could last for ever.
        let min_wait_us = if self.has_min_wait && wait.want > 1 { wait.min_wait_us } else { 0 };
        let completions = if min_wait_us > 0 { wait.want } else { wait.want.min(1) };
        let timeout = deadline.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let arguments = WaitArguments { signal_mask: 0, signal_mask_size: 0, min_wait_us, timeout: timeout as u64 };
        let arguments = (min_wait_us > 0 || !timeout.is_null()).then_some(&arguments);
        match self.enter(completions as u32, arguments) {
            Err(e) if !is_transient(&e) => Err(e),
            _ => Ok(self.inner.submission().is_empty()),
        }
    }

    /// Whether completions wait in the kernel because the queue has no room for them. [`Ring::submit_and_wait`] with
    /// `want: 0` brings them once there is room.
    #[inline]
    pub fn has_overflow(&mut self) -> bool {
        self.inner.submission().cq_overflow()
    }

    /// `io_uring_enter(2)`: submits everything that is queued and runs what was deferred, which happens only in an enter
    /// that asks for events.
    #[inline]
    fn enter(&mut self, want: u32, arguments: Option<&WaitArguments>) -> io::Result<()> {
        let queued = self.inner.submission().len();
        let mut flags = EnterFlags::GETEVENTS;
        flags.set(EnterFlags::REGISTERED_RING, self.index.is_some());
        flags.set(EnterFlags::EXT_ARG, arguments.is_some());
        let ring = self.index.map_or(i64::from(self.inner.as_raw_fd()), i64::from);
        let (pointer, size) = arguments.map_or((std::ptr::null(), 0), |a| (std::ptr::from_ref(a), size_of_val(a)));
        // SAFETY: the entries are those that `push` has queued; the arguments live until the call returns.
        let entered =
            unsafe { libc::syscall(libc::SYS_io_uring_enter, ring, queued, want, flags.bits(), pointer, size) };
        if entered < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Everything that has completed so far.
    #[inline]
    pub fn completions(&mut self) -> cqueue::CompletionQueue<'_> {
        self.inner.completion()
    }

    /// Registration calls (buffers, files, limits).
    pub fn submitter(&self) -> Submitter<'_> {
        self.inner.submitter()
    }
}

/// `EINTR`: a signal; `ETIME`: the wait's timeout; `EBUSY`/`EAGAIN`: completions must be reaped before more is taken.
/// None of them loses a submission: it stays queued for the next enter.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN))
}

fn build(options: &RingOptions) -> io::Result<IoUring> {
    let base = || {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(options.cq_entries).setup_clamp().setup_submit_all();
        builder.setup_single_issuer().setup_defer_taskrun();
        builder
    };
    // Newest first: NO_SQARRAY is Linux 6.6, SINGLE_ISSUER and DEFER_TASKRUN are 6.0 and 6.1.
    base().setup_no_sqarray().build(options.entries).or_else(|_| base().build(options.entries))
}

/// An index for this thread to enter the ring by; `None` if the kernel has none to give.
fn register_index(ring: RawFd) -> Option<u32> {
    let mut update = IndexUpdate { index: u32::MAX, reserved: 0, descriptor: ring as u64 };
    update_index(ring, REGISTER_RING_FDS, &mut update).then_some(update.index)
}

/// Returns whether the kernel has done it.
fn update_index(ring: RawFd, operation: libc::c_long, update: &mut IndexUpdate) -> bool {
    // SAFETY: the kernel reads and writes one update.
    unsafe { libc::syscall(libc::SYS_io_uring_register, ring, operation, std::ptr::from_mut(update), 1) == 1 }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The index would keep the ring alive until the thread ends, beyond the memory that the ring writes to.
        if let Some(index) = self.index {
            let mut update = IndexUpdate { index, reserved: 0, descriptor: 0 };
            update_index(self.inner.as_raw_fd(), UNREGISTER_RING_FDS, &mut update);
        }
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}
