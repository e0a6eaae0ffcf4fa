//! Barriers of a run by several members: where it waits for the others.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use super::{Run, RunError, Settings, TICK, perform};
use crate::control::Phase;
use crate::members::{Together, prompt};
use crate::output::live::Live;

/// So long before a moment at which all members begin something, a member does nothing else that takes its time: samples and
/// the look at all threads' processor time take some milliseconds, many times more where the processors are busy.
pub(super) const QUIET: Duration = Duration::from_millis(100);

/// How waiting for the other members ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// There are none.
    Alone,
    /// It is the moment to begin what is next.
    Agreed { any_has_load: bool },
    /// The run is to end early: each does so by itself.
    Interrupted,
}

/// Does runs as member 0 has them done, and shows nothing: the report is there. Returns when it is over, which is an error.
pub fn follow(
    together: &Together,
    settings_for: impl Fn(Option<u64>) -> Result<Settings, String>,
) -> Result<Infallible, RunError> {
    let mut last = 0;
    loop {
        let step = together.next_step(last)?;
        last = step.run;
        let done = settings_for(step.value)
            .map_err(RunError::Step)
            .and_then(|settings| perform(&settings, together.interrupt(), &mut Live::default()));
        if let Err(error) = done {
            together.fail(&error.to_string());
            return Err(error);
        }
    }
}

impl Run<'_> {
    /// With others, waits until all are through with `phase`, and for the moment at which they begin what is next.
    pub(super) fn meet(&mut self, phase: Phase, has_load: bool) -> Result<Met, RunError> {
        let Some(together) = self.together.clone() else { return Ok(Met::Alone) };
        // What has its time ends by the clock, without asking.
        let by_the_clock = (phase == Phase::Measure).then(|| self.phase_at + self.scenario.duration);
        if by_the_clock.is_some_and(|at| Instant::now() >= at) {
            self.next_at = by_the_clock;
            return Ok(Met::Agreed { any_has_load: has_load });
        }
        together.through(phase, has_load);
        loop {
            let start = together.start_after(phase);
            let at = start.map(|(at, _)| at).into_iter().chain(by_the_clock).min();
            let now = Instant::now();
            if let Some(at) = at.filter(|&at| at <= now) {
                self.next_at = Some(at);
                return Ok(Met::Agreed { any_has_load: start.is_none_or(|(_, any)| any) });
            }
            if self.interrupt.is_raised() {
                return Ok(Met::Interrupted);
            }
            self.check_threads()?;
            let left = at.map_or(TICK, |at| at - now);
            // A sample takes its time: none is taken when the moment is near.
            if left >= QUIET || at.is_none() {
                let counts = self.counts();
                self.observer.look(phase, &counts, &self.shared.control);
            }
            match at {
                Some(at) if left <= TICK => prompt::sleep_until(at),
                _ => std::thread::sleep(TICK),
            }
        }
    }

    /// When a phase that takes `time` is over. With others, that is from the moment on that was agreed upon; the last moments of a
    /// warm-up are left for what is to be done before the next phase.
    pub(super) fn deadline(&self, phase: Phase, time: Duration) -> Instant {
        match phase {
            _ if self.together.is_none() => Instant::now() + time,
            Phase::WarmUp => self.phase_at + time.saturating_sub(QUIET),
            Phase::Measure => self.phase_at + time,
            _ => Instant::now() + time,
        }
    }

    /// With others, waits for the moment at which all begin to measure.
    pub(super) fn await_end_of_warmup(&mut self) {
        if self.together.is_some() {
            let at = self.phase_at + self.scenario.warmup;
            self.next_at = Some(at);
            prompt::sleep_until(at);
        }
    }
}
