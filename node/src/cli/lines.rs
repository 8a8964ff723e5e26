//! Lines of a file or of standard input, read ahead by a thread of its own, within a bound.

use std::io::{self, BufRead, BufReader, Read};
use std::thread;

use bytes::Bytes;
use tokio::sync::mpsc;

/// The longest line that is taken. No topic takes a record that is longer, and a file without line ends must not fill
/// the memory.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 20;
/// Lines travel in packs of about this size...
const PACK_BYTES: usize = 256 << 10;
/// ...and of at most so many lines...
const PACK_LINES: usize = 1_024;
/// ...of which so many wait at most.
const PACKS_MAX: usize = 4;

/// One line, without its line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// As read; a last line may have had no line end.
    Whole(Bytes),
    /// Longer than [`LINE_BYTES_MAX`]: its length in bytes. It was read over.
    TooLong(u64),
}

/// Lines as they come. The thread that reads them is not awaited: a read from a terminal cannot be interrupted, so it
/// ends with the process or when it next finds that nobody listens.
pub(crate) struct Lines {
    packs: mpsc::Receiver<io::Result<Vec<Line>>>,
}

impl Lines {
    /// Starts to read.
    pub(crate) fn read(source: impl Read + Send + 'static) -> Self {
        let (tx, packs) = mpsc::channel(PACKS_MAX);
        thread::spawn(move || {
            let mut source = BufReader::with_capacity(64 << 10, source);
            loop {
                let pack = read_pack(&mut source, LINE_BYTES_MAX);
                let last = pack.as_ref().map_or(true, Vec::is_empty);
                if tx.blocking_send(pack).is_err() || last {
                    return;
                }
            }
        });
        Self { packs }
    }

    /// The next lines, at least one; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Vec<Line>>> {
        self.packs.recv().await.filter(|pack| !pack.as_ref().is_ok_and(Vec::is_empty))
    }
}

/// Reads what is there without waiting for more than the first line. Empty at the end.
fn read_pack(source: &mut BufReader<impl Read>, line_bytes_max: usize) -> io::Result<Vec<Line>> {
    let mut pack = Vec::new();
    let mut bytes = 0;
    while let Some(line) = read_line(source, line_bytes_max)? {
        bytes += match &line {
            Line::Whole(line) => line.len(),
            Line::TooLong(_) => 0,
        };
        pack.push(line);
        // Another line may be long in coming, when somebody types.
        if bytes >= PACK_BYTES || pack.len() >= PACK_LINES || !source.buffer().contains(&b'\n') {
            break;
        }
    }
    Ok(pack)
}

/// Reads a line. `None` at the end; an end right after a line end is no line.
fn read_line(source: &mut impl BufRead, line_bytes_max: usize) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let limit = u64::try_from(line_bytes_max).expect("a bound in memory fits") + 1;
    source.by_ref().take(limit).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(Line::Whole(line.into())));
    }
    if line.len() <= line_bytes_max {
        return Ok(Some(Line::Whole(line.into())));
    }
    let mut length = u64::try_from(line.len()).expect("a length in memory fits");
    drop(line);
    loop {
        let available = match source.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = available.iter().position(|byte| *byte == b'\n');
        let content = end.unwrap_or(available.len());
        length += u64::try_from(content).expect("a length in memory fits");
        let used = if end.is_some() { content + 1 } else { content };
        let done = end.is_some() || available.is_empty();
        source.consume(used);
        if done {
            return Ok(Some(Line::TooLong(length)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let mut source = BufReader::with_capacity(4, text.as_bytes());
        let mut lines = Vec::new();
        loop {
            let pack = read_pack(&mut source, 6).unwrap();
            if pack.is_empty() {
                break;
            }
            lines.extend(pack.into_iter().map(|line| match line {
                Line::Whole(line) => String::from_utf8(line.to_vec()).unwrap(),
                Line::TooLong(length) => format!("{length} bytes"),
            }));
        }
        assert_eq!(lines, expected, "{text:?}");
    }

    #[test]
    fn every_line_counts_with_or_without_its_end() {
        check("", &[]);
        check("a", &["a"]);
        check("a\n", &["a"]);
        check("a\nb", &["a", "b"]);
        check("\n\na\r\n\n", &["", "", "a\r", ""]);
    }

    #[test]
    fn a_line_that_is_too_long_is_read_over() {
        check("123456\nab", &["123456", "ab"]);
        check("1234567\nab\n", &["7 bytes", "ab"]);
        check("1234567890123\nab", &["13 bytes", "ab"]);
        check("1234567890123", &["13 bytes"]);
    }

    #[tokio::test]
    async fn lines_come_in_order_and_end() {
        let text: String = (0..5_000).map(|number| format!("{number}\n")).collect();
        let mut lines = Lines::read(io::Cursor::new(text.into_bytes()));
        let mut next = 0;
        while let Some(pack) = lines.next().await {
            for line in pack.unwrap() {
                assert_eq!(line, Line::Whole(next.to_string().into()));
                next += 1;
            }
        }
        assert_eq!(next, 5_000);
    }
}
