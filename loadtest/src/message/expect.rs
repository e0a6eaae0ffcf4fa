//! The expected answer to a message, and so what is verified.

use std::fmt;
use std::str::FromStr;

/// The expected answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// The message itself, once: every byte is compared.
    #[default]
    Echo,
    /// This many messages with any content; at least one.
    Answers(u32),
    /// No answer: a message is complete when it is sent.
    Nothing,
}

impl Expect {
    /// Whether answers are compared with what was sent.
    #[must_use]
    pub fn compares(self) -> bool {
        self == Self::Echo
    }

    /// What was verified, in words.
    #[must_use]
    pub fn verified(self) -> String {
        match self {
            Self::Echo => "every byte of every echo was compared".to_owned(),
            Self::Answers(1) => "each message needed one answer; answers were not compared (--expect any)".to_owned(),
            Self::Answers(count) => {
                format!("each message needed {count} answers; answers were not compared (--expect {count})")
            }
            Self::Nothing => "no answers were awaited, none was compared (--expect none)".to_owned(),
        }
    }
}

impl FromStr for Expect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "echo" => Ok(Self::Echo),
            "any" => Ok(Self::Answers(1)),
            "none" => Ok(Self::Nothing),
            number => match number.parse() {
                Ok(0) => Ok(Self::Nothing),
                Ok(count) => Ok(Self::Answers(count)),
                Err(_) => Err("not echo, any, none or a number of answers".to_owned()),
            },
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo => f.write_str("echo"),
            Self::Answers(1) => f.write_str("any"),
            Self::Answers(count) => write!(f, "{count}"),
            Self::Nothing => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["echo", "any", "none", "3"] {
            assert_eq!(text.parse::<Expect>().unwrap().to_string(), text);
        }
        assert_eq!("1".parse(), Ok(Expect::Answers(1)));
        assert_eq!("0".parse(), Ok(Expect::Nothing));
        assert!("-1".parse::<Expect>().is_err() && "all".parse::<Expect>().is_err());
    }
}
