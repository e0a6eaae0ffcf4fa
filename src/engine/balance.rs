//! Who gets the next connection.

use std::sync::Arc;

use crate::worker::Control;

/// The workers' loads, as the acceptor knows them: what it has given away less what they have released.
///
/// Only the acceptor gives, so no worker ever gets more than it can hold.
pub struct Balance {
    shares: Vec<Share>,
}

struct Share {
    capacity: u32,
    assigned: u64,
    control: Arc<Control>,
}

impl Share {
    fn load(&self) -> u64 {
        self.assigned - self.control.released()
    }

    fn room(&self) -> u64 {
        u64::from(self.capacity) - self.load()
    }
}

impl Balance {
    /// For workers with these capacities.
    pub fn new(workers: impl IntoIterator<Item = (u32, Arc<Control>)>) -> Self {
        let share = |(capacity, control)| Share { capacity, assigned: 0, control };
        Self { shares: workers.into_iter().map(share).collect() }
    }

    /// How many more connections there is room for.
    pub fn room(&self) -> u64 {
        self.shares.iter().map(Share::room).sum()
    }

    /// Gives a connection to the worker with the fewest that has room, and says which that is.
    pub fn assign(&mut self) -> Option<usize> {
        let with_room = self.shares.iter_mut().enumerate().filter(|(_, share)| share.room() > 0);
        let (worker, share) = with_room.min_by_key(|(_, share)| share.load())?;
        share.assigned += 1;
        Some(worker)
    }

    /// The worker has not got what was assigned to it.
    pub fn take_back(&mut self, worker: usize) {
        self.shares[worker].assigned -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Tally;

    #[test]
    fn the_least_loaded_with_room_is_next() {
        let controls: Vec<_> = (0..3).map(|_| Arc::new(Control::new().unwrap())).collect();
        let mut balance = Balance::new([1, 3, 0].into_iter().zip(controls.iter().cloned()));
        assert_eq!(balance.room(), 4);
        let order: Vec<_> = (0..5).map(|_| balance.assign()).collect();
        assert_eq!(order, [Some(0), Some(1), Some(1), Some(1), None]);

        controls[1].publish(&Tally { released: 2, ..Tally::default() });
        assert_eq!((balance.room(), balance.assign(), balance.room()), (2, Some(1), 1));
        balance.take_back(0);
        assert_eq!((balance.room(), balance.assign()), (2, Some(0)));
    }
}
