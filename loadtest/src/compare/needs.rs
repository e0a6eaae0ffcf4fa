//! Requirements of a server on the machine; if one is not met, the server is skipped.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::words::unknown;
use crate::parsing;

/// One thing that a server needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// A kernel of at least this release.
    Kernel(u32, u32),
    /// Number of available processors.
    Cpus(u64),
    /// Bytes of memory.
    Memory(u64),
    /// A program in `PATH` or below the server's directory.
    Program(String),
    /// A file or directory below the server's directory.
    File(PathBuf),
    /// A kernel that allows this user to set up a ring (`io_uring`).
    IoUring,
    /// The user that runs the comparison.
    Root,
}

const FORMS: [&str; 7] = ["kernel>=", "cpus>=", "memory>=", "program:", "file:", "io-uring", "root"];

impl FromStr for Need {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`needs`: {text:?}: {why}");
        if let Some((name, least)) = text.split_once(">=") {
            let least = least.trim();
            return match name.trim() {
                "kernel" => {
                    let release = release(least).ok_or_else(|| wrong("no release like 5.19"))?;
                    Ok(Self::Kernel(release.0, release.1))
                }
                "cpus" => parsing::whole(least).map(Self::Cpus).map_err(|why| wrong(&why)),
                "memory" => parsing::bytes(least).map(Self::Memory).map_err(|why| wrong(&why)),
                _ => Err(format!("`needs`: {}", unknown("need", text, FORMS))),
            };
        }
        match text.split_once(':') {
            Some(("program", name)) if !name.is_empty() => Ok(Self::Program(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            None if text == "io-uring" => Ok(Self::IoUring),
            None if text == "root" => Ok(Self::Root),
            _ => Err(format!("`needs`: {}", unknown("need", text, FORMS))),
        }
    }
}

impl Need {
    /// Whether it is checked before the build: files may be a result of the build.
    #[must_use]
    pub fn is_for_building(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    /// The missing requirement of a server in `dir`, if any.
    #[must_use]
    pub fn missing(&self, dir: &Path) -> Option<String> {
        match self {
            Self::Kernel(major, minor) => {
                let running = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
                let is_enough = release(&running).is_some_and(|it| it >= (*major, *minor));
                (!is_enough).then(|| format!("needs kernel {major}.{minor}, this is {}", running.trim()))
            }
            Self::Cpus(least) => {
                let usable = ringecho::sys::usable_cpus().map_or(0, |cpus| cpus.len() as u64);
                (usable < *least).then(|| format!("needs {least} processors, {usable} may be used"))
            }
            Self::Memory(least) => {
                let all = crate::sampling::memory_total_bytes();
                let show = |bytes: u64| crate::output::units::bytes(bytes as f64);
                (all < *least).then(|| format!("needs {} of memory, there are {}", show(*least), show(all)))
            }
            Self::Program(name) => {
                find_program(name, dir).is_none().then(|| format!("needs `{name}`, which is not in PATH"))
            }
            Self::File(path) => {
                (!dir.join(path).exists()).then(|| format!("needs {}, which does not exist", dir.join(path).display()))
            }
            Self::IoUring => ringio_error().map(|error| format!("needs io_uring: {error}")),
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned()),
        }
    }
}

/// Why no ring can be set up; `None` if one can.
fn ringio_error() -> Option<String> {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    if setting.trim() == "2" {
        return Some("kernel.io_uring_disabled is 2".to_owned());
    }
    // SAFETY: io_uring_setup(2) with a null pointer for its parameters touches no memory of this process: it fails with
    // EFAULT where rings can be had, and with ENOSYS or EPERM where they cannot.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null_mut::<libc::c_void>()) };
    let error = std::io::Error::last_os_error();
    (result < 0 && matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))).then(|| error.to_string())
}

/// The path of a program: below `dir` if its name has a slash, otherwise in `PATH`.
pub(super) fn find_program(name: &str, dir: &Path) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(dir.join(name)).filter(is_program);
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).map(|path| path.join(name)).find(is_program)
}

/// `6.18` of `6.18.44-foo`.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_met_or_say_what_is_missing() {
        let here = Path::new("/");
        let missing = |need: &str| need.parse::<Need>().unwrap().missing(here);
        for met in ["kernel>=3.10", "cpus>=1", "memory>=1MiB", "program:sh", "program:/bin/sh", "file:proc"] {
            assert_eq!(missing(met), None, "{met}");
        }
        assert!(missing("kernel>=99.0").unwrap().starts_with("needs kernel 99.0, this is "));
        assert!(missing("program:no-such-program").unwrap().contains("not in PATH"));
        assert!(missing("file:no/such/file").unwrap().contains("/no/such/file"));
        assert!(missing("cpus>=100000").is_some() && missing("memory>=1PiB").is_some());
    }

    #[test]
    fn what_is_no_need_is_refused_with_what_was_meant() {
        for (text, answer) in [
            ("kernal>=5.19", "did you mean `kernel>=`?"),
            ("kernel>=new", "no release like 5.19"),
            ("io_uring", "did you mean `io-uring`?"),
            ("program:", "did you mean `program:`?"),
            ("gpu", "there are: kernel>="),
            ("memory>=much", "no size"),
        ] {
            let error = text.parse::<Need>().unwrap_err();
            assert!(error.contains(answer), "{text}: {error}");
        }
    }

    #[test]
    fn releases_are_numbers() {
        assert_eq!(release("6.18.44-arch1"), Some((6, 18)));
        assert_eq!(release("5.9"), Some((5, 9)));
        assert!(release("5.9") < release("5.19"));
        assert_eq!(release("x"), None);
    }
}
