//! An allocator that counts, so that a target can say how much memory a session holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

/// The system's allocator (under the sanitizer: its own), and a count of the bytes that are allocated.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATED: AtomicIsize = AtomicIsize::new(0);

/// Bytes that are allocated at the moment. To be compared with another moment: targets run on one thread.
#[must_use]
pub fn allocated() -> isize {
    ALLOCATED.load(Relaxed)
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size().cast_signed(), Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size().cast_signed(), Relaxed);
        // SAFETY: passed on.
        unsafe { System.dealloc(address, layout) }
    }
}
