//! What a connection's state asks for next.

use std::ptr::NonNull;

use crate::engine::deadline::Ending;

use super::super::connection::Flags;
use super::super::token::{Kind, Token};
use super::{Connections, Op};

impl Connections {
    /// Submits whatever the connection's state asks for and the kernel does not do yet.
    #[inline]
    pub(super) fn settle(&mut self, key: u32) {
        let connection = &self.entries[key as usize];
        if connection.ending == Ending::Abort {
            return self.settle_abort(key);
        }
        let flags = connection.flags;
        if !connection.queue.is_empty() && !flags.has(Flags::SENDING.or(Flags::BLOCKED)) {
            self.send(key);
        }
        let connection = &self.entries[key as usize];
        if connection.flags.has(Flags::SENDING) {
            // A send that succeeds is silent. If something waits for that, the enter must not wait for anything else.
            let is_awaited = flags.has(Flags::PEER_DONE.or(Flags::THROTTLED));
            self.urgent |= is_awaited || connection.queue.has_several() || !connection.ending.is_open();
        }
        if flags.has(Flags::READABLE) && !flags.has(Flags::RECEIVING.or(Flags::QUEUED)) && connection.wants_input() {
            self.wait_for_turn(key);
        }
        if !flags.has(Flags::POLLED.or(Flags::CANCELLING).or(Flags::CLOSING)) {
            self.entries[key as usize].flags.set(Flags::POLLED);
            self.submit(key, Kind::Ready, |slot| Op::Poll { slot });
        }
        let connection = &self.entries[key as usize];
        if (!connection.ending.is_open() || flags.has(Flags::PEER_DONE)) && connection.queue.is_empty() {
            self.settle_ending(key);
        }
    }

    #[inline]
    fn send(&mut self, key: u32) {
        let connection = &mut self.entries[key as usize];
        let bytes = self.chunks.front(connection.queue, &self.pool);
        let (address, len) = (NonNull::from(&bytes[0]), bytes.len() as u32);
        connection.flags.set(Flags::SENDING);
        let token = Token { key, generation: connection.generation, kind: Kind::Send };
        let has_more = connection.queue.has_several();
        self.ops.push((token, Op::Send { slot: connection.slot, address, len, has_more }));
        self.queued_sends.push(key);
    }

    /// The queue is empty and the connection is to end, or the peer has ended it.
    fn settle_ending(&mut self, key: u32) {
        let connection = &self.entries[key as usize];
        let flags = connection.flags;
        if flags.has(Flags::CLOSING.or(Flags::SHUTTING)) {
            return;
        }
        match connection.ending {
            Ending::Linger if !flags.has(Flags::PEER_DONE) => {
                let connection = &mut self.entries[key as usize];
                connection.ending = Ending::Shut;
                connection.flags.set(Flags::SHUTTING);
                self.submit(key, Kind::Shutdown, |slot| Op::Shutdown { slot });
            }
            Ending::Shut if !flags.has(Flags::PEER_DONE) => {}
            _ => self.close_descriptor(key),
        }
    }

    fn settle_abort(&mut self, key: u32) {
        let connection = &mut self.entries[key as usize];
        if connection.flags.has(Flags::SENDING.or(Flags::CLOSING).or(Flags::SHUTTING)) {
            self.urgent |= connection.flags.has(Flags::SENDING);
            return;
        }
        self.chunks.clear(&mut connection.queue, &mut self.pool);
        self.close_descriptor(key);
    }

    /// Takes back what the kernel still holds, then closes. Closing does not cancel by itself.
    fn close_descriptor(&mut self, key: u32) {
        let connection = &mut self.entries[key as usize];
        if connection.flags.has(Flags::POLLED) {
            if !connection.flags.has(Flags::CANCELLING) {
                connection.flags.set(Flags::CANCELLING);
                let target = Token { key, generation: connection.generation, kind: Kind::Ready };
                self.submit(key, Kind::Cancel, |_| Op::Cancel { target });
            }
        } else if !connection.is_in_flight() {
            connection.flags.set(Flags::CLOSING);
            self.submit(key, Kind::Close, |slot| Op::Close { slot });
        }
    }

    pub(super) fn submit(&mut self, key: u32, kind: Kind, op: impl FnOnce(u32) -> Op) {
        let connection = &self.entries[key as usize];
        self.ops.push((Token { key, generation: connection.generation, kind }, op(connection.slot)));
    }
}
