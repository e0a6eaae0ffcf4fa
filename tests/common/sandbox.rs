//! Forbids system calls to a child process, as containers do, or has some of them fail.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, io};

/// What the default profiles of container engines forbid, as far as it concerns this server.
pub(crate) const CONTAINER: [libc::c_long; 4] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_unshare];

/// Has `calls` fail with `error` in the process that `command` starts (`seccomp(2)`).
pub(crate) fn forbid(command: &mut Command, calls: &[libc::c_long], error: i32) {
    let filter = filter(calls, error as u32);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed, and prctl is a bare system call.
    unsafe {
        command.pre_exec(move || install(&filter));
    }
}

/// System calls that fail now and then, as `strace(1)` injects them.
pub(crate) struct Injection {
    log: PathBuf,
}

impl Injection {
    /// Has those of `calls` (a list with commas) that `rule` is about (see `strace(1)`, "Tampering") fail in the process that
    /// `command` starts. The process stays a child of the test; strace is a child of its own. `None` where there is no strace,
    /// and the test says so.
    pub(crate) fn into(command: &Command, calls: &str, rule: &str) -> Option<(Self, Command)> {
        if Command::new("strace").arg("-V").output().is_err() {
            eprintln!("NOT TESTED: strace(1) is missing, and nothing else has system calls fail at will");
            return None;
        }
        let log = env::temp_dir().join(format!("ringecho-strace-{}-{calls}", std::process::id()));
        let mut traced = Command::new("strace");
        traced.args(["-D", "-f", "-qq", "-o"]).arg(&log);
        traced.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{rule}")]);
        traced.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => traced.env(name, value),
                None => traced.env_remove(name),
            };
        }
        Some((Self { log }, traced))
    }

    /// How many calls have failed.
    pub(crate) fn count(&self) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().matches("(INJECTED)").count()
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.log);
    }
}

/// A program that looks at the number of the call (the first field of `struct seccomp_data`) and says what comes of it.
fn filter(calls: &[libc::c_long], error: u32) -> Vec<libc::sock_filter> {
    let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let verdict = |k| statement(libc::BPF_RET | libc::BPF_K, k);
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for &call in calls {
        let is_it = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        program.push(libc::sock_filter { code: is_it, jt: 0, jf: 1, k: call as u32 });
        program.push(verdict(libc::SECCOMP_RET_ERRNO | error));
    }
    program.push(verdict(libc::SECCOMP_RET_ALLOW));
    program
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: the program is as long as it says, and the kernel copies it.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
