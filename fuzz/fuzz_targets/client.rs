//! ringload's reading of what a server sends: frames, and the answer to the upgrade request. In one piece and cut: the
//! events and the verdict that the model expects.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringecho_fuzz::input::Cuts;
use ringecho_fuzz::model::{self, End, Expected, Sender};
use ringload::websocket::frames::{Event, FrameReader, Violation};
use ringload::websocket::handshake::{Answer, Extras, UpgradeRequest};
use tungstenite::handshake::derive_accept_key;

/// A head that is longer is not waited for.
const MAX_HEAD: usize = 16 * 1024;

#[derive(Debug)]
struct Input {
    cuts: Cuts,
    bytes: Vec<u8>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self { cuts: u.arbitrary()?, bytes: u.bytes(u.len())?.to_vec() })
    }
}

fuzz_target!(|input: Input| {
    let expected = model::expect_from(Sender::Server, &input.bytes, u64::MAX);
    let (whole, verdict) = events(&Cuts::none(), &input.bytes);
    let (cut, cut_verdict) = events(&input.cuts, &input.bytes);
    assert_eq!(verdict, cut_verdict, "the verdict depends on the cuts");
    check_events(&whole, verdict, &expected);
    check_events(&cut, verdict, &expected);
    check_answer(&input.bytes, &input.cuts);
});

/// A reader's events against the model: the same messages, and no verdict without a reason.
fn check_events(events: &Events, verdict: Result<(), Violation>, expected: &Expected) {
    let messages = events.whole.iter().filter(|(opcode, _)| *opcode != PONG_RECEIVED);
    let theirs = expected.messages.iter().map(|(opcode, payload)| match opcode {
        8 => (8, payload.iter().copied().take(2).collect()), // the reader gives the code and leaves the reason
        _ => (*opcode, payload.clone()),
    });
    assert!(messages.cloned().eq(theirs), "not what was sent: {events:?}, {expected:?}");
    match (&expected.end, verdict) {
        (End::Failed(failure), Err(violation)) => {
            assert!(failure.codes.contains(&violation.close_code()), "{violation:?}, not {failure:?}");
        }
        // The reader looks at a header when its length is there.
        (End::Failed(failure), Ok(())) => assert_eq!(failure.payload_len, None, "a violation goes unnoticed"),
        (_, Err(violation)) => panic!("{violation:?} without a reason"),
        (_, Ok(())) => {
            let payload = |open: &Option<(u8, Vec<u8>)>| open.clone().filter(|(_, payload)| !payload.is_empty());
            assert_eq!(payload(&events.open), payload(&expected.open), "a part of a message is missing");
        }
    }
}

/// A Pong, which the reader gives out without its payload. (To the model a 10 is the answer to a Ping.)
const PONG_RECEIVED: u8 = 0xff;

/// What a reader gives out: opcode and payload of whole messages, of the Pongs to send and of the Close, and the message
/// that is open.
#[derive(Debug, Default, PartialEq, Eq)]
struct Events {
    whole: Vec<(u8, Vec<u8>)>,
    open: Option<(u8, Vec<u8>)>,
}

fn events(cuts: &Cuts, bytes: &[u8]) -> (Events, Result<(), Violation>) {
    let mut reader = FrameReader::default();
    let mut events = Events::default();
    for read in cuts.of(bytes) {
        let mut input = read;
        loop {
            match reader.next(&mut input) {
                Ok(Some(Event::Close(code))) => {
                    events.whole.push((8, code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec())));
                    return (events, Ok(())); // what follows is the session's business
                }
                Ok(Some(event)) => events.take(event),
                Ok(None) => break,
                Err(violation) => return (events, Err(violation)),
            }
        }
        assert!(input.is_empty(), "bytes are left unread");
    }
    (events, Ok(()))
}

impl Events {
    fn take(&mut self, event: Event) {
        match event {
            Event::Payload { text, bytes, end } => {
                let kind = if text { 1 } else { 2 };
                let (opened, message) = self.open.get_or_insert_with(|| (kind, Vec::new()));
                assert_eq!(*opened, kind, "a message changes its kind");
                message.extend_from_slice(bytes);
                if end {
                    self.whole.extend(self.open.take());
                }
            }
            Event::Ping(payload) => self.whole.push((10, payload.to_vec())),
            Event::Pong => self.whole.push((PONG_RECEIVED, Vec::new())),
            Event::Close(_) => unreachable!("the caller's"),
        }
    }
}

/// An answer is judged when it is complete, and then by its head alone. What is wrong with it remains wrong.
fn check_answer(bytes: &[u8], cuts: &Cuts) {
    let request = UpgradeRequest::new("h", "/", &Extras::default(), 1);
    let answer = with_accept(bytes, &request);
    let verdict = request.judge(0, &answer);
    let mut received = 0;
    for read in cuts.of(&answer) {
        received += read.len();
        let so_far = request.judge(0, &answer[..received]);
        assert!(so_far == Answer::Incomplete || so_far == verdict, "{so_far:?}, and then {verdict:?}");
    }
    if let Answer::Upgraded(head) = verdict {
        assert!(head <= answer.len(), "a head beyond the answer");
        assert_eq!(request.judge(0, &answer[..head]), Answer::Upgraded(head), "what follows the head matters");
        if head <= MAX_HEAD {
            assert_eq!(
                request.judge(0, &answer[..head - 1]),
                Answer::Incomplete,
                "a cut head is taken for a whole one"
            );
        }
    }
}

/// The answer with what belongs to this request where it has the accept value of the RFC's example (section 1.3): the
/// fuzzer cannot compute it.
fn with_accept(answer: &[u8], request: &UpgradeRequest) -> Vec<u8> {
    const EXAMPLE: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let mut sent = vec![0; request.len()];
    request.write(0, &mut sent);
    let sent = String::from_utf8(sent).expect("a request is text");
    let key = sent.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    let mut answer = answer.to_vec();
    if let Some(at) = answer.windows(EXAMPLE.len()).position(|window| window == EXAMPLE) {
        answer[at..at + EXAMPLE.len()].copy_from_slice(derive_accept_key(key.as_bytes()).as_bytes());
    }
    answer
}
