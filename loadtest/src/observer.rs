//! Watches a run: takes a sample each second, keeps the series and shows it.

use std::time::{Duration, Instant};

use crate::control::{Control, Phase};
use crate::interval::LiveReader;
use crate::members::Together;
use crate::output::display::Display;
use crate::output::live::Live;
use crate::sampling::processes::Processes;
use crate::sampling::{CpuTime, KernelMemory, Memory, resident_bytes};
use crate::series::{Encoded, ProcessSample, Sample, SampleLatency, Series};
use crate::stats::{Counter, Counts};

const INTERVAL: Duration = Duration::from_secs(1);

/// What is left of an interval when its phase ends becomes a sample of its own if it is at least as long as this. The
/// kernel counts processor time in ticks of 10 ms; shorter intervals would show nonsense.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The proportional set size takes a walk over all pages, which holds up the process that it is asked of. When that took
/// longer than this, it is asked for only every so many samples.
const SLOW_WALK: Duration = Duration::from_millis(20);
const PAUSE_AFTER_SLOW_WALK: u32 = 15;

/// The watcher.
#[derive(Debug)]
pub struct Observer<'a> {
    sampler: Sampler,
    series: Series,
    display: Display,
    live: &'a mut Live,
    /// When it last looked in this phase, and the longest time from one look to the next.
    looked: Option<Instant>,
    stall: Duration,
    /// The others that do the same run.
    together: Option<Together>,
    /// The counts of all members, if they are shown here.
    counts_of_all: Option<Counts>,
}

impl<'a> Observer<'a> {
    /// For a run that begins now, with `payload_bytes` in a message on average.
    #[must_use]
    pub fn new(
        server: Option<u32>,
        payload_bytes: f64,
        display: Display,
        live: &'a mut Live,
        together: Option<Together>,
    ) -> Self {
        let sampler = Sampler::new(server, payload_bytes);
        if let Some(together) = &together {
            together.series_begins();
        }
        let (looked, stall, counts_of_all) = (None, Duration::ZERO, None);
        Self { sampler, series: Series::default(), display, live, looked, stall, together, counts_of_all }
    }

    /// Something to be said once.
    pub fn note(&mut self, line: &str) {
        self.display.note(line);
    }

    /// A phase begins; it is going to take `time`, if that is known.
    pub fn begin(&mut self, phase: Phase, time: Option<Duration>) {
        self.display.begin(phase, time);
        self.looked = None;
    }

    /// To be called all the time: takes a sample when it is time for one.
    pub fn look(&mut self, phase: Phase, counts: &Counts, control: &Control) {
        let now = Instant::now();
        // Taking a sample and drawing take their time in here: what is left is sleep, and what came in between.
        self.stall = self.stall.max(self.looked.map_or(Duration::ZERO, |looked| now - looked));
        if self.sampler.next <= now {
            self.take(phase, counts, control);
            self.sampler.next += INTERVAL;
        }
        self.display.refresh(self.counts_of_all.as_ref().unwrap_or(counts));
        self.looked = Some(Instant::now());
    }

    /// The longest time that this process was not run although it wanted to be.
    #[must_use]
    pub fn stall(&self) -> Duration {
        self.stall
    }

    /// The phase is over: what is left of the interval belongs to it, and the next phase begins with a new one.
    pub fn end(&mut self, phase: Phase, counts: &Counts, control: &Control) {
        if self.sampler.last.elapsed() >= MIN_INTERVAL {
            self.take(phase, counts, control);
            self.sampler.next = self.sampler.last + INTERVAL;
        }
    }

    fn take(&mut self, phase: Phase, counts: &Counts, control: &Control) {
        let sample = self.sampler.take(phase, counts, control);
        let of_all = self.together.as_ref().and_then(|together| together.exchange(&sample, counts));
        self.counts_of_all = of_all.as_ref().map(|(_, counts)| *counts);
        let (shown, shown_counts) = of_all.as_ref().map_or((&sample, counts), |(sample, counts)| (sample, counts));
        self.live.take(shown, shown_counts);
        self.display.show(shown, shown_counts);
        for note in self.together.iter().flat_map(Together::notes) {
            self.display.note(&note);
        }
        self.series.push(sample);
    }

    /// Ends the display and gives the series.
    #[must_use]
    pub fn finish(self) -> Series {
        drop(self.display);
        self.series
    }
}

/// Takes samples: each tells what has changed since the one before.
#[derive(Debug)]
struct Sampler {
    server: Option<u32>,
    payload_bytes: f64,
    begun: Instant,
    last: Instant,
    next: Instant,
    counts: Counts,
    server_cpu: Option<CpuTime>,
    load_cpu: CpuTime,
    latencies: LiveReader,
    walk_pause: u32,
}

impl Sampler {
    fn new(server: Option<u32>, payload_bytes: f64) -> Self {
        let now = Instant::now();
        Self {
            server,
            payload_bytes,
            begun: now,
            last: now,
            next: now + INTERVAL,
            counts: Counts::default(),
            server_cpu: server.and_then(|pid| Processes::of(pid).ok()?.cpu_time().ok()),
            load_cpu: CpuTime::of_self(),
            latencies: LiveReader::default(),
            walk_pause: 0,
        }
    }

    fn take(&mut self, phase: Phase, counts: &Counts, control: &Control) -> Sample {
        let now = Instant::now();
        let interval_s = (now - self.last).as_secs_f64();
        let per_second = |counter| (counts[counter] - self.counts[counter]) as f64 / interval_s;
        let echoes_per_s = (counts.load() - self.counts.load()) as f64 / interval_s;
        let connections_per_s = per_second(Counter::Opened);
        let (wire_sent, wire_received) = (per_second(Counter::WireSent), per_second(Counter::WireReceived));
        let histogram = self.latencies.take(control.all_live_latencies());
        let latency_us = SampleLatency::of(&histogram);
        (self.last, self.counts) = (now, *counts);
        Sample {
            time_s: (now - self.begun).as_secs_f64(),
            interval_s,
            phase,
            connections_open: counts.open(),
            connections_per_s,
            errors: counts.errors(),
            echoes_per_s,
            payload_bytes_per_s: echoes_per_s * self.payload_bytes,
            wire_sent_bytes_per_s: wire_sent,
            wire_received_bytes_per_s: wire_received,
            latency_us,
            latency_histogram: latency_us.map(|_| Encoded::new(&histogram)),
            server: self.server(interval_s),
            load: self.load(interval_s),
            kernel: KernelMemory::beside(self.server.unwrap_or_else(std::process::id)).unwrap_or_default(),
        }
    }

    /// A server that has just ended is no reason to fail.
    fn server(&mut self, interval_s: f64) -> Option<ProcessSample> {
        let processes = Processes::of(self.server?).ok()?;
        let cpu = processes.cpu_time().ok()?;
        let used = cpu - self.server_cpu.unwrap_or(cpu);
        self.server_cpu = Some(cpu);
        let memory = self.walk(&processes);
        Some(ProcessSample {
            rss_bytes: memory.map_or_else(|| processes.resident_bytes(), |memory| memory.rss_bytes),
            pss_bytes: memory.and_then(|memory| memory.pss_bytes),
            processes: processes.count(),
            ..cores(used, interval_s)
        })
    }

    fn load(&mut self, interval_s: f64) -> ProcessSample {
        let cpu = CpuTime::of_self();
        let used = cpu - self.load_cpu;
        self.load_cpu = cpu;
        let rss_bytes = resident_bytes(std::process::id()).unwrap_or_default();
        ProcessSample { rss_bytes, processes: 1, ..cores(used, interval_s) }
    }

    fn walk(&mut self, processes: &Processes) -> Option<Memory> {
        if self.walk_pause > 0 {
            self.walk_pause -= 1;
            return None;
        }
        let begun = Instant::now();
        let memory = processes.memory().ok();
        if begun.elapsed() > SLOW_WALK {
            self.walk_pause = PAUSE_AFTER_SLOW_WALK;
        }
        memory
    }
}

fn cores(used: CpuTime, interval_s: f64) -> ProcessSample {
    ProcessSample {
        cpu_user_cores: used.user.as_secs_f64() / interval_s,
        cpu_system_cores: used.system.as_secs_f64() / interval_s,
        ..ProcessSample::default()
    }
}
