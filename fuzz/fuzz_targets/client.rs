//! ringload's reading of what a server sends: frames, and the answer to the upgrade request. In one piece and cut: the
//! same events, the same verdict.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringecho_fuzz::input::Cuts;
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
    let (whole, verdict) = events(&Cuts::none(), &input.bytes);
    let (cut, cut_verdict) = events(&input.cuts, &input.bytes);
    assert_eq!(verdict, cut_verdict, "the verdict depends on the cuts");
    // What is wrong within a message may be noticed before or after its good part was given out.
    let is_same = if verdict.is_ok() { whole == cut } else { whole.whole == cut.whole };
    assert!(is_same, "the messages depend on the cuts");
    check_answer(&input.bytes);
});

/// What a reader gives out: kind and payload of whole messages and control frames, and the message that is open.
#[derive(Debug, Default, PartialEq, Eq)]
struct Events {
    whole: Vec<(String, Vec<u8>)>,
    open: Option<(bool, Vec<u8>)>,
}

fn events(cuts: &Cuts, bytes: &[u8]) -> (Events, Result<(), Violation>) {
    let mut reader = FrameReader::default();
    let mut events = Events::default();
    for read in cuts.of(bytes) {
        let mut input = read;
        loop {
            match reader.next(&mut input) {
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
                let (is_text, message) = self.open.get_or_insert_with(|| (text, Vec::new()));
                assert_eq!(*is_text, text, "a message changes its kind");
                message.extend_from_slice(bytes);
                if end {
                    let (_, message) = self.open.take().expect("just extended");
                    self.whole.push((format!("message, text: {text}"), message));
                }
            }
            Event::Ping(payload) => {
                assert!(payload.len() <= 125, "a control frame beyond its bounds");
                self.whole.push(("ping".into(), payload.to_vec()));
            }
            event => self.whole.push((format!("{event:?}"), Vec::new())),
        }
    }
}

/// An answer is judged when it is complete, and then by its head alone.
fn check_answer(bytes: &[u8]) {
    let request = UpgradeRequest::new("h", "/", &Extras::default(), 1);
    let answer = with_accept(bytes, &request);
    if let Answer::Upgraded(head) = request.judge(0, &answer) {
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
