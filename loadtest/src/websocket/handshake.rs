//! The opening handshake (RFC 6455 section 4.1): the request, and validation of the answer.

pub mod answer;
pub mod template;

use data_encoding::BASE64;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use thiserror::Error;

pub use self::answer::{Answer, Refusal};
use self::template::{Files, Lines, Piece, Template, TemplateError};
use crate::message::SplitMix;
use crate::target::Target;
use crate::websocket::deflate::Offer;

/// Length of a `Sec-WebSocket-Key`: 16 bytes in base64.
const KEY_LEN: usize = 24;

/// What a line of a file cannot be in a request line. All else stays as it is, so that a line may be a path, a query or
/// a value that is encoded already.
const NOT_IN_TARGETS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Headers of the handshake itself. With other values it is another protocol, or none.
const OF_THE_HANDSHAKE: [&str; 8] = [
    "connection",
    "content-length",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-version",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// The upgrade request of a run: the same for every connection but for its key and what placeholders stand for.
#[derive(Debug)]
pub struct UpgradeRequest {
    parts: Vec<Part>,
    seed: u64,
    offered: Offered,
}

/// The offers of a request, which the answer may accept.
#[derive(Debug)]
struct Offered {
    subprotocols: Vec<String>,
    deflate: Option<Offer>,
}

/// A part of a request.
#[derive(Debug)]
enum Part {
    Bytes(Vec<u8>),
    Key,
    Number,
    Line(Lines),
}

/// The contents of a request beside the upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Subprotocols, the most wanted first (RFC 6455 section 1.9).
    subprotocols: Vec<String>,
    headers: Vec<Header>,
    /// Compression, if it is offered.
    deflate: Option<Offer>,
}

/// A header line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    name: String,
    value: Template,
}

/// Why a header cannot be asked for.
#[derive(Debug, Error)]
pub enum HeaderError {
    /// Not a header.
    #[error("`{0}` is not a header like `Name: value`")]
    Syntax(String),
    /// A header that the handshake needs as it is.
    #[error("{0} is a header of the WebSocket handshake itself, and stays what RFC 6455 makes it")]
    OfTheHandshake(String),
    /// A header that there is once.
    #[error("{0} is given more than once")]
    Twice(&'static str),
    /// A placeholder that there is not.
    #[error(transparent)]
    Placeholder(#[from] TemplateError),
}

impl Extras {
    /// Checks the header lines `headers`, and that they go with the `subprotocols`.
    ///
    /// A line replaces what the request has by itself: `Host`, `Authorization` from the URL. `Sec-WebSocket-Protocol` is
    /// another way to offer subprotocols.
    pub fn new(subprotocols: &[String], headers: &[String]) -> Result<Self, HeaderError> {
        let mut extras = Self { subprotocols: subprotocols.to_vec(), ..Self::default() };
        for line in headers {
            let header = Header::parse(line)?;
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("host") && extras.header("host").is_some() {
                return Err(HeaderError::Twice("Host"));
            }
            if !is("sec-websocket-protocol") {
                extras.headers.push(header);
                continue;
            }
            if !extras.subprotocols.is_empty() {
                return Err(HeaderError::Twice("Sec-WebSocket-Protocol"));
            }
            let names = header.value.to_string();
            extras.subprotocols = names.split(',').map(|name| name.trim().to_owned()).collect();
            if !extras.subprotocols.iter().all(|name| is_token(name)) {
                return Err(HeaderError::Syntax(line.clone()));
            }
        }
        Ok(extras)
    }

    /// The same with compression offered.
    #[must_use]
    pub fn with_deflate(self, deflate: Option<Offer>) -> Self {
        Self { deflate, ..self }
    }

    fn header(&self, name: &str) -> Option<&Header> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))
    }
}

impl Header {
    fn parse(line: &str) -> Result<Self, HeaderError> {
        let wrong = || HeaderError::Syntax(line.to_owned());
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        if !is_token(name) || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(wrong());
        }
        if OF_THE_HANDSHAKE.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(HeaderError::OfTheHandshake(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), value: Template::parse(value.trim())? })
    }
}

/// Checks one header line.
pub fn check_header(line: &str) -> Result<(), HeaderError> {
    Header::parse(line).map(|_| ())
}

/// Whether a text is a token (RFC 9110 section 5.6.2).
#[must_use]
pub fn is_token(text: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token)
}

impl UpgradeRequest {
    /// The request for a target, with more headers. `seed` makes the keys differ from run to run.
    pub fn new(target: &Target, more: &Extras, seed: u64) -> Result<Self, TemplateError> {
        let mut request = Builder::default();
        request.text("GET ");
        request.template(&target.path, |line| percent_encode(line, NOT_IN_TARGETS).to_string().into_bytes())?;
        request.text(" HTTP/1.1\r\nHost: ");
        match more.header("host") {
            Some(host) => request.template(&host.value, <[u8]>::to_vec)?,
            None => request.text(&target.host),
        }
        request
            .text("\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ");
        request.parts.push(Part::Key);
        request.text("\r\n");
        if !more.subprotocols.is_empty() {
            request.text(&format!("Sec-WebSocket-Protocol: {}\r\n", more.subprotocols.join(", ")));
        }
        if let Some(offer) = more.deflate {
            request.text(&format!("Sec-WebSocket-Extensions: {offer}\r\n"));
        }
        if let Some(credentials) = target.credentials.as_ref().filter(|_| more.header("authorization").is_none()) {
            request.text(&format!("Authorization: Basic {credentials}\r\n"));
        }
        for header in more.headers.iter().filter(|header| !header.name.eq_ignore_ascii_case("host")) {
            request.text(&format!("{}: ", header.name));
            request.template(&header.value, <[u8]>::to_vec)?;
            request.text("\r\n");
        }
        request.text("\r\n");
        let offered = Offered { subprotocols: more.subprotocols.clone(), deflate: more.deflate };
        Ok(Self { parts: request.parts, seed, offered })
    }

    /// Bytes of the longest request.
    #[must_use]
    pub fn max_len(&self) -> usize {
        let len = |part: &Part| match part {
            Part::Bytes(bytes) => bytes.len(),
            Part::Key => KEY_LEN,
            Part::Number => u32::MAX.ilog10() as usize + 1,
            Part::Line(lines) => lines.iter().map(|line| line.len()).max().unwrap_or(0),
        };
        self.parts.iter().map(len).sum()
    }

    /// Writes connection number `connection`'s request to the start of `out`, which has [`UpgradeRequest::max_len`] bytes
    /// at least. Returns its length.
    pub fn write(&self, connection: u32, out: &mut [u8]) -> usize {
        let mut len = 0;
        let mut add = |bytes: &[u8]| {
            out[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => add(bytes),
                Part::Key => add(&self.key(connection)),
                Part::Number => add(connection.to_string().as_bytes()),
                Part::Line(lines) => add(&lines[connection as usize % lines.len()]),
            }
        }
        len
    }

    /// A key can be computed anew whenever it is needed, so that no connection has to remember its own.
    fn key(&self, connection: u32) -> [u8; KEY_LEN] {
        let mut random = SplitMix(self.seed ^ u64::from(connection) << 32);
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&random.next().to_le_bytes());
        nonce[8..].copy_from_slice(&random.next().to_le_bytes());
        let mut key = [0; KEY_LEN];
        BASE64.encode_mut(&nonce, &mut key);
        key
    }

    /// Judges what has arrived of the answer to connection number `connection`'s request. `is_over` says that nothing will
    /// follow: the connection has ended, or its time is over.
    #[must_use]
    pub fn judge(&self, connection: u32, received: &[u8], is_over: bool) -> Answer {
        answer::judge(&self.key(connection), &self.offered, received, is_over)
    }
}

/// A request that is being put together.
#[derive(Default)]
struct Builder {
    parts: Vec<Part>,
    files: Files,
}

impl Builder {
    fn text(&mut self, text: &str) {
        if let Some(Part::Bytes(bytes)) = self.parts.last_mut() {
            bytes.extend_from_slice(text.as_bytes());
        } else {
            self.parts.push(Part::Bytes(text.as_bytes().to_vec()));
        }
    }

    /// Adds a text whose placeholders stand for lines in the form that `encode` gives them.
    fn template(&mut self, template: &Template, encode: impl Fn(&[u8]) -> Vec<u8>) -> Result<(), TemplateError> {
        for piece in &template.0 {
            match piece {
                Piece::Literal(text) => self.text(text),
                Piece::Number => self.parts.push(Part::Number),
                Piece::Line(path) => {
                    let lines = self.files.lines(path)?;
                    self.parts.push(Part::Line(lines.iter().map(|line| encode(line).into_boxed_slice()).collect()));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::routes::Routes;

    const CONNECTION: u32 = 5;

    fn request(url: &str, subprotocols: &[&str], headers: &[&str]) -> UpgradeRequest {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let target = Target::parse(url, &Routes::default()).unwrap();
        let extras = Extras::new(&owned(subprotocols), &owned(headers)).unwrap();
        UpgradeRequest::new(&target, &extras, 42).unwrap()
    }

    fn written(request: &UpgradeRequest, connection: u32) -> String {
        let mut bytes = vec![0; request.max_len()];
        let len = request.write(connection, &mut bytes);
        bytes.truncate(len);
        String::from_utf8(bytes).unwrap()
    }

    /// The values of a header in a request.
    fn values<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    #[test]
    fn a_server_library_accepts_the_request() {
        let text = written(&request("ws://127.0.0.1:9001/echo?x=1", &[], &[]), CONNECTION);
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut headers);
        assert_eq!(parsed.parse(text.as_bytes()), Ok(httparse::Status::Complete(text.len())));
        assert_eq!(parsed.path, Some("/echo?x=1"));
        assert_eq!(values(&text, "host"), ["127.0.0.1:9001"]);
    }

    #[test]
    fn a_header_replaces_the_requests_own() {
        let own = ["hOST: chat.example", "Authorization: Bearer x", "Sec-WebSocket-Protocol: mqtt, b"];
        let request = request("ws://user:pass@127.0.0.1:1/", &[], &own);
        let text = written(&request, CONNECTION);
        for (name, value) in
            [("host", "chat.example"), ("authorization", "Bearer x"), ("sec-websocket-protocol", "mqtt, b")]
        {
            assert_eq!(values(&text, name), [value], "{text}");
        }
        assert_eq!(request.offered.subprotocols, ["mqtt", "b"]);
    }

    #[test]
    fn what_the_handshake_needs_stays_as_it_is() {
        let refused = |subprotocols: &[String], lines: &[&str]| {
            Extras::new(subprotocols, &lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>()).unwrap_err()
        };
        for name in ["connection", "Upgrade", "Sec-WebSocket-Key", "sec-websocket-version", "Sec-WebSocket-Extensions"]
        {
            let error = refused(&[], &[&format!("{name}: x")]);
            assert!(matches!(error, HeaderError::OfTheHandshake(_)), "{error}");
        }
        assert!(matches!(refused(&[], &["Host: a", "host: b"]), HeaderError::Twice("Host")));
        assert!(matches!(refused(&["a".to_owned()], &["Sec-WebSocket-Protocol: b"]), HeaderError::Twice(_)));
        for line in ["x", ": x", "a b: c", "a: b\r\nc: d", "Sec-WebSocket-Protocol: a b"] {
            assert!(matches!(refused(&[], &[line]), HeaderError::Syntax(_)), "{line}");
        }
        assert!(matches!(refused(&[], &["X: {user}"]), HeaderError::Placeholder(_)));
    }

    #[test]
    fn placeholders_have_a_value_for_each_connection() {
        let path = std::env::temp_dir().join(format!("ringload-tokens-{}.txt", std::process::id()));
        std::fs::write(&path, "a/b c=%20\nü\n").unwrap();
        let line = format!("{{line:{}}}", path.display());
        let url = format!("ws://127.0.0.1:1/{{n}}/{line}");
        let request = request(&url, &[], &[&format!("X-Token: <{line}> {{n}}"), "Host: h{n}"]);
        std::fs::remove_file(&path).unwrap();
        for (connection, target, token) in
            [(0, "/0/a/b%20c=%20", "<a/b c=%20> 0"), (4_000_000_001, "/4000000001/%C3%BC", "<ü> 4000000001")]
        {
            let text = written(&request, connection);
            assert!(text.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{text}");
            assert_eq!(values(&text, "x-token"), [token]);
            assert_eq!(values(&text, "host"), [format!("h{connection}")]);
        }
    }

    #[test]
    fn compression_is_offered_and_only_then_agreed_on() {
        let target = Target::parse("ws://127.0.0.1:1/", &Routes::default()).unwrap();
        let judge = |deflate: Option<Offer>, answer: &str| {
            let extras = Extras::default().with_deflate(deflate);
            let request = UpgradeRequest::new(&target, &extras, 42).unwrap();
            let text = written(&request, CONNECTION);
            let offer: Vec<_> = deflate.iter().map(ToString::to_string).collect();
            assert_eq!(values(&text, "sec-websocket-extensions"), offer, "{text}");
            let accept = tungstenite::handshake::derive_accept_key(&request.key(CONNECTION));
            let answer = format!(
                "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{answer}\r\n"
            );
            request.judge(CONNECTION, answer.as_bytes(), false)
        };
        let header = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n";
        let Answer::Upgraded { deflate: Some(agreed), .. } = judge(Some(Offer::default()), header) else { panic!() };
        assert!(agreed.client_takes_over && !agreed.server_takes_over);
        assert!(matches!(judge(Some(Offer::default()), ""), Answer::Upgraded { deflate: None, .. }));
        assert_eq!(judge(None, header), Answer::Invalid("an extension that was not asked for"));
        let other = judge(Some(Offer::default()), "Sec-WebSocket-Extensions: x\r\n");
        assert_eq!(other, Answer::Invalid("an extension that was not asked for"));
    }

    #[test]
    fn subprotocols_are_asked_for_and_only_then_taken() {
        let request = request("ws://127.0.0.1:1/", &["a", "chat"], &["X-Test: 1"]);
        let text = written(&request, CONNECTION);
        assert!(text.contains("Sec-WebSocket-Protocol: a, chat\r\n") && text.ends_with("X-Test: 1\r\n\r\n"), "{text}");
        let accept = tungstenite::handshake::derive_accept_key(&request.key(CONNECTION));
        let judge = |lines: &str| {
            let answer = format!(
                "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{lines}\r\n"
            );
            request.judge(CONNECTION, answer.as_bytes(), false)
        };
        assert!(matches!(judge("Sec-WebSocket-Protocol: chat\r\n"), Answer::Upgraded { .. }));
        assert!(matches!(judge(""), Answer::Upgraded { .. }));
        assert!(matches!(judge("Sec-WebSocket-Protocol: other\r\n"), Answer::Invalid(_)));
        let twice = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: a\r\n";
        assert_eq!(judge(twice), Answer::Invalid("more than one subprotocol"));
    }
}
