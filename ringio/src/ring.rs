//! One `io_uring`: push submissions, enter, reap all completions.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::Timespec;
use io_uring::{EnterFlags, IoUring};

use crate::completion::Completion;
use crate::operation::Operation;
use crate::pool::{Buffers, Pool, PoolShape};

/// `IORING_REGISTER_RING_FDS` and its opposite: a ring can be entered by an index, without looking up its descriptor.
const REGISTER_RING_FDS: libc::c_long = 20;
const UNREGISTER_RING_FDS: libc::c_long = 21;

/// How long to pause when the kernel has no memory for submissions: at first about what reclaiming some pages takes, and
/// twice as long each time up to a tick of the kernel's own housekeeping, so that a shortage costs no processor time.
const PAUSE_MIN: Duration = Duration::from_micros(50);
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// A kernel that takes nothing at all for so long counts as broken: a minute is beyond what the kernel's own out-of-memory
/// killer needs.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// The wait of one turn of the loop in the kernel.
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
    /// Memory that the kernel writes to as long as the ring lives: it is dropped after the ring.
    pool: Option<Rc<Buffers>>,
    /// The index that this thread may enter the ring by (Linux 5.18).
    index: Option<u32>,
    /// The error number that ended the ring's use. The queue may hold operations whose memory is gone.
    broken: Option<i32>,
    /// Enters that are to fail as for want of memory.
    #[cfg(test)]
    refusals: u32,
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
        let index = register_index(inner.as_raw_fd());
        Ok(Self {
            inner,
            pool: None,
            index,
            broken: None,
            #[cfg(test)]
            refusals: 0,
            stays_on_its_thread: PhantomData,
        })
    }

    /// Gives the ring its one pool of provided buffers, which every receive is into.
    pub fn add_pool(&mut self, shape: PoolShape) -> io::Result<Pool> {
        assert!(self.pool.is_none(), "completions do not say which pool they are from: a ring has one");
        let pool = Pool::register(&self.inner, shape)?;
        self.pool = Some(Rc::clone(pool.buffers()));
        Ok(pool)
    }

    /// Puts a duplicate of `descriptor` into a slot of the table of direct descriptors.
    pub fn set_descriptor(&self, slot: u32, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.inner.submitter().register_files_update(slot, &[descriptor.as_raw_fd()])?;
        Ok(())
    }

    /// Queues an operation for the next enter. If the queue is full, it is handed to the kernel first; a kernel that does
    /// not take it for a minute breaks the ring, as the next enter will say.
    #[inline]
    pub fn push(&mut self, operation: Operation<'static>) {
        // SAFETY: what it names is valid for good, or as long as `from_entry` was promised.
        unsafe { self.push_borrowed(operation) };
    }

    /// Queues an operation that names borrowed memory.
    ///
    /// # Safety
    /// The memory that it names must stay valid until [`Ring::submit`] or [`Ring::enter`] has next returned `Ok`, or the
    /// ring is gone. [`Ring::submit`] is the safe way.
    #[inline]
    #[allow(clippy::needless_pass_by_value)] // it is queued
    pub unsafe fn push_borrowed(&mut self, operation: Operation<'_>) {
        // SAFETY: the caller's promise.
        if unsafe { self.inner.submission().push(operation.entry()) }.is_err() {
            // SAFETY: likewise.
            unsafe { self.push_to_full(std::slice::from_ref(operation.entry())) };
        }
    }

    /// Queues operations (an array or a `Vec`) each of which begins when the one before it has succeeded. They reach the
    /// kernel in one enter. The flag that links them is in the queue alone: what is pushed behind a chain is no part of it.
    ///
    /// # Safety
    /// As for [`Ring::push_borrowed`], and no operation but the first is a send, a receive or another one that uses its
    /// memory when it begins, unless that memory is valid for good: in a chain that can be after the enter.
    pub unsafe fn push_borrowed_chain<'m>(&mut self, chain: impl AsRef<[Operation<'m>]>) {
        let mut entries: Vec<Entry> = chain.as_ref().iter().map(|operation| operation.entry().clone()).collect();
        let Some((_last, others)) = entries.split_last_mut() else { return };
        for entry in others {
            *entry = entry.clone().flags(Flags::IO_LINK);
        }
        // SAFETY: the caller's promise.
        if unsafe { self.inner.submission().push_multiple(&entries) }.is_err() {
            // SAFETY: likewise.
            unsafe { self.push_to_full(&entries) };
        }
    }

    /// # Safety
    /// As for [`Ring::push_borrowed`].
    #[cold]
    unsafe fn push_to_full(&mut self, entries: &[Entry]) {
        assert!(entries.len() <= self.inner.submission().capacity(), "a chain does not fit into the queue");
        if let Err(error) = self.check().and_then(|()| self.hand_over_all()) {
            self.broken = Some(number_of(&error));
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { self.inner.submission().push_multiple(entries) }.expect("the kernel has taken all");
    }

    /// Queues `operations`, submits everything in as few enters as the queue allows (one, if they fit), and waits as `wait`
    /// says. When it returns `Ok`, the kernel has taken everything, so that it is done with what the operations borrow.
    ///
    /// Running out of time, and being interrupted, is no error. After an error the ring cannot be used any more: the
    /// queue may hold operations whose memory is gone.
    #[inline]
    pub fn submit<'m>(&mut self, operations: impl IntoIterator<Item = Operation<'m>>, wait: Wait) -> io::Result<()> {
        self.check()?;
        // Until the kernel has taken them all; also if `operations` panics.
        self.broken = Some(libc::ECANCELED);
        let outcome = self.lend(operations, wait);
        self.broken = outcome.as_ref().err().map(number_of);
        outcome
    }

    /// One `io_uring_enter`: submits what has been pushed and waits as `wait` says, like [`Ring::submit`].
    #[inline]
    pub fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.submit(std::iter::empty(), wait)
    }

    /// Hands what has been pushed to the kernel, and neither waits nor lets anything else happen.
    pub fn hand_over(&mut self) -> io::Result<()> {
        self.check()?;
        let outcome = self.hand_over_all();
        self.broken = outcome.as_ref().err().map(number_of);
        outcome
    }

    fn check(&self) -> io::Result<()> {
        self.broken.map_or(Ok(()), |number| Err(io::Error::from_raw_os_error(number)))
    }

    /// Returns `Ok` only when the queue is empty.
    #[inline]
    fn lend<'m>(&mut self, operations: impl IntoIterator<Item = Operation<'m>>, wait: Wait) -> io::Result<()> {
        let mut submission = self.inner.submission();
        for operation in operations {
            if submission.is_full() {
                drop(submission);
                self.hand_over_all()?;
                submission = self.inner.submission();
            }
            // SAFETY: the memory that it names is borrowed by the caller of `submit` until that returns: with `Ok` when the
            // kernel has taken the operation, and otherwise the ring is not entered any more.
            unsafe { submission.push(operation.entry()) }.expect("there is room");
        }
        drop(submission);
        self.submit_and_wait(wait)
    }

    #[inline]
    fn submit_and_wait(&mut self, wait: Wait) -> io::Result<()> {
        let deadline = wait.timeout.map(Timespec::from);
        // Without a minimum wait, waiting for several completions could last for ever.
        let min_wait_us = if wait.want > 1 { wait.min_wait_us } else { 0 };
        let completions = if min_wait_us > 0 { wait.want } else { wait.want.min(1) };
        let timeout = deadline.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let arguments = WaitArguments { signal_mask: 0, signal_mask_size: 0, min_wait_us, timeout: timeout as u64 };
        let arguments = (min_wait_us > 0 || !timeout.is_null()).then_some(&arguments);
        self.enter_kernel(EnterFlags::GETEVENTS, completions as u32, arguments)?;
        if self.inner.submission().is_empty() { Ok(()) } else { self.insist() }
    }

    fn hand_over_all(&mut self) -> io::Result<()> {
        self.enter_kernel(EnterFlags::empty(), 0, None)?;
        if self.inner.submission().is_empty() { Ok(()) } else { self.insist() }
    }

    /// The kernel has not taken all submissions, for want of memory: offers them again until it has.
    #[cold]
    fn insist(&mut self) -> io::Result<()> {
        let (mut left, mut pause, mut since) = (usize::MAX, PAUSE_MIN, Instant::now());
        loop {
            thread::sleep(pause);
            // What has completed gives memory back when its completion is run.
            self.enter_kernel(EnterFlags::GETEVENTS, 0, None)?;
            let now_left = self.inner.submission().len();
            if now_left == 0 {
                return Ok(());
            }
            if now_left < left {
                (left, pause, since) = (now_left, PAUSE_MIN, Instant::now());
            } else if since.elapsed() >= PATIENCE {
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            } else {
                pause = (2 * pause).min(PAUSE_MAX);
            }
        }
    }

    /// `io_uring_enter(2)`. What was deferred runs only in an enter that asks for events. Errors that pass lose no
    /// submission: it stays queued for the next enter.
    #[inline]
    fn enter_kernel(&mut self, flags: EnterFlags, want: u32, arguments: Option<&WaitArguments>) -> io::Result<()> {
        #[cfg(test)]
        if self.refusals > 0 {
            self.refusals -= 1;
            return Ok(());
        }
        let queued = self.inner.submission().len();
        let mut flags = flags;
        flags.set(EnterFlags::REGISTERED_RING, self.index.is_some());
        flags.set(EnterFlags::EXT_ARG, arguments.is_some());
        let ring = self.index.map_or(i64::from(self.inner.as_raw_fd()), i64::from);
        let (pointer, size) = arguments.map_or((std::ptr::null(), 0), |a| (std::ptr::from_ref(a), size_of_val(a)));
        // SAFETY: the entries are those that have been pushed, with what their pushing was promised; the arguments live
        // until the call returns.
        let entered =
            unsafe { libc::syscall(libc::SYS_io_uring_enter, ring, queued, want, flags.bits(), pointer, size) };
        if entered >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if is_transient(&error) { Ok(()) } else { Err(error) }
    }

    /// Whether completions wait in the kernel because the queue has no room for them. An enter that waits for nothing
    /// brings them once there is room.
    #[inline]
    pub fn has_overflow(&mut self) -> bool {
        self.inner.submission().cq_overflow()
    }

    /// Hands over everything that has completed so far, in order.
    #[inline]
    pub fn reap(&mut self, mut handle: impl FnMut(Completion)) {
        let pool = self.pool.as_deref();
        for entry in self.inner.completion() {
            let (result, flags) = (entry.result(), entry.flags());
            // SAFETY: the kernel has posted it for a receive of this ring, whose one group is this pool; the loop sees each
            // completion once, for the queue moves on when it is dropped, even if `handle` panics.
            let piece = pool.and_then(|pool| unsafe { pool.take(result, flags) });
            handle(Completion::new(entry.user_data(), result, flags, piece));
        }
    }
}

fn number_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// `EINTR`: a signal; `ETIME`: the wait's timeout; `EBUSY`/`EAGAIN`: completions must be reaped, or memory found, before
/// more is taken.
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

#[cfg(all(test, not(miri)))]
mod tests;
