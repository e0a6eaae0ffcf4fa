//! Data in both directions: acknowledgements, retransmission, windows.

use super::*;

#[test]
fn an_idle_connection_has_nothing_but_its_entry() {
    let mut stack = Stack::new(config(1000)).expect("a stack");
    let mut log = Log::default();
    for key in 0..10_000 {
        stack.connect(key, 0, 0);
        let packet = stack.packets().next().expect("a SYN").to_vec();
        let (header, body) = ip::parse(&packet).expect("a packet");
        let (syn, _) = segment::parse(&packet, &header, body, false).expect("a segment");
        let (source, target, ack) = (syn.target, syn.source, syn.seq.wrapping_add(1));
        let mut answer = Vec::new();
        segment::write(&mut answer, &Head { source, target, seq: key, ack, control: SYN | ACK, ..syn }, [b"", b""]);
        stack.input(&mut answer, 0, &mut log);
        stack.flush();
        stack.clear_packets();
    }
    assert_eq!((log.0.len(), stack.active()), (10_000, 0));
    assert!(stack.entries.iter().all(|entry| entry.state == State::Established && entry.flight.is_none()));
}

#[test]
fn an_echo_costs_two_packets() {
    let mut bench = Bench::open();
    assert_eq!(bench.send(b"hello"), 5);
    assert_eq!(bench.controls(), [(ACK | PSH, 0, 0)]);
    for round in 0..3 {
        bench.peer(ACK | PSH, 5 * round, 5 * (round + 1), b"hello");
        assert_eq!((bench.events(), bench.stack.active()), (vec![received(b"hello")], 0));
        bench.send(b"hello");
        let next = 5 * (round as u32 + 1);
        assert_eq!(bench.controls(), [(ACK | PSH, next, next)], "the acknowledgement goes along");
    }
    bench.peer(ACK | PSH, 15, 20, b"hello");
    assert_eq!(bench.controls(), [(ACK, 20, 20)], "there is nothing that it could go along with");
}

#[test]
fn bytes_that_lie_in_several_places_go_into_one_segment() {
    let mut bench = Bench::open();
    assert_eq!(bench.stack.send(0, &[b"he", b"", b"llo"], 0), 5);
    let sent = bench.sent();
    assert_eq!((sent.len(), &sent[0].1[..]), (1, &b"hello"[..]));
}

#[test]
fn segments_out_of_order_are_acknowledged_at_once_and_put_together() {
    let mut bench = Bench::open();
    bench.peer(ACK, 3, 0, b"def");
    bench.peer(ACK | FIN, 6, 0, b"ghi");
    bench.peer(ACK, 4, 0, b"ef");
    assert_eq!(bench.controls(), vec![(ACK, 0, 0); 3]);
    bench.peer(ACK, -2, 0, b"??abcd");
    let expected = [received(b"abcd"), received(b"ef"), received(b"ghi"), Event::Finished];
    assert_eq!((bench.events(), bench.controls()), (expected.to_vec(), vec![(ACK, 0, 10)]));
    assert_eq!((bench.stack.reassembly.used(), bench.state()), (0, State::CloseWait));
}

#[test]
fn what_the_pool_has_no_room_for_is_dropped_and_comes_again() {
    let mut bench = Bench::open();
    bench.peer(ACK, 1, 0, &[1; 900]);
    bench.peer(ACK, 901, 0, &[2; 100]);
    assert_eq!((bench.stack.counters().early, bench.stack.counters().early_dropped), (2, 1));
    bench.peer(ACK, 0, 0, &[0]);
    assert_eq!(bench.sent().last().map(|(head, _)| head.ack), Some(SERVER_ISS.wrapping_add(902)));
    bench.peer(ACK, 901, 0, &[2; 100]);
    assert_eq!(bench.events(), [received(&[0]), received(&[1; 900]), received(&[2; 100])]);
}

#[test]
fn what_is_not_acknowledged_is_sent_again_ever_more_slowly() {
    let mut bench = Bench::open();
    bench.send(&[7; 250]);
    assert_eq!(bench.data(), [(0, 100), (100, 100), (200, 50)]);
    // The SYN's round trip took no time: the timeout is the least.
    let waits = [bench.wait(), bench.sent().len() as u64, bench.wait(), bench.sent().len() as u64];
    assert!((200..220).contains(&waits[0]) && (400..420).contains(&waits[2]), "{waits:?}");
    assert_eq!((waits[1], waits[3]), (1, 1), "one segment at a time: slow start");
    bench.peer(ACK, 0, 100, b"");
    assert_eq!(bench.data(), [(100, 100), (200, 50)]);
    bench.peer(ACK, 0, 250, b"");
    assert_eq!((bench.stack.active(), bench.stack.counters().repeated), (0, 4));
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let mut bench = Bench::open();
    bench.send(b"?");
    bench.sent();
    let (mut repeats, mut waited_ms) = (0, 0);
    while bench.log.0.is_empty() {
        waited_ms += bench.wait();
        repeats += bench.sent().len();
    }
    assert_eq!((bench.events(), repeats), (vec![Event::Failed(Failure::TimedOut)], 15));
    // Nine timeouts from 200 ms on, then seven of a minute.
    assert!((522_000..523_000).contains(&waited_ms), "{waited_ms} ms");
}

#[test]
fn three_duplicate_acknowledgements_repeat_the_first_segment() {
    let mut bench = Bench::open();
    bench.send(&[7; 500]);
    bench.sent();
    bench.peer(ACK, 0, 100, b"");
    for _ in 0..2 {
        bench.peer(ACK, 0, 100, b"");
    }
    assert!(bench.data().is_empty());
    bench.peer(ACK, 0, 100, b"");
    assert_eq!(bench.data(), [(100, 100)]);
    bench.peer(ACK, 0, 300, b"");
    assert_eq!(bench.data(), [(300, 100)], "a partial acknowledgement: the next hole");
    bench.peer(ACK, 0, 500, b"");
    assert_eq!(bench.stack.active(), 0);
}

#[test]
fn a_shut_window_is_probed_as_long_as_the_server_answers() {
    let mut bench = Bench::open();
    bench.window = 0;
    bench.peer(ACK, 0, 0, b"");
    bench.send(b"waiting");
    assert!(bench.controls().is_empty());
    for round in 0..40 {
        bench.wait();
        assert_eq!(bench.data(), [(0, 1)]);
        bench.peer(ACK, if round == 0 { 0 } else { 4 }, 0, b"");
        bench.peer(ACK, 0, 0, b"data");
        assert!(!bench.sent().is_empty(), "an acknowledgement of its data");
        bench.events();
    }
    bench.window = 5;
    bench.peer(ACK, 4, 0, b"");
    assert_eq!(bench.data(), [(0, 5)]);
    bench.window = 0;
    bench.peer(ACK, 4, 5, b"");
    bench.wait();
    assert_eq!(bench.data(), [(5, 1)]);
    bench.window = 100;
    bench.peer(ACK, 4, 6, b"");
    assert_eq!(bench.data(), [(6, 1)], "it took the probe");
}

#[test]
fn an_acknowledgement_beside_a_probe_has_a_number_that_the_server_takes() {
    let mut bench = Bench::open();
    bench.window = 0;
    bench.peer(ACK, 0, 0, b"");
    bench.send(b"waiting");
    bench.wait();
    bench.sent();
    bench.peer(ACK, 0, 0, b"data");
    assert_eq!(bench.controls(), [(ACK, 0, 4)], "not the one behind the probe");
}

#[test]
fn a_paused_connection_offers_no_window() {
    let mut bench = Bench::open();
    bench.stack.pause(0, true, 0);
    bench.stack.pause(0, true, 0);
    let windows = |bench: &mut Bench| bench.sent().iter().map(|(head, _)| (head.window, head.ack)).collect::<Vec<_>>();
    let next = SERVER_ISS.wrapping_add(1);
    assert_eq!(windows(&mut bench), [(0, next)]);
    bench.peer(ACK, 0, 0, b"unwanted");
    assert_eq!((bench.events(), windows(&mut bench)), (vec![], vec![(0, next)]));
    bench.stack.pause(0, false, 0);
    assert_eq!(windows(&mut bench), [(u16::MAX, next)]);
    bench.peer(ACK, 0, 0, b"wanted");
    assert_eq!(bench.events(), [received(b"wanted")]);
}

#[test]
fn a_paused_connection_has_nothing_in_the_pool() {
    let mut bench = Bench::open();
    bench.peer(ACK, 3, 0, b"def");
    assert!(bench.stack.early_bytes() > 0);
    bench.stack.pause(0, true, 0);
    assert_eq!(bench.stack.early_bytes(), 0);
    bench.stack.pause(0, false, 0);
    for (at, bytes) in [(0, b"abc"), (3, b"def")] {
        bench.peer(ACK, at, 0, bytes);
    }
    assert_eq!(bench.events(), [received(b"abc"), received(b"def")]);
    bench.stack.pause(0, true, 0);
    bench.peer(ACK | FIN, 9, 0, b"");
    assert_eq!(bench.stack.early_bytes(), 0, "a FIN behind what was not taken");
}

#[test]
fn an_acknowledgement_behind_a_full_window_counts() {
    let mut bench = Bench::open();
    bench.send(b"hello");
    assert_eq!(bench.data(), [(0, 5)]);
    bench.peer(ACK, bench.stack.entry(0).receive_window() as i32, 5, b"");
    assert_eq!(bench.stack.active(), 0);
}

#[test]
fn room_is_told_of_when_half_of_what_was_sent_has_arrived() {
    let mut bench = Bench::open();
    bench.window = u16::MAX;
    bench.peer(ACK, 0, 0, b"");
    assert_eq!(bench.send(&vec![1; BYTES_MAX + 1]), BYTES_MAX);
    let mut acked = 0;
    while bench.log.0.is_empty() {
        acked = bench.data().iter().map(|&(at, len)| at as usize + len).max().expect("more data").max(acked);
        bench.peer(ACK, 0, acked as i32, b"");
    }
    assert_eq!(bench.events(), [Event::Room]);
    assert!((BYTES_MAX / 2..BYTES_MAX).contains(&acked), "{acked}");
    assert_eq!(bench.send(&[1]), 1);
}
