//! Continuing from earlier results.

use std::path::Path;

use super::{CellReport, OWN_BUILD, Results, ResultsError, as_written};

/// What begins the names of conditions that changed between the rounds.
pub(in crate::compare) const RESUMED: &str = "resumed";

impl Results {
    /// Resumes `earlier` results, which must be of the same comparison. Rounds, servers and cells may have been added;
    /// those that are only in the earlier results follow behind its own, with all their measurements. No round that was made
    /// is left out.
    pub fn resume(mut self, earlier: Self, path: &Path) -> Result<Self, ResultsError> {
        self.check_same(&earlier).map_err(|why| ResultsError::Other(path.to_owned(), why))?;
        self.note_differences(&earlier);
        for server in &mut self.servers {
            let Some(before) = earlier.servers.iter().find(|it| it.name == server.name) else { continue };
            server.remarks.clone_from(&before.remarks);
            server.version = server.version.take().or_else(|| before.version.clone());
        }
        for cell in &mut self.cells {
            let Some(before) = earlier.cells.iter().find(|it| it.name == cell.name) else { continue };
            cell.rate_per_s = before.rate_per_s;
            cell.rounds = cell.rounds.max(earlier.rounds_made(&cell.name));
        }
        for server in earlier.servers {
            if self.servers.iter().all(|it| it.name != server.name) {
                self.servers.push(server);
            }
        }
        for cell in earlier.cells {
            if self.cells.iter().all(|it| it.name != cell.name) {
                self.cells.push(cell);
            }
        }
        self.runs = earlier.runs;
        (self.seed, self.started_unix_s) = (earlier.seed, earlier.started_unix_s);
        Ok(self)
    }

    /// The number of rounds of a cell that count, up to the last one in which any server was measured.
    fn rounds_made(&self, cell: &str) -> u32 {
        let rounds = self.runs.iter().filter(|run| run.cell == cell).map(|run| run.round + 1);
        rounds.max().unwrap_or(0).saturating_sub(self.settings.discard)
    }

    /// Whether `earlier` has the same settings, and the same servers and cells under their names.
    fn check_same(&self, earlier: &Self) -> Result<(), String> {
        let (mut now, before) = (as_written(&self.settings), &earlier.settings);
        now.rounds = before.rounds;
        now.idle = before.idle.and(now.idle);
        if now != *before {
            return Err("its settings were other ones".to_owned());
        }
        for server in &self.servers {
            let Some(before) = earlier.servers.iter().find(|it| it.name == server.name) else { continue };
            let has_other_url = before.url.is_some() && before.url != server.url;
            if has_other_url || (&before.command, &before.env) != (&server.command, &server.env) {
                return Err(format!("server {} was started in another way", server.name));
            }
        }
        for cell in &self.cells {
            let Some(before) = earlier.cells.iter().find(|it| it.name == cell.name) else { continue };
            let same = CellReport { rate_per_s: before.rate_per_s, rounds: before.rounds, ..as_written(cell) };
            if same != *before {
                return Err(format!("cell {} was another one", cell.name));
            }
        }
        Ok(())
    }

    /// Adds a condition for each program that had another version or build in earlier rounds, and for another machine.
    fn note_differences(&mut self, earlier: &Self) {
        let of_before = earlier.conditions.iter().filter(|it| it.0.starts_with(RESUMED));
        self.conditions.extend(of_before.map(|(name, text)| (name.clone(), text.clone())));
        if earlier.machine.boot_id != self.machine.boot_id {
            let text = "the machine was started anew, or is another one, since earlier rounds";
            self.conditions.insert(RESUMED.to_owned(), text.to_owned());
        }
        let ringload = self.ringload.clone();
        self.note_change("version of ringload", Some(&earlier.ringload), Some(&ringload));
        let build = self.conditions.get(OWN_BUILD).cloned();
        self.note_change(OWN_BUILD, earlier.conditions.get(OWN_BUILD), build.as_ref());
        for server in self.servers.clone() {
            let Some(before) = earlier.servers.iter().find(|it| it.name == server.name) else { continue };
            let name = &server.name;
            self.note_change(&format!("version of {name}"), before.version.as_ref(), server.version.as_ref());
            self.note_change(&format!("build of {name}"), before.program.as_ref(), server.program.as_ref());
        }
    }

    /// Adds a condition if `what` is known to have been another one in earlier rounds.
    pub(in crate::compare) fn note_change(&mut self, what: &str, before: Option<&String>, now: Option<&String>) {
        if let (Some(before), Some(now)) = (before, now)
            && before != now
        {
            let text = self.conditions.entry(format!("{RESUMED}, {what}")).or_insert_with(|| before.clone());
            *text = format!("{text}, then {now}");
        }
    }
}
