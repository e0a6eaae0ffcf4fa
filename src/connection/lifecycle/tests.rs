use flate2::{Compress, Compression, FlushCompress};

use super::*;
use crate::protocol::{Deflate, Settings};

const TIMEOUTS: Timeouts =
    Timeouts { handshake: Some(10), idle: Some(21), stall: Some(40), close: Some(5), tick_us: 10_000 };
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// The masked header of a binary frame of 4 bytes.
const HEADER: &[u8] = &[0x82, 0x84, 0, 0, 0, 0];
const CLOSE: &[u8] = &[0x88, 0x80, 0, 0, 0, 0];

fn tcp() -> Settings {
    Settings { protocol: Protocol::Tcp, ..Settings::default() }
}

/// A WebSocket whose request was complete at `now`.
fn open(now: u32) -> Lifecycle {
    let mut life = Lifecycle::new(Protocol::WebSocket, false, 0);
    assert_eq!(receive(&mut life, REQUEST, now).event, Some(Event::Opened));
    life
}

fn receive(life: &mut Lifecycle, bytes: &[u8], now: u32) -> Received {
    life.received(&mut Shared::default(), &mut bytes.to_vec(), now)
}

#[test]
fn a_handshake_that_is_not_complete_is_aborted_to_the_tick() {
    let mut life = Lifecycle::new(Protocol::WebSocket, false, 3);
    receive(&mut life, &REQUEST[..20], 9);
    assert_eq!(life.due(&TIMEOUTS, false, 12), Due::Later(Some(13)), "a part of a request is no progress");
    assert_eq!(life.due(&TIMEOUTS, false, 13), Due::Abort);
}

/// A TLS record that is broken, behind one with a bomb.
#[test]
fn input_that_waits_when_its_stage_fails_is_dropped() {
    let mut compress = Compress::new(Compression::fast(), false);
    let mut bomb = Vec::with_capacity(64 << 10);
    compress.compress_vec(&vec![0; 4 << 20], &mut bomb, FlushCompress::Sync).expect("compressed");
    bomb.truncate(bomb.len() - 4);
    let frame = [&[0xc1, 0xfe], &(bomb.len() as u16).to_be_bytes()[..], &[0; 4], &bomb].concat();
    let offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    let request = [&REQUEST[..REQUEST.len() - 2], offer].concat();
    let mut shared = Shared::new(Settings { deflate: Deflate::Pass, ..Settings::default() });
    let mut life = Lifecycle::new(Protocol::WebSocket, true, 0);
    life.received(&mut shared, &mut [&request[..], &frame, CLOSE].concat(), 1);
    assert!(life.facts.has(Facts::LADEN) && shared.held() > 0);
    life.refused(2);
    let received = life.resume(&mut shared, 3).expect("it has waited");
    assert!(received.output.is_empty() && received.event.is_none());
    assert_eq!((life.state(), life.facts.has(Facts::LADEN), shared.held()), (State::Lingering, false, 0));
}

#[test]
fn an_idle_peer_is_pinged_and_closed_when_it_does_not_answer() {
    let mut life = open(1);
    assert_eq!(life.due(&TIMEOUTS, false, 11), Due::Later(Some(12)));
    assert_eq!(life.due(&TIMEOUTS, false, 12), Due::Ping);
    assert!(life.ping(true, 12).is_none(), "a Ping behind output would come late");
    assert!(life.ping(false, 12).is_some());
    assert_eq!(life.due(&TIMEOUTS, false, 21), Due::Later(Some(22)));
    assert_eq!(life.due(&TIMEOUTS, false, 22), Due::Close);
    receive(&mut life, &[0x8a, 0x80, 0, 0, 0, 0], 22);
    assert_eq!(life.due(&TIMEOUTS, false, 22), Due::Later(Some(33)));
}

#[test]
fn in_the_midst_of_a_frame_no_close_can_be_sent() {
    let mut life = open(1);
    receive(&mut life, HEADER, 2);
    receive(&mut life, &[1], 4);
    assert_eq!(life.due(&TIMEOUTS, false, 24), Due::Later(Some(25)));
    assert_eq!(life.due(&TIMEOUTS, false, 25), Due::Abort);
    // The Close waits for the frame's end, as long as a peer is let be silent from then on.
    life.leave();
    assert_eq!(life.close(Ending::ServerStop, CloseCode::GOING_AWAY, "", 30), Farewell::Nothing);
    assert_eq!((life.state(), life.due(&TIMEOUTS, false, 50)), (State::Open, Due::Later(Some(51))));
    assert_eq!(receive(&mut life, &[2, 3, 4], 50).event, Some(Event::Closing(CloseCode::GOING_AWAY)));
    assert_eq!((life.state(), life.due(&TIMEOUTS, false, 55)), (State::Closing, Due::Abort));
}

/// Its Close would be due again and again, for the rest of the frame is not received. (Seed 100180012 of the simulation.)
#[test]
fn a_peer_that_is_throttled_in_the_midst_of_a_frame_is_ended() {
    let mut life = open(1);
    receive(&mut life, HEADER, 12);
    life.facts.set(Facts::THROTTLED.or(Facts::PINGED));
    assert_eq!(life.due(&TIMEOUTS, true, 21), Due::Later(Some(22)));
    assert_eq!(life.due(&TIMEOUTS, true, 22), Due::Abort);
}

#[test]
fn a_throttled_peer_is_not_received_from() {
    let mut life = open(1);
    life.throttle(3);
    assert_eq!(life.wants(true), Wants { send: true, ..Wants::default() });
}

#[test]
fn bare_tcp_has_no_ping_and_no_close_frame() {
    let settings = tcp();
    let mut life = Lifecycle::new(settings.protocol, false, 0);
    assert_eq!((life.state(), life.due(&TIMEOUTS, false, 20)), (State::Open, Due::Later(Some(21))));
    assert_eq!(life.due(&TIMEOUTS, false, 21), Due::Close);
    assert_eq!(life.close(Ending::ServerStop, CloseCode::GOING_AWAY, "", 21), Farewell::Nothing);
    assert_eq!(life.state(), State::Lingering);
    assert_eq!(life.due(&TIMEOUTS, false, 26), Due::Abort);
}

#[test]
fn a_close_is_answered_and_a_last_receive_looks_behind_it() {
    let mut life = open(1);
    assert!(matches!(receive(&mut life, CLOSE, 2).event, Some(Event::Closed(_))));
    assert_eq!(life.state(), State::Finishing);
    assert_eq!(life.wants(true), Wants { send: true, ..Wants::default() });
    assert_eq!(life.wants(false), Wants { receive: true, ..Wants::default() });
    life.found_nothing(false);
    assert_eq!(life.wants(false), Wants { close: true, ..Wants::default() });
}

/// Linux lets a receive in front of a TCP urgent mark find nothing if a signal is pending, and no event tells of the rest.
#[test]
fn where_a_mark_may_be_the_second_receive_that_finds_nothing_counts() {
    let mut life = open(1);
    let looks = |life: &mut Lifecycle, may_be_at_mark| {
        let mut again = || {
            life.found_nothing(may_be_at_mark);
            life.facts.has(Facts::READABLE)
        };
        (0..10).take_while(|_| again()).count()
    };
    life.has_input();
    assert_eq!(looks(&mut life, false), 0);
    for _ in 0..2 {
        life.has_input();
        assert_eq!(looks(&mut life, true), 1);
    }
    life.has_input();
    life.found_nothing(true);
    life.has_input();
    assert_eq!(looks(&mut life, true), 1, "another mark is another reason to look");
}

/// epoll reports a mark as an end.
#[test]
fn behind_a_mark_without_input_a_connection_is_interactive_again() {
    let mut life = open(1);
    life.has_input();
    life.facts.set(Facts::END_AHEAD);
    life.found_nothing(false);
    assert!(life.is_background() && life.facts.has(Facts::READABLE), "another look");
    life.found_nothing(false);
    assert!(!life.is_background() && !life.facts.has(Facts::READABLE));
}

#[test]
fn data_behind_a_close_is_discarded_until_the_peer_closes() {
    let mut life = open(1);
    receive(&mut life, CLOSE, 2);
    let behind = receive(&mut life, b"more", 3);
    assert_eq!((behind.output.len(), behind.messages, life.state()), (0, 0, State::Lingering));
    assert_eq!(life.wants(false), Wants { receive: true, shutdown: true, ..Wants::default() });
    life.shut_down();
    assert_eq!(life.wants(false), Wants { receive: true, ..Wants::default() });
    life.peer_finished(4);
    assert_eq!(life.wants(false), Wants { close: true, ..Wants::default() });
}

#[test]
fn a_server_that_stops_receives_what_has_arrived_and_says_goodbye() {
    let mut life = open(1);
    life.leave();
    assert!(!life.has_brought_all(false), "something may have arrived that no event has told of");
    assert_eq!(life.due(&TIMEOUTS, false, 1000), Due::Later(None), "the drain bounds it");
    life.found_nothing(false);
    assert!(life.has_brought_all(false));
    assert!(matches!(life.close(Ending::ServerStop, CloseCode::GOING_AWAY, "", 5), Farewell::Frame(_)));
    assert_eq!(life.close(Ending::ServerStop, CloseCode::GOING_AWAY, "", 5), Farewell::Nothing);

    let mut silent = Lifecycle::new(Protocol::WebSocket, false, 0);
    silent.leave();
    assert_eq!(silent.close(Ending::ServerStop, CloseCode::GOING_AWAY, "", 5), Farewell::Nothing);
    assert_eq!((silent.state(), silent.wants(false).close), (State::Done, true));
}

#[test]
fn a_peer_that_sends_without_a_pause_has_so_many_last_receives() {
    let mut life = open(1);
    life.leave();
    let receives = (0..1000).take_while(|_| !life.has_brought_all(false)).count();
    assert_eq!(receives, usize::from(LAST_RECEIVES));
}

#[test]
fn what_is_broken_is_closed_at_once_and_its_output_dropped() {
    let mut life = open(1);
    life.broken(2);
    assert_eq!(life.wants(true), Wants { close: true, ..Wants::default() });
    assert_eq!(life.due(&TIMEOUTS, true, 1000), Due::Later(None));
}
