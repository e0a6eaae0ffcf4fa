//! The attacks as a command, for `scripts/hostile`: prints what it does as JSON, a line each time.
//!
//! Reads its standard input for the time to stop: when that ends, so does the attack.

#[path = "mod.rs"]
mod attacks;
#[allow(dead_code, reason = "the attacks use a part of it")]
#[path = "../common/data.rs"]
mod data;
#[allow(dead_code, reason = "the attacks use a part of it")]
#[path = "../common/frames.rs"]
mod frames;
mod common {
    pub(crate) use crate::data::Random;
    pub(crate) use crate::frames;
}

use std::fmt::Write as _;
use std::io::{Read, stdin};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use attacks::{ATTACKS, Crowd, Tally, farewell, sink};
use clap::{Parser, Subcommand};
use rustix::process::{Pid, Signal, kill_process};

#[derive(Parser)]
#[command(name = "hostile")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Names the attacks
    List,
    /// Attacks until standard input ends, or until all clients have lived
    Attack {
        name: String,
        target: SocketAddr,
        /// Clients at a time
        #[arg(long)]
        clients: usize,
        /// Clients in all
        #[arg(long)]
        lives: Option<usize>,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Is a neutral victim until it is killed: sends back what it receives, and prints where it listens
    Sink {
        /// Clients at a time, at most
        #[arg(long)]
        clients: usize,
        /// Closes each connection after this many seconds
        #[arg(long)]
        close_after: Option<f64>,
        /// Shuts down each connection behind its first answer, and discards what comes then
        #[arg(long)]
        refuse: bool,
    },
    /// Opens clients with traffic, sends the server SIGTERM, and says what each of them got
    Farewell {
        target: SocketAddr,
        #[arg(long)]
        clients: usize,
        #[arg(long)]
        server: i32,
    },
}

fn main() {
    match Arguments::parse().command {
        Command::List => ATTACKS.iter().for_each(|(name, _)| println!("{name}")),
        Command::Attack { name, target, clients, lives, seed } => {
            let Some(attack) = attacks::attack(&name) else {
                eprintln!("hostile: no attack {name:?}");
                std::process::exit(2);
            };
            run(&Crowd::new(target, attack, clients, lives, seed));
        }
        Command::Sink { clients, close_after, refuse } => {
            let patience =
                sink::Patience { close_after: close_after.map(Duration::from_secs_f64), is_refusing: refuse };
            sink::run(clients, patience, |address| println!("listening on {address}"));
        }
        Command::Farewell { target, clients, server } => {
            let server = Pid::from_raw(server).expect("a process");
            let signal = || kill_process(server, Signal::TERM).expect("a server that runs");
            let outcome = farewell::run(target, clients, signal);
            println!("{}", farewell_json(&outcome));
        }
    }
}

fn run(crowd: &Crowd) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = stdin().read(&mut [0]);
            crowd.stop();
        });
        scope.spawn(|| {
            while crowd.present.load(Ordering::Relaxed) < crowd.at_once && !crowd.is_stopped.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            println!("{{\"present\": {}}}", crowd.present.load(Ordering::Relaxed));
        });
        let tally = crowd.run();
        crowd.stop();
        println!("{}", tally_json(&tally));
        // The thread that reads standard input would wait for its end.
        std::process::exit(0);
    });
}

fn tally_json(tally: &Tally) -> String {
    let Tally { connected, left, ended, cut_off, failed, bytes_sent, bytes_read, answers } = tally;
    let mut by_status = String::new();
    for (status, count) in answers {
        let separator = if by_status.is_empty() { "" } else { ", " };
        let _ = write!(by_status, "{separator}\"{status}\": {count}");
    }
    format!(
        "{{\"connected\": {connected}, \"left\": {left}, \"ended\": {ended}, \"cut_off\": {cut_off}, \
         \"failed\": {failed}, \"bytes_sent\": {bytes_sent}, \"bytes_read\": {bytes_read}, \"answers\": {{{by_status}}}}}"
    )
}

fn farewell_json(outcome: &farewell::Outcome) -> String {
    let farewell::Outcome { clients, sent_before, lost, sent, echoed, wrong, told, ended } = outcome;
    format!(
        "{{\"clients\": {clients}, \"sent_before\": {sent_before}, \"lost\": {lost}, \"sent\": {sent}, \
         \"echoed\": {echoed}, \"wrong\": {wrong}, \"told\": {told}, \"ended\": {ended}}}"
    )
}
