//! One connection's entry in the worker's slab.

use std::os::fd::OwnedFd;

use super::backlog::Backlog;
use crate::engine::deadline::Ending;
use crate::protocol::Session;

/// A connection.
#[allow(clippy::struct_excessive_bools, reason = "independent facts, one byte each")]
pub(super) struct Connection {
    pub(super) session: Session,
    pub(super) socket: OwnedFd,
    /// The tick that its current deadline counts from.
    pub(super) since: u32,
    /// What waits to be sent.
    pub(super) backlog: Option<Box<Backlog>>,
    pub(super) ending: Ending,
    /// The peer does not read: the last send found its socket's buffer full.
    pub(super) is_blocked: bool,
    /// Its backlog is full: it is not read until all of that is gone.
    pub(super) is_throttled: bool,
    /// The peer has sent its FIN, or the connection is broken.
    pub(super) is_peer_done: bool,
    /// A keepalive Ping went out since the peer was last heard.
    pub(super) is_pinged: bool,
    /// The sweep has a deadline to look after.
    pub(super) is_timed: bool,
    /// It waits for its turn, behind others.
    pub(super) is_queued: bool,
}

const _: () = assert!(size_of::<Connection>() <= 48, "an idle connection pays for every byte");
// The slab stores `enum { Vacant(usize), Occupied(Connection) }`: it must fit beside a niche, without a tag of its own.
const _: () = assert!(size_of::<Option<Connection>>() == size_of::<Connection>());

impl Connection {
    pub(super) fn new(session: Session, socket: OwnedFd, now: u32) -> Self {
        Self {
            session,
            socket,
            since: now,
            backlog: None,
            ending: Ending::No,
            is_blocked: false,
            is_throttled: false,
            is_peer_done: false,
            is_pinged: false,
            is_timed: false,
            is_queued: false,
        }
    }
}
