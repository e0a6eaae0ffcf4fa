//! `ringecho doctor`: how many connections this machine can hold, and what would limit it first.
//!
//! `facts.rs` reads facts from the kernel, `checks.rs` evaluates them without further system calls; the report is made here.

mod checks;
mod facts;

use std::fmt;
use std::path::Path;

use serde_json::json;

use crate::machine::Machine;
use checks::{Check, State};
use facts::Facts;

/// The results of the checks.
pub(crate) struct Report {
    wanted: Option<u64>,
    checks: Vec<Check>,
}

impl Report {
    /// Looks at this machine. `wanted`: how many connections it is to hold.
    pub(crate) fn of_this_machine(wanted: Option<u64>) -> std::io::Result<Self> {
        let facts = Facts::read(Path::new("/"), &Machine::probe()?);
        Ok(Self::new(&facts, wanted))
    }

    fn new(facts: &Facts, wanted: Option<u64>) -> Self {
        Self { wanted, checks: checks::all(facts, wanted) }
    }

    /// The limit that is reached first.
    fn tightest(&self) -> Option<&Check> {
        self.checks.iter().filter(|check| check.holds.is_some()).min_by_key(|check| check.holds)
    }

    /// Whether it holds as many as are wanted. Without that it is asked for nothing.
    pub(crate) fn fits(&self) -> bool {
        self.checks.iter().all(|check| check.state != State::Short)
    }

    /// For scripts.
    pub(crate) fn json(&self) -> String {
        let checks: Vec<_> = self.checks.iter().map(Check::json).collect();
        let report = json!({
            "wanted": self.wanted,
            "fits": self.fits(),
            "holds": self.tightest().and_then(|check| check.holds),
            "limited_by": self.tightest().map(|check| check.name),
            "checks": checks,
        });
        format!("{report:#}\n")
    }
}

/// For people: a line for each limit, and what lifts it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let mark = match check.state {
                State::Fine => "ok",
                State::Note => "note",
                State::Short => "SHORT",
            };
            let holds = check.holds.map_or_else(|| "-".into(), grouped);
            writeln!(f, "{mark:<6}{:<24}{holds:>16}  {}", check.name, check.found)?;
            if check.state != State::Fine {
                for remedy in &check.remedies {
                    writeln!(f, "{:48}> {remedy}", "")?;
                }
            }
        }
        writeln!(f)?;
        let (holds, name) = match self.tightest() {
            Some(Check { holds: Some(holds), name, .. }) => (grouped(*holds), *name),
            _ => return writeln!(f, "Nothing here bounds the number of connections."),
        };
        match self.wanted {
            None => writeln!(f, "Up to {holds} connections; what limits them first is: {name}."),
            Some(wanted) if self.fits() => {
                writeln!(f, "{} connections fit. Up to {holds}; what limits them first is: {name}.", grouped(wanted))
            }
            Some(wanted) => {
                writeln!(
                    f,
                    "{} connections do NOT fit: see SHORT above. What limits them first is: {name}.",
                    grouped(wanted)
                )
            }
        }
    }
}

/// A number with its digits in groups.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named_with_what_lifts_it() {
        let facts = Facts { conntrack: Some((100, 262_144)), ..facts::generous() };
        let report = Report::new(&facts, Some(500_000));
        assert!(!report.fits());
        let text = report.to_string();
        assert!(text.contains("SHORT conntrack") && text.contains("500,000 connections do NOT fit"), "{text}");
        assert!(text.contains("sysctl -w net.netfilter.nf_conntrack_max="), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&json["fits"], &json["limited_by"]), (&false.into(), &"conntrack".into()));
        assert_eq!(json["holds"], 262_044);

        let report = Report::new(&facts, Some(200_000));
        assert!(report.fits(), "{report}");
        assert!(Report::new(&facts, None).to_string().contains("Up to 262,044 connections"));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
