//! The lifecycle of a connection, written once for all engines: the effect of events, what the connection wants next, and
//! what is due when.
//!
//! ```text
//! opening ──► open ──► closing ──► finishing ──► done        handshake, messages, own Close out, both Closes out
//!    │          │         │            │
//!    └──────────┴─────────┴────────────┴──► lingering ──► shut ──► done
//! ```
//!
//! When the server stops, *leaving* comes before closing: input that has arrived is echoed. The peer's Close leads from open
//! to finishing. An error or a deadline leads from each state to *aborted*, and the end of the peer's input to the close,
//! once all output is sent.

use crate::protocol::{
    Behaviour, Cause, CloseCode, Event, Kinds, Output, Phase, Protocol, Reply, Session, Shared, Then,
};
use crate::worker::Ending;
pub(crate) use due::{Due, STALL_TICKS, Timeouts};
use rest::Rest;

mod due;
mod rest;

/// Receives that a connection may still have when it is told to leave: its peer may be a bulk sender.
pub(crate) const LAST_RECEIVES: u8 = 64;

/// Ticks in which a send that was tried at the stall timeout has to show progress: it takes one turn of the loop, which may
/// begin at the end of a tick.
pub(in crate::connection) const PROBE_TICKS: u32 = 2;

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The upgrade request is not complete.
    Opening,
    /// Messages are echoed.
    Open,
    /// The server stops: once all input that has arrived is received, the server closes it.
    Leaving,
    /// The server's Close frame is queued or sent, the peer's is awaited.
    Closing,
    /// Both Close frames are out as soon as the output is sent; then the server closes first (RFC 6455 7.1.1), unless a last
    /// receive finds more input.
    Finishing,
    /// When the output is sent, sending is to be shut down. Input is discarded until the peer closes: closing with unread
    /// input would make the kernel send a reset, which can destroy what is on its way (RFC 9112 9.6).
    Lingering,
    /// The same, when sending has been shut down.
    Shut,
    /// To be closed as soon as its output is sent.
    Done,
    /// To be closed at once; its output is dropped.
    Aborted,
}

impl State {
    /// Whether received bytes are handled.
    #[inline]
    pub(crate) fn is_served(self) -> bool {
        matches!(self, State::Opening | State::Open | State::Leaving | State::Closing)
    }

    /// Whether received bytes are discarded.
    #[inline]
    fn is_ending(self) -> bool {
        !self.is_served()
    }
}

/// Facts about a connection, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts(u16);

impl Facts {
    /// There may be something to receive.
    pub(crate) const READABLE: Self = Self(1);
    /// The peer has shut down its side (EOF), or the connection is broken.
    pub(crate) const PEER_DONE: Self = Self(1 << 1);
    /// After the remaining input there is an end, or a TCP urgent mark: no further event will report it.
    pub(crate) const END_AHEAD: Self = Self(1 << 2);
    /// The last send found the socket's buffer full: a slow reader.
    pub(crate) const BLOCKED: Self = Self(1 << 3);
    /// Its pending output has reached a cap: it is not received from until all of that is sent.
    pub(crate) const THROTTLED: Self = Self(1 << 4);
    /// A keepalive Ping went out since the peer was last heard; of a throttled connection, a send was tried in vain since
    /// the last progress.
    pub(crate) const PINGED: Self = Self(1 << 5);
    /// A bulk sender: it is served a quantum at a time, behind interactive connections.
    pub(crate) const BULK: Self = Self(1 << 6);
    /// It waits in the scheduler's foreground list.
    pub(crate) const IN_FOREGROUND: Self = Self(1 << 7);
    /// It waits in the scheduler's background list.
    pub(crate) const IN_BACKGROUND: Self = Self(1 << 8);
    /// Some of its pending output lies in the receive buffers, beyond the turn that it was received in.
    pub(crate) const HOLDS_BUFFERS: Self = Self(1 << 9);
    /// The peer has sent something.
    pub(crate) const HEARD: Self = Self(1 << 10);
    /// It has a behaviour that sends later or without input: it has an entry among the [`Actors`](super::actors::Actors).
    pub(crate) const ACTS: Self = Self(1 << 11);
    /// It is a source: its next output is queued when all of its output is sent.
    pub(crate) const FED: Self = Self(1 << 12);
    /// It is to end with a reset.
    pub(crate) const RESET: Self = Self(1 << 13);
    /// Some of its input waits, because the allowance for inflating was used up: nothing else is received before that input
    /// has had its turns.
    pub(crate) const LADEN: Self = Self(1 << 14);
    /// The last receive found nothing, although there may be input behind a TCP urgent mark: the next one counts.
    pub(crate) const LOOKS_AGAIN: Self = Self(1 << 15);

    #[inline]
    pub(crate) const fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    #[inline]
    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline]
    pub(crate) fn set(&mut self, fact: Self) {
        self.0 |= fact.0;
    }

    #[inline]
    pub(crate) fn clear(&mut self, fact: Self) {
        self.0 &= !fact.0;
    }

    /// The peer has sent something: no Ping is needed.
    #[inline]
    fn hear(&mut self) {
        self.0 = self.0 & !Self::PINGED.0 | Self::HEARD.0;
    }
}

/// What a connection wants of its engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a wish of its own
pub(crate) struct Wants {
    /// Receive, when there may be input.
    pub(crate) receive: bool,
    /// A turn for its waiting input.
    pub(crate) resume: bool,
    /// Send its pending output.
    pub(crate) send: bool,
    /// `shutdown(SHUT_WR)`.
    pub(crate) shutdown: bool,
    /// Close the socket.
    pub(crate) close: bool,
}

/// The output of the server when it closes a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// A Close frame, to be queued.
    Frame(Vec<u8>),
    /// None: the connection ends, or the session sends the Close frame behind the frame that is being echoed.
    Nothing,
}

/// The lifecycle of one connection. Rare state is behind a pointer in the [`Session`].
pub(crate) struct Lifecycle {
    session: Session,
    /// The tick that its current deadline counts from.
    since: u32,
    pub(crate) facts: Facts,
    state: State,
    rest: Rest,
}

const _: () = assert!(size_of::<Lifecycle>() <= 32, "an idle connection pays for every byte");

/// The result of a receive.
pub(crate) struct Received {
    pub(crate) output: Output,
    pub(crate) messages: u32,
    pub(crate) frames: u32,
    pub(crate) kinds: Kinds,
    pub(crate) event: Option<Event>,
    /// The upgrade request was answered with 101, whatever has followed.
    pub(crate) has_opened: bool,
}

impl Received {
    const NOTHING: Self = Self {
        output: Output { head: Vec::new(), range: 0..0 },
        messages: 0,
        frames: 0,
        kinds: Kinds { texts: 0, pings: 0, pongs: 0, compressed: 0 },
        event: None,
        has_opened: false,
    };
}

impl Lifecycle {
    /// `is_staged`: something comes before the session.
    pub(crate) fn new(protocol: Protocol, is_staged: bool, now: u32) -> Self {
        let session = Session::of(protocol);
        let state = if is_staged || session.phase() == Phase::Handshake { State::Opening } else { State::Open };
        Self { session, since: now, facts: Facts(0), state, rest: Rest::new(is_staged) }
    }

    /// Whether there is a stage in front of the session.
    #[inline]
    pub(crate) fn is_staged(&self) -> bool {
        self.rest.is_staged()
    }

    /// The stage has finished, or lets the session begin. Returns whether that has opened the connection, as with bare TCP.
    pub(crate) fn stage_is_open(&mut self, stays: bool, now: u32) -> bool {
        if !stays {
            self.rest.unstage();
        }
        let has_opened = self.state == State::Opening && self.session.phase() == Phase::Open;
        if has_opened {
            self.state = State::Open;
            self.since = now;
        }
        has_opened
    }

    /// The stage has failed: its answer is sent.
    pub(crate) fn refused(&mut self, now: u32) {
        self.rest.set_ending(Ending::Refused);
        self.state = State::Lingering;
        self.since = now;
    }

    /// Its peer has sent something, if nothing for the session.
    pub(crate) fn heard(&mut self, now: u32) {
        self.facts.set(Facts::HEARD);
        if self.state == State::Open {
            self.since = now;
            self.facts.clear(Facts::PINGED);
        }
    }

    #[inline]
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Its wants; `has_output`: some queued output is left to be sent.
    #[inline]
    pub(crate) fn wants(&self, has_output: bool) -> Wants {
        let facts = self.facts;
        let can_receive = !facts.has(Facts::PEER_DONE.or(Facts::THROTTLED).or(Facts::LADEN));
        let is_over = facts.has(Facts::PEER_DONE) && !facts.has(Facts::LADEN) || self.state == State::Done;
        match self.state {
            State::Aborted => Wants { close: true, ..Wants::default() },
            state => Wants {
                receive: can_receive
                    && match state {
                        State::Finishing => !has_output,
                        State::Done => false,
                        _ => true,
                    },
                resume: facts.has(Facts::LADEN) && !facts.has(Facts::THROTTLED),
                send: has_output && !facts.has(Facts::BLOCKED),
                shutdown: state == State::Lingering && !has_output && !is_over,
                close: is_over && !has_output,
            },
        }
    }

    /// Whether the completion of a silent send is awaited, because something else is to be done after it.
    #[inline]
    pub(crate) fn awaits_output(&self) -> bool {
        self.facts.has(Facts::PEER_DONE.or(Facts::THROTTLED).or(Facts::FED)) || self.state.is_ending()
    }

    /// Whether it is neither interactive nor idle: a bulk sender, a slow reader, a source, in a handshake, closing, or with
    /// waiting input or an end behind it.
    #[inline]
    pub(crate) fn is_background(&self) -> bool {
        const ANY: Facts = Facts::BULK.or(Facts::BLOCKED).or(Facts::END_AHEAD).or(Facts::FED).or(Facts::LADEN);
        self.state != State::Open || self.facts.has(ANY)
    }

    /// Its behaviour that sends later or without input, if any.
    pub(super) fn behaviour(&self) -> Option<Behaviour> {
        self.session.behaviour()
    }

    /// Whether the peer is in the midst of a data frame.
    #[inline]
    pub(crate) fn is_within_frame(&self) -> bool {
        self.session.is_within_frame()
    }

    /// The tick that its current deadline counts from.
    pub(super) fn since(&self) -> u32 {
        self.since
    }

    // ----- events -----

    /// Bytes from the peer, transformed in place where that is possible.
    #[inline]
    pub(crate) fn received(&mut self, shared: &mut Shared, bytes: &mut [u8], now: u32) -> Received {
        if !matches!(self.state, State::Open) {
            return self.received_otherwise(shared, bytes, now);
        }
        self.since = now;
        self.facts.hear();
        let Reply { output, event, frames, messages, kinds, then } = self.session.receive(shared, bytes);
        if event.is_some() {
            self.happened(event, then, now);
        }
        Received { output, messages, frames, kinds, event, has_opened: false }
    }

    #[inline(never)]
    fn received_otherwise(&mut self, shared: &mut Shared, bytes: &mut [u8], now: u32) -> Received {
        self.facts.set(Facts::HEARD);
        if !self.state.is_served() {
            if self.state == State::Finishing {
                self.state = State::Lingering; // the peer sends more behind its Close
            }
            return Received::NOTHING;
        }
        let was_in_handshake = self.session.phase() == Phase::Handshake;
        let Reply { output, event, frames, messages, kinds, then } = self.session.receive(shared, bytes);
        self.happened(event, then, now);
        let has_opened = was_in_handshake && !matches!(event, None | Some(Event::Closed(Cause::Refused(_))));
        Received { output, messages, frames, kinds, event, has_opened }
    }

    /// Handles the waiting input as if it had been received now.
    pub(crate) fn resume(&mut self, shared: &mut Shared, now: u32) -> Option<Received> {
        self.facts.clear(Facts::LADEN);
        if !self.state.is_served() {
            // Its stage has failed.
            self.session.release(shared);
            return Some(Received::NOTHING);
        }
        let Reply { output, event, frames, messages, kinds, then } = self.session.resume(shared)?;
        if self.state == State::Open {
            self.since = now;
            self.facts.hear();
        }
        self.happened(event, then, now);
        Some(Received { output, messages, frames, kinds, event, has_opened: false })
    }

    /// Whether it holds memory for compressed messages.
    pub(crate) fn is_inflating(&self) -> bool {
        self.session.is_inflating()
    }

    /// Releases its part of the state that the worker's sessions share: it is over.
    pub(crate) fn release(&mut self, shared: &mut Shared) {
        self.session.release(shared);
    }

    fn happened(&mut self, event: Option<Event>, then: Then, now: u32) {
        if self.session.is_waiting() {
            self.facts.set(Facts::LADEN);
        }
        match event {
            None | Some(Event::Deferred | Event::Inflated) => return,
            Some(Event::Opened) if self.state == State::Opening => self.state = State::Open,
            Some(Event::Opened) => {} // it is leaving already
            Some(Event::Closing(_)) => {
                // If it has none yet, its client has requested this.
                self.rest.set_ending(Ending::Behaviour);
                self.state = State::Closing;
            }
            Some(Event::Closed(cause)) => {
                self.rest.set_ending(match cause {
                    Cause::Refused(status) => Ending::of_status(status),
                    Cause::PeerClosed(_) => Ending::PeerClose,
                    Cause::Violation(_) => Ending::Violation,
                    Cause::Behaviour => Ending::Behaviour,
                });
                self.ends(then);
            }
        }
        self.since = now;
    }

    /// The session sends nothing more.
    fn ends(&mut self, then: Then) {
        match then {
            Then::Linger => self.state = State::Lingering,
            Then::Reset => {
                self.state = State::Done;
                self.facts.set(Facts::RESET);
            }
            Then::Continue | Then::Close => {
                self.state = State::Finishing;
                self.facts.set(Facts::READABLE); // a last receive is to find out
            }
        }
    }

    /// An event reports input, or an end.
    #[inline]
    pub(crate) fn has_input(&mut self) {
        self.facts.set(Facts::READABLE);
        self.facts.clear(Facts::LOOKS_AGAIN);
    }

    /// A receive found nothing. In front of a TCP urgent mark, Linux says so (`EAGAIN`) also when just then a signal is pending.
    /// `may_be_at_mark`: no event would have reported one as an end. What two receives do not find is not there: no input, and
    /// no end either, which a receive reports.
    pub(crate) fn found_nothing(&mut self, may_be_at_mark: bool) {
        let may_be_at_mark = may_be_at_mark || self.facts.has(Facts::END_AHEAD);
        if may_be_at_mark && !self.facts.has(Facts::LOOKS_AGAIN) {
            self.facts.set(Facts::LOOKS_AGAIN);
            return;
        }
        self.facts.clear(Facts::READABLE.or(Facts::LOOKS_AGAIN).or(Facts::END_AHEAD));
        if self.state == State::Finishing {
            self.state = State::Done;
        }
    }

    /// The peer has shut down its side.
    pub(crate) fn peer_finished(&mut self, now: u32) {
        self.since = now; // that is input, too
        self.facts.set(Facts::PEER_DONE);
        self.rest.set_ending(Ending::EndOfInput);
    }

    /// The connection is broken: a reset, a timeout, an error of the socket.
    pub(crate) fn broken(&mut self, now: u32) {
        self.facts.set(Facts::PEER_DONE);
        self.abort(Ending::Reset, now);
    }

    pub(crate) fn abort(&mut self, ending: Ending, now: u32) {
        self.rest.set_ending(ending);
        if self.state != State::Aborted {
            self.state = State::Aborted;
            self.since = now;
        }
    }

    /// Its descriptor is being closed: it is not queued any more.
    pub(crate) fn finish(&mut self) {
        if self.state != State::Aborted {
            self.state = State::Done;
        }
    }

    /// Some pending output was sent: a peer that reads slowly is neither idle nor dead.
    #[inline]
    pub(crate) fn progressed(&mut self, now: u32) {
        if self.state != State::Opening {
            self.since = now;
            self.facts.clear(Facts::PINGED);
        }
    }

    /// Its pending output has reached a cap.
    pub(crate) fn throttle(&mut self, now: u32) {
        if !self.facts.has(Facts::THROTTLED) {
            self.facts.set(Facts::THROTTLED);
            self.progressed(now);
        }
    }

    /// Sending is shut down.
    pub(crate) fn shut_down(&mut self) {
        if self.state == State::Lingering {
            self.state = State::Shut;
        }
    }

    // ----- the server's own decisions -----

    /// A keepalive Ping to be queued, if one can be sent now. With pending output, progress counts instead.
    pub(crate) fn ping(&mut self, has_output: bool, now: u32) -> Option<Vec<u8>> {
        if has_output {
            return None;
        }
        let frame = self.session.ping()?;
        self.facts.set(Facts::PINGED);
        self.since = now;
        Some(frame)
    }

    /// Begins the server's closing handshake, or ends the connection if the protocol has none.
    pub(crate) fn close(&mut self, ending: Ending, code: CloseCode, reason: &str, now: u32) -> Farewell {
        if !matches!(self.state, State::Opening | State::Open | State::Leaving) {
            return Farewell::Nothing;
        }
        self.rest.set_ending(ending);
        // Its deadlines do not count input received since it was told to leave.
        self.since = now;
        let was_open = self.session.phase() == Phase::Open;
        let frame = self.session.close(code, reason);
        self.state = match frame {
            Some(_) => State::Closing,
            None if !was_open => State::Done,
            // A close with unread input would make the kernel send a reset, and destroy echoes on their way.
            None if self.session.is_tcp() => State::Lingering,
            // The session sends the Close frame behind the binary frame that is being echoed.
            None => {
                self.state = State::Open;
                return Farewell::Nothing;
            }
        };
        frame.map_or(Farewell::Nothing, Farewell::Frame)
    }

    /// The server stops: input that has arrived is received first.
    pub(crate) fn leave(&mut self) {
        if matches!(self.state, State::Opening | State::Open) {
            self.state = State::Leaving;
            // There may be input that no event has reported yet.
            self.facts.set(Facts::READABLE);
        }
    }

    /// Whether a leaving connection has brought all that had arrived, or enough. Called after each receive.
    pub(crate) fn has_brought_all(&mut self, has_output: bool) -> bool {
        if self.state != State::Leaving {
            return false;
        }
        let has_more = self.facts.has(Facts::READABLE) && self.wants(has_output).receive && self.rest.take();
        !has_more && !self.facts.has(Facts::LADEN)
    }

    // ----- time -----

    /// The action due at `now`, or the tick of the next check.
    pub(crate) fn due(&self, timeouts: &Timeouts, has_output: bool, now: u32) -> Due {
        let elapsed = now.wrapping_sub(self.since);
        let after = |limit: Option<u32>, due| match limit {
            Some(limit) if elapsed >= limit => due,
            limit => Due::Later(limit.map(|limit| self.since.wrapping_add(limit))),
        };
        match self.state {
            State::Opening => after(timeouts.handshake, Due::Abort),
            // A throttled connection, or one whose peer has shut down its side, is not received from: it stays only while
            // its output makes progress.
            State::Open if self.is_send_only(has_output) && timeouts.has_stall_before_idle() => {
                self.stuck(timeouts.stall, after)
            }
            State::Leaving if self.facts.has(Facts::THROTTLED) => self.stuck(timeouts.stall, after),
            // It may be throttled within a frame: no Close can be sent then.
            State::Open if self.facts.has(Facts::PINGED) => {
                let due = if self.session.at_frame_boundary() { Due::Close } else { Due::Abort };
                after(timeouts.idle.map(|idle| idle / 2), due)
            }
            // Within a frame no Close can be sent, and no Ping: this peer will not finish it.
            State::Open if !self.session.at_frame_boundary() => self.unpinged(timeouts, Due::Abort, now),
            State::Open if has_output => self.unpinged(timeouts, Due::Close, now),
            // Bare TCP has no Ping.
            State::Open if !self.can_ping() => after(timeouts.idle, Due::Close),
            State::Open => after(timeouts.idle.map(|idle| idle.div_ceil(2)), Due::Ping),
            State::Leaving | State::Aborted => Due::Later(None),
            State::Closing | State::Finishing | State::Lingering | State::Shut | State::Done => {
                after(timeouts.close, Due::Abort)
            }
        }
    }

    /// The cause of its end; `None`: it has not ended.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.rest.ending()
    }

    /// Whether it waits only for its output to be sent.
    fn is_send_only(&self, has_output: bool) -> bool {
        self.facts.has(Facts::THROTTLED) || (self.facts.has(Facts::PEER_DONE) && has_output)
    }

    /// The action due for a connection whose output may be stuck: a send is tried first.
    fn stuck(&self, stall: Option<u32>, after: impl Fn(Option<u32>, Due) -> Due) -> Due {
        if self.facts.has(Facts::PINGED) {
            after(stall.map(|stall| stall.saturating_add(PROBE_TICKS)), Due::Stalled)
        } else {
            after(stall, Due::Probe)
        }
    }

    /// The action due for an open connection that cannot be pinged now. When it can be, a Ping may be due half of the
    /// timeout later, so it is checked again by then.
    fn unpinged(&self, timeouts: &Timeouts, due: Due, now: u32) -> Due {
        let Some(idle) = timeouts.idle else { return Due::Later(None) };
        let left = idle.saturating_sub(now.wrapping_sub(self.since));
        if left == 0 { due } else { Due::Later(Some(now.wrapping_add(left.min(idle.div_ceil(2))))) }
    }

    /// Whether its protocol and its phase have Pings, and one can be sent now.
    pub(crate) fn can_ping(&self) -> bool {
        self.session.can_ping()
    }
}

#[cfg(test)]
mod tests;
