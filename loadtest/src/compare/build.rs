//! Builds servers and stores the output of the builds.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;

use super::file::Server;
use super::process::shell;

/// Number of last lines shown of a failed build.
const LAST_LINES: usize = 20;

/// Builds `server`; `None` if it has no build command. Returns the file with the build's output, or the error.
pub fn build(server: &Server) -> Option<Result<PathBuf, String>> {
    let command = server.build.as_ref()?;
    if let Some(missing) =
        server.needs.iter().filter(|need| need.is_for_building()).find_map(|need| need.missing(&server.dir))
    {
        return Some(Err(format!("not built: {missing}")));
    }
    let log = server.dir.join(format!("{}.build.log", server.name));
    let run = || {
        let output = File::create(&log)?;
        shell(command, &server.dir).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).status()
    };
    Some(match run() {
        Ok(status) if status.success() => Ok(log),
        Ok(status) => {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n  ");
            Err(format!("the build failed ({status}); its output is in {} and ends with:\n  {last}", log.display()))
        }
        Err(error) => Err(format!("the build cannot be started in {}: {error}", server.dir.display())),
    })
}
