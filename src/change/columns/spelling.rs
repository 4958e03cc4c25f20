//! What of a value is hashed, and how a hash is known.

use crate::change::columns::HASH_DIGITS;
use crate::change::{json, value};

/// Whether a token is what [`ColumnRules::hash`] writes.
pub fn is_hash(token: &str) -> bool {
    let digits = token.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    digits.is_some_and(|digits| digits.len() == HASH_DIGITS && digits.bytes().all(is_digit))
}

/// What is hashed of a value: the text of a text; of a number one spelling; of other JSON what is
/// left without white space. An export may spell a value otherwise than an event does.
pub fn hashed_text(token: &str) -> Vec<u8> {
    match token.as_bytes().first() {
        Some(b'"') => json::text(token).into_owned().into_bytes(),
        Some(b'-' | b'0'..=b'9') => match value::integer(token) {
            Some(integer) => integer.to_string().into_bytes(),
            None => number_text(token).into_bytes(),
        },
        _ => {
            let (mut is_text, mut is_escaped) = (false, false);
            let mut stays = |b: &u8| {
                let stays = is_text || !b.is_ascii_whitespace();
                if *b == b'"' && !is_escaped {
                    is_text = !is_text;
                }
                is_escaped = *b == b'\\' && !is_escaped;
                stays
            };
            token.bytes().filter(|b| stays(b)).collect()
        }
    }
}

/// So many digits after the point, or zeros before it, are written; more as a power of ten.
const PLAIN_ZEROS_MAX: usize = 40;

/// One spelling of a number, with all its digits and no needless ones.
fn number_text(token: &str) -> String {
    let (mantissa, power) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    let left = all.trim_start_matches('0');
    let kept = left.trim_end_matches('0');
    match (kept.is_empty(), power.parse::<i64>()) {
        (true, _) => "0".to_owned(),
        (false, Ok(power)) => {
            let power = power - fraction.len() as i64 + (left.len() - kept.len()) as i64;
            match usize::try_from(power.unsigned_abs()) {
                Ok(zeros @ 0..=PLAIN_ZEROS_MAX) if power >= 0 => {
                    format!("{sign}{kept}{}", "0".repeat(zeros))
                }
                Ok(digits @ 0..=PLAIN_ZEROS_MAX) => {
                    let all = format!("{kept:0>width$}", width = digits + 1);
                    let (whole, fraction) = all.split_at(all.len() - digits);
                    format!("{sign}{whole}.{fraction}")
                }
                _ => format!("{sign}{kept}e{power}"),
            }
        }
        (false, Err(_)) => token.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_spelling_and_keeps_its_digits() {
        for (one, other) in
            [("1.50", "15e-1"), ("-0.10", "-1E-1"), ("0.0", "0e7"), ("12e2", "1200")]
        {
            assert_eq!(hashed_text(one), hashed_text(other), "{one} {other}");
        }
        let plain = [("15e-1", "1.5"), ("-0.50", "-0.5"), ("1e-3", "0.001"), ("1e60", "1e60")];
        for (token, text) in plain {
            assert_eq!(String::from_utf8_lossy(&hashed_text(token)), text);
        }
        let long = "12345678901234567890123";
        assert_ne!(hashed_text(long), hashed_text("12345678901234567890124"));
        assert_ne!(hashed_text("1.5"), hashed_text("-1.5"));
    }
}
