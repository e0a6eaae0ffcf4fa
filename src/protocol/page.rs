//! The test page for browsers: one self-contained file, which connects back to its origin.

use super::answer::Answer;

const PAGE: &str = include_str!("page.html");

/// The page's permissions: to run this very style and script, and to connect to its origin. A test checks the hashes.
const HEADERS: &str = "Connection: close\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Cache-Control: no-cache\r\n\
    Vary: Accept\r\n\
    Content-Security-Policy: default-src 'none'; \
    style-src 'sha256-7kOMr4r84A1ESL/TS9p082+12x9WR8AOsI+HaYFklsI='; \
    script-src 'sha256-OkgptH/g48bgBld5VFo0LqA0UwaRLhgy53hk60xvTn4='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\n\
    Referrer-Policy: no-referrer\r\n";

/// 200, with the page.
pub(super) fn answer() -> Answer {
    Answer::new(200, HEADERS, PAGE)
}

/// Whether an element of `Accept` asks for pages (RFC 9110, section 12.5.1): browsers do, programs and probes do not.
pub(super) fn is_asked_for(range: &[u8]) -> bool {
    let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let is_html = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/html"));
    is_html && !parts.any(|part| [&b"q=0"[..], b"q=0.0", b"q=0.00", b"q=0.000"].contains(&part))
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_policy_allows_what_is_in_the_page_and_nothing_else() {
        for tag in ["style", "script"] {
            let (_, rest) = PAGE.split_once(&format!("<{tag}>")).expect(tag);
            let (text, rest) = rest.split_once(&format!("</{tag}>")).expect(tag);
            let hash = BASE64.encode(&Sha256::digest(text));
            assert!(HEADERS.contains(&format!("{tag}-src 'sha256-{hash}';")), "{tag}-src is to be 'sha256-{hash}'");
            assert!(!rest.contains(&format!("<{tag}")), "only one of each");
        }
        for elsewhere in ["src=", "@import", "url(", "style=", "onclick=", "innerHTML"] {
            assert!(!PAGE.contains(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn browsers_ask_for_pages() {
        for range in ["text/html", "TEXT/HTML ; q=0.9", "text/html;level=1"] {
            assert!(is_asked_for(range.as_bytes()), "{range}");
        }
        for range in ["*/*", "text/*", "application/json", "text/html;q=0", "text/html; q=0.0", ""] {
            assert!(!is_asked_for(range.as_bytes()), "{range}");
        }
    }
}
