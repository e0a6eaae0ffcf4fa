//! The submissions of this transport, and the tokens that identify their completions.

use std::net::SocketAddr;

use ringio::{Operation, opcode, types};
use socket2::SockAddr;

/// The completed operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Something whose completion only comes when it failed, which does not matter.
    Ignored,
    /// The control's bell rang.
    Bell,
    /// A connection's setting up, as far as `connect`.
    Connect,
    /// A connection's poll.
    Ready,
    /// A receive, by its place.
    Receive,
    /// A connection's send.
    Send,
    /// An alarm, by its place.
    Alarm,
}

impl ringio::Kind for Kind {
    const ALL: &'static [Self] =
        &[Self::Ignored, Self::Bell, Self::Connect, Self::Ready, Self::Receive, Self::Send, Self::Alarm];

    #[inline]
    fn number(self) -> u8 {
        self as u8
    }
}

/// Names one operation: its kind, and the connection by its key and its generation (keys are used again), or a place.
pub(super) type Token = ringio::Token<Kind>;

/// The events of a poll that mean an end after the remaining input.
pub(super) const END: i32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as i32;

/// The addresses at both ends, in the kernel's form, and the submissions that make a connection of them.
pub(super) struct Addresses {
    targets: Vec<SockAddr>,
    /// Empty if the kernel chooses.
    sources: Vec<SockAddr>,
    /// Whether the kernel is to note when it receives something.
    are_stamped: bool,
}

impl Addresses {
    pub(super) fn new(targets: Vec<SockAddr>, sources: Vec<SocketAddr>, are_stamped: bool) -> Self {
        Self { targets, sources: sources.into_iter().map(SockAddr::from).collect(), are_stamped }
    }

    /// A chain that ends with a connected socket in direct descriptor `token.key`, and with exactly one completion:
    /// that of its last operation, or that of the first which failed (the rest of the chain is then silent, because
    /// the failed one was to be silent on success).
    ///
    /// The addresses in it must stay where they are until the kernel has taken it: `self` must.
    pub(super) fn connect(&self, token: Token, target: usize, source: usize) -> Vec<Operation<'_>> {
        let slot = token.key;
        let target = &self.targets[target];
        let socket = Operation::socket(slot, target.family());
        let no_delay = (!target.is_unix()).then(|| Operation::switch_on(slot, libc::IPPROTO_TCP, libc::TCP_NODELAY));
        let stamp = self.are_stamped.then(|| Operation::switch_on(slot, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS));
        let source = self.sources.get(source).filter(|source| source.family() == target.family());
        let bind = source.map(|source| {
            // The port is chosen at `connect`, when the four-tuple is known: otherwise a port in use towards any
            // target would count as taken.
            let no_port = Operation::switch_on(slot, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
            // SAFETY: an address, which `self` keeps unchanged.
            [no_port, unsafe { Operation::bind(slot, source.as_ptr().cast(), source.len()) }]
        });
        // SAFETY: an address, which `self` keeps unchanged.
        let connect = unsafe { Operation::connect(slot, target.as_ptr().cast(), target.len()) };
        let setup = [socket].into_iter().chain(no_delay).chain(stamp).chain(bind.into_iter().flatten());
        let chain = setup.map(Operation::silent).chain([connect]);
        chain.map(|operation| operation.with_user_data(token.encode())).collect()
    }
}

/// Completes whenever something can be received, or could be but for an end. Errors are told unasked.
pub(super) fn poll(token: Token) -> Operation<'static> {
    Operation::poll(token.key, (libc::POLLIN | libc::POLLRDHUP) as u32).with_user_data(token.encode())
}

/// The kinds of sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendMode {
    /// As much as fits into the socket's buffer now, which nearly always is all. It is over when the enter that submits
    /// it returns, and completes only if it was not all.
    Try,
    /// Wait until there is room, and complete in any case.
    Wait,
}

/// Sends `bytes`.
///
/// # Safety
/// With [`SendMode::Wait`] they must stay as they are until the send has completed.
#[inline]
pub(super) unsafe fn send(token: Token, bytes: &[u8], mode: SendMode) -> Operation<'_> {
    let send = match mode {
        SendMode::Try => Operation::send(token.key, bytes, false),
        SendMode::Wait => {
            let send = opcode::Send::new(types::Fixed(token.key), bytes.as_ptr(), bytes.len() as u32);
            // SAFETY: the caller's promise.
            unsafe { Operation::from_entry(send.flags(libc::MSG_NOSIGNAL).build()) }
        }
    };
    send.with_user_data(token.encode())
}

/// Sends the parts of `message`, which must stay valid and unchanged as long as it is borrowed.
///
/// # Safety
/// With [`SendMode::Wait`] it and they must stay as they are until the send has completed.
pub(super) unsafe fn send_parts(token: Token, message: &libc::msghdr, mode: SendMode) -> Operation<'_> {
    // SAFETY: the caller's promise.
    let send = unsafe {
        match mode {
            SendMode::Try => Operation::send_message(token.key, message),
            SendMode::Wait => {
                let send = opcode::SendMsg::new(types::Fixed(token.key), message);
                Operation::from_entry(send.flags(libc::MSG_NOSIGNAL as u32).build())
            }
        }
    };
    send.with_user_data(token.encode())
}

/// Ends another operation early; that one's own completion tells when it has ended.
pub(super) fn cancel(target: Token) -> Operation<'static> {
    Operation::cancel(target.encode()).with_user_data(Token::of_worker(Kind::Ignored).encode())
}

/// Closes a direct descriptor.
pub(super) fn close(key: u32) -> Operation<'static> {
    Operation::close(key).silent().with_user_data(Token::of_worker(Kind::Ignored).encode())
}

/// Completes whenever the control rings its bell.
pub(super) fn listen(bell: std::os::fd::RawFd) -> Operation<'static> {
    let poll = Operation::poll_descriptor(bell, libc::POLLIN as u32);
    poll.with_user_data(Token::of_worker(Kind::Bell).encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_at_the_place_of_their_number() {
        for (place, kind) in <Kind as ringio::Kind>::ALL.iter().enumerate() {
            assert_eq!(place, usize::from(ringio::Kind::number(*kind)));
        }
    }

    #[test]
    fn a_chain_has_an_end_and_fits() {
        let inet = |text: &str| SockAddr::from(text.parse::<SocketAddr>().unwrap());
        let targets = vec![inet("127.0.0.1:1"), inet("[::1]:1"), SockAddr::unix("/run/echo").unwrap()];
        let addresses = Addresses::new(targets.clone(), vec!["127.1.0.1:0".parse().unwrap()], false);
        let lengths = |addresses: &Addresses| {
            [0, 1, 2].map(|target| addresses.connect(Token::of_worker(Kind::Connect), target, 0).len())
        };
        assert_eq!(lengths(&addresses), [5, 3, 2], "only what is of the same family is bound");
        assert_eq!(lengths(&Addresses::new(targets.clone(), Vec::new(), false)), [3, 3, 2]);
        assert_eq!(lengths(&Addresses::new(targets, Vec::new(), true)), [4, 4, 3]);
    }
}
