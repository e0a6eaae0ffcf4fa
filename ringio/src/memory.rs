//! Memory that the kernel writes to: mapped for a ring, ordinary for a pool without one.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Zeroed, at the start of a page, and given back when it is dropped.
pub(crate) struct Memory {
    start: NonNull<u8>,
    len: NonZeroUsize,
    is_mapped: bool,
}

/// The kernel wants rings of provided buffers at the start of a page.
const PAGE: usize = 4096;

impl Memory {
    pub(crate) fn mapped(len: NonZeroUsize) -> io::Result<Self> {
        // Populated at once: page faults in the midst of receives would cost more, and the size is known from the start.
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new private anonymous mapping; no existing memory is touched.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len.get(), ProtFlags::READ | ProtFlags::WRITE, flags)? };
        Ok(Self {
            start: NonNull::new(start.cast()).expect("mmap does not map address zero here"),
            len,
            is_mapped: true,
        })
    }

    /// From the allocator, which Miri knows, too.
    #[cfg_attr(not(any(test, feature = "testing")), allow(dead_code))]
    pub(crate) fn ordinary(len: NonZeroUsize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, len, is_mapped: false }
    }

    fn layout(len: NonZeroUsize) -> Layout {
        Layout::from_size_align(len.get(), PAGE).expect("a pool is far smaller than the address space")
    }

    #[inline]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len.get()
    }
}

#[cfg(any(test, feature = "testing"))]
impl Memory {
    pub(crate) fn is_mapped(&self) -> bool {
        self.is_mapped
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let start = self.start.as_ptr();
        if self.is_mapped {
            // SAFETY: `mapped` made this mapping, of this length, and its owner lets it go.
            let _ = unsafe { munmap(start.cast(), self.len()) };
        } else {
            // SAFETY: `ordinary` allocated it with this layout, and its owner lets it go.
            unsafe { dealloc(start, Self::layout(self.len)) };
        }
    }
}
