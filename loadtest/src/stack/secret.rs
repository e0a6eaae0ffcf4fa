//! What a stranger must not be able to guess: initial sequence numbers, where flows begin, how many challenges are left.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Challenge ACKs in a second (RFC 5961 section 7): this many, and up to twice as many more. Linux's limit was 1,000.
const CHALLENGES: u64 = 500;

const SECOND_NS: u64 = 1_000_000_000;

/// Initial sequence numbers count these up (RFC 6528: the clock has a period of 4 µs).
const CLOCK_NS: u64 = 4_000;

/// A secret, and what depends on it.
#[derive(Debug)]
pub(super) struct Secret {
    key: [u64; 2],
    second: Option<u64>,
    challenges_left: u64,
}

impl Secret {
    pub(super) fn new(secret: [u64; 2]) -> Self {
        Self { key: secret, second: None, challenges_left: 0 }
    }

    /// The initial sequence number of a connection (RFC 6528 section 3): a clock, so that a later connection of the same
    /// flow begins behind an earlier one, and a keyed hash of the flow, `SipHash` with the secret in front.
    pub(super) fn initial_seq(&self, flow: u32, server: u16, now_ns: u64) -> u32 {
        let clock = (now_ns / CLOCK_NS) as u32;
        clock.wrapping_add(self.hash(&(flow, server)) as u32)
    }

    /// Any number: where the flows begin (RFC 6056 section 3.3: source ports that a stranger does not know).
    pub(super) fn draw(&self) -> u64 {
        self.hash(&"first life")
    }

    /// Whether a challenge ACK may be sent. How many there may be in this second is secret as well: a stranger that counts
    /// them would learn sequence numbers (CVE-2016-5696).
    pub(super) fn may_challenge(&mut self, now_ns: u64) -> bool {
        let second = now_ns / SECOND_NS;
        if self.second != Some(second) {
            self.second = Some(second);
            self.challenges_left = CHALLENGES + self.hash(&second) % (2 * CHALLENGES);
        }
        let may = self.challenges_left > 0;
        self.challenges_left = self.challenges_left.saturating_sub(1);
        may
    }

    fn hash(&self, value: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.key, value).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn sequence_numbers_follow_from_flow_secret_and_time() {
        let secret = Secret::new([1, 2]);
        let of_flows: HashSet<_> = (0..1000).map(|flow| secret.initial_seq(flow, 0, 0) >> 8).collect();
        assert!(of_flows.len() > 990, "near each other: {}", of_flows.len());
        let now = secret.initial_seq(7, 1, 0);
        assert_eq!(secret.initial_seq(7, 1, SECOND_NS).wrapping_sub(now), 250_000, "later ones lie behind");
        assert_ne!(Secret::new([1, 3]).initial_seq(7, 1, 0), now);
        assert_ne!(secret.initial_seq(7, 2, 0), now);
    }

    #[test]
    fn challenges_are_limited_by_the_second() {
        let mut secret = Secret::new([5, 6]);
        let mut count = |second: u64| (0..5_000).filter(|_| secret.may_challenge(second * SECOND_NS)).count() as u64;
        let counts: HashSet<u64> = (0..20).map(&mut count).collect();
        assert!(counts.iter().all(|count| (CHALLENGES..3 * CHALLENGES).contains(count)), "{counts:?}");
        assert!(counts.len() > 10, "always the same: {counts:?}");
    }
}
