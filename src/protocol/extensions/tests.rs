use proptest::prelude::*;

use super::*;

const A: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

fn negotiate_one(header: &str, deflate: Deflate, takes_context: bool) -> Result<Option<Agreed>, Malformed> {
    negotiate([header.as_bytes()].into_iter(), deflate, takes_context)
}

/// The answer of a server that passes messages on; empty: it declines.
fn answer(header: &str) -> String {
    negotiate_one(header, Deflate::Pass, false).unwrap().map_or(String::new(), |agreed| agreed.answer)
}

#[test]
fn what_browsers_offer_is_accepted_without_context() {
    assert_eq!(answer("permessage-deflate; client_max_window_bits"), A);
    assert_eq!(answer("permessage-deflate"), A);
    assert_eq!(answer("permessage-deflate; server_no_context_takeover"), A);
}

#[test]
fn a_smaller_window_of_the_server_is_the_clients_too() {
    let asked = |rest: &str| answer(&format!("permessage-deflate; server_max_window_bits=10{rest}"));
    let both = |bits| format!("{A}; server_max_window_bits=10; client_max_window_bits={bits}");
    assert_eq!(asked("; client_max_window_bits"), both(10));
    assert_eq!(asked("; client_max_window_bits=12"), both(10));
    assert_eq!(asked("; client_max_window_bits=9"), both(9));
    assert_eq!(asked(""), "", "the client's window cannot be limited");
    let largest = format!("{A}; server_max_window_bits=15");
    assert_eq!(answer("permessage-deflate; server_max_window_bits=15"), largest);
}

#[test]
fn a_server_that_compresses_anew_needs_no_limit_of_the_clients_window() {
    let agreed = negotiate_one("permessage-deflate; server_max_window_bits=10", Deflate::Recompress, false);
    let answer = format!("{A}; server_max_window_bits=10");
    assert_eq!(agreed, Ok(Some(Agreed { answer, compression: Compression::Recompress(WindowBits::W10) })));
}

#[test]
fn context_is_taken_over_where_both_may() {
    let with_context = |header| negotiate_one(header, Deflate::Pass, true).unwrap().expect("an answer");
    let agreed = with_context("permessage-deflate; client_max_window_bits");
    assert_eq!((&*agreed.answer, agreed.compression), ("permessage-deflate", Compression::Context));
    for header in ["permessage-deflate; server_no_context_takeover", "permessage-deflate; client_no_context_takeover"] {
        let agreed = with_context(header);
        assert_eq!((&*agreed.answer, agreed.compression), (A, Compression::Pass), "{header}");
    }
}

#[test]
fn offers_with_mistakes_are_declined_one_by_one() {
    for declined in [
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=09",
        "permessage-deflate; client_max_window_bits=+9",
        "permessage-deflate; unknown",
        "permessage-deflate2",
        "permessage-bzip2; client_max_window_bits",
        "x-webkit-deflate-frame",
    ] {
        assert_eq!(answer(declined), "", "{declined}");
        assert_eq!(answer(&format!("{declined}, permessage-deflate")), A, "{declined}");
    }
}

#[test]
fn a_list_may_span_lines_and_have_empty_elements() {
    let lines = [&b"foo; bar=\"b\\az\" ,, "[..], b"", b" ,permessage-deflate;client_max_window_bits = \"1\\0\" ,"];
    let agreed = negotiate(lines.into_iter(), Deflate::Pass, false).unwrap().expect("an answer");
    assert_eq!(agreed.answer, A);
}

#[test]
fn what_is_no_list_is_malformed_wherever_the_mistake_is() {
    for header in [
        ";",
        "permessage-deflate;",
        "permessage-deflate; ;",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=\"10",
        "permessage-deflate; client_max_window_bits=\"1 0\"",
        "permessage-deflate; client_max_window_bits=\"\"",
        "permessage-deflate client_max_window_bits",
        "permessage-deflate, foo=bar",
        "permessage-deflate, \"foo\"",
        "permessage/deflate",
    ] {
        assert_eq!(negotiate_one(header, Deflate::Pass, false), Err(Malformed), "{header}");
    }
}

/// A parameter as a client may write it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given(&'static str, Option<String>);

fn parameter() -> impl Strategy<Value = Given> {
    const NAMES: &[&str] = &[SERVER_NO_CONTEXT, CLIENT_NO_CONTEXT, SERVER_BITS, CLIENT_BITS, CLIENT_BITS, "other"];
    let bits = prop_oneof![8 => (8..=15u8).prop_map(|bits| bits.to_string()), 1 => "(0[89]|16|7|x)".prop_map(|it| it)];
    let value = (proptest::bool::weighted(0.85), proptest::option::of(bits));
    (proptest::sample::select(NAMES), value).prop_map(|(name, (is_fit, value))| {
        let is_number = [SERVER_BITS, CLIENT_BITS].contains(&name);
        let value = if is_fit && !is_number { None } else { value };
        let value = if is_fit && name == SERVER_BITS { value.or_else(|| Some("11".into())) } else { value };
        Given(name, value)
    })
}

/// Extensions by name and parameters.
fn offers() -> impl Strategy<Value = Vec<(bool, Vec<Given>)>> {
    proptest::collection::vec((proptest::bool::weighted(0.9), proptest::collection::vec(parameter(), 0..5)), 0..4)
}

fn header(offers: &[(bool, Vec<Given>)]) -> String {
    let parameter = |Given(name, value): &Given| match value {
        Some(value) => format!(";{name}={value}"),
        None => format!("; {name}"),
    };
    let offer = |(is_deflate, parameters): &(bool, Vec<Given>)| {
        let name = if *is_deflate { "permessage-deflate" } else { "permessage-other" };
        format!("{name}{}", parameters.iter().map(parameter).collect::<String>())
    };
    offers.iter().map(offer).collect::<Vec<_>>().join(", ")
}

/// The value of a parameter that is there; 15 if it has none.
fn find(parameters: &[Given], name: &str) -> Option<u8> {
    let parameter = parameters.iter().find(|parameter| parameter.0 == name)?;
    Some(parameter.1.as_ref().map_or(15, |value| value.parse().unwrap()))
}

/// Whether RFC 7692, section 7.1, lets a server accept an offer.
fn is_sound(parameters: &[Given]) -> bool {
    let is_number = |value: &str| (8..=15u8).any(|bits| bits.to_string() == value);
    let fits = |Given(name, value): &Given| match (*name, value.as_deref()) {
        (SERVER_NO_CONTEXT | CLIENT_NO_CONTEXT | CLIENT_BITS, None) => true,
        (SERVER_BITS | CLIENT_BITS, Some(value)) => is_number(value),
        _ => false,
    };
    let is_single = |parameter: &Given| parameters.iter().filter(|it| it.0 == parameter.0).count() == 1;
    parameters.iter().all(|parameter| fits(parameter) && is_single(parameter))
}

/// The parameters of an answer.
fn parameters_of(answer: &str) -> Vec<Given> {
    let mut parts = answer.split("; ");
    assert_eq!(parts.next(), Some("permessage-deflate"));
    let names = [SERVER_NO_CONTEXT, CLIENT_NO_CONTEXT, SERVER_BITS, CLIENT_BITS];
    let parameter = |part: &str| {
        let (name, value) = part.split_once('=').map_or((part, None), |(name, value)| (name, Some(value.to_owned())));
        assert_eq!(value.is_some(), [SERVER_BITS, CLIENT_BITS].contains(&name), "{part}");
        Given(names.into_iter().find(|it| *it == name).expect("a parameter of the RFC"), value)
    };
    parts.map(parameter).collect()
}

/// What RFC 7692 asks of an answer to an offer, and the conditions under which the client's own bytes are a valid echo.
fn check(offer: &[Given], agreed: &Agreed) {
    let answer = parameters_of(&agreed.answer);
    assert!(is_sound(&answer), "{answer:?}");
    let has = |parameters, name| find(parameters, name).is_some();
    assert!(has(&answer, SERVER_NO_CONTEXT) || !has(offer, SERVER_NO_CONTEXT), "7.1.1.1");
    if let Some(most) = find(offer, SERVER_BITS) {
        assert!(find(&answer, SERVER_BITS).expect("7.1.2.1") <= most);
    }
    if let Some(bits) = find(&answer, CLIENT_BITS) {
        assert!(bits <= find(offer, CLIENT_BITS).expect("7.1.2.2"));
    }
    let server_window = find(&answer, SERVER_BITS).unwrap_or(15);
    if let Compression::Recompress(bits) = agreed.compression {
        assert!((9..=server_window).contains(&(bits as u8)) && has(&answer, SERVER_NO_CONTEXT));
        return;
    }
    // A limit that the client has named holds even if the answer does not repeat it.
    let promised = find(offer, CLIENT_BITS).unwrap_or(15);
    let client_window = find(&answer, CLIENT_BITS).unwrap_or(promised);
    assert!(client_window <= server_window, "the first condition");
    let (client_takes, server_takes) = (!has(&answer, CLIENT_NO_CONTEXT), !has(&answer, SERVER_NO_CONTEXT));
    assert!(!client_takes || server_takes, "the second condition");
    assert_eq!(agreed.compression == Compression::Context, client_takes);
}

/// Whether nothing could be answered to a sound offer.
fn is_hopeless(offer: &[Given], deflate: Deflate) -> bool {
    let window = find(offer, SERVER_BITS).unwrap_or(15);
    let is_unlimited = find(offer, CLIENT_BITS).is_none();
    deflate == Deflate::Off || window == 8 || (deflate != Deflate::Recompress && window < 15 && is_unlimited)
}

proptest! {
    /// For every offer the conditions hold for what is answered, or the connection compresses anew, or it is declined; and the
    /// first that need not be declined is accepted.
    #[test]
    fn every_answer_makes_its_echoes_valid(
        offers in offers(),
        deflate in proptest::sample::select(&[Deflate::Off, Deflate::Pass, Deflate::Verify, Deflate::Recompress][..]),
        takes_context: bool,
    ) {
        let is_acceptable = |(is_deflate, parameters): &&(bool, Vec<Given>)| {
            *is_deflate && is_sound(parameters) && !is_hopeless(parameters, deflate)
        };
        let expected = offers.iter().find(is_acceptable);
        let agreed = negotiate_one(&header(&offers), deflate, takes_context).expect("a list");
        prop_assert_eq!(agreed.is_some(), expected.is_some(), "{}", header(&offers));
        if let (Some(agreed), Some((_, offer))) = (agreed, expected) {
            check(offer, &agreed);
        }
    }

    /// Whatever bytes a header has, there is an answer or none.
    #[test]
    fn any_header_is_taken(bytes in "[ -~]{0,40}", is_prefixed: bool) {
        let header = if is_prefixed { format!("permessage-deflate{bytes}") } else { bytes };
        let _ = negotiate_one(&header, Deflate::Pass, true);
    }
}
