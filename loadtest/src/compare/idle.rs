//! Idle processors that poll before they halt.
//!
//! In a virtual machine, waking a halted processor costs the waker 10 to 20 µs in the hypervisor, depending on the load
//! of the host. For an echo on one connection that is more than all other costs. With the governor `haltpoll`, root can
//! make idle processors poll instead.

use std::io;
use std::path::{Path, PathBuf};

use super::file::Idle;

/// Polls for 200 µs, which is longer than the peer takes for an echo on one connection (docs/ENGINES.md). It does so
/// from the first time on, and the time never shrinks.
const POLLING: [(&str, &str); 3] =
    [("guest_halt_poll_ns", "200000"), ("guest_halt_poll_grow_start", "200000"), ("guest_halt_poll_allow_shrink", "N")];

/// The idle mode of the processors; the earlier settings are restored on drop.
#[derive(Debug, Default)]
pub struct Idling {
    before: Vec<(PathBuf, String)>,
}

impl Idling {
    /// Applies the requested mode; returns a text for the report, if there is anything to report.
    pub fn begin(idle: Idle) -> (Self, Option<&'static str>) {
        if idle == Idle::AsIs {
            return (Self::default(), None);
        }
        match Self::poll(Path::new("/sys")) {
            Ok(idling) => (idling, Some("poll for 200 µs before they halt")),
            Err(_) => (Self::default(), Some("halt at once: polling takes root and the idle governor `haltpoll`")),
        }
    }

    fn poll(sys: &Path) -> io::Result<Self> {
        let governor = std::fs::read_to_string(sys.join("devices/system/cpu/cpuidle/current_governor"))?;
        if governor.trim() != "haltpoll" {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut idling = Self::default();
        for (name, value) in POLLING {
            let path = sys.join("module/haltpoll/parameters").join(name);
            let before = std::fs::read_to_string(&path)?;
            std::fs::write(&path, value)?;
            idling.before.push((path, before));
        }
        Ok(idling)
    }
}

impl Drop for Idling {
    fn drop(&mut self) {
        for (path, before) in &self.before {
            let _ = std::fs::write(path, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_before_is_set_again() {
        let sys = std::env::temp_dir().join(format!("ringload-idle-{}", std::process::id()));
        let parameters = sys.join("module/haltpoll/parameters");
        std::fs::create_dir_all(&parameters).unwrap();
        std::fs::create_dir_all(sys.join("devices/system/cpu/cpuidle")).unwrap();
        let governor = sys.join("devices/system/cpu/cpuidle/current_governor");
        let read = |name| std::fs::read_to_string(parameters.join(name)).unwrap();
        std::fs::write(&governor, "menu\n").unwrap();
        assert!(Idling::poll(&sys).is_err());

        std::fs::write(&governor, "haltpoll\n").unwrap();
        for (name, _) in POLLING {
            std::fs::write(parameters.join(name), "before\n").unwrap();
        }
        let idling = Idling::poll(&sys).unwrap();
        assert_eq!(
            (read("guest_halt_poll_ns").as_str(), read("guest_halt_poll_allow_shrink").as_str()),
            ("200000", "N")
        );
        drop(idling);
        assert!(POLLING.iter().all(|(name, _)| read(name) == "before\n"));
        std::fs::remove_dir_all(&sys).unwrap();
    }
}
