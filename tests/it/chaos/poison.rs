//! Messages that are no events, and events that are no rows.

/// A bad message, and who knows that it is one.
pub struct BadMessage {
    pub subject: String,
    pub payload: Vec<u8>,
    /// It is an event; only what its values are is wrong.
    pub is_event: bool,
}

/// The forms that bad messages have; `#` is a number of the message's own.
const FORMS: [(&str, bool); 9] = [
    ("{", false),
    ("", false),
    ("\u{0}\u{fffd}", false),
    ("[1, 2]", false),
    ("null", false),
    (r##"{"operation":"UPDATE","table":7,"key":["bad#"],"after":{"id":"bad#"}}"##, false),
    (r##"{"table":"order","key":["bad#"],"after":{"id":"bad#"}}"##, false),
    (
        r##"{"operation":"INSERT","id":"bad#","table":"order","key":["bad#"],"modelVersion":"VERSION","companyId":"c0","locationId":"lc0","after":{"id":"bad#","companyId":"c0","number":"twelve"},"timestamp":1720732611000,"mvccTimestamp":"1720732611000000000.0000000000"}"##,
        true,
    ),
    (
        r##"{"operation":"INSERT","id":"bad#","table":"order","key":["bad#"],"modelVersion":"VERSION","companyId":"c0","locationId":"lc0","after":{"id":"bad#","companyId":"c0","archived":{"a":[1]}},"timestamp":1720732611000,"mvccTimestamp":"1720732611000000000.0000000000"}"##,
        true,
    ),
];

/// Poison number `number`; `version` is one of the table of orders.
pub fn poison(rng: &mut fastrand::Rng, number: usize, version: &str) -> BadMessage {
    let (form, is_event) = FORMS[rng.usize(..FORMS.len())];
    let text = form.replace('#', &number.to_string()).replace("VERSION", version);
    BadMessage {
        subject: format!("dbchange.order.insert.c0.lc0.PUBLIC.bad{number}"),
        payload: text.into_bytes(),
        is_event,
    }
}
