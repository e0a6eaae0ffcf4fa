//! A connection's task: does what the connection wants, one step after the other.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use rustix::net::{Shutdown, shutdown};

use super::operations::{self, Operation, Outgoing};
use super::worker::Worker;
use crate::engine::sockets::connections::Step;
use crate::protocol::Output;

/// Serves a connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, key: u32) {
    let mut task = Task { worker: &worker, key, wants_much: false, is_blocked: false, readable: None, writable: None };
    while task.step().await {}
    worker.remove(key);
}

struct Task<'a> {
    worker: &'a Worker,
    key: u32,
    /// The last receive has filled its buffer.
    wants_much: bool,
    /// The last send has found the socket's buffer full.
    is_blocked: bool,
    /// Waits for readiness that are under way. They outlast a call of the worker.
    readable: Option<Operation<()>>,
    writable: Option<Operation<()>>,
}

impl Task<'_> {
    /// Does what the connection wants. Returns whether it goes on.
    async fn step(&mut self) -> bool {
        let step = self.worker.connections().step(self.key);
        match step {
            Step::Receive => {
                if self.is_readable().await {
                    self.receive().await;
                }
            }
            Step::Send => self.send_backlog().await,
            Step::Leave => {
                self.receive().await;
                self.worker.connections().say_goodbye(self.key);
            }
            Step::ShutDown => {
                // Not through the ring, which would keep a thread of the kernel's for it. It can only fail because the
                // peer is gone, which the receive will tell.
                let mut connections = self.worker.connections();
                let _ = shutdown(connections.socket(self.key), Shutdown::Write);
                connections.shut_down(self.key);
            }
            Step::Close => {
                self.end_waits().await;
                return false;
            }
        }
        true
    }

    /// Waits until there is something to receive (`true`) or the worker calls (`false`).
    async fn is_readable(&mut self) -> bool {
        let (worker, key) = (self.worker, self.key);
        let readable = self.readable.get_or_insert_with(|| operations::readable(worker.connections().socket(key)));
        let is_ready = wait(worker, key, readable).await;
        if is_ready {
            self.readable = None;
        }
        is_ready
    }

    /// Waits until the socket takes bytes again (`true`) or the worker calls (`false`).
    async fn is_writable(&mut self) -> bool {
        let (worker, key) = (self.worker, self.key);
        let writable = self.writable.get_or_insert_with(|| operations::writable(worker.connections().socket(key)));
        let is_ready = wait(worker, key, writable).await;
        if is_ready {
            self.writable = None;
        }
        is_ready
    }

    /// One receive and the sending of its echo.
    async fn receive(&mut self) {
        let pool = self.worker.pool(self.wants_much);
        let buffer = pool.take().await;
        let operation = operations::receive(self.worker.connections().socket(self.key), buffer);
        let (result, mut buffer) = operation.await;
        self.wants_much = result == pool.size() as i32;
        match self.received(result, &mut buffer) {
            Output::Nothing => pool.give_back(buffer),
            Output::InPlace(range) => {
                let Outgoing { bytes, range } = self.send(Outgoing { bytes: buffer, range }).await;
                self.worker.connections().unsent(self.key, &bytes[range]);
                pool.give_back(bytes);
            }
            Output::Owned { bytes, range } => {
                pool.give_back(buffer);
                self.send_owned(Outgoing { bytes, range }).await;
            }
        }
        self.worker.publish();
    }

    /// What a receive has come to. Returns what to send now.
    fn received(&self, result: i32, buffer: &mut [u8]) -> Output {
        let mut connections = self.worker.connections_now();
        match result {
            1.. => {
                let output = connections.received(self.key, &mut buffer[..result as usize]);
                if !connections.backlog(self.key).is_empty() {
                    // A Ping has been queued while the receive was under way, and must stay in front.
                    connections.queue(self.key, output.bytes(buffer));
                    return Output::Nothing;
                }
                return output;
            }
            0 => connections.peer_finished(self.key),
            _ if is_passing(result) => {}
            _ => connections.broken(self.key),
        }
        Output::Nothing
    }

    /// Sends as much as the socket takes. Returns what is left.
    async fn send(&mut self, outgoing: Outgoing) -> Outgoing {
        let operation = operations::send(self.worker.connections().socket(self.key), outgoing);
        let (result, mut outgoing) = operation.await;
        let mut connections = self.worker.connections_now();
        if result >= 0 {
            connections.sent(self.key, result as usize);
            outgoing.range.start += result as usize;
        } else if !is_passing(result) {
            connections.broken(self.key);
        }
        self.is_blocked = !outgoing.range.is_empty();
        outgoing
    }

    /// Sends from memory of the connection's own.
    async fn send_owned(&mut self, outgoing: Outgoing) {
        let Outgoing { bytes, range } = self.send(outgoing).await;
        self.worker.connections().put_back(self.key, bytes, range);
    }

    async fn send_backlog(&mut self) {
        if self.is_blocked && !self.is_writable().await {
            return;
        }
        let (bytes, range) = self.worker.connections().take_backlog(self.key);
        self.send_owned(Outgoing { bytes, range }).await;
        self.worker.publish();
    }

    /// Nothing may be under way when the socket is closed.
    async fn end_waits(&mut self) {
        if self.readable.is_some() || self.writable.is_some() {
            let _ = shutdown(self.worker.connections().socket(self.key), Shutdown::Both);
        }
        if let Some(readable) = self.readable.take() {
            readable.await;
        }
        if let Some(writable) = self.writable.take() {
            writable.await;
        }
    }
}

/// Waits for an operation (`true`), or for the worker's call (`false`).
async fn wait(worker: &Worker, key: u32, operation: &mut Operation<()>) -> bool {
    let mut is_listening = false;
    poll_fn(|cx| {
        if Pin::new(&mut *operation).poll(cx).is_ready() {
            worker.calls.stop_listening(key);
            return Poll::Ready(true);
        }
        if is_listening && worker.calls.has_called(key) {
            return Poll::Ready(false);
        }
        worker.calls.listen(key, cx);
        is_listening = true;
        Poll::Pending
    })
    .await
}

/// Whether the next attempt may succeed: nothing there, no room, no memory for now.
fn is_passing(result: i32) -> bool {
    matches!(-result, libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)
}
