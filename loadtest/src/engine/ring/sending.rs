//! Sending: submits a send and continues it until all bytes are sent.

use super::Worker;
use super::connection::Flag;
use super::operations::{self, Kind, SendMode, Token};
use crate::engine::sends::Offer;

impl Worker<'_> {
    /// Sends what the connection is to send, if nothing is in flight already.
    #[inline]
    pub(super) fn send(&mut self, key: u32) {
        let Some(slot) = self.layer.slot(key) else { return };
        if slot.send.is_some() {
            // A try can be followed as soon as it has been submitted.
            self.is_held_up |= slot.has(Flag::Trying);
            return;
        }
        if slot.has(Flag::Cut) {
            return;
        }
        let send = self.sends.take();
        let buffer = self.sends.get(send);
        let has_more = self.layer.fill(key, buffer);
        if buffer.is_empty() {
            return self.sends.give_back(send);
        }
        self.is_held_up |= has_more;
        let slot = self.layer.slot(key).expect("it has just been filled for");
        slot.send = Some(send);
        slot.set(Flag::HasWaited, false);
        self.submit_send(key, SendMode::Try);
    }

    /// Sends first: their buffers, still in cache, then serve what the rest of the batch has to send.
    pub(super) fn settle_sends(&mut self) {
        let mut batch = std::mem::take(&mut self.send_batch);
        for &(token, _) in &batch {
            if let Some(slot) = self.slot(token) {
                slot.set(Flag::Trying, false);
            }
        }
        // What goes on from here queues tries anew, in a list of their own.
        let mut tries = std::mem::replace(&mut self.tries, std::mem::take(&mut self.spare_tries));
        for token in tries.drain(..) {
            self.on_silence(token);
        }
        self.spare_tries = tries;
        for (token, result) in batch.drain(..) {
            self.on_send(token, result);
        }
        self.send_batch = batch;
    }

    /// A try was submitted, and has sent everything unless its completion has said otherwise.
    #[inline]
    fn on_silence(&mut self, token: Token) {
        let Some(slot) = self.slot(token).filter(|slot| slot.has(Flag::Trying)) else { return };
        slot.set(Flag::Trying, false);
        let send = slot.send.expect("a try was under way");
        let buffer = self.sends.get(send);
        buffer.advance_all(&self.shared.messages);
        self.go_on(token.key, SendMode::Try);
    }

    /// A waiting send has got further, or a try has not sent everything.
    #[cold]
    fn on_send(&mut self, token: Token, result: i32) {
        let Some(slot) = self.slot(token) else {
            debug_assert!(false, "completion of a connection that is gone");
            return;
        };
        let send = slot.send.expect("a send completed, so one was in flight");
        let result = if result == -libc::EAGAIN { 0 } else { result };
        let Ok(count) = usize::try_from(result) else {
            slot.send = None;
            slot.set(Flag::Cut, true);
            self.sends.give_back(send);
            return self.on_gone(token, Some(-result));
        };
        self.sends.get(send).advance(count, &self.shared.messages);
        self.go_on(token.key, SendMode::Wait);
    }

    /// Goes on with a send that is not over, in this way, or with what comes behind it.
    #[inline]
    fn go_on(&mut self, key: u32, mode: SendMode) {
        let slot = self.layer.slot(key).expect("something is being sent");
        let send = slot.send.expect("something is being sent");
        let is_complete = self.sends.get(send).is_empty();
        if !is_complete && !slot.has(Flag::Releasing) {
            slot.set(Flag::HasWaited, mode == SendMode::Wait);
            return self.submit_send(key, mode);
        }
        slot.send = None;
        self.sends.give_back(send);
        if slot.has(Flag::Releasing) {
            slot.set(Flag::Cut, !is_complete);
            return self.release_if_idle(key);
        }
        if slot.has(Flag::HasWaited) {
            self.layer.room(key);
        } else {
            self.layer.sent(key);
        }
        self.act();
    }

    fn submit_send(&mut self, key: u32, mode: SendMode) {
        let slot = self.layer.slot(key).expect("something is to be sent");
        let token = Token { key, generation: slot.generation.into(), kind: Kind::Send };
        if mode == SendMode::Try {
            slot.set(Flag::Trying, true);
            self.tries.push(token);
        }
        let key_of_send = slot.send.expect("what is to be sent was taken");
        let buffer = self.sends.get(key_of_send);
        // SAFETY: what the buffer owns is never moved, and it is neither written nor given back before this send is over
        // (`Slot::send` holds it until then); `sends` and the messages' tables outlive the ring.
        unsafe {
            let send = match buffer.offer(&self.shared.messages) {
                Offer::Bytes(bytes) => operations::send(token, bytes, mode),
                Offer::Parts(header) => operations::send_parts(token, header, mode),
            };
            self.ring.push_borrowed(send);
        }
        // No completion tells that a try has sent everything: what follows it must not wait for one.
        self.is_held_up |= mode == SendMode::Try && self.sends.get(key_of_send).has_more(&self.shared.messages);
    }

    /// The TCP connection has ended, with or without an error.
    #[cold]
    pub(super) fn on_gone(&mut self, token: Token, errno: Option<i32>) {
        let Some(slot) = self.slot(token) else { return };
        if slot.has(Flag::Releasing) {
            return self.release_if_idle(token.key);
        }
        self.layer.ended(token.key, errno);
        self.act();
    }

    /// Begins to let go of a connection: ends what the kernel still does for it.
    pub(super) fn release(&mut self, key: u32) {
        let Some(slot) = self.layer.slot(key) else { return };
        slot.set(Flag::Releasing, true);
        let under_way = [
            (slot.has(Flag::Connecting), Kind::Connect),
            (slot.has(Flag::Polled), Kind::Ready),
            (slot.send.is_some() && !slot.has(Flag::Trying), Kind::Send),
        ];
        let generation = slot.generation;
        for (_, kind) in under_way.into_iter().filter(|&(is_under_way, _)| is_under_way) {
            self.ring.push(operations::cancel(Token { key, generation: generation.into(), kind }));
        }
        self.release_if_idle(key);
    }

    /// Lets go of a connection that is to be released when the kernel has nothing under way for it any more, and its last
    /// words have been said.
    pub(super) fn release_if_idle(&mut self, key: u32) {
        let Some(slot) = self.layer.slot(key) else { return };
        if !slot.has(Flag::Releasing) || !slot.is_idle() {
            return;
        }
        if !slot.has(Flag::Cut) && self.layer.has_last_words(key) {
            self.send(key);
            if self.layer.slot(key).is_some_and(|slot| slot.send.is_some()) {
                return;
            }
        }
        self.ring.push(operations::close(key));
        self.layer.released(key);
    }
}
