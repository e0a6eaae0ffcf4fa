//! A connection's task: does what the connection wants, one step after the other.
//!
//! Written as a state machine: the same as an `async fn` takes 400 bytes per connection.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::net::{Shutdown, shutdown};

use super::operations::{self, Bytes, Operation, is_over};
use super::worker::Worker;
use crate::engine::fairness::LAST_RECEIVES;
use crate::engine::sockets::connections::{Outgoing, Step};

/// Serves a connection to its end.
#[allow(clippy::struct_excessive_bools, reason = "independent facts, one byte each")]
pub(super) struct Task {
    worker: Rc<Worker>,
    key: u32,
    state: State,
    /// Waits for readiness that are under way. They outlast a call of the worker.
    readable: Option<Operation<()>>,
    writable: Option<Operation<()>>,
    /// The worker knows whom to call.
    is_listening: bool,
    /// The last receive would not have fitted in a small buffer.
    wants_much: bool,
    /// To say goodbye once a receive has found little.
    is_leaving: bool,
    /// Receives that it may still have until then.
    last_receives: u8,
}

enum State {
    /// Between two steps.
    Deciding,
    /// For something to receive, if it is `for_input`; for the socket to take bytes again, if it is blocked.
    Waiting {
        for_input: bool,
    },
    /// For a buffer to receive into; the ticket says for how long already.
    AwaitingBuffer(Option<u64>),
    Receiving(Operation<Vec<u8>>),
    /// `is_pooled`: from the buffer that was received into, and not from memory of the connection's own.
    Sending {
        operation: Operation<Bytes>,
        is_pooled: bool,
    },
    /// For what is under way, before the socket is closed.
    Ending,
}

impl Task {
    pub(super) fn new(worker: Rc<Worker>, key: u32) -> Self {
        Self {
            worker,
            key,
            state: State::Deciding,
            readable: None,
            writable: None,
            is_listening: false,
            wants_much: false,
            is_leaving: false,
            last_receives: LAST_RECEIVES,
        }
    }

    /// Begins what the connection wants.
    fn decide(&mut self) -> State {
        let mut connections = self.worker.connections();
        match connections.step(self.key) {
            Step::Receive => State::Waiting { for_input: true },
            Step::Wait => State::Waiting { for_input: false },
            Step::Send => {
                let (memory, sent) = connections.take_front(self.key);
                let range = sent..memory.len();
                let operation = operations::send(connections.socket(self.key), Bytes { memory, range });
                State::Sending { operation, is_pooled: false }
            }
            Step::Leave => {
                self.is_leaving = true;
                State::AwaitingBuffer(None)
            }
            Step::ShutDown => {
                // Not through the ring, which would keep a thread of the kernel's for it. It can only fail because the
                // peer is gone, which the receive will tell.
                let _ = shutdown(connections.socket(self.key), Shutdown::Write);
                connections.shut_down(self.key);
                State::Deciding
            }
            Step::Close => {
                if self.readable.is_some() || self.writable.is_some() {
                    let _ = shutdown(connections.socket(self.key), Shutdown::Both);
                }
                State::Ending
            }
        }
    }

    /// The end of a wait: its socket is ready, or the worker calls.
    fn poll_wait(&mut self, for_input: bool, cx: &mut Context) -> Poll<State> {
        let (worker, key) = (&*self.worker, self.key);
        let mut connections = worker.connections();
        let mut next = None;
        if connections.is_blocked(key) {
            self.writable.get_or_insert_with(|| operations::writable(connections.socket(key)));
            if is_over(&mut self.writable, cx) {
                connections.writable(key);
                next = Some(State::Deciding);
            }
        }
        if for_input && next.is_none() {
            self.readable.get_or_insert_with(|| operations::readable(connections.socket(key)));
            if is_over(&mut self.readable, cx) {
                self.wants_much &= !connections.is_backlog_large();
                next = Some(State::AwaitingBuffer(None));
            }
        }
        if let Some(next) = next {
            worker.calls.stop_listening(key);
            self.is_listening = false;
            return Poll::Ready(next);
        }
        if !self.is_listening {
            worker.calls.listen(key, cx);
            self.is_listening = true;
        } else if worker.calls.has_called(key) {
            self.is_listening = false;
            return Poll::Ready(State::Deciding);
        }
        Poll::Pending
    }

    fn receive(&mut self, buffer: Vec<u8>) -> State {
        State::Receiving(operations::receive(self.worker.connections().socket(self.key), buffer))
    }

    /// A receive is over: sends its echo from where it is.
    fn received(&mut self, result: i32, mut buffer: Vec<u8>) -> State {
        self.wants_much = self.worker.is_much(result);
        let (bytes, is_pooled) = match self.echo(result, &mut buffer) {
            Outgoing::InPlace(range) if range.is_empty() => {
                self.worker.give_back(buffer);
                self.worker.publish();
                return State::Deciding;
            }
            Outgoing::InPlace(range) => (Bytes { memory: buffer, range }, true),
            Outgoing::Owned(memory) => {
                self.worker.give_back(buffer);
                let range = 0..memory.len();
                (Bytes { memory, range }, false)
            }
        };
        let operation = operations::send(self.worker.connections().socket(self.key), bytes);
        State::Sending { operation, is_pooled }
    }

    /// What a receive has come to. Returns what to send now.
    fn echo(&mut self, result: i32, buffer: &mut [u8]) -> Outgoing {
        let mut connections = self.worker.connections_now();
        let mut outgoing = Outgoing::InPlace(0..0);
        match result {
            1.. => outgoing = connections.received(self.key, buffer, result as usize),
            0 => connections.peer_finished(self.key),
            _ if is_passing(result) => {}
            _ => connections.broken(self.key),
        }
        if std::mem::take(&mut self.is_leaving) {
            self.last_receives = self.last_receives.saturating_sub(1);
            if !self.wants_much || self.last_receives == 0 {
                connections.say_goodbye(self.key);
            }
        }
        outgoing
    }

    /// A send is over: keeps what the socket has not taken.
    fn sent(&mut self, result: i32, bytes: Bytes, is_pooled: bool) -> State {
        let Bytes { memory, mut range } = bytes;
        let mut connections = self.worker.connections_now();
        let sent = usize::try_from(result).unwrap_or(0);
        range.start += sent;
        if result < 0 && !is_passing(result) {
            connections.broken(self.key);
        }
        if is_pooled {
            connections.unsent(self.key, &memory[range]);
            self.worker.give_back(memory);
        } else {
            connections.put_front(self.key, memory, range.start);
        }
        connections.sent(self.key, sent);
        drop(connections);
        self.worker.publish();
        State::Deciding
    }

    /// Nothing may be under way when the socket is closed.
    fn poll_end(&mut self, cx: &mut Context) -> Poll<()> {
        for wait in [&mut self.readable, &mut self.writable] {
            if wait.is_some() && !is_over(wait, cx) {
                return Poll::Pending;
            }
        }
        self.worker.remove(self.key);
        Poll::Ready(())
    }
}

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let task = self.get_mut();
        loop {
            task.state = match &mut task.state {
                State::Deciding => task.decide(),
                State::Waiting { for_input } => {
                    let for_input = *for_input;
                    ready!(task.poll_wait(for_input, cx))
                }
                State::AwaitingBuffer(ticket) => {
                    let buffer = ready!(task.worker.pool(task.wants_much).poll_take(ticket, cx));
                    task.receive(buffer)
                }
                State::Receiving(operation) => {
                    let (result, buffer) = ready!(Pin::new(operation).poll(cx));
                    task.received(result, buffer)
                }
                State::Sending { operation, is_pooled } => {
                    let is_pooled = *is_pooled;
                    let (result, bytes) = ready!(Pin::new(operation).poll(cx));
                    task.sent(result, bytes, is_pooled)
                }
                State::Ending => return task.poll_end(cx),
            };
        }
    }
}

/// Whether the next attempt may succeed: nothing there, no room, no memory for now.
fn is_passing(result: i32) -> bool {
    matches!(-result, libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)
}
