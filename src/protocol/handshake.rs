//! The opening handshake: an HTTP/1.1 upgrade request that arrives in any pieces (RFC 6455, section 4.2; RFC 9112).

use std::mem::MaybeUninit;

use httparse::{Header, Request, Status};
use tungstenite::http::Uri;

use super::{
    Settings,
    answer::{self, Refusal},
};

/// Header lines in a request; more are refused with 431.
const MAX_HEADERS: usize = 64;

/// A request that is half read.
#[derive(Debug)]
pub(super) struct Handshake {
    /// At most one byte more than `max_handshake_size`.
    request: Vec<u8>,
}

/// What one receive has brought the handshake to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Partial,
    Refused {
        status: u16,
        answer: Vec<u8>,
    },
    /// The request ended before `request_end` of what was received; what follows are frames.
    Accepted {
        answer: Vec<u8>,
        request_end: usize,
    },
}

impl Handshake {
    /// Takes what was received. A request that comes in one piece is read where it is.
    pub(super) fn receive(half_read: &mut Option<Box<Handshake>>, settings: &Settings, data: &[u8]) -> Progress {
        let known = half_read.as_ref().map_or(0, |handshake| handshake.request.len());
        let verdict = match half_read {
            None => examine(settings, data, 0),
            Some(handshake) => {
                let wanted = settings.max_handshake_size.saturating_sub(known) + 1;
                let piece = &data[..data.len().min(wanted)];
                handshake.request.reserve_exact(piece.len()); // it may wait for long, and there may be very many
                handshake.request.extend_from_slice(piece);
                examine(settings, &handshake.request, known)
            }
        };
        match verdict {
            Ok(None) => {
                half_read.get_or_insert_with(|| Box::new(Handshake { request: data.to_vec() }));
                Progress::Partial
            }
            Ok(Some((answer, end))) => Progress::Accepted { answer, request_end: end - known },
            Err(refusal) => {
                let request = half_read.as_ref().map_or(data, |handshake| &handshake.request);
                let refusal = if is_proxy_header(request) { PROXY_HEADER } else { refusal };
                Progress::Refused { status: refusal.status(), answer: refusal.answer() }
            }
        }
    }
}

/// For a request with a load balancer's words in front of it.
const PROXY_HEADER: Refusal = Refusal::bad_request(
    "The request begins with a PROXY protocol header, which this listener is not told to take (--listen ...?proxy=any).",
);

/// Whether a request that is refused begins with a PROXY protocol header: of version 1, or the line ends and the NUL of
/// version 2.
fn is_proxy_header(request: &[u8]) -> bool {
    request.starts_with(b"PROXY ") || request.starts_with(b"\r\n\r\n\0")
}

/// The answer to the request at the start of `bytes` and where the request ends; `None`: it is not complete.
///
/// The first `known` bytes have been found to be the start of a request before. Only whole lines are parsed, and they
/// are parsed again only when another line ends: often enough for an early answer to nonsense, and rare enough for a
/// client that sends byte by byte. Thus the answer does not depend on how the request is cut.
fn examine(settings: &Settings, bytes: &[u8], known: usize) -> Result<Option<(Vec<u8>, usize)>, Refusal> {
    let request = &bytes[..bytes.len().min(settings.max_handshake_size)];
    let misfit = find_misfit(request, known);
    let fitting = &request[..misfit.map_or(request.len(), |(at, _)| at)];
    if let Some(last_lf) = fitting[known..].iter().rposition(|&byte| byte == b'\n') {
        let lines = &fitting[..=known + last_lf];
        let mut headers = [const { MaybeUninit::<Header>::uninit() }; MAX_HEADERS];
        let mut parsed = Request::new(&mut []);
        let status = parsed.parse_with_uninit_headers(lines, &mut headers);
        if let Status::Complete(end) = status.map_err(|error| malformed(error, lines))? {
            return Ok(Some((answer_to(&parsed, settings)?, end)));
        }
    }
    match misfit {
        Some((_, refusal)) => Err(refusal),
        None if bytes.len() > request.len() => Err(Refusal::too_large("The request is too large.")),
        None => Ok(None),
    }
}

/// The first byte behind `known` that no request contains: a control character, or an LF that no CR precedes. (The
/// parser would find most of the former at the end of their line, and forgives a lone LF.)
fn find_misfit(request: &[u8], known: usize) -> Option<(usize, Refusal)> {
    let is_misfit = |at: &usize| match request[*at] {
        b'\n' => *at == 0 || request[*at - 1] != b'\r',
        b'\r' | b'\t' => false,
        byte => byte.is_ascii_control(),
    };
    let at = (known..request.len()).find(is_misfit)?;
    let why = match request[at] {
        b'\n' => "A line does not end with CR LF.",
        _ => "The request contains a control character.",
    };
    Some((at, Refusal::bad_request(why)))
}

fn malformed(error: httparse::Error, request: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::too_large("The request has too many header lines."),
        httparse::Error::Version if names_http_version(request) => Refusal::version_not_supported(),
        _ => Refusal::bad_request("This is not an HTTP/1.1 request."),
    }
}

/// Whether the request line names a version of HTTP, if one that the parser does not know.
fn names_http_version(request: &[u8]) -> bool {
    let line = request.split(|&byte| byte == b'\r').find(|line| !line.trim_ascii().is_empty());
    line.is_some_and(|line| line.windows(6).any(|window| window == b" HTTP/"))
}

/// The answer to a complete request (section 4.2.1, in the order in which a client can best make sense of it).
fn answer_to(request: &Request, settings: &Settings) -> Result<Vec<u8>, Refusal> {
    if request.version != Some(1) {
        return Err(Refusal::version_not_supported());
    }
    if request.method != Some("GET") {
        return Err(Refusal::method_not_allowed());
    }
    check_target(request.path.unwrap_or_default(), settings.path.as_deref())?;
    let headers = &*request.headers;
    if values(headers, "Host").count() != 1 {
        return Err(Refusal::bad_request("The request must have one Host header."));
    }
    if !tokens(headers, "Upgrade").any(|token| token.eq_ignore_ascii_case(b"websocket")) {
        return Err(Refusal::upgrade_required("This is a WebSocket server: the request must have Upgrade: websocket."));
    }
    if !tokens(headers, "Connection").any(|token| token.eq_ignore_ascii_case(b"upgrade")) {
        return Err(Refusal::bad_request("The request must have Connection: Upgrade."));
    }
    if only(headers, "Sec-WebSocket-Version") != Some(b"13") {
        return Err(Refusal::upgrade_required("The request must have Sec-WebSocket-Version: 13."));
    }
    let key = only(headers, "Sec-WebSocket-Key").filter(|key| is_key(key));
    let key = key.ok_or(Refusal::bad_request("The request must have one Sec-WebSocket-Key of 16 bytes in base64."))?;
    check_no_body(headers)?;
    Ok(answer::accept(key, select_subprotocol(headers, settings)))
}

/// The target may be in origin form or in absolute form (RFC 9112, section 3.2.2); a query does not matter.
fn check_target(target: &str, path: Option<&str>) -> Result<(), Refusal> {
    let uri = target.parse::<Uri>().ok().filter(|uri| uri.path().starts_with('/'));
    let uri = uri.ok_or(Refusal::bad_request("The request target is neither a path nor a URI with one."))?;
    if path.is_none_or(|path| uri.path() == path) { Ok(()) } else { Err(Refusal::not_found()) }
}

/// What follows the request is taken for frames, so it must not announce anything else.
fn check_no_body(headers: &[Header]) -> Result<(), Refusal> {
    let has_length = values(headers, "Content-Length").any(|value| value != b"0");
    if has_length || values(headers, "Transfer-Encoding").next().is_some() {
        return Err(Refusal::bad_request("The request must not have a body."));
    }
    Ok(())
}

/// Sixteen bytes in base64: 22 digits and two of padding (section 4.1, item 7). The value itself means nothing, so the
/// four bits of the last digit that are not needed may be set.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |&byte: &u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(is_digit)
}

/// The first of the server's subprotocols that the client offers (section 4.2.2, item 5).
fn select_subprotocol<'s>(headers: &[Header], settings: &'s Settings) -> Option<&'s str> {
    let is_offered = |name: &&String| tokens(headers, "Sec-WebSocket-Protocol").any(|token| token == name.as_bytes());
    settings.subprotocols.iter().find(is_offered).map(String::as_str)
}

/// The values of all header lines with this name.
fn values<'h>(headers: &'h [Header], name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// The value of the only header line with this name.
fn only<'h>(headers: &'h [Header], name: &'static str) -> Option<&'h [u8]> {
    let mut values = values(headers, name);
    values.next().filter(|_| values.next().is_none())
}

/// The elements of the comma-separated list that all header lines with this name make up (RFC 9110, section 5.3).
fn tokens<'h>(headers: &'h [Header], name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    values(headers, name).flat_map(|value| value.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests;
