//! The parts that SIGHUP reloads.

use super::notify;

/// Reads something again, and uses it from now on. If that fails what was in use stays in use, and the error says why.
pub(super) type Reload = Box<dyn Fn() -> Result<String, String> + Send>;

/// All that can be reloaded while the server serves: each part with its name, for the log.
#[derive(Default)]
pub(super) struct Reloads {
    parts: Vec<(&'static str, Reload)>,
}

impl Reloads {
    /// `reload` says what is in use now.
    pub(super) fn add(&mut self, name: &'static str, reload: impl Fn() -> Result<String, String> + Send + 'static) {
        self.parts.push((name, Box::new(reload)));
    }

    /// Reloads each part; one that fails does not keep the others from it.
    pub(super) fn run(&self) {
        notify::reloading();
        for (name, reload) in &self.parts {
            match reload() {
                Ok(now) => tracing::info!("reloaded {name}: {now}"),
                Err(why) => tracing::error!("cannot reload {name}, what was in use stays so: {why}"),
            }
        }
        notify::ready("reloaded");
    }
}
