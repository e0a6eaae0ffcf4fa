use super::super::output::NoLender;
use super::*;

const TICK_US: u32 = 10_000;
const ROOM: usize = 1 << 20;

type Outputs = super::Outputs<NoLender>;

/// What was queued, which is taken.
fn take(outputs: &mut Outputs, queue: &mut Queue) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !queue.is_empty() {
        bytes.extend_from_slice(outputs.front(*queue, &NoLender));
        outputs.pop(queue, &mut NoLender);
    }
    bytes
}

/// The payloads' lengths of a stream of whole binary messages.
fn messages(mut stream: &[u8]) -> Vec<usize> {
    let mut sizes = Vec::new();
    while let Some(&length) = stream.get(1) {
        assert_eq!(stream[0], 0x82, "a whole binary message");
        let (header, size) = match length {
            126 => (4, u16::from_be_bytes([stream[2], stream[3]]).into()),
            127 => (10, u64::from_be_bytes(*stream[2..].first_chunk().unwrap()) as usize),
            length => (2, length.into()),
        };
        sizes.push(size);
        stream = &stream[header + size..];
    }
    sizes
}

fn source(size: u32, rate: u32, count: u32) -> Behaviour {
    Behaviour::Source(Source { size, rate, count })
}

#[test]
fn a_source_sends_whole_messages_of_its_size_and_as_many_as_it_is_to() {
    for size in [0, 1, 125, 126, 1024, 40_000, BLOCK as u32 - 4, BLOCK as u32, 65_536, 100_000, 1 << 20] {
        let (mut actors, mut outputs, mut queue) = (Actors::default(), Outputs::new(), Queue::EMPTY);
        assert!(actors.insert(1, source(size, 0, 100), (0, TICK_US), ROOM, &mut outputs));
        let (mut sent, mut most) = (Vec::new(), outputs.held());
        while let Some(fed) = actors.feed(1, (0, TICK_US), &mut outputs, &mut queue) {
            most = most.max(outputs.held());
            let queued = take(&mut outputs, &mut queue);
            assert_eq!(fed.bytes, queued.len());
            sent.extend(messages(&queued));
            assert_eq!(fed.is_last, sent.len() == 100, "of {size}");
        }
        assert_eq!(sent, vec![size as usize; 100]);
        // A block for all of them, and some chunks: not the messages.
        assert!(most <= BLOCK + 20 * (CHUNK_OVERHEAD + 10), "{most} bytes for messages of {size}");
        actors.remove(1, &mut outputs);
        assert_eq!((outputs.held(), actors.templates.len()), (0, 0));
    }
}

#[test]
fn sources_of_one_size_share_their_memory_and_others_need_room() {
    let (mut actors, mut outputs) = (Actors::default(), Outputs::new());
    for key in 0..1000 {
        assert!(actors.insert(key, source(100, 0, 0), (0, TICK_US), BLOCK, &mut outputs));
    }
    assert!(outputs.held() <= BLOCK);
    assert!(!actors.insert(1000, source(101, 0, 0), (0, TICK_US), 1000, &mut outputs));
    for key in 0..1000 {
        actors.remove(key, &mut outputs);
    }
    assert_eq!(outputs.held(), 0);
}

#[test]
fn a_rate_is_kept_over_time_and_nothing_is_made_up_for_beyond_a_second() {
    for rate in [1, 3, 99, 100, 1000, 100_000] {
        let (mut actors, mut outputs, mut queue) = (Actors::default(), Outputs::new(), Queue::EMPTY);
        let start = u32::MAX - 50; // the clock wraps around
        actors.insert(1, source(10, rate, 0), (start, TICK_US), ROOM, &mut outputs);
        let (mut now, mut sent) = (start, 0);
        while now.wrapping_sub(start) < 500 {
            while actors.feed(1, (now, TICK_US), &mut outputs, &mut queue).is_some() {
                sent += messages(&take(&mut outputs, &mut queue)).len();
            }
            let next = actors.next_at(1, now, TICK_US, false).expect("it goes on");
            assert!(is_before(now, next), "nothing can be sent in this tick any more");
            now = next;
        }
        let (wanted, a_tick) = (5 * rate as usize, rate as usize / 100);
        assert!((wanted - a_tick..=wanted + 1 + a_tick).contains(&sent), "{sent} in 5 s at {rate}/s");
        let mut late = 0;
        while actors.feed(1, (now.wrapping_add(100_000), TICK_US), &mut outputs, &mut queue).is_some() {
            late += messages(&take(&mut outputs, &mut queue)).len();
        }
        assert_eq!(late, rate as usize);
    }
}

#[test]
fn echoes_are_held_back_in_order_and_for_as_long_as_they_are_to_be() {
    let (mut actors, mut outputs, mut queue) = (Actors::default(), Outputs::new(), Queue::EMPTY);
    actors.insert(1, Behaviour::Delay { ms: 25 }, (0, TICK_US), ROOM, &mut outputs);
    for (now, bytes) in [(10, "one "), (10, "two "), (12, "three")] {
        actors.defer(1, bytes.into(), now, &mut outputs, &mut queue);
    }
    assert_eq!((actors.next_at(1, 12, TICK_US, false), queue.is_empty()), (Some(14), true));
    assert!(outputs.held() == actors.held(1) && outputs.held() > 13);
    assert!(!actors.release(1, Some(13), &mut outputs, &mut queue));
    assert!(actors.release(1, Some(14), &mut outputs, &mut queue));
    assert_eq!(take(&mut outputs, &mut queue), b"one two ");
    assert!(actors.holds(1) && actors.release(1, None, &mut outputs, &mut queue));
    assert_eq!((take(&mut outputs, &mut queue), actors.next_at(1, 20, TICK_US, false)), (b"three".to_vec(), None));
    actors.defer(1, b"lost".into(), 20, &mut outputs, &mut queue);
    actors.remove(1, &mut outputs);
    assert_eq!(outputs.held(), 0);
}
