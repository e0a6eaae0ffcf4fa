//! Alarms: wake a thread when something is due.
//!
//! If a timer is the next one to expire on its processor, it is written to the hardware, and cancelled there if its thread
//! wakes up earlier. In a virtual machine either costs more than a message does. A timer that expires after another one
//! costs next to nothing: that one's interrupt reprograms the hardware. So no wait has a timeout of its own; instead there
//! is an alarm for what is due next, and one for what is due after it. From then on every new alarm expires after another
//! one.

use std::time::Duration;

use ringio::{Operation, Timespec};

use super::operations::{Kind, Token};

/// What is due within this time before an alarm waits for it: as long as the kernel lets the timers of any sleeping thread
/// wait for each other (`PR_SET_TIMERSLACK`). The lag shows it.
const SLACK_NS: u64 = 50_000;

/// Two are set all the time. Others are for what became due earlier than those, and for what is no longer due but was
/// far ahead: a connection's deadline.
const ALARMS: usize = 8;

/// The alarms of one ring.
pub(super) struct Alarms {
    /// Boxed, because the kernel reads a time where it is.
    alarms: Box<[Alarm; ALARMS]>,
    /// The zero of all times, by the kernel's monotonic clock.
    epoch: Duration,
}

#[derive(Clone, Copy)]
struct Alarm {
    /// When it goes off; [`UNSET`] if it is free.
    at_ns: u64,
    time: Timespec,
}

const UNSET: u64 = u64::MAX;

impl Alarms {
    /// For times in nanoseconds since `epoch`, which is a time of `CLOCK_MONOTONIC`.
    pub(super) fn new(epoch: Duration) -> Self {
        Self { alarms: Box::new([Alarm { at_ns: UNSET, time: Timespec::new() }; ALARMS]), epoch }
    }

    /// The next alarm to set when something is due at `next_ns`, and something else at `after_ns`, if that is known.
    pub(super) fn wanted(&self, next_ns: u64, after_ns: Option<u64>) -> Option<u64> {
        let (first_ns, second_ns) = self.next_two();
        if first_ns > next_ns.saturating_add(SLACK_NS) {
            return Some(next_ns);
        }
        let behind_ns = if next_ns > first_ns { next_ns } else { after_ns? };
        let behind_ns = behind_ns.max(first_ns + SLACK_NS);
        (second_ns > behind_ns).then_some(behind_ns)
    }

    /// When the next one goes off.
    pub(super) fn first_ns(&self) -> u64 {
        self.next_two().0
    }

    fn next_two(&self) -> (u64, u64) {
        self.alarms
            .iter()
            .fold((UNSET, UNSET), |(first, second), alarm| (first.min(alarm.at_ns), second.min(first.max(alarm.at_ns))))
    }

    /// Sets an alarm. `None` if all are set already.
    pub(super) fn set(&mut self, at_ns: u64) -> Option<Operation<'_>> {
        let index = self.alarms.iter().position(|alarm| alarm.at_ns == UNSET)?;
        let alarm = &mut self.alarms[index];
        *alarm = Alarm { at_ns, time: (self.epoch + Duration::from_nanos(at_ns)).into() };
        let token = Token { key: index as u32, ..Token::of_worker(Kind::Alarm) };
        Some(Operation::timeout_at(&alarm.time).with_user_data(token.encode()))
    }

    /// An alarm has gone off.
    pub(super) fn gone_off(&mut self, token: Token) {
        self.alarms[token.key as usize].at_ns = UNSET;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets everything that is wanted, and says for when.
    fn set_all(alarms: &mut Alarms, next_ns: u64, after_ns: Option<u64>) -> Vec<u64> {
        let mut times = Vec::new();
        while let Some(at_ns) = alarms.wanted(next_ns, after_ns) {
            assert!(alarms.set(at_ns).is_some(), "there are enough");
            times.push(at_ns);
        }
        times
    }

    /// The earliest one goes off.
    fn ring(alarms: &mut Alarms) {
        let first_ns = alarms.first_ns();
        let index = alarms.alarms.iter().position(|alarm| alarm.at_ns == first_ns).expect("one is set");
        alarms.gone_off(Token { key: index as u32, ..Token::of_worker(Kind::Alarm) });
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn each_new_alarm_is_behind_another_one() {
        let mut alarms = Alarms::new(Duration::ZERO);
        assert_eq!(set_all(&mut alarms, MS, Some(2 * MS)), [MS, 2 * MS]);
        for due in 2..20 {
            assert!(set_all(&mut alarms, (due - 1) * MS, Some(due * MS)).is_empty(), "both are covered");
            ring(&mut alarms);
            assert_eq!(set_all(&mut alarms, due * MS, Some((due + 1) * MS)), [(due + 1) * MS]);
            assert_eq!(alarms.first_ns(), due * MS);
        }
    }

    #[test]
    fn what_is_due_early_gets_an_alarm_and_what_is_due_close_to_one_shares_it() {
        let mut alarms = Alarms::new(Duration::ZERO);
        // A deadline far ahead does not get in the way.
        assert_eq!(set_all(&mut alarms, 30_000 * MS, None), [30_000 * MS]);
        assert_eq!(set_all(&mut alarms, 5 * MS, Some(5 * MS + 10)), [5 * MS, 5 * MS + SLACK_NS]);
        assert!(set_all(&mut alarms, 5 * MS - SLACK_NS, Some(5 * MS + 10)).is_empty());
        assert_eq!(set_all(&mut alarms, 3 * MS, Some(5 * MS)), [3 * MS]);
        assert_eq!(alarms.first_ns(), 3 * MS);
    }

    #[test]
    fn there_is_an_end_to_alarms() {
        let mut alarms = Alarms::new(Duration::ZERO);
        for earlier in (0..ALARMS as u64).rev() {
            assert!(alarms.set(earlier * MS).is_some());
        }
        assert!(alarms.set(0).is_none());
        ring(&mut alarms);
        assert!(alarms.set(0).is_some());
    }
}
