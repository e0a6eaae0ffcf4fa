//! A command on a terminal of its own, and what is to be seen there.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::runner::PATIENCE;

/// How long nothing need come before the command is looked at again.
const TICK: Duration = Duration::from_millis(20);

/// A command with a terminal. The command ends with the test.
pub(crate) struct Pty {
    child: Child,
    master: File,
    /// Keeps the terminal when the command has ended.
    slave: OwnedFd,
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

impl Pty {
    /// Starts `command` in the foreground of a terminal of `(columns, rows)`.
    pub(crate) fn start(mut command: Command, size: (u16, u16)) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).expect("its other side");
        let copy = || slave.try_clone().expect("a descriptor");
        command.stdin(copy()).stdout(copy()).stderr(copy());
        // SAFETY: between fork and exec there are three bare system calls.
        unsafe {
            command.pre_exec(|| {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                rustix::process::setsid()?;
                Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
            });
        }
        tcsetwinsize(&master, winsize(size)).expect("a size");
        let child = command.spawn().expect("it starts");
        let parser = vt100::Parser::new(at_least_one(size.1), at_least_one(size.0), 0);
        Self { child, master: master.into(), slave: slave.into(), parser, bytes: Vec::new() }
    }

    /// What is to be seen.
    pub(crate) fn screen(&self) -> &vt100::Screen {
        self.parser.screen()
    }

    /// All that was written so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Waits until the screen is as it should be.
    pub(crate) fn wait_until(&mut self, what: &str, is_so: impl Fn(&vt100::Screen) -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !is_so(self.screen()) {
            let has_ended = self.child.try_wait().expect("a child").is_some();
            let has_come = self.read();
            assert!(has_come || !has_ended, "it ended before {what}:\n{}", self.screen().contents());
            assert!(Instant::now() < patience, "no {what} after {PATIENCE:?}:\n{}", self.screen().contents());
        }
    }

    /// Waits until one of these texts is to be seen.
    pub(crate) fn wait_for_any(&mut self, texts: &[&str]) {
        self.wait_until(&texts.join(" or "), |screen| texts.iter().any(|text| screen.contents().contains(text)));
    }

    pub(crate) fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("it takes keys");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is not waited for yet");
    }

    pub(crate) fn resize(&mut self, size: (u16, u16)) {
        tcsetwinsize(&self.master, winsize(size)).expect("a size");
        self.parser.screen_mut().set_size(at_least_one(size.1), at_least_one(size.0));
    }

    /// Hangs up, as a terminal does whose window is closed, and waits for the end of the command: its exit code.
    pub(crate) fn hang_up(mut self) -> Option<i32> {
        self.master = File::open("/dev/null").expect("it is always there");
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(Instant::now() < patience, "it had not ended after {PATIENCE:?}");
            std::thread::sleep(TICK);
        }
    }

    /// Waits for the end of the command: its exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let status = self.child.try_wait().expect("a child");
            let has_come = self.read();
            if let Some(status) = status.filter(|_| !has_come) {
                return status.code();
            }
            if Instant::now() >= patience {
                let _ = self.child.kill();
                panic!("it had not ended after {PATIENCE:?}:\n{}", self.screen().contents());
            }
        }
    }

    /// The main screen, its cursor, and lines with echo: as a shell had left it.
    pub(crate) fn assert_is_given_back(&self, after: &str) {
        let modes = tcgetattr(&self.slave).expect("a terminal").local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "raw after {after}");
        assert!(!self.screen().alternate_screen(), "on the alternate screen after {after}");
        assert!(!self.screen().hide_cursor(), "without a cursor after {after}");
    }

    /// Reads what has come, or waits a moment for it; whether something has.
    fn read(&mut self) -> bool {
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
        let mut ready = [PollFd::new(&self.master, PollFlags::IN)];
        if poll(&mut ready, Some(&tick)).unwrap_or(0) == 0 {
            return false;
        }
        let mut buffer = [0; 16_384];
        let Ok(length) = self.master.read(&mut buffer) else { return false };
        self.parser.process(&buffer[..length]);
        self.bytes.extend_from_slice(&buffer[..length]);
        length > 0
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // It has ended in all tests that pass.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn winsize((columns, rows): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn at_least_one(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("a terminal has rows and columns")
}
