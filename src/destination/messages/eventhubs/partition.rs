//! In which partition the service keeps a key: Bob Jenkins' lookup3, as all clients of Event Hubs
//! compute it.

/// The partition, of so many, that events with this key go to.
pub fn partition(key: &str, partitions: usize) -> usize {
    usize::from((hash(key) % partitions.clamp(1, i16::MAX as usize) as i16).unsigned_abs())
}

fn hash(key: &str) -> i16 {
    let (first, second) = lookup3(key.as_bytes());
    (first ^ second) as i16
}

/// Both words of lookup3 (`hashlittle2`, public domain, 2006), with both seeds 0.
fn lookup3(data: &[u8]) -> (u32, u32) {
    let start = 0xdead_beef_u32.wrapping_add(data.len() as u32);
    let mut state = [start; 3];
    let mut rest = data;
    while rest.len() > 12 {
        let (block, after) = rest.split_at(12);
        add(&mut state, block);
        mix(&mut state);
        rest = after;
    }
    if !rest.is_empty() {
        add(&mut state, rest);
        finish(&mut state);
    }
    (state[2], state[1])
}

/// Adds up to twelve bytes as three words, the lowest byte first.
fn add(state: &mut [u32; 3], block: &[u8]) {
    for (i, byte) in block.iter().enumerate() {
        state[i / 4] = state[i / 4].wrapping_add(u32::from(*byte) << (8 * (i % 4)));
    }
}

fn mix(state: &mut [u32; 3]) {
    for (step, bits) in [4, 6, 8, 16, 19, 4].into_iter().enumerate() {
        let (this, next, last) = (step % 3, (step + 1) % 3, (step + 2) % 3);
        state[this] = state[this].wrapping_sub(state[last]) ^ state[last].rotate_left(bits);
        state[last] = state[last].wrapping_add(state[next]);
    }
}

fn finish(state: &mut [u32; 3]) {
    for (step, bits) in [14, 11, 25, 16, 4, 14, 24].into_iter().enumerate() {
        let (this, last) = ((step + 2) % 3, (step + 1) % 3);
        state[this] = (state[this] ^ state[last]).wrapping_sub(state[last].rotate_left(bits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its author's values, and those by which the service's own clients are checked.
    #[test]
    fn hashes_are_the_known_ones() {
        assert_eq!(lookup3(b""), (0xdead_beef, 0xdead_beef));
        assert_eq!(lookup3(b"Four score and seven years ago"), (0x1777_0551, 0xce72_26e6));
        let known = [
            ("7", -15263),
            ("131", 30562),
            ("7149583486996073602", 12977),
            ("FWfAT", -22341),
            ("sOdeEAsyQoEuEFPGerWO", -6503),
            ("$0cb", 26269),
            ("!c*_!I@1^c", 15372),
        ];
        for (key, expected) in known {
            assert_eq!(hash(key), expected, "{key}");
        }
        assert_eq!((partition("7", 4), partition("131", 4)), (15263 % 4, 30562 % 4));
    }
}
