//! Whatever foreign bytes come, nothing panics: seeds of every form that EDS reads, changed at
//! random, as bytes and as what they mean. `cargo x fuzz SECONDS` lets each of them last.

mod files;
mod generate;
mod texts;

use std::time::{Duration, Instant};

use generate::change;

/// How long each reader is tried where nobody says so.
const MILLIS: u64 = 700;
/// Between two looks at the clock.
const TEXTS: u32 = 16;

/// Gives `read` the seeds and what random changes make of them.
fn try_with(name: &str, seeds: &[&[u8]], mut read: impl FnMut(&[u8])) {
    let millis = std::env::var("EDS_FUZZ_SECONDS").ok().and_then(|text| text.parse::<u64>().ok());
    let until = Instant::now() + Duration::from_millis(millis.map_or(MILLIS, |s| s * 1000));
    let seed = std::env::var("EDS_FUZZ_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let mut rng = fastrand::Rng::with_seed(seed);
    seeds.iter().for_each(|seed| read(seed));
    let mut tried = 0_u64;
    while Instant::now() < until {
        for _ in 0..TEXTS {
            let mut text = seeds[rng.usize(..seeds.len())].to_vec();
            for _ in 0..rng.usize(1..6) {
                change(&mut rng, &mut text, seeds);
            }
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&text)));
            let shown = text.escape_ascii();
            assert!(caught.is_ok(), "{name}, seed {seed}, panics at b\"{shown}\"");
            tried += 1;
        }
    }
    println!("fuzz {name}: {tried} texts");
}

/// The seeds of a file of the corpus, one in each line.
fn lines(corpus: &str) -> Vec<&[u8]> {
    corpus.lines().map(str::as_bytes).collect()
}
