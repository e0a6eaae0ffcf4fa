//! The request target: its path (RFC 9112, section 3.2), normalised (RFC 3986, section 6.2.2).

use std::borrow::Cow;

use tungstenite::http::Uri;

/// The target of a request.
#[derive(Debug)]
pub(super) struct Target {
    uri: Uri,
    /// Its path in normal form, if it is spelled otherwise.
    normal: Option<String>,
}

impl Target {
    /// The target may be in origin form or in absolute form. `None`: it is neither a path nor a URI with one.
    pub(super) fn parse(target: &str) -> Option<Self> {
        let uri = target.parse::<Uri>().ok().filter(|uri| uri.path().starts_with('/'))?;
        let normal = match normalize_path(uri.path()) {
            Cow::Borrowed(_) => None,
            Cow::Owned(path) => Some(path),
        };
        Some(Target { uri, normal })
    }

    /// In normal form.
    pub(super) fn path(&self) -> &str {
        self.normal.as_deref().unwrap_or(self.uri.path())
    }

    pub(super) fn query(&self) -> &str {
        self.uri.query().unwrap_or_default()
    }
}

/// A path in the one form that all its spellings share: percent-encoded octets of unreserved characters are decoded, the
/// digits of others are in upper case.
#[must_use]
pub fn normalize_path(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut normal = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        normal.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(digits) = rest.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())) else {
            normal.push('%'); // it encodes nothing
            continue;
        };
        match u8::from_str_radix(digits, 16) {
            Ok(octet) if is_unreserved(octet) => normal.push(octet.into()),
            _ => normal.extend(["%", &digits.to_ascii_uppercase()]),
        }
        rest = &rest[2..];
    }
    normal.push_str(rest);
    Cow::Owned(normal)
}

/// Characters that mean themselves however they are written (RFC 3986, section 2.3).
fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"-._~".contains(&octet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_a_path_are_one() {
        for (path, normal) in [
            ("/ws", "/ws"),
            ("/%77s", "/ws"),
            ("/%77%73", "/ws"),
            ("/a%2db%7E%5f%2e", "/a-b~_."),
            ("/a%2fb", "/a%2Fb"),
            ("/%25%37%37s", "/%2577s"),
            ("/%e2%82%ac", "/%E2%82%AC"),
            ("/100%", "/100%"),
            ("/%+7%7", "/%+7%7"),
            ("/%zz%ü%77", "/%zz%üw"),
        ] {
            assert_eq!(normalize_path(path), normal);
            assert_eq!(normalize_path(normal), normal, "a normal form stays what it is");
        }
    }

    #[test]
    fn a_target_is_a_path_or_a_uri_with_one() {
        for (target, path) in [("/%77s?a=%77", "/ws"), ("http://h/%7e?x", "/~"), ("ws://h:80/a", "/a"), ("/?a|b", "/")]
        {
            assert_eq!(Target::parse(target).expect(target).path(), path);
        }
        for target in ["*", "chat", "h:80", "", "http://"] {
            assert!(Target::parse(target).is_none(), "{target}");
        }
    }
}
