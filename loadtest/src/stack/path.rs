//! The retransmission timeout of RFC 6298, one estimate for all connections to a server.
//!
//! They share the way there, so that an idle connection needs no estimate of its own, and one that sends for the first time
//! has a good one (RFC 9040 sections 6 and 7: ensemble sharing). With many connections there are many samples in a round trip,
//! and the deviation follows the latest; the least timeout is far above both.

const MS: u64 = 1_000_000;

/// RFC 6298 (2.1): as long as there is no sample.
pub(super) const INITIAL_RTO_NS: u64 = 1_000 * MS;

/// A SYN was answered from a TIME-WAIT, which the reset of that answer has ended: as long as the reset may be overtaken. Linux's
/// is two ticks (`TCP_TIMEOUT_MIN`), from 2 to 20 ms.
pub(super) const SYN_AGAIN_NS: u64 = 10 * MS;

/// RFC 6298 (5.7): as long as there is no sample, and a SYN was lost.
const CAUTIOUS_RTO_NS: u64 = 3_000 * MS;

/// Linux's least (`TCP_RTO_MIN`), where RFC 6298 (2.4) has a second: a generator's client should wait as long as others.
const MIN_RTO_NS: u64 = 200 * MS;

/// RFC 6298 (2.5): 60 seconds at least.
pub(super) const MAX_RTO_NS: u64 = 60_000 * MS;

/// Clock granularity: a tick of the wheel.
const GRANULARITY_NS: u64 = 8 * MS;

/// The round trip to one server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Path {
    srtt_ns: u64,
    rttvar_ns: u64,
    is_measured: bool,
    has_lost_a_syn: bool,
}

impl Path {
    /// A segment, sent once (Karn's algorithm), was acknowledged after this time.
    pub(super) fn sample(&mut self, rtt_ns: u64) {
        if self.is_measured {
            self.rttvar_ns = (3 * self.rttvar_ns + self.srtt_ns.abs_diff(rtt_ns)) / 4;
            self.srtt_ns = (7 * self.srtt_ns + rtt_ns) / 8;
        } else {
            (self.srtt_ns, self.rttvar_ns, self.is_measured) = (rtt_ns, rtt_ns / 2, true);
        }
    }

    /// A SYN had to be sent again.
    pub(super) fn syn_lost(&mut self) {
        self.has_lost_a_syn = true;
    }

    /// The timeout of data.
    pub(super) fn rto_ns(&self) -> u64 {
        match (self.is_measured, self.has_lost_a_syn) {
            (true, _) => (self.srtt_ns + (4 * self.rttvar_ns).max(GRANULARITY_NS)).clamp(MIN_RTO_NS, MAX_RTO_NS),
            (false, true) => CAUTIOUS_RTO_NS,
            (false, false) => INITIAL_RTO_NS,
        }
    }
}

/// A timeout after so many of them in a row (RFC 6298 (5.5)).
pub(super) fn back_off(rto_ns: u64, times: u8) -> u64 {
    (rto_ns << times.min(16)).min(MAX_RTO_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_the_standard() {
        let mut path = Path::default();
        assert_eq!(path.rto_ns(), INITIAL_RTO_NS);
        path.syn_lost();
        assert_eq!(path.rto_ns(), CAUTIOUS_RTO_NS);
        path.sample(400 * MS);
        assert_eq!(path.rto_ns(), 1_200 * MS, "R + 4 * R/2");
        path.sample(800 * MS);
        // RTTVAR = 3/4 * 200 + 1/4 * 400 = 250; SRTT = 7/8 * 400 + 1/8 * 800 = 450.
        assert_eq!(path.rto_ns(), 1_450 * MS);
    }

    #[test]
    fn the_timeout_is_bounded() {
        let mut path = Path::default();
        path.sample(MS / 20);
        assert_eq!(path.rto_ns(), MIN_RTO_NS);
        assert_eq!((back_off(MIN_RTO_NS, 3), back_off(MIN_RTO_NS, 255)), (1_600 * MS, MAX_RTO_NS));
        path.sample(1_000_000 * MS);
        assert_eq!(path.rto_ns(), MAX_RTO_NS);
    }
}
