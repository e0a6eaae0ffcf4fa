//! Opening and closing, in any order.

use std::collections::HashSet;

use super::*;

#[test]
fn connections_open_over_both_families() {
    for server in 0..2 {
        let mut bench = Bench::opening(server);
        bench.answer(SYN | ACK);
        assert_eq!((bench.events(), bench.controls()), (vec![Event::Connected], vec![(ACK, 0, 0)]));
    }
}

#[test]
fn a_refusal_counts_if_it_answers_our_syn() {
    let mut bench = Bench::opening(0);
    bench.peer(RST | ACK, 0, 5, b"");
    bench.peer(RST, 0, 0, b"");
    assert_eq!((bench.events(), bench.controls()), (vec![], vec![]));
    bench.peer(SYN | ACK, 0, 5, b"");
    assert_eq!(bench.sent()[0].0.control, RST, "an acknowledgement of what was never sent");
    bench.peer(RST | ACK, 0, 0, b"");
    assert_eq!((bench.events(), bench.state()), (vec![Event::Failed(Failure::Refused)], State::Closed));
}

#[test]
fn a_syn_is_sent_again_for_two_minutes() {
    let mut bench = Bench::opening(0);
    let mut waits_s = Vec::new();
    while bench.log.0.is_empty() {
        waits_s.push((bench.wait() + 500) / 1000);
        bench.sent();
    }
    assert_eq!((waits_s, bench.events()), (vec![1, 2, 4, 8, 16, 32, 60], vec![Event::Failed(Failure::TimedOut)]));
    assert_eq!((bench.state(), bench.stack.active()), (State::Closed, 0));
}

/// The server's TIME-WAIT of an earlier connection acknowledges what that had sent.
#[test]
fn a_syn_that_meets_a_time_wait_comes_again_behind_the_reset() {
    let mut bench = Bench::opening(0);
    for _ in 0..3 {
        bench.peer(ACK, 0, 5, b"");
        assert_eq!(bench.sent()[0].0.control, RST);
        bench.now_ns += 4 * MS; // each finds the SYN on its way, and none puts it off
    }
    let wait_ms = bench.wait();
    assert!(wait_ms <= 10, "{wait_ms} ms more");
    assert_eq!(bench.sent()[0].0.control, SYN);
    bench.peer(ACK, 0, 5, b"");
    assert_eq!(bench.sent()[0].0.control, RST);
    let wait_ms = bench.wait();
    assert!((2_000..2_020).contains(&wait_ms), "once: {wait_ms} ms");
    bench.sent();
    bench.answer(SYN | ACK);
    assert_eq!(bench.events(), [Event::Connected]);
}

/// The server remembers the flows of the run before.
#[test]
fn each_run_has_other_flows() {
    let clients: HashSet<_> =
        (0..20).map(|run| Bench::opening_with(Config { secret: [run, 7], ..config(0) }, 0).client).collect();
    assert!(clients.len() > 5, "of 12 lives: {clients:?}");
}

#[test]
fn both_sides_may_open_at_the_same_time() {
    let mut bench = Bench::opening(0);
    bench.answer(SYN);
    assert_eq!((bench.controls(), bench.state()), (vec![(SYN | ACK, u32::MAX, 0)], State::SynReceived));
    bench.wait();
    assert_eq!(bench.controls(), [(SYN | ACK, u32::MAX, 0)], "sent again");
    bench.peer(ACK, 0, 0, b"early");
    assert_eq!(bench.events(), [Event::Connected, received(b"early")]);
    assert_eq!((bench.controls(), bench.stack.active()), (vec![(ACK, 0, 5)], 0));
}

#[test]
fn the_server_closes_first() {
    let mut bench = Bench::open();
    bench.peer(ACK | FIN, 0, 0, b"bye");
    assert_eq!(bench.events(), [received(b"bye"), Event::Finished]);
    assert_eq!(bench.controls(), [(ACK, 0, 4)]);
    bench.peer(ACK | FIN, 0, 0, b"bye");
    assert_eq!((bench.events(), bench.controls()), (vec![], vec![(ACK, 0, 4)]), "its acknowledgement was lost");
    assert_eq!(bench.send(b"last"), 4, "half-closed");
    assert!(!bench.stack.close(0, 0));
    assert_eq!(bench.controls(), [(ACK | PSH, 0, 4), (ACK | FIN, 4, 4)]);
    bench.peer(ACK, 4, 5, b"");
    assert_eq!((bench.events(), bench.state()), (vec![Event::Closed], State::Closed));
    assert_eq!((bench.stack.active(), bench.stack.waiting.next_ns()), (0, None), "no TIME-WAIT");
}

#[test]
fn this_side_closes_first_and_waits() {
    let mut bench = Bench::open();
    bench.send(b"all");
    bench.stack.finish(0, 0);
    assert_eq!(bench.send(b"more"), 0);
    assert_eq!(bench.controls(), [(ACK | PSH, 0, 0), (ACK | FIN, 3, 0)]);
    bench.peer(ACK, 0, 4, b"still here");
    assert_eq!((bench.events(), bench.state()), (vec![received(b"still here")], State::FinWait2));
    bench.peer(ACK | FIN, 10, 4, b"");
    assert_eq!((bench.events(), bench.state()), (vec![Event::Finished, Event::Closed], State::Closed));
    assert_eq!(bench.controls(), [(ACK, 4, 11)]);
    bench.peer(RST, 11, 0, b"");
    bench.peer(ACK | FIN, 10, 4, b"");
    assert_eq!(bench.controls(), [(ACK, 4, 11)], "a FIN that comes again in TIME-WAIT");
    bench.now_ns = 61_000 * MS;
    bench.stack.advance(bench.now_ns, &mut bench.log);
    bench.peer(ACK | FIN, 10, 4, b"");
    assert_eq!(bench.sent()[0].0.control, RST, "TIME-WAIT is over");
}

#[test]
fn both_sides_close_at_the_same_time() {
    let mut bench = Bench::open();
    bench.stack.finish(0, 0);
    bench.peer(ACK | FIN, 0, 0, b"");
    assert_eq!((bench.events(), bench.state()), (vec![Event::Finished], State::Closing));
    assert_eq!(bench.controls(), [(ACK | FIN, 0, 0), (ACK, 1, 1)]);
    bench.peer(ACK, 1, 1, b"");
    assert_eq!(bench.events(), [Event::Closed]);
    assert!(bench.stack.waiting.next_ns().is_some());
}

#[test]
fn what_comes_for_a_connection_that_was_let_go_resets_it() {
    let mut bench = Bench::open();
    bench.stack.close(0, 0);
    bench.sent();
    bench.peer(ACK, 0, 1, b"too late");
    assert_eq!((bench.events(), bench.controls()), (vec![Event::Closed], vec![(RST | ACK, 1, 0)]));
}

#[test]
fn a_fin_behind_data_that_comes_again_closes_what_was_let_go() {
    let mut bench = Bench::open();
    bench.peer(ACK, 0, 0, b"bye");
    bench.stack.close(0, 0);
    bench.peer(ACK, 3, 1, b"");
    bench.peer(ACK, 0, 1, b"bye");
    assert_eq!((bench.events(), bench.state()), (vec![received(b"bye")], State::FinWait2));
    bench.sent(); // this side's acknowledgements are lost
    bench.peer(ACK | FIN, 0, 1, b"bye");
    assert_eq!((bench.events(), bench.controls()), (vec![Event::Finished, Event::Closed], vec![(ACK, 1, 4)]));
}

#[test]
fn a_server_that_never_closes_is_waited_for_a_minute() {
    let mut bench = Bench::open();
    bench.stack.close(0, 0);
    bench.sent();
    bench.peer(ACK, 0, 1, b"");
    let wait_ms = bench.wait();
    assert!((60_000..60_100).contains(&wait_ms), "{wait_ms} ms");
    assert_eq!((bench.events(), bench.state(), bench.stack.active()), (vec![Event::Closed], State::Closed, 0));
}

/// Found by fuzzing: the wait had no end any more.
#[test]
fn a_window_that_opens_does_not_prolong_the_wait_for_the_servers_fin() {
    let mut bench = Bench::open();
    bench.stack.close(0, 0);
    for window in [1000, 0, 1000] {
        bench.window = window;
        bench.peer(ACK, 0, 1, b"");
    }
    bench.sent();
    let wait_ms = bench.wait();
    assert!((60_000..60_100).contains(&wait_ms), "{wait_ms} ms");
    assert_eq!((bench.events(), bench.stack.active()), (vec![Event::Closed], 0));
}

#[test]
fn a_reset_of_what_is_closed_on_both_sides_is_its_end() {
    let mut bench = Bench::open();
    bench.peer(ACK | FIN, 0, 0, b"");
    bench.stack.close(0, 0);
    bench.events();
    bench.peer(RST | ACK, 1, 1, b"");
    assert_eq!(bench.events(), [Event::Closed]);
}

#[test]
fn an_abort_resets_and_the_next_life_has_another_flow() {
    let mut bench = Bench::open();
    bench.send(b"x");
    bench.sent();
    bench.stack.abort(0, 0);
    assert_eq!((bench.controls(), bench.state(), bench.stack.active()), (vec![(RST | ACK, 1, 0)], State::Closed, 0));
    bench.stack.connect(0, 0, 0);
    let syn = bench.sent()[0].0;
    assert!(syn.control == SYN && syn.source != bench.client);
    bench.peer(ACK, 0, 1, b"for the old one");
    assert_eq!((bench.events(), bench.sent()[0].0.control), (vec![], RST));
    assert!(bench.stack.close(0, 0), "a connection that opens is gone at once");
    assert!(bench.stack.close(0, 0) && bench.sent().is_empty());
}
