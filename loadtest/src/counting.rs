//! A counting allocator for this crate's own tests, which check how much memory a connection keeps.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that this thread has taken and not given back; what another thread gives back is not seen.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    /// Bytes that this thread has taken.
    static TAKEN: Cell<isize> = const { Cell::new(0) };
}

/// The system's, and a count.
#[derive(Debug)]
pub(crate) struct Counting;

/// Bytes that this thread has taken and not given back.
pub(crate) fn live_bytes() -> isize {
    LIVE.get()
}

/// Bytes that this thread has taken.
#[allow(dead_code)] // the server's tests use it
pub(crate) fn taken_bytes() -> isize {
    TAKEN.get()
}

fn count(bytes: isize) {
    // A thread that ends gives memory back when its count is gone.
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + bytes.max(0)));
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as isize - layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
