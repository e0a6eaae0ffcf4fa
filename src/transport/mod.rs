//! Stages between a connection's bytes and its session, without I/O and without a clock: a PROXY protocol header, TLS, or,
//! for most connections, none.
//!
//! Connections without a stage pay nothing for this. Stages are in a separate table, by the connection's key. A header that
//! has been read leaves no stage behind.

#![forbid(unsafe_code)]

use core::net::SocketAddr;
use core::ops::Range;
use std::sync::Arc;

use slab::Slab;

use crate::protocol::{self, Protocol};
use proxy::{HalfRead, Versions};
pub(crate) use tls::Acceptor;
#[cfg(not(feature = "tls"))]
pub(crate) use tls::Progress;
#[cfg(feature = "tls")]
pub use tls::{Alone, Progress};
use tls::{Keys, Received, Tls};

pub mod proxy;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;

/// The settings of a listener for its connections.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// A PROXY protocol header comes first, of these versions.
    pub(crate) proxy: Option<Versions>,
    /// TLS comes next.
    pub(crate) tls: Option<Arc<Acceptor>>,
    /// Its sockets do not say after a receive whether they hold more (`IORING_CQE_F_SOCK_NONEMPTY`), as the native engine has
    /// found out.
    pub(crate) hides_more: bool,
    /// Its listener is the service manager's, which keeps it open: clients that wait there are the next server's.
    pub(crate) is_inherited: bool,
}

/// Those of all listeners, by their numbers.
pub(crate) type Doors = Arc<[Door]>;

impl Door {
    /// For TCP sockets, with nothing in front of the session.
    pub(crate) fn new(protocol: Protocol) -> Self {
        Self { protocol, proxy: None, tls: None, hides_more: false, is_inherited: false }
    }

    /// Whether something comes before the session.
    pub(crate) fn has_stage(&self) -> bool {
        self.proxy.is_some() || self.tls.is_some()
    }
}

/// The stage of one connection.
enum Stage {
    Proxy {
        versions: Versions,
        half_read: HalfRead,
        /// The stage behind the header.
        tls: Option<Arc<Acceptor>>,
        protocol: Protocol,
    },
    Tls {
        tls: Tls,
        /// The next receive is thought to bring the message that takes the handshake's work.
        expects_work: bool,
    },
}

/// Bytes of one.
#[cfg(test)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
const STAGE: usize = size_of::<Stage>();

/// The result of a receive.
pub(crate) enum Step {
    /// No result yet.
    Partial,
    /// A header has ended before `used` of what was received.
    Passed {
        used: usize,
        /// The client that it names.
        source: Option<SocketAddr>,
    },
    /// This is not what was to come; the answer.
    Refused(Vec<u8>),
    Opened(Opened),
}

/// The content of TLS records.
pub(crate) struct Opened {
    /// For the session; to be given back by [`Stages::give_back`].
    pub(crate) plain: Vec<u8>,
    /// For the session, where it lies in the received bytes. One of the two is empty.
    pub(crate) within: Range<usize>,
    /// Records that were opened, and keys that were renewed, as far as they are counted.
    pub(crate) records: u32,
    pub(crate) renewals: u32,
    /// To be sent, in front of everything that is sealed from now on.
    pub(crate) out: Vec<u8>,
    pub(crate) handshake: Handshake,
    /// With [`Progress::Failed`] there is nothing in `plain`, and nothing more is to be sent behind `out`.
    pub(crate) progress: Progress,
}

/// The progress of the TLS handshake by a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// None, or too little.
    Nothing,
    /// The client's first message, which is answered now: the dear part.
    Answered,
    /// Its end.
    Over {
        /// It has resumed a session.
        is_resumed: bool,
    },
    /// It has failed.
    Failed,
}

/// The stages of a worker's connections.
#[derive(Default)]
pub(crate) struct Stages {
    /// The place of each connection's stage, by the connection's key, up to the highest that has ever had one.
    by_key: Vec<u32>,
    all: Slab<Stage>,
    /// Of TLS connections that were lately active.
    keys: Keys,
    /// Plaintext, one receive after the other.
    plain: Vec<u8>,
    /// Bytes of memory that hold what is half read.
    held: usize,
}

/// Plaintext memory that is kept from one receive to the next: what most of them bring.
const PLAIN_KEPT: usize = 256 << 10;

impl Stages {
    /// For a connection that has come through a door. Returns whether it has a stage.
    pub(crate) fn insert(&mut self, key: u32, door: &Door) -> bool {
        let stage = match (door.proxy, &door.tls) {
            (Some(versions), tls) => Some(Stage::Proxy {
                versions,
                half_read: HalfRead::default(),
                tls: tls.clone(),
                protocol: door.protocol,
            }),
            (None, Some(acceptor)) => Stage::tls(acceptor),
            (None, None) => None,
        };
        let Some(stage) = stage else { return false };
        if self.by_key.len() <= key as usize {
            self.by_key.resize(key as usize + 1, u32::MAX);
        }
        self.by_key[key as usize] = self.all.insert(stage) as u32;
        true
    }

    pub(crate) fn remove(&mut self, key: u32) {
        let place = std::mem::replace(&mut self.by_key[key as usize], u32::MAX);
        self.keys.forget(place);
        self.held -= self.all.remove(place as usize).memory();
        if self.all.is_empty() {
            self.all = Slab::new(); // the memory of a peak goes back
        }
    }

    /// Bytes of memory that hold what is half read.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// A connection's stage, its place, and the keys that are known by places.
    fn get_mut(&mut self, key: u32) -> (&mut Stage, u32, &mut Keys) {
        let place = self.by_key[key as usize];
        (&mut self.all[place as usize], place, &mut self.keys)
    }

    /// Bytes from a connection that has a stage; there are some.
    pub(crate) fn receive(&mut self, key: u32, bytes: &mut [u8]) -> Step {
        let mut plain = std::mem::take(&mut self.plain);
        let (stage, place, keys) = self.get_mut(key);
        let before = stage.memory();
        let mut is_passed = false;
        let step = match stage {
            Stage::Proxy { versions, half_read, tls, protocol } => match half_read.receive(*versions, bytes) {
                proxy::Progress::Partial => Step::Partial,
                proxy::Progress::Invalid(invalid) => {
                    Step::Refused(if tls.is_none() { refusal(*versions, *protocol, invalid) } else { Vec::new() })
                }
                proxy::Progress::Complete { used, source } => {
                    match tls.take().and_then(|acceptor| Stage::tls(&acceptor)) {
                        Some(next) => *stage = next,
                        None => is_passed = true,
                    }
                    Step::Passed { used, source }
                }
            },
            Stage::Tls { tls, .. } => Step::Opened(open(tls, place, keys, bytes, std::mem::take(&mut plain))),
        };
        let after = stage.memory();
        self.held = self.held + after - before;
        self.give_back(plain);
        if is_passed {
            self.remove(key);
        }
        step
    }

    /// Whether a connection holds something that is half read.
    pub(crate) fn holds(&self, key: u32) -> bool {
        self.has(key) && self.all[self.by_key[key as usize] as usize].memory() > 0
    }

    /// Whether a connection that once had a stage still has one.
    pub(crate) fn has(&self, key: u32) -> bool {
        self.by_key[key as usize] != u32::MAX
    }

    /// Keeps memory for the next receive.
    pub(crate) fn give_back(&mut self, mut plain: Vec<u8>) {
        if self.plain.capacity() < plain.capacity() {
            plain.clear();
            plain.shrink_to(PLAIN_KEPT);
            self.plain = plain;
        }
    }

    /// Puts what a connection is to be sent behind `out`, as its stage has it.
    pub(crate) fn seal(&mut self, key: u32, bytes: &[u8], out: &mut Vec<u8>) {
        match self.get_mut(key) {
            (Stage::Tls { tls, .. }, place, keys) => tls.seal(place, keys, bytes, out),
            // The header has not come: nothing is sent before.
            (Stage::Proxy { .. }, ..) => out.extend_from_slice(bytes),
        }
    }

    /// Seals what a connection is to be sent where it lies, if that can be done. Says what to send then.
    pub(crate) fn seal_within(&mut self, key: u32, bytes: &mut [u8], plain: Range<usize>) -> Option<Range<usize>> {
        match self.get_mut(key) {
            (Stage::Tls { tls, .. }, place, keys) => tls.seal_within(place, keys, bytes, plain),
            (Stage::Proxy { .. }, ..) => None,
        }
    }

    /// Puts the last words of a connection behind `out`: nothing more is sealed for it.
    pub(crate) fn say_goodbye(&mut self, key: u32, out: &mut Vec<u8>) {
        if let (Stage::Tls { tls, .. }, place, keys) = self.get_mut(key) {
            tls.say_goodbye(place, keys, out);
        }
    }

    /// Whether the next receive is thought to bring the message that takes a handshake's work.
    pub(crate) fn expects_work(&self, key: u32) -> bool {
        let stage = &self.all[self.by_key[key as usize] as usize];
        matches!(stage, Stage::Tls { expects_work: true, .. })
    }

    /// A receive has been charged for: from now on the next one is looked at. Returns what was expected of this one.
    pub(crate) fn take_expectation(&mut self, key: u32) -> bool {
        match self.get_mut(key).0 {
            Stage::Tls { tls, expects_work } => std::mem::replace(expects_work, !tls.has_answered()),
            Stage::Proxy { .. } => false,
        }
    }
}

impl Stage {
    fn tls(acceptor: &Acceptor) -> Option<Self> {
        Some(Self::Tls { tls: acceptor.accept()?, expects_work: true })
    }

    /// Bytes of memory that hold what is half read.
    fn memory(&self) -> usize {
        match self {
            Self::Proxy { half_read, .. } => half_read.memory(),
            Self::Tls { tls, .. } => tls.memory(),
        }
    }
}

fn open(tls: &mut Tls, place: u32, keys: &mut Keys, bytes: &mut [u8], mut plain: Vec<u8>) -> Opened {
    let (was_shaking, had_answered) = (tls.is_shaking(), tls.has_answered());
    let mut out = Vec::new();
    let Received { progress, mut within, records, renewals, is_resumed } =
        tls.receive(place, keys, bytes, &mut plain, &mut out);
    if progress == Progress::Failed {
        plain.clear();
        within = 0..0;
    }
    let handshake = match (tls.has_answered(), tls.is_shaking()) {
        _ if was_shaking && progress == Progress::Failed => Handshake::Failed,
        (true, _) if !had_answered => Handshake::Answered,
        (_, false) if was_shaking => Handshake::Over { is_resumed },
        _ => Handshake::Nothing,
    };
    Opened { plain, within, records, renewals, out, handshake, progress }
}

/// The answer to a client without the required header, which may have bypassed the balancer.
fn refusal(versions: Versions, protocol: Protocol, proxy::Invalid(why): proxy::Invalid) -> Vec<u8> {
    match protocol {
        Protocol::WebSocket => protocol::refuse(&format!(
            "This listener takes connections with a PROXY protocol header in front of them only (?proxy={}): {why}.",
            versions.name()
        )),
        Protocol::Tcp => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_peak_goes_back() {
        let door = Door { proxy: Some(Versions::Any), ..Door::new(Protocol::WebSocket) };
        let mut stages = Stages::default();
        for _ in 0..2 {
            (0..1000).for_each(|key| assert!(stages.insert(key, &door)));
            (0..1000).for_each(|key| stages.remove(key));
            assert_eq!((stages.all.capacity(), stages.held()), (0, 0));
        }
    }
}
