//! Options of a run by several processes.

use std::time::Duration;

use clap::Args;
use toml::Table;

use super::values::{count, count_or_none, positive_seconds};
use crate::members::Meet;
use crate::members::message::Fingerprint;
use crate::members::token::Token;
use crate::scenario::Portion;

/// More members than this are a slip.
const MAX_MEMBERS: u32 = 10_000;

/// Where Kubernetes puts the number of a pod of an indexed job.
const JOB_INDEX: &str = "JOB_COMPLETION_INDEX";

/// What may differ from member to member: source addresses are a machine's own, and conditions are for member 0 to judge.
const OWN: [&str; 2] = ["source", "fail-if"];

/// How the processes meet.
#[derive(Clone, Debug, Args)]
pub(super) struct MembersArgs {
    /// Number of processes that do the run together, this one included
    ///
    /// All are started with the same options, and a number each. Connections, rates and messages are totals for all of
    /// them. Member 0 conducts the run and has the report.
    #[arg(long, value_name = "N", value_parser = count, requires = "meet")]
    members: Option<u32>,

    /// This process's number, from 0 on [default: JOB_COMPLETION_INDEX]
    #[arg(long, value_name = "I", value_parser = count_or_none, requires = "members")]
    #[expect(clippy::doc_markdown, reason = "a variable in a help text")]
    member: Option<u32>,

    /// Where member 0 listens and the others connect
    #[arg(long, value_name = "HOST:PORT", requires = "members")]
    meet: Option<String>,

    /// How long to wait for all members
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = positive_seconds)]
    meet_timeout: Duration,

    /// A secret that all members must have; @FILE is the content of a file
    #[arg(long, value_name = "TOKEN", env = "RINGLOAD_MEET_TOKEN", hide_env_values = true)]
    meet_token: Option<String>,
}

impl MembersArgs {
    /// How to meet, if there are others. `scenario` is the scenario as a file; what of a search is not in it is in `search`.
    pub(super) fn resolve(&self, scenario: &str, search: &str) -> Result<Option<Meet>, String> {
        let (Some(members), Some(at)) = (self.members, &self.meet) else { return Ok(None) };
        if members > MAX_MEMBERS {
            return Err(format!("--members {members} is more than {MAX_MEMBERS}"));
        }
        let member = match self.member {
            Some(member) => member,
            None => index(std::env::var(JOB_INDEX).ok().as_deref())?,
        };
        if member >= members {
            return Err(format!("--member {member}: with --members {members} the last one is {}", members - 1));
        }
        if at
            .rsplit_once(':')
            .is_none_or(|(host, port)| host.is_empty() || !port.parse().is_ok_and(|port: u16| port > 0))
        {
            return Err(format!("--meet {at} is not HOST:PORT"));
        }
        let token = self.token()?;
        let scenario = fingerprint(&token, scenario, search)?;
        let portion = Portion { member, members };
        Ok(Some(Meet { portion, at: at.clone(), timeout: self.meet_timeout, token, scenario }))
    }

    fn token(&self) -> Result<Token, String> {
        let text = self.meet_token.as_deref().unwrap_or_default();
        let Some(path) = text.strip_prefix('@') else { return Ok(Token::new(text)) };
        match std::fs::read_to_string(path).map(|content| content.trim().to_owned()) {
            Ok(content) if content.is_empty() => Err(format!("--meet-token: {path} is empty")),
            Ok(content) => Ok(Token::new(&content)),
            Err(error) => Err(format!("--meet-token: cannot read {path}: {error}")),
        }
    }
}

/// The number of a job's pod.
fn index(variable: Option<&str>) -> Result<u32, String> {
    let Some(text) = variable else {
        return Err(format!("--members needs --member, this process's number ({JOB_INDEX} is not set either)"));
    };
    text.parse().map_err(|_| format!("{JOB_INDEX} is {text:?}, which is no number of a member: --member is missing"))
}

/// A digest of each option, and of the messages in a file.
fn fingerprint(token: &Token, scenario: &str, search: &str) -> Result<Fingerprint, String> {
    let table: Table = scenario.parse().map_err(|error| format!("the scenario cannot be compared: {error}"))?;
    let mut digests = Fingerprint::new();
    for (key, value) in table.iter().filter(|(key, _)| !OWN.contains(&key.as_str())) {
        let mut content = format!("{key}={value}").into_bytes();
        if let (true, Some(path)) = (key == "message-file", value.as_str()) {
            content = std::fs::read(path).map_err(|error| format!("--message-file: cannot read {path}: {error}"))?;
        }
        digests.insert(key.clone(), token.digest(&content));
    }
    digests.insert("the search".to_owned(), token.digest(search.as_bytes()));
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(members: u32, member: Option<u32>, meet: &str) -> MembersArgs {
        MembersArgs {
            members: Some(members),
            member,
            meet: Some(meet.to_owned()),
            meet_timeout: Duration::from_secs(1),
            meet_token: None,
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        let error = |args: MembersArgs| args.resolve("", "").unwrap_err();
        assert!(error(args(3, Some(3), "host:1")).contains("the last one is 2"));
        assert!(error(args(99_999, Some(3), "host:1")).contains("more than 10000"));
        for at in ["host", "host:", "host:x", ":80", "host:0", "host:70000"] {
            assert!(error(args(3, Some(0), at)).contains("is not HOST:PORT"), "{at}");
        }
        let token = |text: &str| MembersArgs { meet_token: Some(text.to_owned()), ..args(3, Some(0), "[::1]:80") };
        assert!(error(token("@/there/is/no/such/file")).contains("cannot read"));
        assert!(token("secret").resolve("", "").unwrap().is_some());
        assert_eq!(index(Some("2")), Ok(2));
        assert!(index(None).unwrap_err().contains("--member"));
        assert!(index(Some("-1")).unwrap_err().contains("no number of a member"));
    }

    #[test]
    fn a_fingerprint_tells_which_option_differs_and_no_value() {
        let token = Token::new("t");
        let of = |text: &str| fingerprint(&token, text, "").unwrap();
        let a = of("connections = 5\nheader = ['Authorization: secret']\nsource = '10.0.0.1'\nfail-if = ['p99>1s']");
        let b = of("connections = 6\nheader = ['Authorization: secret']\nsource = '10.0.0.2'");
        let differ: Vec<_> = a.keys().filter(|&key| a.get(key) != b.get(key)).map(String::as_str).collect();
        assert_eq!((differ, a.len(), b.len()), (vec!["connections"], 3, 3));
        assert!(!format!("{a:?}").contains("Auth"));
        assert_ne!(fingerprint(&Token::new("u"), "connections = 5", "").unwrap()["connections"], a["connections"]);
    }
}
