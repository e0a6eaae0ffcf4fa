//! Replaces `tls.rs` in builds without the cargo feature `tls`: there are no TLS listeners.

use core::ops::Range;

/// There is none.
#[derive(Debug)]
pub(crate) enum Acceptor {}

/// There is none.
pub(super) enum Tls {}

/// There are none.
#[derive(Default)]
pub(super) struct Keys;

#[derive(PartialEq, Eq)]
#[allow(dead_code)] // nothing can be received
pub(crate) enum Progress {
    Goes,
    PeerFinished,
    Failed,
}

#[allow(dead_code)] // nothing can be received
pub(super) struct Received {
    pub(super) progress: Progress,
    pub(super) within: Range<usize>,
    pub(super) records: u32,
    pub(super) renewals: u32,
    pub(super) is_resumed: bool,
}

#[allow(clippy::ptr_arg)] // as where there is one
impl Tls {
    pub(super) fn receive(&mut self, _: u32, _: &mut Keys, _: &mut [u8], _: &mut Vec<u8>, _: &mut Vec<u8>) -> Received {
        match *self {}
    }

    pub(super) fn seal(&mut self, _: u32, _: &mut Keys, _: &[u8], _: &mut Vec<u8>) {
        match *self {}
    }

    pub(super) fn seal_within(&mut self, _: u32, _: &mut Keys, _: &mut [u8], _: Range<usize>) -> Option<Range<usize>> {
        match *self {}
    }

    pub(super) fn say_goodbye(&mut self, _: u32, _: &mut Keys, _: &mut Vec<u8>) {
        match *self {}
    }

    pub(super) fn is_shaking(&self) -> bool {
        match *self {}
    }

    pub(super) fn has_answered(&self) -> bool {
        match *self {}
    }

    pub(super) fn memory(&self) -> usize {
        match *self {}
    }
}

impl Keys {
    #[allow(clippy::unused_self)]
    pub(super) fn forget(&mut self, _: u32) {}
}

impl Acceptor {
    pub(super) fn accept(&self) -> Option<Tls> {
        match *self {}
    }
}
