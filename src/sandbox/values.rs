//! Values of the shop's rows that look like a shop's, and those that are hard to carry.

const WORDS: &[&str] = &[
    "brake",
    "pad",
    "rotor",
    "oil",
    "filter",
    "left",
    "front",
    "rear",
    "replace",
    "inspect",
    "noise",
    "customer",
    "states",
    "warranty",
    "Öl",
    "ölfilter",
    "señal",
    "部品",
    "vibration",
    "at",
    "speed",
    "check",
    "engine",
    "light",
    "tire",
    "wear",
    "even",
    "needs",
    "alignment",
    "fluid",
    "level",
    "low",
];
/// Names of people, in several scripts.
pub const NAMES: &[&str] = &[
    "Ana", "Björn", "Chloé", "Đức", "Eve", "Farid", "李雷", "Ólafur", "O'Brien", "Zoë", "Smith",
    "Müller", "García", "Nguyễn",
];
/// What JSON, SQL or a careless escape could break; as it is written in JSON.
pub const ODD: &[&str] = &[
    "it's \\\"quoted\\\"",
    "back\\\\slash",
    "$_H_$ $1 ${x}",
    "tab\\tnew\\nline",
    "emoji \u{1F697}\u{1F527}",
    "\\ud83d\\ude00 escaped",
    "'; DROP TABLE \\\"order\\\"; --",
    "null",
    "\\u00e9\\u0001",
    "",
    "مرحبا",
    "\u{200B}zero",
];

/// `count` words, chosen by the random number `r`.
pub fn words(mut r: u64, count: u32) -> String {
    let mut out = String::new();
    for i in 0..count {
        if i > 0 {
            out.push(' ');
        }
        out.push_str(WORDS[r as usize % WORDS.len()]);
        r = r.rotate_right(7).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 3;
    }
    out
}

/// A time from 1960 to 2045 in RFC 3339, in UTC and with offsets, to the nanosecond.
pub fn date(r: u64) -> String {
    let (year, month, day) = (1960 + r % 85, 1 + (r >> 8) % 12, 1 + (r >> 16) % 28);
    let (hour, minute, second) = ((r >> 24) % 24, (r >> 32) % 60, (r >> 40) % 60);
    let rest = match (r >> 3) % 4 {
        0 => "Z".to_owned(),
        1 => format!(".{:03}Z", (r >> 12) % 1000),
        2 => format!(".{:09}Z", (r >> 12) % 1_000_000_000),
        _ => format!(".{:06}+02:00", (r >> 12) % 1_000_000),
    };
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{rest}")
}
