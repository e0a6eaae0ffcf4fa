//! The live screen on a real terminal: it is given back on every way out, and fits.

mod pty;
mod runner;
mod server;

use std::time::Duration;

use pty::Pty;
use rustix::process::Signal;
use server::{Behaviour, start};

const LONG: [&str; 6] = ["-c", "4", "--warmup", "0", "--duration", "60"];

/// A run on a terminal of this size, with `TERM` and other variables.
fn run_on(size: (u16, u16), variables: &[(&str, &str)], behaviour: Behaviour, more: &[&str]) -> Pty {
    let url = format!("ws://{}/", start(behaviour));
    let args = [&["run", &url], &LONG[..], more].concat();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringload"));
    command.args(args).env_remove("NO_COLOR").env("TERM", "xterm").envs(variables.iter().copied());
    Pty::start(command, size)
}

#[test]
fn whatever_ends_it_the_terminal_is_as_it_was() {
    let signals: [&[Signal]; 5] =
        [&[Signal::INT], &[Signal::TERM], &[Signal::HUP], &[Signal::QUIT], &[Signal::INT, Signal::INT]];
    for signals in signals {
        let mut terminal = run_on((80, 24), &[], Behaviour::Echo, &[]);
        terminal.wait_until("measure", |screen| screen.alternate_screen() && screen.contents().contains("measure"));
        for &signal in signals {
            terminal.signal(signal);
            std::thread::sleep(Duration::from_millis(100));
        }
        let code = terminal.end();
        assert_eq!(code, Some(128 + signals[0].as_raw()), "{signals:?}");
        terminal.assert_is_given_back(&format!("{signals:?}"));
    }
}

/// Against a server that keeps everything waiting, so that the second key or signal comes before the end.
#[test]
fn a_second_time_ends_it_at_once_and_gives_the_terminal_back() {
    for (acts, code) in [(["q", "q"], 130), (["\u{3}", "\u{3}"], 130), (["TERM", "TERM"], 143)] {
        let mut terminal = run_on((80, 24), &[], Behaviour::Deaf, &["--no-greet", "--drain-timeout", "60s"]);
        terminal.wait_until("measure", |screen| screen.contents().contains("measure"));
        for (index, act) in acts.into_iter().enumerate() {
            match act {
                "TERM" => {
                    terminal.signal(Signal::TERM);
                    // A second one within a second is the same one.
                    std::thread::sleep(Duration::from_millis(1050));
                }
                key => {
                    terminal.type_in(key);
                    if index == 0 {
                        terminal.wait_for_any(&["ending", "drain", "close"]);
                    }
                }
            }
        }
        assert_eq!(terminal.end(), Some(code), "{acts:?}");
        terminal.assert_is_given_back(&format!("{acts:?}"));
    }
}

#[test]
fn a_terminal_that_hangs_up_ends_the_run_with_its_results() {
    let files = runner::Files::new("hang-up");
    let json = files.path("r.json");
    let mut terminal = run_on((80, 24), &[], Behaviour::Echo, &["--json", &json]);
    terminal.wait_until("measure", |screen| screen.contents().contains("measure"));
    assert_eq!(terminal.hang_up(), Some(128 + Signal::HUP.as_raw()));
    let results = files.json("r.json");
    assert!(results["interrupted"] == true && results["messages"]["sent"].as_u64() > Some(0), "{results}");
}

/// In the hands of a shell with job control, which takes the next command when the job has been stopped.
#[test]
fn a_run_that_is_stopped_gives_the_terminal_back_and_takes_it_again_when_it_goes_on() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let mut command = std::process::Command::new("bash");
    command.args(["--norc", "-ic", "\"$@\"; read -r line; echo \"THE SHELL READ $line\"; fg", "bash"]);
    command.arg(env!("CARGO_BIN_EXE_ringload")).args(["run", &url]).args(LONG).env("TERM", "xterm");
    let mut terminal = Pty::start(command, (80, 24));
    terminal.wait_until("measure", |screen| screen.alternate_screen() && screen.contents().contains("measure"));
    terminal.type_in("\u{1a}");
    terminal.wait_until("the main screen", |screen| !screen.alternate_screen());
    terminal.assert_is_given_back("a stop");
    terminal.type_in("hello\n");
    terminal.wait_until("a picture again", |screen| {
        let text = screen.contents();
        screen.alternate_screen()
            && ["measure", "errors", "4 open", "q or Ctrl-C"].iter().all(|part| text.contains(part))
    });
    terminal.type_in("q");
    assert_eq!(terminal.end(), Some(130));
    terminal.assert_is_given_back("a stop and an end");
    let text = terminal.screen().contents();
    assert!(text.contains("THE SHELL READ hello") && text.contains("PARTIAL"), "{text}");
}

#[test]
fn a_panic_gives_the_terminal_back_and_is_readable() {
    let mut command = std::process::Command::new(std::env::current_exe().expect("this test"));
    command.args(["--ignored", "--exact", "panics_on_a_screen", "--nocapture"]).env("TERM", "xterm");
    command.env("RUST_BACKTRACE", "0"); // or the message scrolls out of sight
    let mut terminal = Pty::start(command, (80, 24));
    assert_ne!(terminal.end(), Some(0));
    terminal.assert_is_given_back("a panic");
    let text = terminal.screen().contents();
    assert!(text.contains("the invariant is broken"), "{text}");
}

/// What [`a_panic_gives_the_terminal_back_and_is_readable`] runs on a terminal.
#[test]
#[ignore = "takes the terminal and panics: the test above runs it in a terminal of its own"]
fn panics_on_a_screen() {
    let mut terminal = ringload::output::terminal::take().expect("a terminal");
    let _ = ringload::output::terminal::draw(&mut terminal, |_| panic!("the invariant is broken"));
}

#[test]
fn numbers_are_whole_on_small_terminals_and_after_a_resize() {
    let mut terminal = run_on((80, 24), &[], Behaviour::Echo, &[]);
    let is_whole = |text: &str| {
        let is_there = |part: &str| text.contains(part);
        ["errors", "none", "latency", "p99", "echoes", "connections", "4 open", "load", "q"].into_iter().all(is_there)
    };
    terminal.wait_until("a picture of 80x24", |screen| {
        is_whole(&screen.contents()) && screen.contents().contains("p99 of each second")
    });
    terminal.resize((40, 12));
    terminal.wait_until("a picture of 40x12", |screen| {
        is_whole(&screen.contents()) && !screen.contents().contains("p99 of each second")
    });
    terminal.resize((130, 40));
    terminal.wait_until("a picture of 130x40", |screen| {
        is_whole(&screen.contents()) && screen.contents().contains("p99 of each second")
    });
    terminal.type_in("q");
    assert_eq!(terminal.end(), Some(130));
    terminal.assert_is_given_back("resizing");
    assert!(terminal.screen().contents().contains("PARTIAL"), "{}", terminal.screen().contents());
}

#[test]
fn a_dumb_terminal_gets_lines() {
    for term in ["dumb", ""] {
        let mut terminal = run_on((80, 24), &[("TERM", term)], Behaviour::Echo, &["--duration", "200ms"]);
        assert_eq!(terminal.end(), Some(0));
        let text = terminal.bytes();
        assert!(!text.contains(&0x1b), "{:?}", String::from_utf8_lossy(text));
        assert!(terminal.screen().contents().contains("p99"), "{}", terminal.screen().contents());
    }
}

#[test]
fn no_color_means_none() {
    let colors = |variables: &[(&str, &str)]| {
        let mut terminal = run_on((80, 24), variables, Behaviour::Echo, &["--duration", "1500ms"]);
        assert_eq!(terminal.end(), Some(0));
        let text = String::from_utf8_lossy(terminal.bytes()).into_owned();
        ["\u{1b}[38;", "\u{1b}[48;", ";38;", ";48;"].iter().any(|color| text.contains(color))
    };
    assert!(colors(&[]));
    assert!(!colors(&[("NO_COLOR", "1")]));
}
