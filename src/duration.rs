//! Durations as Go writes them: `1ms`, `2s`, `1h30m`, `1.5s`.

use std::time::Duration;

/// Reads a duration; a bare number has no unit and is refused, `0` is not.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write 100ms, 2s or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end =
            rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |i| digits + i);
        let unit = match &rest[digits..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        seconds += number * unit;
        rest = &rest[unit_end..];
    }
    if text.is_empty() {
        Err(wrong())
    } else {
        Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes() {
        for (text, millis) in [
            ("1ms", 1),
            ("2s", 2000),
            ("1h30m", 5_400_000),
            ("1.5s", 1500),
            ("0", 0),
            ("0s", 0),
            ("1m0.5s", 60_500),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "1", "s", "1 s", "-1s", "1d", "1.2.3s", "ms1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
