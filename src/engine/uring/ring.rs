//! One `io_uring` and how this project drives it: push submissions, enter once, reap everything.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, Submitter, cqueue, squeue};

/// `IORING_ENTER_GETEVENTS`: deferred completions are run only by an enter that asks for events.
const ENTER_GETEVENTS: u32 = 1;

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
    /// Completions to wait for; 0: none, but let those happen that can. Since Linux 6.13 also the bound on deferred completions run per pass (at least 20).
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
}

impl Ring {
    /// Sets up a ring with the newest flags that this kernel takes. Call it on the thread that will drive it.
    pub fn new(options: &RingOptions) -> io::Result<Self> {
        let inner = build(options)?;
        if options.direct_descriptors > 0 {
            inner.submitter().register_files_sparse(options.direct_descriptors)?;
        }
        let has_min_wait = inner.params().is_feature_min_timeout();
        Ok(Self { inner, has_min_wait })
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
        if wait.want == 0 {
            return self.submit_and_run();
        }
        let timeout = wait.timeout.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(timeout) = &timeout {
            args = args.timespec(timeout);
        }
        if self.has_min_wait && wait.want > 1 {
            args = args.min_wait_usec(wait.min_wait_us);
        }
        // Without a minimum wait, waiting for several completions could last for ever.
        let completions = if self.has_min_wait && wait.min_wait_us > 0 { wait.want } else { wait.want.min(1) };
        match self.inner.submitter().submit_with_args(completions, &args) {
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

    /// Submits everything and runs deferred completions, without waiting for any.
    fn submit_and_run(&mut self) -> io::Result<bool> {
        let queued = self.inner.submission().len() as u32;
        // SAFETY: submits exactly the entries that `push` has queued; no argument is passed.
        let entered = unsafe { self.inner.submitter().enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None) };
        match entered {
            Err(e) if !is_transient(&e) => Err(e),
            _ => Ok(self.inner.submission().is_empty()),
        }
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

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}
