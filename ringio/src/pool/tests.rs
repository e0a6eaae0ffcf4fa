use super::*;
use crate::testing::Posted;

const SHAPE: PoolShape = PoolShape { count: 2, size: 100, incremental: true };

/// Receives and reaps at once.
fn receive(pool: &Pool, data: &[u8]) -> Piece {
    let completion = pool.post_received(7, data).expect("room").reap(pool);
    assert_eq!((completion.user_data, completion.result as u32), (7, completion.piece.as_ref().expect("bytes").len()));
    completion.piece.expect("bytes")
}

fn release<const N: usize>(pool: &Pool, pieces: [Piece; N]) {
    for piece in pieces {
        pool.release(piece);
    }
}

/// Where in its buffer a piece begins.
fn offset(pool: &Pool, piece: &Piece) -> usize {
    (piece.start().addr().get() - pool.buffers().memory.start().addr().get()) % SHAPE.size as usize
}

#[test]
fn a_buffer_without_pieces_is_filled_from_its_start_again() {
    let pool = Pool::detached(SHAPE);
    for round in 0..3 {
        let pieces = [[round; 60], [round + 100; 60], [round + 200; 60]].map(|data| {
            let piece = receive(&pool, &data);
            assert_eq!(piece.bytes(), &data[..piece.len() as usize]);
            // Its bytes are held.
            pool.publish();
            piece
        });
        let places = pieces.each_ref().map(|piece| (offset(&pool, piece), piece.len(), piece.ends_buffer()));
        assert_eq!(places, [(0, 60, false), (60, 40, true), (0, 60, false)]);
        assert_eq!((pieces[0].buffer(), pool.room_for(1)), (pieces[1].buffer(), 40));
        assert!(pool.is_short());
        let [first, second, third] = pieces;
        for piece in [third, first, second] {
            pool.release(piece);
        }
        pool.publish();
        assert_eq!(pool.room_for(1), 200);
        pool.check_pieces(std::iter::empty());
    }
}

#[test]
fn a_buffer_is_not_filled_again_while_a_completion_is_unseen() {
    let pool = Pool::detached(SHAPE);
    let seen = receive(&pool, b"seen");
    let unseen = pool.post_received(0, b"unseen").expect("room");
    pool.release(seen);
    pool.publish();
    let behind = pool.post_received(0, &[0; 10]).expect("room");
    let unseen = unseen.reap(&pool).piece.expect("bytes");
    assert_eq!(unseen.bytes(), b"unseen");
    let behind = behind.reap(&pool).piece.expect("bytes");
    pool.check_pieces([unseen.buffer(), behind.buffer()].into_iter());
    release(&pool, [unseen, behind]);
}

#[test]
fn pieces_are_changed_and_narrowed_without_touching_each_other() {
    let pool = Pool::detached(SHAPE);
    let (mut first, mut second) = (receive(&pool, b"first piece"), receive(&pool, b"second piece"));
    first.bytes_mut().make_ascii_uppercase();
    second.narrow(0..6);
    second.bytes_mut().make_ascii_uppercase();
    first.advance(6);
    assert_eq!((first.bytes(), second.bytes()), (&b"PIECE"[..], &b"SECOND"[..]));
    first.narrow(1..3);
    assert_eq!((first.bytes(), first.len()), (&b"IE"[..], 2));
    let third = receive(&pool, b"third");
    assert_eq!((first.bytes(), second.bytes(), third.bytes()), (&b"IE"[..], &b"SECOND"[..], &b"third"[..]));
    pool.check_pieces([first.buffer(), second.buffer(), third.buffer()].into_iter());
    release(&pool, [first, second, third]);
    pool.check_pieces(std::iter::empty());
}

#[test]
#[should_panic(expected = "a piece of 4 narrowed to 1..5")]
fn a_piece_does_not_grow() {
    let pool = Pool::detached(SHAPE);
    receive(&pool, b"four").narrow(1..5);
}

#[test]
#[should_panic(expected = "a piece of 4 narrowed to 4..4")]
fn a_piece_is_not_narrowed_to_nothing() {
    let pool = Pool::detached(SHAPE);
    receive(&pool, b"four").advance(4);
}

#[test]
#[should_panic(expected = "another pool than its own")]
fn a_piece_is_not_released_to_another_pool() {
    let (pool, other) = (Pool::detached(SHAPE), Pool::detached(SHAPE));
    other.release(receive(&pool, b"mine"));
}

#[test]
#[should_panic(expected = "out of order")]
fn completions_that_name_buffers_keep_their_order() {
    let pool = Pool::detached(SHAPE);
    let (_first, second) = (pool.post_received(0, b"1"), pool.post_received(0, b"2"));
    let _ = second.expect("room").reap(&pool);
}

#[test]
fn a_piece_may_outlive_its_pool() {
    let pool = Pool::detached(SHAPE);
    let mut piece = receive(&pool, b"still here");
    drop(pool);
    piece.bytes_mut()[0] = b'S';
    assert_eq!(piece.bytes(), b"Still here");
}

#[test]
fn failed_and_empty_receives_bring_nothing_and_keep_no_buffer() {
    for incremental in [true, false] {
        let pool = Pool::detached(PoolShape { incremental, ..SHAPE });
        for result in [-libc::EAGAIN, -libc::ECONNRESET] {
            for _ in 0..5 {
                let completion = pool.post_failed(0, result).reap(&pool);
                assert!(completion.piece.is_none());
                assert_eq!(completion.result, result);
                pool.check_pieces(std::iter::empty());
                pool.publish();
            }
        }
        assert_eq!(pool.room_for(100), 2);
    }
}

#[test]
fn a_pool_that_is_used_up_has_nothing_to_give() {
    let pool = Pool::detached(PoolShape { incremental: false, ..SHAPE });
    let pieces = [receive(&pool, b"1"), receive(&pool, b"2")];
    assert!(pool.post_received(0, b"3").is_none());
    assert_eq!(pool.room_for(1), 0);
    let [first, second] = pieces;
    pool.release(second);
    pool.publish();
    let third = receive(&pool, b"3");
    pool.check_pieces([first.buffer(), third.buffer()].into_iter());
    release(&pool, [first, third]);
}

#[test]
fn completions_tell_what_their_flags_say() {
    let pool = Pool::detached(SHAPE);
    let posted = Posted::plain(3, 1, true).reap(&pool);
    assert!(posted.goes_on() && !posted.is_socket_nonempty() && posted.piece.is_none());
    let receive = pool.post_received(4, b"some").expect("room").with_nonempty_socket().reap(&pool);
    assert!(!receive.goes_on() && receive.is_socket_nonempty());
    pool.release(receive.piece.expect("bytes"));
}

#[test]
fn older_kernels_get_the_same_memory_in_more_buffers() {
    let shape = PoolShape { count: 2, size: 512 << 10, incremental: true };
    assert_eq!(shape.in_whole_buffers(), PoolShape { count: 64, size: 16 << 10, incremental: false });
    assert_eq!(SHAPE.in_whole_buffers(), PoolShape { count: 2, size: 100, incremental: false });
}
