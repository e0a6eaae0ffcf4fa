//! A connection's task: carries out the connection's wants, one step after the other.
//!
//! It is a state machine: as an `async fn` it would take 400 bytes per connection.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::net::{Shutdown, shutdown};

use super::operations::{self, Bytes, Operation, is_over};
use super::worker::Worker;
use crate::connection::lifecycle::{Facts, State as Life};
use crate::connection::output::Block;
use crate::connection::schedule::Grant;
use crate::engine::sockets::connections::{Connections, HEADROOM, Outgoing};
use crate::engine::threads::AbortOnPanic;
use crate::worker::Counter;

/// Set in a connection's `flight` while the echo of its last receive is being sent, whose unsent rest must go behind the
/// pending output. The server's own frames must wait.
pub(super) const SENDING_ECHO: u8 = 1;

/// Serves a connection to its end.
#[allow(clippy::struct_excessive_bools, reason = "independent facts, one byte each")]
pub(super) struct Task {
    worker: Rc<Worker>,
    key: u32,
    state: State,
    /// Waits for readiness in flight. They outlast a call by the worker.
    readable: Option<Operation<()>>,
    writable: Option<Operation<()>>,
    /// The worker has its waker.
    is_listening: bool,
    /// The last receive would not have fitted in a small buffer.
    wants_much: bool,
    /// What was granted for its next receive.
    grant: Grant,
}

enum State {
    /// Between two steps.
    Deciding,
    /// Waits for input, if it is `for_input`; for room, if it is blocked.
    Waiting { for_input: bool },
    /// Waits for its turn.
    AwaitingTurn,
    /// Waits for a receive buffer; the ticket is its place in the queue.
    AwaitingBuffer(Option<u64>),
    /// Receives into `room` for so many bytes.
    Receiving { operation: Operation<Vec<u8>>, room: usize },
    /// `is_pooled`: from the buffer that was received into, and not from pending output.
    Sending { operation: Operation<Bytes>, is_pooled: bool },
    /// Waits for operations in flight, before the socket is closed.
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
            grant: Grant::default(),
        }
    }

    /// Begins the connection's next want.
    fn decide(&mut self) -> State {
        let mut connections = self.worker.connections();
        if let Some(unused) = self.worker.take_grant(self.key) {
            let planned = connections.reprice(unused);
            connections.spent_on_nothing(planned, false);
        }
        let wants = connections.wants(self.key);
        if wants.close {
            let is_waited_for = self.readable.is_some() || self.writable.is_some();
            if !connections.reset_if_wanted(self.key) && is_waited_for {
                let _ = shutdown(connections.socket(self.key), Shutdown::Both);
            }
            connections.get_mut(self.key).life.finish();
            return State::Ending;
        }
        if wants.send {
            let (memory, sent) = connections.take_front(self.key);
            let range = sent..memory.len();
            let operation = operations::send(connections.socket(self.key), Bytes { memory, range });
            return State::Sending { operation, is_pooled: false };
        }
        if wants.shutdown {
            // Not through the ring, which would keep a thread of the kernel's for it. It can only fail because the
            // peer is gone, which the receive will tell.
            let _ = shutdown(connections.socket(self.key), Shutdown::Write);
            connections.get_mut(self.key).life.shut_down();
            return State::Deciding;
        }
        if wants.resume {
            connections.queue(self.key);
            drop(connections);
            self.worker.publish();
            return State::Waiting { for_input: false };
        }
        let life = &connections.get(self.key).life;
        if !wants.receive || !life.facts.has(Facts::READABLE) {
            return State::Waiting { for_input: wants.receive };
        }
        if !life.is_background() || life.state() == Life::Leaving {
            return State::AwaitingBuffer(None);
        }
        connections.queue(self.key);
        drop(connections);
        self.worker.publish();
        State::AwaitingTurn
    }

    /// Waits until the supervisor grants a turn.
    fn poll_turn(&mut self, cx: &mut Context) -> Poll<State> {
        if self.is_writable_again(cx) {
            self.worker.calls.stop_listening(self.key);
            return Poll::Ready(State::Deciding);
        }
        let worker = &*self.worker;
        if worker.connections().is_queued(self.key) {
            worker.calls.listen(self.key, cx);
            return Poll::Pending;
        }
        worker.calls.stop_listening(self.key);
        // It may be another one by now: interactive, or not to be received from.
        let connections = worker.connections();
        if !connections.wants(self.key).receive {
            return Poll::Ready(State::Deciding);
        }
        self.grant = worker.take_grant(self.key).unwrap_or_default();
        self.wants_much &= connections.at_most(self.key).is_none();
        Poll::Ready(State::AwaitingBuffer(None))
    }

    /// Whether a slow reader's socket has room again: its output goes before its next turn.
    fn is_writable_again(&mut self, cx: &mut Context) -> bool {
        let mut connections = self.worker.connections();
        if !connections.get(self.key).life.facts.has(Facts::BLOCKED) {
            return false;
        }
        let has_room = poll_room(&mut self.writable, &mut connections, self.key, cx);
        if has_room {
            connections.unqueue(self.key);
        }
        has_room
    }

    /// The end of a wait: its socket is ready, or the worker calls.
    fn poll_wait(&mut self, for_input: bool, cx: &mut Context) -> Poll<State> {
        let (worker, key) = (&*self.worker, self.key);
        let mut connections = worker.connections();
        let mut next = None;
        if connections.get(key).life.facts.has(Facts::BLOCKED)
            && poll_room(&mut self.writable, &mut connections, key, cx)
        {
            next = Some(State::Deciding);
        }
        if for_input && next.is_none() {
            self.readable.get_or_insert_with(|| operations::readable(connections.socket(key)));
            if is_over(&mut self.readable, cx) {
                connections.get_mut(key).life.has_input();
                next = Some(State::Deciding);
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
        let connections = self.worker.connections();
        let at_most = connections.at_most(self.key).map_or(usize::MAX, |at_most| at_most.get() as usize);
        let room = at_most.min(buffer.len() - HEADROOM);
        State::Receiving { operation: operations::receive(connections.socket(self.key), buffer, room), room }
    }

    /// A receive has completed: sends its echo from the buffer.
    fn received(&mut self, result: i32, mut buffer: Vec<u8>, room: usize) -> State {
        self.wants_much = self.worker.is_much(result);
        let (bytes, is_pooled) = match self.echo(result, &mut buffer, room) {
            Outgoing::InPlace(range) if range.is_empty() => {
                self.worker.give_back(buffer);
                self.worker.publish();
                return State::Deciding;
            }
            Outgoing::InPlace(range) => (Bytes { memory: Block::Owned(buffer), range }, true),
            Outgoing::Owned(memory) => {
                self.worker.give_back(buffer);
                let range = 0..memory.len();
                (Bytes { memory: Block::Owned(memory), range }, false)
            }
        };
        let operation = operations::send(self.worker.connections().socket(self.key), bytes);
        State::Sending { operation, is_pooled }
    }

    /// Handles the result of a receive. Returns what to send now.
    fn echo(&mut self, result: i32, buffer: &mut [u8], room: usize) -> Outgoing {
        let mut connections = self.worker.connections();
        let planned = connections.reprice(std::mem::take(&mut self.grant));
        let mut outgoing = Outgoing::InPlace(0..0);
        match result {
            1.. => {
                connections.note_received(self.key, result as usize, room);
                outgoing = connections.received_into(self.key, buffer, result as usize, planned);
            }
            0 => connections.peer_finished(self.key),
            _ if result == -libc::EAGAIN => connections.found_nothing(self.key, false),
            _ if is_passing(result) => {}
            _ => connections.broken(self.key),
        }
        if result <= 0 {
            let is_end = connections.get(self.key).life.facts.has(Facts::PEER_DONE);
            connections.spent_on_nothing(planned, is_end);
        }
        if outgoing.bytes(buffer).is_empty() {
            connections.go_on_leaving(self.key);
        } else {
            connections.get_mut(self.key).flight = SENDING_ECHO;
        }
        outgoing
    }

    /// A send has completed: keeps what the socket has not taken.
    fn sent(&mut self, result: i32, bytes: Bytes, is_pooled: bool) -> State {
        let Bytes { memory, mut range } = bytes;
        let mut connections = self.worker.connections();
        let sent = usize::try_from(result).unwrap_or(0);
        range.start += sent;
        if result < 0 && !is_passing(result) {
            connections.broken(self.key);
        }
        let has_echoed = std::mem::take(&mut connections.get_mut(self.key).flight) == SENDING_ECHO;
        match memory {
            Block::Owned(buffer) if is_pooled => {
                let offered = range.start - sent..range.end;
                connections.sent_from_buffer(self.key, &buffer[offered], sent);
                self.worker.give_back(buffer);
            }
            block => connections.put_front(self.key, block, range.start, sent),
        }
        if has_echoed {
            connections.go_on_leaving(self.key);
        }
        drop(connections);
        self.worker.publish();
        State::Deciding
    }

    /// No operation may be in flight when the socket is closed.
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
        // tokio catches a task's panic, and the worker would go on without what the connection has taken.
        let aborts = AbortOnPanic;
        let outcome = self.get_mut().go_on(cx);
        std::mem::forget(aborts);
        outcome
    }
}

impl Task {
    /// As many steps as can be made now.
    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let task = self;
        loop {
            task.state = match &mut task.state {
                State::Deciding => task.decide(),
                State::Waiting { for_input } => {
                    let for_input = *for_input;
                    ready!(task.poll_wait(for_input, cx))
                }
                State::AwaitingTurn => ready!(task.poll_turn(cx)),
                State::AwaitingBuffer(ticket) => {
                    let is_new = ticket.is_none();
                    let taken = task.worker.pool(task.wants_much).poll_take(ticket, cx);
                    if is_new && taken.is_pending() {
                        task.worker.connections().counters().add(Counter::BufferShortages, 1);
                    }
                    let buffer = ready!(taken);
                    task.receive(buffer)
                }
                State::Receiving { operation, room } => {
                    let room = *room;
                    let (result, buffer) = ready!(Pin::new(operation).poll(cx));
                    task.received(result, buffer, room)
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

/// Whether a slow reader's socket has or may have room: while its peer has shut down its side, no poll waits for room, and a
/// send is tried now and then.
fn poll_room(wait: &mut Option<Operation<()>>, connections: &mut Connections, key: u32, cx: &mut Context) -> bool {
    loop {
        let operation = wait.get_or_insert_with(|| operations::writable(connections.socket(key)));
        let Poll::Ready((result, ())) = Pin::new(operation).poll(cx) else { return false };
        *wait = None;
        if result == -libc::ETIME {
            connections.try_again(key);
            return true;
        }
        let is_room = result < 0 || result & i32::from(libc::POLLOUT | libc::POLLERR | libc::POLLHUP) != 0;
        if is_room {
            connections.writable(key);
            return true;
        }
        *wait = Some(operations::pause());
    }
}

/// Whether a retry may succeed: no input, no room, no memory for now.
fn is_passing(result: i32) -> bool {
    matches!(-result, libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::super::{probe, runtime};
    use super::*;
    use crate::connection::schedule::{Planned, QUANTUM, RECEIVE, cost_of_receive};
    use crate::protocol::Protocol;
    use crate::transport::{Door, Doors};
    use crate::worker::{Control, Plan};

    /// Polls a task, which gets its turn when it waits for one, until it is in such a state.
    async fn poll_until(task: &mut Task, is_reached: fn(&State) -> bool) {
        poll_fn(|cx| {
            let _ = Pin::new(&mut *task).poll(cx);
            if matches!(task.state, State::AwaitingTurn) {
                task.worker.grant_turns();
                cx.waker().wake_by_ref();
            }
            if is_reached(&task.state) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The limit of a receive is another one when it has completed, because an interactive connection has become active.
    #[test]
    fn a_receive_is_judged_by_the_room_that_it_had() {
        if probe().is_err() {
            return; // io_uring is forbidden here
        }
        let doors = Doors::from([Door::new(Protocol::WebSocket), Door::new(Protocol::Tcp)]);
        let control = Arc::new(Control::new().expect("an eventfd"));
        runtime(None).expect("a ring").block_on(async {
            let worker = Rc::new(Worker::new(&Plan::for_tests(0, 2, doors), &control));
            let (mut peer, socket) = UnixStream::pair().expect("sockets");
            let (_other_peer, other) = UnixStream::pair().expect("sockets");
            worker.connections().begin_turn(1);
            let key = worker.connections().accepted(socket.into(), 0);
            let other = worker.connections().accepted(other.into(), 1);
            peer.write_all(&[&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 2000]].concat()).expect("room");
            let mut task = Task::new(Rc::clone(&worker), key);
            poll_until(&mut task, |state| matches!(state, State::Receiving { .. })).await;
            assert!(worker.connections().at_most(key).is_none());
            let _ = worker.connections().received_into(other, &mut [0; HEADROOM + 10], 10, Planned::Nothing);
            assert!(worker.connections().at_most(key).is_some_and(|most| most.get() < 2000));
            poll_until(&mut task, |state| !matches!(state, State::Receiving { .. })).await;
            assert!(matches!(task.state, State::Waiting { for_input: true }), "it has emptied the socket");
        });
    }

    /// Granted as one in its handshake, it is received from as a bulk sender; then it is granted a turn that it has no use for.
    #[test]
    fn a_turn_is_paid_for_as_it_was_granted() {
        if probe().is_err() {
            return; // io_uring is forbidden here
        }
        let doors = Doors::from([Door::new(Protocol::WebSocket)]);
        let control = Arc::new(Control::new().expect("an eventfd"));
        runtime(None).expect("a ring").block_on(async {
            let worker = Rc::new(Worker::new(&Plan::for_tests(0, 1, doors), &control));
            let (mut peer, socket) = UnixStream::pair().expect("sockets");
            worker.connections().begin_turn(1);
            let key = worker.connections().accepted(socket.into(), 0);
            peer.write_all(b"GET / HTTP/1.1\r\n").expect("room");
            let mut task = Task::new(Rc::clone(&worker), key);
            let mut expected = worker.connections().budget();
            poll_until(&mut task, |state| matches!(state, State::AwaitingTurn)).await;
            worker.connections().get_mut(key).life.facts.set(Facts::BULK);
            poll_until(&mut task, |state| matches!(state, State::Waiting { .. })).await;
            expected.spend(cost_of_receive(16, 0));
            assert_eq!(worker.connections().budget(), expected);

            worker.connections().get_mut(key).life.facts.set(Facts::BULK);
            worker.connections().queue(key);
            worker.grant_turns();
            peer.write_all(b"X: y\r\n").expect("room");
            poll_until(&mut task, |state| matches!(state, State::AwaitingTurn)).await;
            expected.spend(RECEIVE);
            expected.spend(QUANTUM);
            assert_eq!(worker.connections().budget(), expected, "the turn without a receive, and the next one");
        });
    }
}
