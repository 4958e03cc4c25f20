//! Finds where JSON values begin and end without building them: one strict pass (RFC 8259) over the
//! text of an event.
//!
//! Owned rather than taken from a library because an event is read into slices of its own payload,
//! keys and values of the row included, in a single pass; `cargo bench --bench decode` compares it
//! with serde_json.

use std::borrow::Cow;

use super::stamps::Stamp;

/// What some programs put before a file of UTF-8; JSON knows no such thing.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How deep arrays and objects may nest: what serde_json allows too.
const DEPTH_MAX: u32 = 128;

/// A value inside a payload: byte offsets, end exclusive. A payload is at most 4 GiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    start: u32,
    end: u32,
}

impl Slot {
    /// The value is not there at all.
    pub const MISSING: Slot = Slot { start: u32::MAX, end: u32::MAX };

    /// In place of a value that is the event's and not in its payload.
    pub fn of_stamp(stamp: Stamp) -> Slot {
        Slot { start: u32::MAX, end: stamp as u32 }
    }

    /// The stamp that it stands for.
    pub fn as_stamp(&self) -> Option<Stamp> {
        if self.start != u32::MAX {
            return None;
        }
        Stamp::ALL.into_iter().find(|stamp| *stamp as u32 == self.end)
    }

    /// The token in `payload`, or `None` where the value is missing.
    pub fn of<'a>(&self, payload: &'a str) -> Option<&'a str> {
        payload.get(self.start as usize..self.end as usize)
    }

    /// Like [`Slot::of`], and `None` for a JSON `null` too.
    pub fn present<'a>(&self, payload: &'a str) -> Option<&'a str> {
        self.of(payload).filter(|token| *token != "null")
    }

    /// A slot of `len` bytes from `start`.
    pub fn at(start: usize, len: usize) -> Slot {
        Slot { start: start as u32, end: (start + len) as u32 }
    }

    /// The same value seen from a text that begins `base` bytes earlier.
    pub fn moved(self, base: usize) -> Slot {
        Slot::at(self.start as usize + base, (self.end - self.start) as usize)
    }

    /// The bytes of the payload that it covers.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The text is not JSON at this byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not JSON at byte {at}")]
pub struct NotJson {
    /// The offset of the first byte that cannot stand where it does.
    pub at: usize,
}

/// Walks over one text.
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at the beginning of `text`.
    pub fn new(text: &'a str) -> Self {
        Cursor { bytes: text.as_bytes(), at: 0 }
    }

    /// Calls `each(cursor, key)` for every member of the object that starts here; `each` consumes
    /// the value.
    pub fn object<E: From<NotJson>>(
        &mut self,
        mut each: impl FnMut(&mut Self, Slot) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'{')?;
        if self.taken(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            let key = self.string()?;
            self.expect(b':')?;
            each(self, key)?;
            if !self.taken(b',') {
                return Ok(self.expect(b'}')?);
            }
        }
    }

    /// Calls `each` for every element of the array that starts here.
    pub fn array<E: From<NotJson>>(
        &mut self,
        mut each: impl FnMut(Slot) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'[')?;
        if self.taken(b']') {
            return Ok(());
        }
        loop {
            each(self.value()?)?;
            if !self.taken(b',') {
                return Ok(self.expect(b']')?);
            }
        }
    }

    /// Passes one value of any type.
    pub fn value(&mut self) -> Result<Slot, NotJson> {
        self.space();
        let start = self.at;
        self.skip(0)?;
        Ok(self.slot(start))
    }

    /// What the next value begins with; nothing is consumed but space.
    pub fn peek(&mut self) -> Option<u8> {
        self.space();
        self.bytes.get(self.at).copied()
    }

    /// Nothing but space may follow.
    pub fn end(&mut self) -> Result<(), NotJson> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.wrong()) }
    }

    /// Where the cursor stands.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The slot from `start` to where the cursor stands.
    pub fn slot(&self, start: usize) -> Slot {
        Slot { start: start as u32, end: self.at as u32 }
    }

    fn wrong(&self) -> NotJson {
        NotJson { at: self.at }
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn taken(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.taken(byte) { Ok(()) } else { Err(self.wrong()) }
    }

    fn skip(&mut self, depth: u32) -> Result<(), NotJson> {
        if depth > DEPTH_MAX {
            return Err(self.wrong());
        }
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => self.object(|inner, _| inner.skip(depth + 1)),
            Some(b'[') => {
                self.at += 1;
                if self.taken(b']') {
                    return Ok(());
                }
                loop {
                    self.skip(depth + 1)?;
                    if !self.taken(b',') {
                        return self.expect(b']');
                    }
                }
            }
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), NotJson> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.wrong());
        }
        self.at += word.len();
        Ok(())
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.wrong()) }
    }

    fn number(&mut self) -> Result<(), NotJson> {
        self.at += usize::from(self.bytes.get(self.at) == Some(&b'-'));
        match self.bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(())
    }

    /// Passes a string, quotes included.
    pub fn string(&mut self) -> Result<Slot, NotJson> {
        let start = self.at;
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(self.wrong());
        }
        self.at += 1;
        loop {
            self.plain();
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(self.slot(start));
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(self.wrong()),
            }
        }
    }

    /// Passes what needs no look: eight bytes at a time up to a quote, a backslash or a control
    /// character.
    #[inline]
    fn plain(&mut self) {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const HIGH: u64 = 0x8080_8080_8080_8080;
        while let Some(chunk) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*chunk);
            let quote = word ^ (ONES * u64::from(b'"'));
            let slash = word ^ (ONES * u64::from(b'\\'));
            let special = (quote.wrapping_sub(ONES) & !quote)
                | (slash.wrapping_sub(ONES) & !slash)
                | (word.wrapping_sub(ONES * 0x20) & !word);
            // The lowest marked byte is exact; a borrow can only mark bytes above it.
            if special & HIGH != 0 {
                self.at += ((special & HIGH).trailing_zeros() / 8) as usize;
                return;
            }
            self.at += 8;
        }
        while self.bytes.get(self.at).is_some_and(|b| *b >= 0x20 && *b != b'"' && *b != b'\\') {
            self.at += 1;
        }
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u')
                if self
                    .bytes
                    .get(self.at + 2..self.at + 6)
                    .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) =>
            {
                self.at += 6;
            }
            _ => return Err(self.wrong()),
        }
        Ok(())
    }
}

/// The text that a string token (quotes included) stands for; any other token stands for itself.
/// A surrogate without its partner becomes U+FFFD.
pub fn text(token: &str) -> Cow<'_, str> {
    let Some(inner) = token.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
        return Cow::Borrowed(token);
    };
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let (c, used) = unescape(&rest[at..]);
        out.push(c);
        rest = &rest[at + used..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The character that the escape at the beginning of `text` stands for, and the bytes that it
/// takes.
fn unescape(text: &str) -> (char, usize) {
    let bytes = text.as_bytes();
    match bytes.get(1) {
        Some(b'b') => ('\u{8}', 2),
        Some(b'f') => ('\u{c}', 2),
        Some(b'n') => ('\n', 2),
        Some(b'r') => ('\r', 2),
        Some(b't') => ('\t', 2),
        Some(b'u') => {
            let unit = hex4(bytes, 2);
            if !(0xD800..0xE000).contains(&unit) {
                return (char::from_u32(unit).unwrap_or('\u{FFFD}'), 6);
            }
            let low = if bytes.get(6..8) == Some(b"\\u") { hex4(bytes, 8) } else { 0 };
            if unit < 0xDC00 && (0xDC00..0xE000).contains(&low) {
                let point = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                return (char::from_u32(point).unwrap_or('\u{FFFD}'), 12);
            }
            ('\u{FFFD}', 6)
        }
        Some(other) => (char::from(*other), 2),
        None => ('\u{FFFD}', 1),
    }
}

fn hex4(bytes: &[u8], at: usize) -> u32 {
    let digit = |b: &u8| char::from(*b).to_digit(16).unwrap_or(0);
    bytes.get(at..at + 4).map_or(0, |hex| hex.iter().fold(0, |sum, b| sum * 16 + digit(b)))
}

/// A JSON text in which no string holds NUL or half a surrogate pair, which PostgreSQL's jsonb does
/// not take: NUL is removed, a lone surrogate becomes U+FFFD. Everything else stays byte for byte.
pub fn storable(token: &str) -> Cow<'_, str> {
    rewritten(token, true)
}

/// A JSON text in which no string holds half a surrogate pair: a lone one becomes U+FFFD.
/// Everything else stays byte for byte.
pub fn well_formed(token: &str) -> Cow<'_, str> {
    rewritten(token, false)
}

fn rewritten(token: &str, without_nul: bool) -> Cow<'_, str> {
    if memchr::memmem::find(token.as_bytes(), b"\\u").is_none() {
        return Cow::Borrowed(token);
    }
    let mut out = String::with_capacity(token.len());
    let mut rest = token;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let (c, used) = unescape(&rest[at..]);
        match (c, rest.as_bytes().get(at + 1)) {
            ('\0', Some(b'u')) if without_nul => {}
            ('\u{FFFD}', Some(b'u')) => out.push('\u{FFFD}'),
            _ => out.push_str(&rest[at..at + used]),
        }
        rest = &rest[at + used..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accepts(text: &str) -> bool {
        let mut cursor = Cursor::new(text);
        cursor.value().is_ok_and(|slot| slot.of(text).is_some()) && cursor.end().is_ok()
    }

    #[test]
    fn takes_and_refuses_what_the_rfc_says() {
        for good in [
            "0",
            "-0.5e+3",
            "1E+3",
            "\"\\u00e9\\n\"",
            "[1,[],{}]",
            " {\"a\" : null } ",
            "\"\u{7f}é😀\"",
            "12345678901234567890",
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in [
            "",
            "01",
            "1.",
            ".5",
            "+1",
            "nul",
            "\"a",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "1 2",
            "[",
            "{\"a\"}",
        ] {
            assert!(!accepts(bad), "{bad}");
        }
        assert!(accepts(&("[".repeat(100) + &"]".repeat(100))));
        assert!(!accepts(&("[".repeat(100_000) + &"]".repeat(100_000))));
    }

    #[test]
    fn reads_escapes() {
        assert_eq!(text(r#""a\"\\\/\b\f\n\r\t\u0041\ud83d\ude00""#), "a\"\\/\u{8}\u{c}\n\r\tA😀");
        assert_eq!(text(r#""\ud83dx\ude00""#), "\u{FFFD}x\u{FFFD}");
        assert_eq!(text("1.50"), "1.50");
        assert_eq!(well_formed(r#"{"a\u0000":"\ud800"}"#), "{\"a\\u0000\":\"\u{FFFD}\"}");
        assert_eq!(
            storable(r#"{"a\u0000":"\\u0000 \ud800 \u00e9"}"#),
            "{\"a\":\"\\\\u0000 \u{FFFD} \\u00e9\"}"
        );
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect()))
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_valid_text(value in json(), pretty: bool) {
            let write = if pretty { serde_json::to_string_pretty } else { serde_json::to_string };
            let text = write(&value).unwrap_or_default();
            prop_assert!(accepts(&text), "{}", text);
        }

        #[test]
        fn agrees_with_serde_json_on_damaged_text(
            value in json(),
            at: prop::sample::Index,
            byte: u8,
        ) {
            let mut bytes = value.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(text) = String::from_utf8(bytes) {
                let library = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
                prop_assert_eq!(accepts(&text), library, "{}", text);
            }
        }

        #[test]
        fn text_is_what_serde_json_reads(s: String) {
            let token = serde_json::to_string(&s).unwrap_or_default();
            prop_assert_eq!(text(&token), s);
        }
    }
}
