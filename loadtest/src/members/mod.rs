//! One run by many processes on one or more machines: one start, one stop, one report.
//!
//! Member 0 runs the conductor and is a member as well. Each member runs its [`Portion`] of the scenario, which is
//! divided among members as among the threads of one machine. Members wait at barriers between phases and then start
//! together at one instant, each by its own clock.
//!
//! - [`message`] has the messages, [`token`] proves that a peer belongs to the run, [`clock`] measures clock offsets.
//! - [`conductor`] and [`member`] decide, without sockets; [`net`] does their I/O, [`prompt`] makes threads wake up
//!   promptly.
//! - [`Together`] is the interface to the rest of ringload.

pub mod clock;
pub mod conductor;
pub mod member;
pub mod message;
pub mod net;
pub mod prompt;
#[cfg(test)]
mod simulation;
pub mod token;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::conductor::{Conductor, End, Setup};
use self::member::{Member, Milestone, Step};
use self::message::{Fingerprint, FromMember, Hello, PROTOCOL};
use self::net::{Shared, instant_of, now_ns, ns_of};
use self::token::Token;
use crate::control::Phase;
use crate::interrupt::{EXIT_BY_SIGNAL, Interrupt};
use crate::machine::Machine;
use crate::output::merge;
use crate::output::report::{Meeting, PhaseStart, Place, Report};
use crate::output::say;
use crate::run::RunError;
use crate::scenario::Portion;
use crate::series::Sample;
use crate::stats::Counts;

/// Interval between two attempts to connect to member 0.
const RETRY: Duration = Duration::from_millis(500);

/// Time for one attempt.
const CONNECT: Duration = Duration::from_secs(3);

/// Interval at which a wait checks for signals.
const LOOK: Duration = Duration::from_millis(100);

/// Limit of time for member 0 to deliver the end to all members.
const PARTING: Duration = Duration::from_secs(6);

/// Limit of time for a failing member to deliver its last message.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Stack size of the thread with the sockets.
const STACK: usize = 512 << 10;

/// The settings of a meeting.
#[derive(Clone, Debug)]
pub struct Meet {
    /// This process's portion of the scenario.
    pub portion: Portion,
    /// The address where member 0 listens, as host and port.
    pub at: String,
    /// Time to wait for the other members.
    pub timeout: Duration,
    /// The token of all members.
    pub token: Token,
    /// The scenario, which must be the same for all members.
    pub scenario: Fingerprint,
}

/// A member's handle on the meeting. Clones share it.
#[derive(Clone, Debug)]
pub struct Together {
    common: Arc<Common>,
    /// The value of a search for the next run.
    pub value: Option<u64>,
}

#[derive(Debug)]
struct Common {
    meet: Meet,
    interrupt: Interrupt,
    link: Arc<Shared<Member>>,
    /// The conductor, at member 0.
    conductor: Option<Arc<Shared<Conductor>>>,
    /// The times at which this run's phases began here.
    starts: Mutex<Starts>,
}

#[derive(Debug, Default)]
struct Starts {
    began_s: f64,
    phases: Vec<PhaseStart>,
}

impl Together {
    /// Joins the meeting: member 0 waits for all members, the others wait for member 0.
    pub fn meet(meet: Meet, interrupt: Interrupt) -> Result<Self, RunError> {
        // Starts this process's clock.
        let _ = now_ns();
        let mut conductor = None;
        let link = if meet.portion.member == 0 {
            let (ours, theirs) = UnixStream::pair().map_err(|error| RunError::System("socketpair", error))?;
            conductor = Some(lead(&meet, theirs.into())?);
            link(&meet, ours.into(), &interrupt)?
        } else {
            reach(&meet, &interrupt)?
        };
        let together = Self {
            common: Arc::new(Common { meet, interrupt, link, conductor, starts: Mutex::default() }),
            value: None,
        };
        together.wait_for_all().inspect_err(|_| together.part())?;
        Ok(together)
    }

    /// This process's portion of a scenario.
    #[must_use]
    pub fn portion(&self) -> Portion {
        self.common.meet.portion
    }

    /// Whether this is member 0, which runs the conductor.
    #[must_use]
    pub fn conducts(&self) -> bool {
        self.common.conductor.is_some()
    }

    /// The interrupt that ends the run early at all members.
    #[must_use]
    pub fn interrupt(&self) -> &Interrupt {
        &self.common.interrupt
    }

    fn starts(&self) -> MutexGuard<'_, Starts> {
        self.common.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error if the meeting has ended.
    fn check(&self) -> Result<(), RunError> {
        match self.common.link.lock().end() {
            Some(end) => Err(RunError::Ended { code: end.code, said: end.said.clone() }),
            None => Ok(()),
        }
    }

    /// At member 0, waits for all members, and prints how many have arrived.
    fn wait_for_all(&self) -> Result<(), RunError> {
        let Some(conductor) = &self.common.conductor else { return Ok(()) };
        let (members, at) = (self.portion().members, &self.common.meet.at);
        let mut said = 0;
        loop {
            let news = conductor.wait(LOOK, |it| (it.present() != said || it.is_complete()).then(|| it.present()));
            self.say_notes();
            self.check()?;
            if let Some(present) = news.filter(|&present| present != said) {
                said = present;
                say(format_args!("{present} of {members} members have met at {at}\n"));
            }
            if conductor.lock().is_complete() {
                return Ok(());
            }
        }
    }

    fn say_notes(&self) {
        self.notes().iter().for_each(|note| say(format_args!("ringload: {note}\n")));
    }

    /// The events among the members since the last call.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.common.conductor.as_ref().map(|it| it.lock().take_notes()).unwrap_or_default()
    }

    /// At member 0, has all members prepare the next run.
    pub fn announce(&self) {
        if let Some(conductor) = &self.common.conductor {
            conductor.tell(|it| it.step(self.value, now_ns()));
        }
    }

    /// At the other members, waits for the run after number `last`.
    pub fn next_step(&self, last: u32) -> Result<Step, RunError> {
        loop {
            let next = self.common.link.wait(LOOK, |it| it.step().filter(|step| step.run > last));
            if let Some(step) = next {
                return Ok(step);
            }
            self.check()?;
        }
    }

    /// Reports that this member is prepared, waits for the common start, sleeps until then, and returns it.
    pub fn begin(&self) -> Result<Instant, RunError> {
        *self.starts() = Starts::default();
        // Member 0 first waits for its own announcement to arrive.
        let run = self.common.conductor.as_ref().map_or(0, |it| it.lock().run());
        let link = &self.common.link;
        while link.wait(LOOK, |it| it.step().filter(|step| step.run >= run)).is_none() {
            self.check()?;
        }
        link.tell(|it| it.reached(Milestone::Ready, now_ns()));
        loop {
            if let Some((at_ns, _)) = link.wait(LOOK, |it| it.start(None, now_ns())) {
                let at = instant_of(at_ns);
                prompt::sleep_until(at);
                return Ok(at);
            }
            self.check()?;
        }
    }

    /// Reports that this member has finished `phase`; `has_load` says whether it has connections for a load.
    pub fn through(&self, phase: Phase, has_load: bool) {
        self.common.link.tell(|it| it.reached(Milestone::Through(phase, has_load), now_ns()));
    }

    /// When the phase after `phase` begins, if that is known, and whether any member has connections for a load.
    #[must_use]
    pub fn start_after(&self, phase: Phase) -> Option<(Instant, bool)> {
        let (at_ns, start) = self.common.link.lock().start(Some(phase), now_ns())?;
        Some((instant_of(at_ns), start.has_load))
    }

    /// Records the start of the series of samples.
    pub fn series_begins(&self) {
        let now_ns = now_ns();
        let offset = self.common.link.lock().offset(now_ns);
        self.starts().began_s = offset.map_or(0, |offset| offset.conductor_ns(now_ns)) as f64 / 1e9;
    }

    /// Records that `phase` began here at `begun`, planned for `at`.
    pub fn phase_begun(&self, phase: Phase, at: Instant, begun: Instant) {
        let Some(offset) = self.common.link.lock().offset(now_ns()) else { return };
        let start = PhaseStart {
            phase,
            at_s: offset.conductor_ns(ns_of(at)) as f64 / 1e9,
            late_us: begun.saturating_duration_since(at).as_nanos() as f64 / 1e3,
            clock_bound_us: offset.bound_ns as f64 / 1e3,
        };
        self.starts().phases.push(start);
    }

    /// Sends member 0 the sample of the last second; at member 0, returns the sum of all members.
    #[must_use]
    pub fn exchange(&self, sample: &Sample, counts: &Counts) -> Option<(Sample, Counts)> {
        if let Some(conductor) = &self.common.conductor {
            return Some(conductor.lock().sum(0, sample, counts, now_ns()));
        }
        self.common.link.tell(|it| {
            let run = it.step().map_or(0, |step| step.run);
            it.say(FromMember::Sample { run, sample: Box::new(sample.clone()), counts: Box::new(*counts) });
        });
        None
    }

    /// Delivers this member's part of the results. Member 0 waits for the other parts and returns the merged results.
    pub fn hand_in(&self, mut report: Report) -> Result<Report, RunError> {
        let run = self.common.link.lock().step().map_or(0, |step| step.run);
        let meeting = self.common.link.lock().meeting().unwrap_or_default().to_owned();
        let Starts { began_s, phases } = std::mem::take(&mut *self.starts());
        let Portion { member, members } = self.portion();
        if let [run_report] = report.runs.as_mut_slice() {
            let meeting = format!("{meeting}-{run}");
            run_report.place = Some(Place { meeting, member, members, began_s, starts: phases });
        }
        let part = Box::new(report.clone());
        self.common.link.tell(|it| it.say(FromMember::Report { run, report: part }));
        let Some(conductor) = &self.common.conductor else { return Ok(report) };
        loop {
            if let Some((parts, missing)) = conductor.wait(LOOK, Conductor::take_reports) {
                let mut whole = merge::merge(&parts).expect("member 0's own part is among them");
                // With a single part there was nothing to merge.
                whole.meeting = whole.meeting.or_else(|| Meeting::of(&parts));
                whole.miss(missing);
                return Ok(whole);
            }
            self.check()?;
        }
    }

    /// Reports that this member has failed.
    pub fn fail(&self, why: &str) {
        if self.conducts() {
            return self.finish(conductor::CANNOT_RUN, &format!("member 0 failed: {why}"));
        }
        self.common.link.tell(|it| it.say(FromMember::Failed { why: why.to_owned() }));
        // The process ends after this.
        self.common.link.wait(LAST_WORDS, |it| (it.has_said_all() || it.end().is_some()).then_some(()));
    }

    /// At member 0, ends the meeting for all with this exit code. Returns once all members have been told.
    pub fn finish(&self, code: u8, said: &str) {
        let Some(conductor) = &self.common.conductor else { return };
        conductor.tell(|it| it.finish(code, said));
        self.part();
    }

    /// At member 0, after the end: waits for the conductor's thread to tell all members, since the thread ends with
    /// this process.
    fn part(&self) {
        let Some(conductor) = &self.common.conductor else { return };
        // The conductor's thread drops its reference once it has told all members.
        let until = Instant::now() + PARTING;
        while Arc::strong_count(conductor) > 1 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Starts the conductor, with `own` as member 0's connection.
fn lead(meet: &Meet, own: OwnedFd) -> Result<Arc<Shared<Conductor>>, RunError> {
    // Each member's connection takes a descriptor; a shell's limit of 1,024 may be less than the number of members.
    ringecho::sys::raise_descriptor_limit()
        .map_err(|error| RunError::System("cannot raise the limit on descriptors", error))?;
    let listener = listen(&meet.at).map_err(|error| RunError::Meet(meet.at.clone(), error))?;
    let setup = Setup {
        members: meet.portion.members,
        token: meet.token.clone(),
        ringload: env!("CARGO_PKG_VERSION").to_owned(),
        scenario: meet.scenario.clone(),
        meet_timeout_ns: meet.timeout.as_nanos() as u64,
    };
    let conductor = net::shared(Conductor::new(setup, now_ns())).map_err(|error| RunError::System("eventfd", error))?;
    let shared = Arc::clone(&conductor);
    thread("conductor", move || net::conduct(&shared, &listener, own))?;
    Ok(conductor)
}

/// Listens at the named address if it belongs to this machine. Otherwise (the name is a service's, does not resolve
/// yet, or is not reachable for other machines) it listens at all addresses.
fn listen(at: &str) -> io::Result<TcpListener> {
    let (host, port) = at.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
    let port = port.parse::<u16>().map_err(|_| io::ErrorKind::InvalidInput)?;
    let named: Vec<_> = at.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    let at_all = || {
        let all = [SocketAddr::from(([0_u16; 8], port)), SocketAddr::from(([0_u8; 4], port))];
        TcpListener::bind(all.as_slice())
    };
    if named.is_empty() || is_loopback_here_only(host, &Machine::this().hostname, &named) {
        return at_all();
    }
    match TcpListener::bind(named.as_slice()) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => at_all(),
        bound => bound,
    }
}

/// Whether `host` is this machine's own name and on loopback only here: Debian maps it to 127.0.1.1 in `/etc/hosts`.
fn is_loopback_here_only(host: &str, hostname: &str, named: &[SocketAddr]) -> bool {
    let label = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let is_own_name = label(host) == label(hostname) && label(host) != "localhost" && host.parse::<Ipv4Addr>().is_err();
    is_own_name && named.iter().all(|address| address.ip().is_loopback())
}

/// Connects to member 0 and sends a hello; tries again until member 0 answers or the time is over.
fn reach(meet: &Meet, interrupt: &Interrupt) -> Result<Arc<Shared<Member>>, RunError> {
    let until = Instant::now() + meet.timeout;
    loop {
        let connected = meet.at.to_socket_addrs().and_then(|addresses| net::connect(addresses, CONNECT));
        let failure = match connected {
            Ok(stream) => {
                let link = link(meet, stream, interrupt)?;
                match accepted(&link, until, interrupt) {
                    Acceptance::Accepted => return Ok(link),
                    Acceptance::Ended(End { code, said }) => return Err(RunError::Ended { code, said }),
                    Acceptance::Unanswered(why) => why,
                }
            }
            Err(error) => error.to_string(),
        };
        if let Some(signal) = interrupt.signal() {
            let said = "ended before the members had met".to_owned();
            return Err(RunError::Ended { code: (EXIT_BY_SIGNAL + signal) as u8, said });
        }
        if Instant::now() >= until {
            let time = crate::parsing::show_duration(meet.timeout);
            let said = format!("member 0 was not to be met at {} within {time} (--meet-timeout): {failure}", meet.at);
            return Err(RunError::Ended { code: conductor::CANNOT_RUN, said });
        }
        std::thread::sleep(RETRY.min(until.saturating_duration_since(Instant::now())));
    }
}

/// The reply to a hello.
#[derive(Debug, PartialEq, Eq)]
enum Acceptance {
    Accepted,
    /// The meeting has ended, for this member or for all: the conductor said so, or was lost after its welcome.
    Ended(End),
    /// There was no answer, for this reason.
    Unanswered(String),
}

/// Waits until the conductor has accepted or refused this member.
fn accepted(link: &Shared<Member>, until: Instant, interrupt: &Interrupt) -> Acceptance {
    let (mut until, mut raised) = (until, None);
    loop {
        if interrupt.is_raised() {
            // The conductor may have accepted this member already: then all members are to end for the same reason.
            until = until.min(*raised.get_or_insert_with(|| Instant::now() + LAST_WORDS));
        }
        let outcome = link.wait(LOOK, |it| match it.end() {
            Some(end) if it.is_told_to_end() || it.meeting().is_some() => Some(Acceptance::Ended(end.clone())),
            Some(end) => Some(Acceptance::Unanswered(end.said.clone())),
            None => it.meeting().map(|_| Acceptance::Accepted),
        });
        if let Some(outcome) = outcome {
            return outcome;
        }
        if Instant::now() >= until {
            return Acceptance::Unanswered("it did not answer".to_owned());
        }
    }
}

/// Starts the member's thread on this connection.
fn link(meet: &Meet, stream: OwnedFd, interrupt: &Interrupt) -> Result<Arc<Shared<Member>>, RunError> {
    let it = Member::new(hello(meet), meet.token.clone(), now_ns());
    let link = net::shared(it).map_err(|error| RunError::System("eventfd", error))?;
    let (shared, interrupt) = (Arc::clone(&link), interrupt.clone());
    thread("member", move || net::take_part(&shared, stream, &interrupt))?;
    Ok(link)
}

fn hello(meet: &Meet) -> Hello {
    let Portion { member, members } = meet.portion;
    Hello {
        protocol: PROTOCOL,
        ringload: env!("CARGO_PKG_VERSION").to_owned(),
        member,
        members,
        host: Machine::this().hostname,
        nonce: token::nonce(),
        scenario: meet.scenario.clone(),
    }
}

fn thread(name: &str, run: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), RunError> {
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    let spawned = builder.spawn(move || {
        prompt::be_prompt();
        if let Err(error) = run() {
            say(format_args!("ringload: members cannot be heard: {error}\n"));
        }
    });
    spawned.map(drop).map_err(|error| RunError::System("cannot start a thread", error))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::message::{Decoder, FromConductor, encode};
    use super::token::Side;
    use super::*;

    fn meet(member: u32, at: &str) -> Meet {
        let portion = Portion { member, members: 3 };
        let (timeout, token) = (Duration::from_secs(60), Token::new("t"));
        Meet { portion, at: at.to_owned(), timeout, token, scenario: Fingerprint::new() }
    }

    #[test]
    fn an_end_right_behind_the_welcome_keeps_its_code() {
        let (token, hello) = (Token::new("t"), hello(&meet(1, "")));
        let judge = |messages: &[FromConductor]| {
            let mut member = Member::new(hello.clone(), token.clone(), 0);
            for message in messages {
                member.received(message.clone(), 0);
            }
            member.gone("its connection ended");
            accepted(&net::shared(member).unwrap(), Instant::now(), &Interrupt::default())
        };
        let meeting = "meeting".to_owned();
        let welcome = FromConductor::Welcome { proof: token.sign(Side::Conductor, &hello.nonce, &meeting), meeting };
        let end = End { code: 143, said: "ended before the start by signal 15 at member 1".to_owned() };
        let told = FromConductor::End { code: end.code, said: end.said.clone() };
        assert_eq!(judge(&[welcome.clone(), told.clone()]), Acceptance::Ended(end.clone()));
        assert_eq!(judge(&[told]), Acceptance::Ended(end));
        let lost = "member 0, which conducts, is lost: its connection ended".to_owned();
        assert_eq!(judge(&[welcome]), Acceptance::Ended(End { code: conductor::CANNOT_RUN, said: lost }));
        let lost = "member 0 does not answer: its connection ended".to_owned();
        assert_eq!(judge(&[]), Acceptance::Unanswered(lost));
    }

    fn next(stream: &mut TcpStream, decoder: &mut Decoder) -> FromConductor {
        let mut bytes = [0; 1024];
        loop {
            if let Some(message) = decoder.next_message().unwrap() {
                return message;
            }
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "it ended");
            decoder.push(&bytes[..count]);
        }
    }

    /// Member 1, driven by hand: it joins, asks for the end of the meeting, and reads the answer late.
    fn be_slow_to_part(at: &str, interrupt: &Interrupt, has_parted: &AtomicBool) {
        let (mut stream, mut decoder) = (TcpStream::connect(at).unwrap(), Decoder::default());
        let FromConductor::Challenge { nonce } = next(&mut stream, &mut decoder) else { panic!("no challenge") };
        let said = serde_json::to_string(&hello(&meet(1, at))).unwrap();
        let mut bytes = Vec::new();
        encode(&FromMember::Hello { proof: Token::new("t").sign(Side::Member, &nonce, &said), said }, &mut bytes);
        stream.write_all(&bytes).unwrap();
        assert!(matches!(next(&mut stream, &mut decoder), FromConductor::Welcome { .. }));
        interrupt.follow(15);
        let said = "ended before the start by signal 15 at member 0".to_owned();
        assert_eq!(next(&mut stream, &mut decoder), FromConductor::End { code: 143, said });
        std::thread::sleep(Duration::from_millis(300));
        has_parted.store(true, Ordering::SeqCst);
    }

    #[test]
    fn member_0_stays_until_the_others_know_that_there_is_no_run() {
        let at = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).unwrap().to_string();
        let (interrupt, has_parted) = (Interrupt::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let conductor = scope.spawn(|| {
                let ended = Together::meet(meet(0, &at), interrupt.clone()).err();
                // Here its process would end.
                assert!(has_parted.load(Ordering::SeqCst), "it has left too early");
                ended
            });
            while TcpStream::connect(&at).is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
            be_slow_to_part(&at, &interrupt, &has_parted);
            let ended = conductor.join().unwrap();
            assert!(matches!(ended, Some(RunError::Ended { code: 143, .. })), "{ended:?}");
        });
    }

    #[test]
    fn a_name_that_is_loopback_on_its_own_machine_only_is_told() {
        let named = |text: &str| -> Vec<SocketAddr> { text.split(' ').map(|it| it.parse().unwrap()).collect() };
        let debian = named("127.0.1.1:7000");
        assert!(is_loopback_here_only("load-0", "load-0", &debian));
        assert!(is_loopback_here_only("load-0.example", "Load-0", &debian));
        assert!(!is_loopback_here_only("load-1", "load-0", &debian));
        assert!(!is_loopback_here_only("localhost", "localhost", &named("[::1]:7000 127.0.0.1:7000")));
        assert!(!is_loopback_here_only("127.0.0.1", "127", &named("127.0.0.1:7000")));
        assert!(!is_loopback_here_only("load-0", "load-0", &named("10.0.0.1:7000 127.0.1.1:7000")));
    }
}
