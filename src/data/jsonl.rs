//! The lines of a file, one at a time and of bounded length, so that a file may be larger than memory.

use std::io::{self, BufRead, BufReader, Read};

/// A longer line is no row: it is passed over without being held.
pub const MAX_LINE_BYTES: usize = 10 << 20;

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// At most [`MAX_LINE_BYTES`] bytes.
    Bytes(Vec<u8>),
    /// A longer one, which was not kept.
    TooLong {
        /// How long it is.
        bytes: u64,
    },
}

/// Reads lines and counts them.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    number: u64,
}

impl<R: Read> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(1 << 16, reader), number: 0 }
    }

    /// The next line that is not blank, with its number from 1; `None` at the end. A byte order mark at
    /// the start of the file is left out.
    pub fn next_line(&mut self) -> io::Result<Option<(u64, Line)>> {
        loop {
            let Some(mut line) = self.read_line()? else { return Ok(None) };
            self.number += 1;
            if let Line::Bytes(bytes) = &mut line {
                if self.number == 1 && bytes.starts_with(b"\xEF\xBB\xBF") {
                    bytes.drain(..3);
                }
                if bytes.trim_ascii().is_empty() {
                    continue;
                }
            }
            return Ok(Some((self.number, line)));
        }
    }

    fn read_line(&mut self) -> io::Result<Option<Line>> {
        let mut kept = Vec::new();
        let mut length = 0_u64;
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if buffer.is_empty() {
                if length == 0 {
                    return Ok(None);
                }
                break;
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            length += part.len() as u64;
            if length <= MAX_LINE_BYTES as u64 {
                kept.extend_from_slice(part);
            } else {
                kept = Vec::new();
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                break;
            }
        }
        let fits = length <= MAX_LINE_BYTES as u64;
        Ok(Some(if fits { Line::Bytes(kept) } else { Line::TooLong { bytes: length } }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<(u64, Line)> {
        let mut lines = Lines::new(bytes);
        std::iter::from_fn(|| lines.next_line().unwrap()).collect()
    }

    fn text(line: &str) -> Line {
        Line::Bytes(line.as_bytes().to_vec())
    }

    #[test]
    fn lines_have_their_numbers_and_blank_ones_are_passed_over() {
        let lines = all(b"\xEF\xBB\xBFa\r\n\n  \nb\n\nc");
        assert_eq!(lines, [(1, text("a\r")), (4, text("b")), (6, text("c"))]);
        assert!(all(b"").is_empty() && all(b"\n\n").is_empty());
    }

    #[test]
    fn a_line_beyond_the_bound_is_measured_and_not_kept() {
        let mut bytes = vec![b'x'; MAX_LINE_BYTES];
        assert_eq!(all(&bytes).len(), 1);
        assert!(matches!(&all(&bytes)[0].1, Line::Bytes(kept) if kept.len() == MAX_LINE_BYTES));
        bytes.extend_from_slice(b"xyz\nafter");
        let lines = all(&bytes);
        assert_eq!(lines[0], (1, Line::TooLong { bytes: MAX_LINE_BYTES as u64 + 3 }));
        assert_eq!(lines[1], (2, text("after")));
    }
}
