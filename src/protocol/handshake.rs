//! The opening handshake: an HTTP/1.1 upgrade request that arrives in any pieces (RFC 6455, section 4.2; RFC 9112).

use std::mem::MaybeUninit;

use httparse::{Header, Request, Status};

use super::{
    Behaviour, Deflate, Settings,
    answer::{self, Answer},
    extensions::{self, Agreed, Compression},
    page,
    target::Target,
};

/// Header lines for which there is room on the stack; for more, if so many are allowed, memory is allocated.
const HEADERS: usize = 128;

/// A request that is half read.
#[derive(Debug)]
pub(super) struct Handshake {
    /// At most one byte more than `max_handshake_size`.
    request: Vec<u8>,
}

/// The progress of the handshake by one receive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Partial,
    /// The answer ends the connection.
    Refused(Answer),
    /// The request ended before `request_end` of what was received; what follows are frames.
    Accepted {
        answer: Vec<u8>,
        behaviour: Behaviour,
        compression: Compression,
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
            Ok(Some((Accepted { answer, behaviour, compression }, end))) => {
                Progress::Accepted { answer, behaviour, compression, request_end: end - known }
            }
            Err(answer) => {
                let request = half_read.as_ref().map_or(data, |handshake| &handshake.request);
                let is_proxy = is_proxy_header(request);
                Progress::Refused(if is_proxy { Answer::bad_request(PROXY_HEADER) } else { answer })
            }
        }
    }
}

/// For a request with a load balancer's words in front of it.
const PROXY_HEADER: &str = "The request begins with a PROXY protocol header, which this listener is not told to take (--listen ...?proxy=any).";

/// Whether a request that is refused begins with a PROXY protocol header: of version 1, or the line ends and the NUL of
/// version 2.
fn is_proxy_header(request: &[u8]) -> bool {
    request.starts_with(b"PROXY ") || request.starts_with(b"\r\n\r\n\0")
}

/// The 101, and what the connection does then.
struct Accepted {
    answer: Vec<u8>,
    behaviour: Behaviour,
    compression: Compression,
}

/// The 101 for the request at the start of `bytes` and where the request ends; `None`: it is not complete.
///
/// The first `known` bytes have been found to be the start of a request before. Only whole lines are parsed, and they
/// are parsed again only when another line ends: often enough for an early answer to nonsense, and rare enough for a
/// client that sends byte by byte. Thus the answer does not depend on how the request is cut.
fn examine(settings: &Settings, bytes: &[u8], known: usize) -> Result<Option<(Accepted, usize)>, Answer> {
    let request = &bytes[..bytes.len().min(settings.max_handshake_size)];
    let misfit = find_misfit(request, known);
    let fitting = &request[..misfit.map_or(request.len(), |(at, _)| at)];
    if let Some(last_lf) = fitting[known..].iter().rposition(|&byte| byte == b'\n') {
        let accepted = parse(settings, &fitting[..=known + last_lf])?;
        if accepted.is_some() {
            return Ok(accepted);
        }
    }
    match misfit {
        Some((_, why)) => Err(Answer::bad_request(why)),
        None if bytes.len() > request.len() => Err(Answer::too_large("The request is too large.")),
        None => Ok(None),
    }
}

/// Parses whole lines.
fn parse(settings: &Settings, lines: &[u8]) -> Result<Option<(Accepted, usize)>, Answer> {
    let most = settings.max_handshake_headers;
    let (mut few, mut many) = ([const { MaybeUninit::<Header>::uninit() }; HEADERS], Vec::<Header>::new());
    let headers = if most <= HEADERS {
        &mut few[..most]
    } else {
        many.reserve_exact(most);
        &mut many.spare_capacity_mut()[..most]
    };
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(lines, headers) {
        Ok(Status::Complete(end)) => Ok(Some((answer_to(&request, settings)?, end))),
        Ok(Status::Partial) => Ok(None),
        Err(httparse::Error::Version) => match as_http_1_1(lines) {
            Some(lines) => parse(settings, &lines),
            None if names_other_version(lines) => Err(Answer::version_not_supported()),
            None => Err(Answer::bad_request(NO_REQUEST)),
        },
        Err(httparse::Error::TooManyHeaders) => Err(Answer::too_large("The request has too many header lines.")),
        Err(_) => Err(Answer::bad_request(NO_REQUEST)),
    }
}

const NO_REQUEST: &str = "This is not an HTTP/1.1 request.";

/// The first byte behind `known` that no request contains: a control character, or an LF that no CR precedes. (The
/// parser would find most of the former at the end of their line, and forgives a lone LF.)
fn find_misfit(request: &[u8], known: usize) -> Option<(usize, &'static str)> {
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
    Some((at, why))
}

/// The request line, behind the empty lines that may precede it (RFC 9112, section 2.2).
fn request_line(request: &[u8]) -> Option<(usize, &[u8])> {
    let start = request.iter().position(|byte| !b"\r\n".contains(byte))?;
    let line = &request[start..];
    let end = line.iter().position(|&byte| byte == b'\r')?;
    Some((start, &line[..end]))
}

/// Whether the request line names a version of HTTP, and none of the two that the parser knows: of those it takes what stands
/// before them for a part of the version where there is a space too many.
fn names_other_version(request: &[u8]) -> bool {
    let Some((_, line)) = request_line(request) else { return false };
    let is_known = line.ends_with(b" HTTP/1.0") || line.ends_with(b" HTTP/1.1");
    !is_known && line.windows(6).any(|window| window == b" HTTP/")
}

/// A request of a minor version that is not known yet is one of the highest that is (RFC 9110, section 2.5). `None`: it is of
/// another major version, or of one that is known, which is not what is wrong with it.
fn as_http_1_1(request: &[u8]) -> Option<Vec<u8>> {
    let (start, line) = request_line(request)?;
    let minor = line.last().filter(|_| line[..line.len() - 1].ends_with(b" HTTP/1."))?;
    let mut request = (b'2'..=b'9').contains(minor).then(|| request.to_vec())?;
    request[start + line.len() - 1] = b'1';
    Some(request)
}

/// The 101 for a complete request.
fn answer_to(request: &Request, settings: &Settings) -> Result<Accepted, Answer> {
    match request.method.unwrap_or_default() {
        "GET" => upgrade(request, settings),
        "HEAD" => Err(plain_answer(request, settings).unwrap_or_else(|answer| answer).without_body()),
        "OPTIONS" => Err(Answer::options()),
        _ => Err(Answer::method_not_allowed()),
    }
}

/// The 101 for a GET (section 4.2.1, in the order in which a client can best make sense of it).
fn upgrade(request: &Request, settings: &Settings) -> Result<Accepted, Answer> {
    let headers = &*request.headers;
    // In HTTP/1.0 there is no Upgrade (RFC 9110, section 7.8).
    let is_upgrade =
        request.version == Some(1) && tokens(headers, "Upgrade").any(|token| token.eq_ignore_ascii_case(b"websocket"));
    if !is_upgrade {
        return Err(plain_answer(request, settings)?);
    }
    let behaviour = behaviour_at(&target_of(request)?, settings)?;
    if !tokens(headers, "Connection").any(|token| token.eq_ignore_ascii_case(b"upgrade")) {
        return Err(Answer::bad_request("The request must have Connection: Upgrade."));
    }
    if only(headers, "Sec-WebSocket-Version") != Some(b"13") {
        return Err(Answer::upgrade_required("The request must have Sec-WebSocket-Version: 13."));
    }
    let Some(key) = only(headers, "Sec-WebSocket-Key").filter(|key| is_key(key)) else {
        return Err(Answer::bad_request("The request must have one Sec-WebSocket-Key of 16 bytes in base64."));
    };
    check_no_body(headers)?;
    let Agreed { answer: extensions, compression } = agree_on_extensions(headers, settings, behaviour)?;
    let extensions = Some(&*extensions).filter(|answer| !answer.is_empty());
    let answer = answer::accept(key, select_subprotocol(headers, settings), extensions);
    Ok(Accepted { answer, behaviour, compression })
}

/// The extensions of a connection (section 9.1), which only an echo has.
fn agree_on_extensions(headers: &[Header], settings: &Settings, behaviour: Behaviour) -> Result<Agreed, Answer> {
    if settings.deflate == Deflate::Off || behaviour != Behaviour::Echo {
        return Ok(Agreed::default());
    }
    let lines = values(headers, "Sec-WebSocket-Extensions");
    let agreed = extensions::negotiate(lines, settings.deflate, settings.has_deflate_context);
    let why = "Sec-WebSocket-Extensions must be a list of extensions as in RFC 6455, section 9.1.";
    agreed.map(Option::unwrap_or_default).map_err(|_| Answer::bad_request(why))
}

/// The answer to a GET that asks for no WebSocket.
fn plain_answer(request: &Request, settings: &Settings) -> Result<Answer, Answer> {
    let target = target_of(request)?;
    if settings.health_path.as_deref() == Some(target.path()) {
        return Ok(Answer::healthy());
    }
    behaviour_at(&target, settings)?;
    if settings.has_page && tokens(request.headers, "Accept").any(page::is_asked_for) {
        return Ok(page::answer());
    }
    Ok(Answer::upgrade_required("This is a WebSocket server: the request must have Upgrade: websocket."))
}

/// The target of a request. HTTP/1.1 requires a Host header (RFC 9112, section 3.2).
fn target_of(request: &Request) -> Result<Target, Answer> {
    let target = Target::parse(request.path.unwrap_or_default());
    let target =
        target.ok_or_else(|| Answer::bad_request("The request target is neither a path nor a URI with one."))?;
    if request.version == Some(1) && values(request.headers, "Host").count() != 1 {
        return Err(Answer::bad_request("The request must have one Host header."));
    }
    Ok(target)
}

/// The behaviour at the target's path.
fn behaviour_at(target: &Target, settings: &Settings) -> Result<Behaviour, Answer> {
    let (path, query) = (target.path(), target.query());
    match settings.has_behaviours.then(|| Behaviour::at(path, query)).flatten() {
        Some(Ok(Behaviour::Status(status))) => Err(Answer::asked_for(status)),
        Some(behaviour) => behaviour.map_err(|why| Answer::bad_request(&why)),
        None => match &settings.path {
            Some(served) if served != path => Err(Answer::not_found(path, served)),
            _ => Ok(Behaviour::Echo),
        },
    }
}

/// Bytes after the request are parsed as frames, so it must not announce a body.
fn check_no_body(headers: &[Header]) -> Result<(), Answer> {
    let has_length = values(headers, "Content-Length").any(|value| value != b"0");
    if has_length || values(headers, "Transfer-Encoding").next().is_some() {
        return Err(Answer::bad_request("The request must not have a body."));
    }
    Ok(())
}

/// Sixteen bytes in base64: 22 digits and two of padding (section 4.1, item 7). The value itself means nothing, so the
/// four bits of the last digit that are not needed may be set.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |&byte: &u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(is_digit)
}

/// The first of the server's subprotocols that the client offers (section 4.2.2, item 5); [`Settings::ANY`] is the first
/// that it does.
fn select_subprotocol<'r>(headers: &'r [Header], settings: &'r Settings) -> Option<&'r str> {
    let offers = || tokens(headers, "Sec-WebSocket-Protocol");
    settings.subprotocols.iter().find_map(|own| match own.as_str() {
        Settings::ANY => offers().find(|token| is_token(token)).and_then(|token| str::from_utf8(token).ok()),
        own => offers().any(|token| token == own.as_bytes()).then_some(own),
    })
}

/// Whether this may name a subprotocol: a token (RFC 9110, section 5.6.2).
#[must_use]
pub fn is_token(name: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(is_token)
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
