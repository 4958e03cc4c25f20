//! Random changes of a text: of its bytes, of its tokens, of the JSON that it is.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// Bytes that mean something to somebody.
const ODD: [&[u8]; 20] = [
    b"\"",
    b"\\u",
    b"\\ud800",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b"null",
    b"1e999",
    b"-",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"%",
    b"%00",
    b"{{",
    b"99999999999999999999",
    b"\r\n",
    b"../",
    b"'",
];

/// Numbers at the ends of what somebody can hold.
const NUMBERS: [&str; 14] = [
    "0",
    "-0",
    "-1",
    "00",
    "0.1",
    "1e400",
    "-1e-400",
    "2147483648",
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1.7976931348623157e308",
];

/// Texts that somebody takes for something else.
const TEXTS: [&str; 12] = [
    "",
    " ",
    "\u{0}",
    "\u{feff}",
    "9999-12-31T23:59:59.999999999Z",
    "-0001-01-01T00:00:00Z",
    "0000-00-00",
    "2024-02-30T24:60:61+99:99",
    "true",
    "[1,",
    "İ\u{301}ſ",
    "..\\..",
];

/// One random change; `seeds` lend their parts.
pub fn change(rng: &mut Rng, text: &mut Vec<u8>, seeds: &[&[u8]]) {
    let at = rng.usize(..=text.len());
    match rng.u32(..12) {
        0 if !text.is_empty() => drop(text.remove(at.min(text.len() - 1))),
        1 => text.insert(at, rng.u8(..)),
        2 => drop(text.splice(at..at, ODD[rng.usize(..ODD.len())].iter().copied())),
        3 => text.truncate(at),
        4 => {
            let seed = seeds[rng.usize(..seeds.len())];
            let other = part(rng, seed);
            text.splice(at..at, other.iter().copied());
        }
        5 => {
            // A part of itself, maybe many times.
            let part = part(rng, text).to_vec();
            let times = if rng.u32(..20) == 0 { 200 } else { 1 };
            if part.len() * times < 1 << 16 {
                text.splice(at..at, part.repeat(times));
            }
        }
        6 => {
            let to = rng.usize(at..=text.len());
            text.drain(at..to);
        }
        7 | 8 => change_number(rng, text),
        9 | 10 => change_json(rng, text),
        _ if !text.is_empty() => {
            let at = at.min(text.len() - 1);
            text[at] ^= 1 << rng.u32(..8);
        }
        _ => {}
    }
}

fn part<'a>(rng: &mut Rng, text: &'a [u8]) -> &'a [u8] {
    let from = rng.usize(..=text.len());
    &text[from..rng.usize(from..=text.len())]
}

/// Another number in the place of one.
fn change_number(rng: &mut Rng, text: &mut Vec<u8>) {
    let starts: Vec<usize> = (0..text.len())
        .filter(|at| text[*at].is_ascii_digit() && (*at == 0 || !text[at - 1].is_ascii_digit()))
        .collect();
    if starts.is_empty() {
        return;
    }
    let from = starts[rng.usize(..starts.len())];
    let len = text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    text.splice(from..from + len, NUMBERS[rng.usize(..NUMBERS.len())].bytes());
}

/// What is JSON stays JSON, and says something else.
fn change_json(rng: &mut Rng, text: &mut Vec<u8>) {
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else { return };
    let way = way(rng, &value);
    let Some(place) = value.pointer_mut(&way) else { return };
    match place {
        Value::Object(fields) if rng.bool() => change_fields(rng, fields),
        Value::Array(items) if rng.bool() && !items.is_empty() => {
            let at = rng.usize(..items.len());
            match rng.u32(..3) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => items.rotate_left(at),
            }
        }
        place => *place = odd_value(rng),
    }
    *text = value.to_string().into_bytes();
}

fn change_fields(rng: &mut Rng, fields: &mut Map<String, Value>) {
    let names: Vec<String> = fields.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let name = &names[rng.usize(..names.len())];
    let Some(value) = fields.remove(name) else { return };
    match rng.u32(..3) {
        0 => {}
        1 => drop(fields.insert(TEXTS[rng.usize(..TEXTS.len())].to_owned(), value)),
        // The value of another field.
        _ => drop(fields.insert(names[rng.usize(..names.len())].clone(), value)),
    }
}

/// The way to any value within `value`, as a JSON pointer.
fn way(rng: &mut Rng, value: &Value) -> String {
    let (mut way, mut value) = (String::new(), value);
    while rng.u32(..4) > 0 {
        let inner: Vec<(String, &Value)> = match value {
            Value::Object(fields) => fields.iter().map(|(name, v)| (name.clone(), v)).collect(),
            Value::Array(items) => (0..).map(|at: usize| at.to_string()).zip(items).collect(),
            _ => break,
        };
        if inner.is_empty() {
            break;
        }
        let (name, next) = &inner[rng.usize(..inner.len())];
        way += &format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        value = next;
    }
    way
}

fn odd_value(rng: &mut Rng) -> Value {
    match rng.u32(..7) {
        0 => Value::Null,
        1 => rng.bool().into(),
        2 | 3 => {
            let number = NUMBERS[rng.usize(..NUMBERS.len())];
            serde_json::from_str(number).unwrap_or_else(|_| number.into())
        }
        4 => (0..rng.u32(1..100)).fold(json!({}), |inner, _| json!([inner])),
        5 => "x".repeat(rng.usize(..10_000)).into(),
        _ => TEXTS[rng.usize(..TEXTS.len())].into(),
    }
}
