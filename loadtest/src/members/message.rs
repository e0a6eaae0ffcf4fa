//! Messages between members and conductor: JSON, each with its length in front.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::control::Phase;
use crate::output::report::Report;
use crate::series::Sample;
use crate::stats::Counts;

/// The version of the protocol: changes with the messages.
pub const PROTOCOL: u32 = 1;

/// Limit of a message from a peer that is not authenticated as a member; a hello has about 2 KiB.
pub const STRANGER_LIMIT: usize = 64 << 10;

/// Limit of a message from a member: a report with the largest series, 3,600 samples of 10 KiB each, has 36 MiB.
pub const MEMBER_LIMIT: usize = 64 << 20;

/// Messages from the conductor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromConductor {
    /// The first message on a connection: the member's hello must sign this nonce.
    Challenge {
        /// Random bytes in hexadecimal digits.
        nonce: String,
    },
    /// The hello is accepted.
    Welcome {
        /// The signature of the member's nonce: proves that the conductor has the token.
        proof: String,
        /// The identity of this meeting.
        meeting: String,
    },
    /// The immediate answer to a ping.
    Pong {
        /// The member's clock, copied from the ping.
        sent_ns: u64,
        /// The conductor's clock.
        at_ns: u64,
    },
    /// Prepare a run and then send [`FromMember::Ready`]. Runs are numbered from 1.
    Step {
        /// Its number.
        run: u32,
        /// The value of a search for this run.
        value: Option<u64>,
    },
    /// Start of the phase after `after`, which all members have finished.
    Start {
        /// The run.
        run: u32,
        /// The phase that ends; `None` at the start of the run.
        after: Option<Phase>,
        /// When the phase begins, by the conductor's clock.
        at_ns: u64,
        /// Whether any member has connections for a load.
        has_load: bool,
    },
    /// End the run early, in order.
    Stop {
        /// The signal behind it.
        signal: i32,
        /// The member that received the signal.
        by: u32,
    },
    /// The meeting is over: each member ends with this exit code.
    End {
        /// The exit code.
        code: u8,
        /// The reason, or where the report is.
        said: String,
    },
}

/// Messages from a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromMember {
    /// The first message: a [`Hello`] as JSON text, which is signed.
    Hello {
        /// The JSON text.
        said: String,
        /// Its signature, made with the token.
        proof: String,
    },
    /// Asks for the conductor's clock.
    Ping {
        /// The member's clock.
        sent_ns: u64,
    },
    /// The member is ready for the run.
    Ready {
        /// The run.
        run: u32,
        /// The shortest round trip to the conductor measured just now.
        round_trip_ns: u64,
    },
    /// The member has finished a phase and waits at the barrier.
    Through {
        /// The run.
        run: u32,
        /// The phase.
        phase: Phase,
        /// Whether the member has connections for a load.
        has_load: bool,
        /// The shortest round trip, as in `Ready`.
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
    /// A signal asks to end the run early.
    Stop {
        /// The signal.
        signal: i32,
    },
    /// The member has failed.
    Failed {
        /// The reason.
        why: String,
    },
    /// The run is over: the member's part of the results.
    Report {
        /// The run.
        run: u32,
        /// The member's part.
        report: Box<Report>,
    },
}

/// The identity of a member, and the run that it expects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Its [`PROTOCOL`].
    pub protocol: u32,
    /// The version of ringload.
    pub ringload: String,
    /// The member's number.
    pub member: u32,
    /// The number of members that it expects.
    pub members: u32,
    /// The name of its host.
    pub host: String,
    /// The nonce that the conductor is to sign.
    pub nonce: String,
    /// The scenario.
    pub scenario: Fingerprint,
}

/// A digest of each option of a scenario. Scenarios are equal if all digests are; a difference shows the name of the
/// option, but not its values.
pub type Fingerprint = BTreeMap<String, String>;

/// An error in decoding a message.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// It is longer than the limit.
    #[error("a message of {0} bytes, more than {1}")]
    TooLong(usize, usize),
    /// It is not valid JSON of this form.
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

/// Decodes messages from a byte stream. Memory grows with the bytes received, not with the announced length.
#[derive(Debug)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// The limit of a message's length.
    pub limit: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { bytes: Vec::new(), limit: STRANGER_LIMIT }
    }
}

impl Decoder {
    /// Adds received bytes.
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
