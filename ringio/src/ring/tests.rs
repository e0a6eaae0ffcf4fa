use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::pool::PoolShape;

const OPTIONS: RingOptions = RingOptions { entries: 8, cq_entries: 64, direct_descriptors: 2 };
const SHAPE: PoolShape = PoolShape { count: 2, size: 4096, incremental: true };
const FOR_ONE: Wait = Wait { want: 1, min_wait_us: 0, timeout: Some(Duration::from_secs(10)) };

/// A ring with one end of a pair of sockets in slot 0, and the other end.
fn ring_and_peer() -> (Ring, UnixStream) {
    let ring = Ring::new(&OPTIONS).expect("a ring");
    let (peer, socket) = UnixStream::pair().expect("sockets");
    ring.set_descriptor(0, socket.as_fd()).expect("a table");
    (ring, peer)
}

fn reaped(ring: &mut Ring) -> Vec<Completion> {
    let mut completions = Vec::new();
    ring.reap(|completion| completions.push(completion));
    completions
}

fn receive(ring: &mut Ring) -> Completion {
    ring.submit([Operation::receive(0, None).with_user_data(9)], FOR_ONE).expect("an enter");
    let mut completions = reaped(ring);
    assert_eq!(completions.len(), 1, "{completions:?}");
    completions.pop().expect("counted")
}

#[test]
fn what_is_received_can_be_sent_from_where_it_is_and_a_complete_send_is_silent() {
    let (mut ring, mut peer) = ring_and_peer();
    let pool = ring.add_pool(SHAPE).expect("a pool");
    for round in 0..100u8 {
        let message = [round; 1000];
        peer.write_all(&message).expect("room");
        let mut piece = receive(&mut ring).piece.expect("bytes");
        assert_eq!(piece.bytes(), message);
        piece.bytes_mut()[0] = !round;
        ring.submit([Operation::send(0, piece.bytes(), false)], Wait::default()).expect("an enter");
        assert!(reaped(&mut ring).is_empty(), "a complete send is silent");
        pool.release(piece);
        pool.publish();
        let mut echo = [0; 1000];
        peer.read_exact(&mut echo).expect("an echo");
        assert_eq!((echo[0], &echo[1..]), (!round, &message[1..]));
    }
    pool.check_pieces(std::iter::empty());
}

#[test]
fn a_send_that_falls_short_says_so_within_its_enter() {
    let (mut ring, _peer) = ring_and_peer();
    let bytes = vec![7; 16 << 20];
    ring.submit([Operation::send(0, &bytes, false).with_user_data(5)], Wait::default()).expect("an enter");
    let completions = reaped(&mut ring);
    assert_eq!(completions.len(), 1);
    assert_eq!(completions[0].user_data, 5);
    assert!((1..bytes.len() as i32).contains(&completions[0].result), "{completions:?}");
}

#[test]
fn ring_pool_and_pieces_go_in_any_order() {
    for order in 0..4 {
        let (mut ring, mut peer) = ring_and_peer();
        let pool = ring.add_pool(SHAPE).expect("a pool");
        peer.write_all(b"bytes").expect("room");
        let piece = receive(&mut ring).piece.expect("bytes");
        match order {
            0 => {
                pool.release(piece);
                drop(pool);
                peer.write_all(b"more").expect("room");
                // The kernel receives into memory that the ring keeps.
                let _ = receive(&mut ring);
            }
            1 => {
                drop(ring);
                assert_eq!(piece.bytes(), b"bytes");
                pool.release(piece);
                pool.publish();
            }
            2 => {
                drop((ring, pool));
                assert_eq!(piece.bytes(), b"bytes");
            }
            _ => {
                drop((pool, ring));
                assert_eq!(piece.bytes(), b"bytes");
            }
        }
    }
}

#[test]
fn more_operations_than_the_queue_holds_all_reach_the_kernel() {
    let (mut ring, mut peer) = ring_and_peer();
    let bytes: Vec<u8> = (0..100).collect();
    let sends = bytes.chunks(1).map(|byte| Operation::send(0, byte, false));
    ring.submit(sends, Wait::default()).expect("enters");
    let mut sent = [0; 100];
    peer.read_exact(&mut sent).expect("all of them");
    assert_eq!(sent[..], bytes);
}

/// A cancellation of nothing completes with the error that there is nothing.
fn cancel(number: u64) -> Operation<'static> {
    Operation::cancel(u64::MAX).with_user_data(number)
}

fn push_chain(ring: &mut Ring, chain: &[Operation<'static>]) {
    // SAFETY: what they name is valid for good.
    unsafe { ring.push_borrowed_chain(chain) };
}

#[test]
fn a_kernel_short_of_memory_gets_all_submissions_in_the_end_and_in_order() {
    let (mut ring, _peer) = ring_and_peer();
    let mut completed = Vec::new();
    let numbers = 0..20;
    for number in numbers.clone() {
        ring.refusals = if number % 8 == 0 { 6 } else { 0 };
        ring.push(cancel(number));
    }
    ring.refusals = 3;
    ring.enter(Wait::default()).expect("an enter");
    ring.reap(|completion| completed.push(completion.user_data));
    ring.refusals = 3;
    push_chain(&mut ring, &(0..8).map(|_| Operation::poll(0, 0).with_user_data(0)).collect::<Vec<_>>());
    ring.submit([cancel(20)], FOR_ONE).expect("enters");
    assert_eq!(completed, numbers.collect::<Vec<_>>());
}

#[test]
fn a_shortage_costs_pauses_and_no_processor_time() {
    let (mut ring, _peer) = ring_and_peer();
    ring.refusals = 12;
    let started = Instant::now();
    ring.submit([cancel(1)], Wait::default()).expect("an enter");
    // 50, 100, ... microseconds, eleven times, at most ten milliseconds each.
    assert!(started.elapsed() >= Duration::from_millis(40), "{:?}", started.elapsed());
    assert_eq!(ring.refusals, 0);
}

#[test]
fn a_ring_that_may_hold_freed_memory_is_never_entered_again() {
    let (mut ring, mut peer) = ring_and_peer();
    peer.set_nonblocking(true).expect("a socket");
    let bytes = vec![1; 10];
    let panics = std::iter::once(()).cycle().enumerate().map(|(number, ())| {
        assert!(number < 2, "the third operation cannot be made");
        Operation::send(0, &bytes, false)
    });
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ring.submit(panics, Wait::default())));
    assert!(outcome.is_err());
    drop(bytes);
    assert!(ring.enter(Wait::default()).is_err());
    assert!(ring.hand_over().is_err());
    for number in 0..20 {
        ring.push(cancel(number)); // more than fit
    }
    let error = peer.read(&mut [0; 10]).expect_err("nothing has been sent");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_chain_goes_on_as_long_as_each_succeeds() {
    let (mut ring, mut peer) = ring_and_peer();
    let chain = |slots: [u32; 3]| slots.map(|slot| Operation::send(slot, b"!", false).with_user_data(slot.into()));
    push_chain(&mut ring, &chain([0, 0, 0]));
    ring.enter(Wait::default()).expect("an enter");
    assert!(reaped(&mut ring).is_empty());
    let mut sent = [0; 3];
    peer.read_exact(&mut sent).expect("all of them");
    // Slot 1 is empty: the chain ends there.
    push_chain(&mut ring, &chain([0, 1, 0]));
    ring.enter(Wait::default()).expect("an enter");
    let results: Vec<_> = reaped(&mut ring).iter().map(|it| (it.user_data, it.result)).collect();
    assert_eq!(results[0], (1, -libc::EBADF), "{results:?}");
}

/// A send that were linked behind the poll would begin when the peer writes, long after its enter.
#[test]
fn operations_of_a_chain_are_free_again_when_they_are_pushed() {
    let (mut ring, mut peer) = ring_and_peer();
    peer.set_nonblocking(true).expect("a socket");
    let chain = [Operation::poll(0, libc::POLLIN as u32).with_user_data(1), cancel(2)];
    push_chain(&mut ring, &chain);
    ring.enter(Wait::default()).expect("an enter");
    let bytes = vec![7; 10];
    let [waits, _] = &chain;
    ring.submit([waits.clone(), Operation::send(0, &bytes, false)], Wait::default()).expect("an enter");
    drop(bytes);
    let mut sent = [0; 10];
    peer.read_exact(&mut sent).expect("sent within the enter");
    assert_eq!(sent, [7; 10]);
}

#[test]
fn a_poll_tells_what_happens_and_ends_when_it_is_cancelled() {
    let (mut ring, mut peer) = ring_and_peer();
    ring.push(Operation::poll(0, libc::POLLIN as u32).with_user_data(1));
    peer.write_all(b"?").expect("room");
    ring.enter(FOR_ONE).expect("an enter");
    let completions = reaped(&mut ring);
    assert!(matches!(&completions[..], [it] if it.goes_on() && it.result == libc::POLLIN.into()), "{completions:?}");
    ring.push(Operation::cancel(1));
    ring.enter(FOR_ONE).expect("an enter");
    let completions = reaped(&mut ring);
    assert!(matches!(&completions[..], [it] if !it.goes_on() && it.result == -libc::ECANCELED), "{completions:?}");
}
