//! The submissions of this engine, and the names by which their completions are recognised.

use std::net::SocketAddr;

use io_uring::types::{self, DestinationSlot};
use io_uring::{opcode, squeue};
use ringecho::engine::uring::submit::{self, BUFFER_GROUP};
use socket2::SockAddr;

/// What completed.
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

impl Kind {
    const ALL: [Kind; 7] =
        [Kind::Ignored, Kind::Bell, Kind::Connect, Kind::Ready, Kind::Receive, Kind::Send, Kind::Alarm];
}

/// Names one operation: its kind, and the connection by its key and its generation (keys are used again).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) generation: u16,
    pub(super) key: u32,
}

impl Token {
    #[inline]
    pub(super) fn new(kind: Kind, generation: u16, key: u32) -> Self {
        Self { kind, generation, key }
    }

    pub(super) fn of(kind: Kind) -> Self {
        Self::new(kind, 0, 0)
    }

    #[inline]
    pub(super) fn encode(self) -> u64 {
        u64::from(self.kind as u8) << 48 | u64::from(self.generation) << 32 | u64::from(self.key)
    }

    #[inline]
    pub(super) fn decode(user_data: u64) -> Self {
        let kind = Kind::ALL[(user_data >> 48) as usize];
        Self { kind, generation: (user_data >> 32) as u16, key: user_data as u32 }
    }
}

/// The addresses at both ends, in the kernel's form, and the submissions that make a connection of them.
pub(super) struct Addresses {
    targets: Vec<SockAddr>,
    /// Empty if the kernel chooses.
    sources: Vec<SockAddr>,
    /// Whether the kernel is to note when it receives something.
    are_stamped: bool,
}

/// The value of the socket options that are switched on.
static ON: libc::c_int = 1;

impl Addresses {
    pub(super) fn new(targets: Vec<SockAddr>, sources: Vec<SocketAddr>, are_stamped: bool) -> Self {
        Self { targets, sources: sources.into_iter().map(SockAddr::from).collect(), are_stamped }
    }

    /// A chain that ends with a connected socket in direct descriptor `token.key`, and with exactly one completion:
    /// that of its last operation, or that of the first which failed (the rest of the chain is then silent, because
    /// the failed one was to be silent on success).
    ///
    /// The addresses in it must stay where they are until the completion: `self` must.
    pub(super) fn connect(&self, token: Token, target: usize, source: usize) -> Vec<squeue::Entry> {
        let fd = types::Fixed(token.key);
        let target = &self.targets[target];
        let slot = DestinationSlot::try_from_slot_target(token.key).expect("tables are far below u32::MAX entries");
        let socket = opcode::Socket::new(target.family().into(), libc::SOCK_STREAM, 0).file_index(Some(slot)).build();
        let no_delay = (!target.is_unix()).then(|| set_on(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY));
        let stamp = self.are_stamped.then(|| set_on(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS));
        let source = self.sources.get(source).filter(|source| source.family() == target.family());
        let bind = source.map(|source| {
            // The port is chosen at `connect`, when the four-tuple is known: otherwise a port in use towards any
            // target would count as taken.
            let no_port = set_on(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
            [no_port, opcode::Bind::new(fd, source.as_ptr().cast(), source.len()).build()]
        });
        let connect = opcode::Connect::new(fd, target.as_ptr().cast(), target.len()).build();
        let silent = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
        let setup = [socket]
            .into_iter()
            .chain(no_delay)
            .chain(stamp)
            .chain(bind.into_iter().flatten())
            .map(|sqe| sqe.flags(silent));
        setup.chain([connect]).map(|sqe| sqe.user_data(token.encode())).collect()
    }
}

fn set_on(fd: types::Fixed, level: libc::c_int, option: libc::c_int) -> squeue::Entry {
    opcode::SetSockOpt::new(fd, level as u32, option as u32, (&raw const ON).cast(), size_of_val(&ON) as u32).build()
}

/// Completes whenever something can be received, or could be but for an end. Errors are told unasked.
pub(super) fn poll(token: Token) -> squeue::Entry {
    submit::poll(token.key, (libc::POLLIN | libc::POLLRDHUP) as u32).user_data(token.encode())
}

/// Receives from direct descriptor `key` without waiting.
#[inline]
pub(super) fn receive(key: u32, place: u32) -> squeue::Entry {
    submit::receive(key, None).user_data(Token::new(Kind::Receive, 0, place).encode())
}

/// The same, with what `header` asks for besides bytes. The kernel writes to it until the receive has completed.
#[inline]
pub(super) fn receive_stamped(key: u32, place: u32, header: *mut libc::msghdr) -> squeue::Entry {
    opcode::RecvMsg::new(types::Fixed(key), header)
        .flags(libc::MSG_DONTWAIT as u32)
        .buf_group(BUFFER_GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
        .user_data(Token::new(Kind::Receive, 0, place).encode())
}

/// How a send goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendMode {
    /// As much as fits into the socket's buffer now, which nearly always is all. It is over when the enter that submits
    /// it returns, and completes only if it was not all.
    Try,
    /// Wait until there is room, and complete in any case.
    Wait,
}

impl SendMode {
    fn message_flags(self) -> libc::c_int {
        match self {
            // With MSG_WAITALL a short send counts as a failure, and failures complete in spite of SKIP_SUCCESS.
            Self::Try => libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL,
            Self::Wait => libc::MSG_NOSIGNAL,
        }
    }

    fn entry_flags(self) -> squeue::Flags {
        match self {
            Self::Try => squeue::Flags::SKIP_SUCCESS,
            Self::Wait => squeue::Flags::empty(),
        }
    }
}

/// Sends `bytes`, which must stay as they are until the send is over.
#[inline]
pub(super) fn send(token: Token, bytes: &[u8], mode: SendMode) -> squeue::Entry {
    opcode::Send::new(types::Fixed(token.key), bytes.as_ptr(), bytes.len() as u32)
        .flags(mode.message_flags())
        .build()
        .flags(mode.entry_flags())
        .user_data(token.encode())
}

/// Sends the parts of `message`. It and they must stay as they are until the send is over.
pub(super) fn send_parts(token: Token, message: &libc::msghdr, mode: SendMode) -> squeue::Entry {
    opcode::SendMsg::new(types::Fixed(token.key), message)
        .flags(mode.message_flags() as u32)
        .build()
        .flags(mode.entry_flags())
        .user_data(token.encode())
}

/// Ends another operation early; that one's own completion tells when it has ended.
pub(super) fn cancel(target: Token) -> squeue::Entry {
    let sqe = opcode::AsyncCancel::new(target.encode()).build();
    sqe.flags(squeue::Flags::SKIP_SUCCESS).user_data(Token::of(Kind::Ignored).encode())
}

/// Closes a direct descriptor.
pub(super) fn close(key: u32) -> squeue::Entry {
    let sqe = opcode::Close::new(types::Fixed(key)).build();
    sqe.flags(squeue::Flags::SKIP_SUCCESS).user_data(Token::of(Kind::Ignored).encode())
}

/// Completes whenever the control rings its bell.
pub(super) fn listen(bell: std::os::fd::RawFd) -> squeue::Entry {
    let poll = opcode::PollAdd::new(types::Fd(bell), libc::POLLIN as u32).multi(true);
    poll.build().user_data(Token::of(Kind::Bell).encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip() {
        for kind in Kind::ALL {
            let token = Token::new(kind, 0xabcd, 0xffff_0001);
            assert_eq!(Token::decode(token.encode()), token);
        }
    }

    #[test]
    fn a_chain_has_an_end_and_fits() {
        let inet = |text: &str| SockAddr::from(text.parse::<SocketAddr>().unwrap());
        let targets = vec![inet("127.0.0.1:1"), inet("[::1]:1"), SockAddr::unix("/run/echo").unwrap()];
        let addresses = Addresses::new(targets.clone(), vec!["127.1.0.1:0".parse().unwrap()], false);
        let lengths = |addresses: &Addresses| {
            [0, 1, 2].map(|target| addresses.connect(Token::of(Kind::Connect), target, 0).len())
        };
        assert_eq!(lengths(&addresses), [5, 3, 2], "only what is of the same family is bound");
        assert_eq!(lengths(&Addresses::new(targets.clone(), Vec::new(), false)), [3, 3, 2]);
        assert_eq!(lengths(&Addresses::new(targets, Vec::new(), true)), [4, 4, 3]);
    }
}
