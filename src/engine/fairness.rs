//! How much one peer may have received at a time, so that those who send without a pause do not keep everybody else
//! waiting, and those who do not read are not kept too much for before it is known.

/// What may be received at once from a peer that sends much, while others send little; as much at once is much. More
/// would let those wait; less would make many pieces of a large message, each with its own receive and send.
pub(super) const SHARE: u32 = 64 << 10;

/// The same when much is kept for peers that do not read: if it is another such peer, so much more has to be kept for it
/// before it is known.
pub(super) const SMALL_SHARE: u32 = 16 << 10;

/// Receives that a connection may still have when it is told to leave: its peer may be sending without a pause.
pub(super) const LAST_RECEIVES: u8 = 64;

/// Whether there are peers that send little, and so would mind to wait: the tick in which one was last received from.
#[derive(Default)]
pub(super) struct Modest {
    seen_at: u32,
}

impl Modest {
    #[inline]
    pub(super) fn see(&mut self, now: u32) {
        self.seen_at = now;
    }

    #[inline]
    pub(super) fn is_there(&self, now: u32) -> bool {
        now - self.seen_at <= 1
    }

    /// What may be received at once from a peer that sends much; `None`: nobody minds if it is all there is.
    #[inline]
    pub(super) fn share(&self, now: u32, is_backlog_large: bool) -> Option<u32> {
        match (is_backlog_large, self.is_there(now)) {
            (true, _) => Some(SMALL_SHARE),
            (false, true) => Some(SHARE),
            (false, false) => None,
        }
    }
}
