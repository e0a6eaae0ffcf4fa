//! ringload's side of a connection as Autobahn's fuzzing server wants it: runs every case, and echoes what it gets.
//!
//! ```sh
//! cargo run -p ringload --example autobahn -- ws://127.0.0.1:9001     # scripts/conformance does all that is needed
//! ```
//!
//! `ringload run` takes nothing but echoes of its own messages, so it cannot be tested that way. What can be is all that
//! it judges a server by and speaks to it with: the upgrade is asked for and checked, frames are read, written and masked,
//! and Close codes chosen by the very code that `ringload run` uses ([`ringload::websocket`]). Sockets and the decision
//! to echo are this program's own. With `--deflate` it offers compression, which groups 12 and 13 are about.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use clap::Parser;
use ringload::codecs::Codecs;
use ringload::message::{MessageId, Messages, mask};
use ringload::target::routes::Routes;
use ringload::target::{Address, Protocol, Target};
use ringload::websocket::deflate::{Agreed, Deflater, Offer};
use ringload::websocket::frames::{
    Event, FrameReader, MAX_CLIENT_HEADER, Opcode, Violation, write_client_header, write_compressed_header,
    write_control,
};
use ringload::websocket::handshake::{Answer, Extras, UpgradeRequest};

/// Bytes of a read at most.
const BUFFER: usize = 64 * 1024;

/// Bytes of a control frame's payload at most (RFC 6455 section 5.5).
const MAX_CONTROL: usize = 125;

/// ringload's client side for Autobahn's fuzzing server
#[derive(Debug, Parser)]
struct Args {
    /// Where the fuzzing server is, like `ws://127.0.0.1:9001`
    url: String,

    /// What the reports call this client
    #[arg(long, value_name = "NAME", default_value = "ringload")]
    agent: String,

    /// Hand over what arrives in pieces of so many bytes, as if it had arrived in them
    #[arg(long, value_name = "BYTES", default_value_t = BUFFER, value_parser = at_least_one)]
    pieces: usize,

    /// Offer compression (permessage-deflate), and compress where the server agrees
    #[arg(long)]
    deflate: bool,

    /// Offer it with windows of at most 2^N bytes
    #[arg(long, value_name = "N", requires = "deflate", value_parser = clap::value_parser!(u8).range(9..=15))]
    deflate_window_bits: Option<u8>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&bytes| bytes > 0).ok_or_else(|| "a number of bytes, at least 1".to_owned())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(cases) => {
            println!("{cases} cases run");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("autobahn: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Asks how many cases there are, runs them one after the other, and lets the server write its reports.
fn run(args: &Args) -> Result<u32, Box<dyn Error>> {
    let answer = Connection::open(args, "/getCaseCount", 0)?.listen(Echo::No);
    let cases = str::from_utf8(&answer)?.parse()?;
    for case in 1..=cases {
        let path = format!("/runCase?case={case}&agent={}", args.agent);
        Connection::open(args, &path, case)?.listen(Echo::Yes);
    }
    Connection::open(args, &format!("/updateReports?agent={}", args.agent), cases + 1)?.listen(Echo::No);
    Ok(cases)
}

/// What is done with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Echo {
    Yes,
    No,
}

/// An upgraded connection.
struct Connection {
    stream: TcpStream,
    pieces: usize,
    reader: FrameReader,
    compression: Option<Compression>,
    /// What has arrived behind the upgrade's answer.
    early: Vec<u8>,
    /// The message that is arriving, or the last one.
    message: Vec<u8>,
    /// What is to be sent.
    out: Vec<u8>,
    /// Only for its masking keys.
    keys: Messages,
    next_key: MessageId,
}

/// How messages are compressed and inflated, where that was agreed on.
struct Compression {
    agreed: Agreed,
    deflater: Deflater,
    /// Of this one connection, whose key is 0.
    codecs: Codecs,
}

impl Compression {
    fn new(agreed: Agreed) -> Self {
        let mut codecs = Codecs::new(1, false);
        codecs.agree(0, agreed);
        Self { agreed, deflater: Deflater::new(agreed.client_bits), codecs }
    }

    /// The message, compressed.
    fn compress(&mut self, message: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        if !self.agreed.client_takes_over {
            self.deflater.reset();
        }
        self.deflater.push(message, &mut payload);
        self.deflater.end(0, &mut payload);
        payload
    }
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

impl Connection {
    /// Connects and upgrades.
    fn open(args: &Args, path: &str, number: u32) -> Result<Self, Box<dyn Error>> {
        let target = Target::parse(&format!("{}{path}", args.url.trim_end_matches('/')), &Routes::default())?;
        let (Protocol::WebSocket, Address::Inet(address)) = (target.protocol, &target.addresses[0]) else {
            return Err("only ws://host:port targets".into());
        };
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let offer = Offer { no_context: false, window_bits: args.deflate_window_bits };
        let extras = Extras::default().with_deflate(args.deflate.then_some(offer));
        let request = UpgradeRequest::new(&target, &extras, std::process::id().into())?;
        let mut bytes = vec![0; request.max_len()];
        let len = request.write(number, &mut bytes);
        bytes.truncate(len);
        stream.write_all(&bytes)?;
        let (early, agreed) = receive_answer(&mut stream, |received| request.judge(number, received, false))?;
        let mut reader = FrameReader::default();
        if agreed.is_some() {
            reader.allow_compression();
        }
        Ok(Self {
            stream,
            pieces: args.pieces,
            reader,
            compression: agreed.map(Compression::new),
            early,
            message: Vec::new(),
            out: Vec::new(),
            keys: Messages::new(0, false, false),
            next_key: MessageId { connection: number, sequence: 0 },
        })
    }

    /// Acts on what arrives until the server ends the connection. Returns the last message.
    fn listen(mut self, echo: Echo) -> Vec<u8> {
        let mut buffer = vec![0; BUFFER];
        let early = std::mem::take(&mut self.early);
        let mut then = self.read(&early, echo);
        // An error is an end, too: whether it should have come to that is for the server's reports to say.
        while self.stream.write_all(&self.out).is_ok()
            && let Ok(count @ 1..) = self.stream.read(&mut buffer)
        {
            self.out.clear();
            // Behind a Close nothing is read any more, but the server is to close first (RFC 6455 section 7.1.1).
            if then == Then::GoOn {
                then = self.read(&buffer[..count], echo);
            }
        }
        self.message
    }

    /// Acts on bytes from the server, piece by piece.
    fn read(&mut self, bytes: &[u8], echo: Echo) -> Then {
        for piece in bytes.chunks(self.pieces) {
            let then = self.read_piece(piece, echo).unwrap_or_else(|violation| self.close(violation.close_code()));
            if then == Then::End {
                return Then::End;
            }
        }
        Then::GoOn
    }

    fn read_piece(&mut self, mut piece: &[u8], echo: Echo) -> Result<Then, Violation> {
        while let Some(event) = self.reader.next(&mut piece)? {
            match event {
                Event::Payload { text, compressed, bytes, end } => {
                    let message = &mut self.message;
                    match &mut self.compression {
                        Some(it) if compressed => {
                            let take = |piece: &[u8], _| message.extend_from_slice(piece);
                            it.codecs.inflate(0, text, bytes, end, u64::MAX, take)?;
                        }
                        _ => message.extend_from_slice(bytes),
                    }
                    if end && echo == Echo::Yes {
                        self.echo(if text { Opcode::Text } else { Opcode::Binary });
                    }
                }
                Event::Ping(payload) => self.send_control(Opcode::Pong, &payload),
                Event::Pong(_) => {}
                Event::Close(close) => return Ok(self.close(close.answer())),
            }
        }
        Ok(Then::GoOn)
    }

    /// Sends the message back as one frame.
    fn echo(&mut self, opcode: Opcode) {
        let key = self.masking_key();
        let mut header = [0; MAX_CLIENT_HEADER];
        let write_header = if self.compression.is_some() { write_compressed_header } else { write_client_header };
        if let Some(compression) = &mut self.compression {
            self.message = compression.compress(&self.message);
        }
        let header_len = write_header(opcode, self.message.len(), key, &mut header);
        self.out.extend_from_slice(&header[..header_len]);
        mask(&mut self.message, key);
        self.out.append(&mut self.message);
    }

    fn send_control(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut frame = [0; MAX_CLIENT_HEADER + MAX_CONTROL];
        let len = write_control(opcode, payload, self.masking_key(), &mut frame);
        self.out.extend_from_slice(&frame[..len]);
    }

    fn close(&mut self, code: u16) -> Then {
        self.send_control(Opcode::Close, &code.to_be_bytes());
        Then::End
    }

    fn masking_key(&mut self) -> [u8; 4] {
        self.next_key.sequence += 1;
        self.keys.masking_key(self.next_key)
    }
}

/// Reads the answer to the upgrade request; returns what has come behind it, and what was agreed on about compression.
fn receive_answer(
    stream: &mut TcpStream,
    judge: impl Fn(&[u8]) -> Answer,
) -> Result<(Vec<u8>, Option<Agreed>), Box<dyn Error>> {
    let mut received = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match judge(&received) {
            Answer::Upgraded { head, deflate } => return Ok((received.split_off(head), deflate)),
            Answer::Refused(it) => return Err(format!("the server answered with HTTP status {}", it.status).into()),
            Answer::Invalid(why) => return Err(why.into()),
            Answer::Incomplete => {}
        }
        match stream.read(&mut buffer)? {
            0 => return Err("the server closed the connection instead of upgrading it".into()),
            count => received.extend_from_slice(&buffer[..count]),
        }
    }
}
