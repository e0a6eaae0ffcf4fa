use super::*;

/// Either side, with its keys.
struct End {
    records: Records,
    keys: Keys,
}

impl End {
    fn new(records: Records, records_max: u64) -> Self {
        Self { records, keys: Keys::renewed_after(records_max) }
    }

    fn seal(&mut self, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.records.seal(0, &mut self.keys, data, &mut out);
        out
    }

    /// Messages of a handshake, as one record.
    fn seal_messages(&mut self, messages: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.records.seal_as(0, &mut self.keys, HANDSHAKE, messages, &mut out);
        out
    }

    /// The data in these records, what is to be answered, and why the connection has failed if it has.
    fn open(&mut self, mut bytes: Vec<u8>) -> (Vec<u8>, Vec<u8>, Option<Failure>) {
        let mut out = Vec::new();
        let reading = self.records.open(0, &mut self.keys, &mut bytes, &mut out);
        assert_eq!(reading.failure.is_some(), reading.progress == Progress::Failed);
        (bytes[reading.plain].to_vec(), out, reading.failure)
    }

    fn hears(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let (plain, out, failure) = self.open(bytes);
        assert_eq!((out.len(), failure), (0, None));
        plain
    }
}

const SUITES: [Suite; 3] = [Suite::Aes128GcmSha256, Suite::Aes256GcmSha384, Suite::Chacha20Poly1305Sha256];

/// A client and a server that have agreed on this.
fn both(suite: Suite, records_max: u64) -> (End, End) {
    let [clients, servers] = [1, 2].map(|byte| Direction::new(suite, Secret([byte; SECRET_MAX]), 0));
    let client = Records::new(suite, servers, clients, Side::Client);
    let server = client.peers();
    (End::new(client, records_max), End::new(server, records_max))
}

fn ticket(len: usize) -> Vec<u8> {
    let [_, a, b, c] = (len as u32).to_be_bytes();
    [&[NEW_SESSION_TICKET, a, b, c][..], &vec![24; len]].concat()
}

const UNEXPECTED: Option<Failure> = Some(Failure::Alert(UNEXPECTED_MESSAGE));

#[test]
fn a_client_passes_over_tickets() {
    for suite in SUITES {
        let (mut client, mut server) = both(suite, RECORDS_MAX);
        let mut sent = server.seal(b"before, ");
        sent.extend(server.seal_messages(&[ticket(100), ticket(0), ticket(7)].concat()));
        sent.extend(server.seal(b"behind"));
        assert_eq!(client.hears(sent), b"before, behind");
    }
}

#[test]
fn a_ticket_may_be_cut_into_records() {
    let whole = [ticket(300), ticket(20)].concat();
    for cut in 4..whole.len() {
        let (mut client, mut server) = both(Suite::Aes128GcmSha256, RECORDS_MAX);
        let (first, second) = whole.split_at(cut);
        if (305..308).contains(&cut) {
            continue; // within the four bytes in front of a ticket: no server cuts there
        }
        let mut sent = server.seal_messages(first);
        sent.extend(server.seal_messages(second));
        sent.extend(server.seal(b"data"));
        assert_eq!(client.hears(sent), b"data", "at {cut}");
    }
}

#[test]
fn nothing_comes_between_the_parts_of_a_ticket() {
    let (mut client, mut server) = both(Suite::Aes128GcmSha256, RECORDS_MAX);
    let half = server.seal_messages(&ticket(300)[..100]);
    assert_eq!(client.hears(half), b"");
    let data = server.seal(b"data");
    let (plain, out, failure) = client.open(data);
    assert_eq!((&plain[..], failure), (&b""[..], UNEXPECTED));
    assert!(!out.is_empty(), "the server is told");
    assert_eq!(server.open(out).2, Some(Failure::Peers(UNEXPECTED_MESSAGE)));
}

#[test]
fn a_renewal_behind_a_ticket_is_a_renewal() {
    let (mut client, mut server) = both(Suite::Chacha20Poly1305Sha256, RECORDS_MAX);
    let sent = server.seal_messages(&[&ticket(10)[..], &KEY_UPDATE, &[0]].concat());
    server.records.seal = server.records.seal.renewed(server.records.suite);
    server.keys.forget(0);
    assert_eq!(client.hears(sent), b"");
    let sent = server.seal(b"with other keys");
    assert_eq!(client.hears(sent), b"with other keys");
}

#[test]
fn a_server_takes_no_tickets() {
    let (mut client, mut server) = both(Suite::Aes128GcmSha256, RECORDS_MAX);
    let sent = client.seal_messages(&ticket(10));
    assert_eq!(server.open(sent).2, UNEXPECTED);
}

#[test]
fn keys_are_renewed_after_so_many_records() {
    for suite in SUITES {
        let (mut client, mut server) = both(suite, 5);
        for number in 0..100 {
            let sent = client.seal(&[number; 30]);
            assert_eq!(sent.len() > 30 + OVERHEAD, number > 0 && number % 5 == 0, "a renewal is a record more");
            assert_eq!(server.hears(sent), [number; 30]);
            let sent = server.seal(&vec![number; 20_000]);
            assert_eq!(client.hears(sent), vec![number; 20_000]);
        }
    }
}
