//! Properties of the protocol, whatever the bytes are and however they are cut into receives.
//!
//! Only the public `Session` is driven. What it sends is judged by tungstenite's client and by `outgoing`, which
//! share no code with it.

use std::io::{self, Cursor, Read, Write};

use proptest::{collection::vec, prelude::*, sample::Index};
use ringecho::protocol::{Session, Settings, Shared, Then};
use tungstenite::{
    Message, WebSocket,
    protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
};

mod outgoing;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// What a client does between its handshake and its Close frame.
#[derive(Clone, Debug)]
enum Act {
    /// A message in fragments that end at these places, with Pings between them.
    Message {
        message: Message,
        cuts: Vec<Index>,
        pings: Vec<Vec<u8>>,
    },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn message() -> impl Strategy<Value = Message> {
    let len = prop_oneof![4 => 0..300usize, 2 => 0..5000usize, 1 => 65_000..70_000usize];
    let character = prop_oneof![8 => proptest::char::range(' ', '~'), 1 => any::<char>()];
    prop_oneof![
        // A long text repeats a short one: what matters is where its code points are cut.
        (len.clone(), vec(character, 1..60)).prop_map(|(len, characters)| {
            let mut text: String = characters.into_iter().cycle().take(len).collect();
            while text.len() > 70_000 {
                text.pop();
            }
            Message::text(text)
        }),
        (len, vec(any::<u8>(), 1..60))
            .prop_map(|(len, bytes)| { Message::binary(bytes.into_iter().cycle().take(len).collect::<Vec<_>>()) }),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let control = || vec(any::<u8>(), 0..126);
    prop_oneof![
        6 => (message(), vec(any::<Index>(), 0..5), vec(control(), 0..3))
            .prop_map(|(message, cuts, pings)| Act::Message { message, cuts, pings }),
        1 => control().prop_map(Act::Ping),
        1 => control().prop_map(Act::Pong),
    ]
}

/// Sizes of receives, to be used over and over.
fn receives() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..16usize, 1..300usize, 1..70_000usize], 1..6)
}

/// A client's stream, and what its client must get back.
#[derive(Default)]
struct Script {
    stream: Vec<u8>,
    expected: Vec<Message>,
}

impl Script {
    fn new(acts: &[Act]) -> Self {
        let mut script = Script::default();
        for act in acts {
            match act {
                Act::Message { message, cuts, pings } => script.message(message, cuts, pings),
                Act::Ping(payload) => script.ping(payload),
                Act::Pong(payload) => script.frame(0x8a, payload),
            }
        }
        script
    }

    fn message(&mut self, message: &Message, cuts: &[Index], pings: &[Vec<u8>]) {
        let payload = message.clone().into_data();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        ends.push(payload.len());
        ends.sort_unstable();
        let mut pings = pings.iter();
        let mut start = 0;
        for (i, &end) in ends.iter().enumerate() {
            let opcode = match (i, message.is_text()) {
                (0, true) => 0x1,
                (0, false) => 0x2,
                _ => 0x0,
            };
            let is_last = i + 1 == ends.len();
            self.frame(if is_last { 0x80 | opcode } else { opcode }, &payload[start..end]);
            if let Some(ping) = pings.next().filter(|_| !is_last) {
                self.ping(ping);
            }
            start = end;
        }
        self.expected.push(message.clone());
    }

    fn ping(&mut self, payload: &[u8]) {
        self.frame(0x89, payload);
        self.expected.push(Message::Pong(payload.to_vec().into()));
    }

    fn close(&mut self) {
        self.frame(0x88, b"\x03\xe8bye");
        self.expected.push(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "bye".into() })));
    }

    fn frame(&mut self, first: u8, payload: &[u8]) {
        let len = payload.len();
        match len {
            0..126 => self.stream.extend([first, 0x80 | len as u8]),
            126..65536 => {
                self.stream.extend([first, 0xfe]);
                self.stream.extend((len as u16).to_be_bytes());
            }
            _ => {
                self.stream.extend([first, 0xff]);
                self.stream.extend((len as u64).to_be_bytes());
            }
        }
        let key = (self.stream.len() as u32).wrapping_mul(0x9e37_79b9).to_be_bytes();
        self.stream.extend(key);
        self.stream.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    }
}

/// What a session has sent for a stream.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    bytes: Vec<u8>,
    messages: u32,
    then: Then,
}

/// Gives `stream` to a session in receives of these sizes, over and over.
fn run(settings: &Settings, stream: &[u8], receives: &[usize]) -> Sent {
    let mut shared = Shared::new(settings.clone());
    let mut session = Session::new(settings);
    let mut sent = Sent { bytes: Vec::new(), messages: 0, then: Then::Continue };
    let mut rest = stream;
    for &size in receives.iter().cycle() {
        if rest.is_empty() || sent.then != Then::Continue {
            break;
        }
        let (head, tail) = rest.split_at(size.min(rest.len()));
        let mut data = head.to_vec();
        let reply = session.receive(&mut shared, &mut data);
        sent.bytes.extend(reply.output.to_vec(&data));
        sent.messages += reply.messages;
        sent.then = reply.then;
        rest = tail;
    }
    sent
}

/// The same for a stream behind the handshake, whose answer is left out.
fn run_open(stream: &[u8], receives: &[usize]) -> Sent {
    let settings = Settings { max_message_size: 200_000, ..Settings::default() };
    let mut sent = run(&settings, &[REQUEST, stream].concat(), receives);
    let answer_end = sent.bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer") + 4;
    sent.bytes.drain(..answer_end);
    sent
}

/// A client's socket: reads what the server has sent, and swallows what the client sends.
struct Wire(Cursor<Vec<u8>>);

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The messages that tungstenite's client reads from `bytes`.
fn read_by_client(bytes: Vec<u8>) -> Vec<Message> {
    let config = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
    let mut client = WebSocket::from_raw_socket(Wire(Cursor::new(bytes)), Role::Client, Some(config));
    std::iter::from_fn(|| client.read().ok()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_gets_its_messages_back_however_they_are_cut(acts in vec(act(), 0..8), receives in receives()) {
        let mut script = Script::new(&acts);
        script.close();
        let sent = run_open(&script.stream, &receives);
        prop_assert_eq!(sent.then, Then::Close);
        prop_assert_eq!(sent.messages as usize, acts.iter().filter(|act| matches!(act, Act::Message { .. })).count());
        outgoing::check(&sent.bytes);
        let messages = read_by_client(sent.bytes);
        prop_assert!(messages == script.expected, "other messages, or in another order");
    }

    #[test]
    fn a_damaged_stream_never_makes_an_invalid_echo(
        acts in vec(act(), 1..5),
        damages in vec((any::<Index>(), any::<u8>()), 0..4),
        receives in receives(),
        others in receives(),
    ) {
        let mut stream = Script::new(&acts).stream;
        for (place, byte) in damages {
            let place = place.index(stream.len());
            stream[place] = byte;
        }
        let one = run_open(&stream, &receives);
        let other = run_open(&stream, &others);
        let (one_sees, other_sees) = (outgoing::check(&one.bytes), outgoing::check(&other.bytes));
        // How text is cut into fragments depends on the receives, and so does how much of an invalid text is echoed.
        prop_assert_eq!(one.then, other.then);
        prop_assert_eq!(one.messages, other.messages);
        prop_assert!(one_sees.messages == other_sees.messages, "other messages, or another verdict");
    }

    #[test]
    fn a_handshake_gets_the_same_answer_however_it_is_cut(
        damage in proptest::option::of((any::<Index>(), any::<u8>())),
        receives in receives(),
        others in receives(),
    ) {
        let settings = Settings::default();
        let mut request = REQUEST.to_vec();
        if let Some((place, byte)) = damage {
            let place = place.index(request.len());
            request[place] = byte;
        }
        let one = run(&settings, &request, &receives);
        let other = run(&settings, &request, &others);
        prop_assert_eq!(status(&one.bytes), status(&other.bytes));
        prop_assert_eq!(one.then, other.then);
        if damage.is_none() {
            prop_assert_eq!(one, other);
        }
    }
}

/// The status of an HTTP answer, or nothing when there is none yet.
fn status(answer: &[u8]) -> &[u8] {
    answer.get(..12).unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_as_frames_never_make_an_invalid_echo(bytes in frame_like(), receives in receives()) {
        outgoing::check(&run_open(&bytes, &receives).bytes);
    }

    #[test]
    fn any_bytes_as_a_handshake_get_an_http_answer_or_none(bytes in vec(any::<u8>(), 0..300), receives in receives()) {
        let sent = run(&Settings::default(), &bytes, &receives);
        prop_assert!(sent.bytes.is_empty() || sent.bytes.starts_with(b"HTTP/1.1 "));
        prop_assert_eq!(sent.bytes.is_empty(), sent.then == Then::Continue);
    }
}

/// Bytes among which those are frequent that mean something in a header.
fn frame_like() -> impl Strategy<Value = Vec<u8>> {
    const MEANINGFUL: [u8; 12] = [0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x83, 0x84, 0x88, 0x89, 0x8a, 0xfe];
    vec(prop_oneof![3 => proptest::sample::select(&MEANINGFUL[..]), 1 => any::<u8>()], 0..200)
}
