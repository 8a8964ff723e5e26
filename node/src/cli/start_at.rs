//! `--from`: where a consumer begins.

use std::time::UNIX_EPOCH;

/// Where to begin in each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The first record that can still be read.
    Beginning,
    /// What is yet to come.
    End,
    /// This offset.
    Offset(u64),
    /// So many records before the end.
    Last(u64),
    /// The first record at or after this time, in Unix milliseconds.
    Time(i64),
}

/// Reads `beginning`, `end`, `OFFSET`, `-N` or `@TIME`.
pub(crate) fn parse_from(text: &str) -> Result<From, String> {
    if let Some(time) = text.strip_prefix('@') {
        return parse_time(time).map(From::Time);
    }
    let number = |digits: &str| {
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<i64>().ok().filter(|_| plain).and_then(|number| u64::try_from(number).ok())
    };
    let start = match text {
        "beginning" => Some(From::Beginning),
        "end" => Some(From::End),
        _ => match text.strip_prefix('-') {
            Some(count) => number(count).map(From::Last),
            None => number(text).map(From::Offset),
        },
    };
    start.ok_or_else(|| "must be beginning, end, an OFFSET, -N (the last N records) or @TIME".to_owned())
}

/// Reads Unix milliseconds or RFC 3339. Parts of a millisecond are rounded up, so that "at or after" stays true.
pub(crate) fn parse_time(text: &str) -> Result<i64, String> {
    if let Ok(milliseconds) = text.parse::<i64>() {
        return Ok(milliseconds);
    }
    parse_rfc3339(text)
        .ok_or_else(|| "TIME is Unix milliseconds or RFC 3339, such as 2026-01-31T12:00:00Z".to_owned())
}

/// Humantime reads UTC only; an offset such as `+02:00` is taken off here.
fn parse_rfc3339(text: &str) -> Option<i64> {
    let text = text.to_ascii_uppercase();
    let (time, east_minutes) = match text.strip_suffix('Z') {
        Some(time) => (time, 0),
        None => {
            let (time, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
            (time, parse_offset(offset)?)
        }
    };
    // RFC 3339 allows a space for the T.
    let utc = format!("{}Z", time.replacen(' ', "T", 1));
    let since = humantime::parse_rfc3339(&utc).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let milliseconds = i64::try_from(since.as_nanos().div_ceil(1_000_000)).ok()?;
    Some(milliseconds - east_minutes * 60_000)
}

/// `+02:00` in minutes.
fn parse_offset(text: &str) -> Option<i64> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let two_digits = |digits: &str, below: i64| {
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<i64>().ok().filter(|number| plain && *number < below)
    };
    Some(sign * (two_digits(hours, 24)? * 60 + two_digits(minutes, 60)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_way_to_begin() {
        for (text, expected) in [
            ("beginning", From::Beginning),
            ("end", From::End),
            ("0", From::Offset(0)),
            ("9223372036854775807", From::Offset(i64::MAX.unsigned_abs())),
            ("-10", From::Last(10)),
            ("-0", From::Last(0)),
            ("@0", From::Time(0)),
            ("@-5", From::Time(-5)),
            ("@1700000000000", From::Time(1_700_000_000_000)),
            ("@1970-01-01T00:00:01Z", From::Time(1_000)),
            ("@1970-01-01t02:00:00.5+02:00", From::Time(500)),
            ("@1970-01-01 00:00:00-00:30", From::Time(1_800_000)),
            ("@1970-01-01T00:00:00.0000001Z", From::Time(1)),
        ] {
            assert_eq!(parse_from(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for text in [
            "",
            "start",
            "-",
            "--1",
            "-+1",
            "+1",
            "-x",
            "1.5",
            "9223372036854775808",
            "@",
            "@yesterday",
            "@2026-01-31",
            "@2026-01-31T12:00:00",
            "@2026-13-31T12:00:00Z",
            "@1970-01-01T00:00:00+2:00",
            "@1970-01-01T00:00:00+24:00",
            "@1970-01-01T00:00:00é",
            "@é",
        ] {
            assert!(parse_from(text).is_err(), "{text}");
        }
    }
}
