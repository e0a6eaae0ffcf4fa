//! Messages between members and conductor: JSON, each with its length in front.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::control::Phase;
use crate::output::report::Report;
use crate::series::Sample;
use crate::stats::Counts;

/// Changes with what is said here.
pub const PROTOCOL: u32 = 1;

/// The longest message of a peer that has not proved to be a member: a hello has some 2 KiB.
pub const STRANGER_LIMIT: usize = 64 << 10;

/// The longest message of a member: a report with a series of 3,600 samples (the most there are) of 10 KiB each has 36 MiB.
pub const MEMBER_LIMIT: usize = 64 << 20;

/// Messages of the conductor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromConductor {
    /// The first message on a connection: a hello must sign these random bytes.
    Challenge {
        /// In hexadecimal digits.
        nonce: String,
    },
    /// The hello is accepted.
    Welcome {
        /// The conductor has the same token: it signs the member's nonce.
        proof: String,
        /// The identity of this meeting.
        meeting: String,
    },
    /// The answer to a ping, at once.
    Pong {
        /// As the ping had it: the member's clock.
        sent_ns: u64,
        /// The conductor's clock.
        at_ns: u64,
    },
    /// The next run, the first one of which is 1: prepare it, and say [`FromMember::Ready`].
    Step {
        /// Its number.
        run: u32,
        /// The value that it tries in a search.
        value: Option<u64>,
    },
    /// The phase after `after` begins; all members have finished that one.
    Start {
        /// The run.
        run: u32,
        /// The phase that ends; `None` if it is the run that begins.
        after: Option<Phase>,
        /// When, by the conductor's clock.
        at_ns: u64,
        /// Whether any member has connections for a load.
        has_load: bool,
    },
    /// The run is to end early, in order.
    Stop {
        /// The signal that asked for it.
        signal: i32,
        /// The member that got it.
        by: u32,
    },
    /// It is over: each member ends with this exit code.
    End {
        /// The exit code.
        code: u8,
        /// Why, or where the report is.
        said: String,
    },
}

/// Messages of a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromMember {
    /// The first message: a [`Hello`] in JSON, as it was signed.
    Hello {
        /// The text.
        said: String,
        /// Its signature, with the token as the key.
        proof: String,
    },
    /// Asks for the conductor's clock.
    Ping {
        /// The member's clock.
        sent_ns: u64,
    },
    /// The run can begin.
    Ready {
        /// Which.
        run: u32,
        /// The least time to the conductor and back that was measured just now.
        round_trip_ns: u64,
    },
    /// The member is through with a phase, and waits for the others.
    Through {
        /// The run.
        run: u32,
        /// The phase.
        phase: Phase,
        /// Whether the member has connections for a load.
        has_load: bool,
        /// As in `Ready`.
        round_trip_ns: u64,
    },
    /// The sample of the last second.
    Sample {
        /// The run.
        run: u32,
        /// Its sample.
        sample: Box<Sample>,
        /// Counts since the run's beginning.
        counts: Box<Counts>,
    },
    /// A signal asks for an early end of the run.
    Stop {
        /// The signal.
        signal: i32,
    },
    /// The member cannot go on.
    Failed {
        /// Why not.
        why: String,
    },
    /// The run is over, and this is the member's part of the results.
    Report {
        /// The run.
        run: u32,
        /// The part.
        report: Box<Report>,
    },
}

/// A member, and what it has come to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The version of ringload.
    pub ringload: String,
    /// The member's number.
    pub member: u32,
    /// The number of members that it expects.
    pub members: u32,
    /// The name of its host.
    pub host: String,
    /// Random bytes that the conductor is to sign.
    pub nonce: String,
    /// The scenario.
    pub scenario: Fingerprint,
}

/// A digest of each option of a scenario: two are the same if these are, else it shows which option differs, but not its values.
pub type Fingerprint = BTreeMap<String, String>;

/// Why bytes are no message.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Too many of them.
    #[error("a message of {0} bytes, more than {1}")]
    TooLong(usize, usize),
    /// Another form.
    #[error("not a message: {0}")]
    Form(#[from] serde_json::Error),
}

/// Appends a message to `bytes`.
pub fn encode(message: &impl Serialize, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.extend([0; 4]);
    serde_json::to_writer(&mut *bytes, message).expect("messages are plain values");
    let len = u32::try_from(bytes.len() - start - 4).expect("reports are bounded");
    bytes[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// Makes messages of bytes, however they are cut. It takes memory for what has come, not for what a length promises.
#[derive(Debug)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// The longest message.
    pub limit: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { bytes: Vec::new(), limit: STRANGER_LIMIT }
    }
}

impl Decoder {
    /// More bytes have come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if it is complete.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, DecodeError> {
        let Some((&length, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(length) as usize;
        if length > self.limit {
            return Err(DecodeError::TooLong(length, self.limit));
        }
        let Some(text) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(text)?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_however_their_bytes_are_cut() {
        let sample = crate::series::tests::sample(1.0, 50.0, 100);
        let mut counts = Counts::default();
        counts[crate::stats::Counter::Sent] = 7;
        let report = crate::output::report::tests::report();
        let all = [
            FromMember::Ping { sent_ns: u64::MAX },
            FromMember::Sample { run: 1, sample: Box::new(sample), counts: Box::new(counts) },
            FromMember::Through { run: 2, phase: Phase::Drain, has_load: false, round_trip_ns: 5 },
            FromMember::Report { run: 3, report: Box::new(report) },
        ];
        let mut bytes = Vec::new();
        for message in &all {
            encode(message, &mut bytes);
        }
        for size in [1, 3, 7, 1000, bytes.len()] {
            let mut decoder = Decoder { limit: MEMBER_LIMIT, ..Decoder::default() };
            let mut messages = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(message) = decoder.next_message::<FromMember>().unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, all, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(b"GET / HTTP/1.1\r\n");
        assert!(matches!(decoder.next_message::<FromMember>(), Err(DecodeError::TooLong(..))));
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 2, b'{', b'}']);
        assert!(matches!(decoder.next_message::<FromMember>(), Err(DecodeError::Form(_))));
    }
}
