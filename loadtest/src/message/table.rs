//! The table that messages are cut from.

use super::{PERIOD, SplitMix};

/// The table consists of cells of so many bytes, each of which begins with its share of filling: so that messages of a few
/// dozen bytes already have about the share that was asked for, and a run of it is still worth a reference of DEFLATE.
const CELL: usize = 32;

/// What compressible parts consist of. Printable, for text.
const FILLING: u8 = b'-';

/// One period: `compressibility` percent of it is filling, the rest random: all bytes, or printable ASCII.
pub(super) fn make(random: &mut SplitMix, text: bool, compressibility: u8) -> Vec<u8> {
    let filled_until = |cell: usize| cell * CELL * usize::from(compressibility) / 100;
    let byte = |at: usize| {
        let cell = at / CELL;
        // What is left over in one cell is made up for in the next.
        if at % CELL < filled_until(cell + 1) - filled_until(cell) {
            return FILLING;
        }
        let byte = random.next() >> 32;
        if text { b' ' + (byte % 95) as u8 } else { byte as u8 }
    };
    (0..PERIOD).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: bool, compressibility: u8) -> Vec<u8> {
        make(&mut SplitMix(1), text, compressibility)
    }

    fn filling(bytes: &[u8]) -> usize {
        bytes.iter().map(|&byte| usize::from(byte == FILLING)).sum()
    }

    #[test]
    fn as_much_is_filling_as_asked_for() {
        for text in [false, true] {
            for percent in [0, 1, 37, 50, 99, 100] {
                let table = table(text, percent);
                let share = filling(&table) as f64 / PERIOD as f64 * 100.0;
                // Random bytes are the same as the filling now and then.
                let by_chance = (100.0 - f64::from(percent)) / if text { 95.0 } else { 256.0 };
                assert!((share - f64::from(percent) - by_chance).abs() < 0.5, "{percent}: {share}");
                assert!(!text || table.iter().all(|byte| (b' '..=b'~').contains(byte)));
            }
        }
    }

    #[test]
    fn each_small_part_has_its_share() {
        let table = table(false, 50);
        for part in table.chunks_exact(2 * CELL) {
            assert!((30..=40).contains(&filling(part)), "{}", filling(part));
        }
    }
}
