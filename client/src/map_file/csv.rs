//! CSV, as far as the ends of its records and the names of its columns go. Pure: bytes come from
//! `cuts`.
//!
//! Whether a line feed ends a record depends on every quote before it, so the file is gone through
//! from its start; most of it at the speed at which memory can be searched for a quote.

use memchr::{memchr, memchr2};

/// What some editors put in front of UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Goes through a file, piece by piece, and finds ends of records.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    delimiter: u8,
    place: Place,
    /// The last byte of the piece before; a line feed at first.
    last: u8,
    /// Bytes gone through, from the file's start.
    at: u64,
    /// Where the last quoted field was opened.
    quote_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Outside,
    /// Inside a quoted field.
    Inside,
    /// Behind a quote inside a quoted field: its end, or half of one that is meant.
    Quote,
}

impl Scanner {
    /// Begins at the beginning of a record.
    pub(super) fn new(delimiter: u8, at: u64) -> Scanner {
        Scanner { delimiter, place: Place::Outside, last: b'\n', at, quote_at: at }
    }

    /// How far it is.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Where the quoted field begins that it is in, if it is in one.
    pub(super) fn open_quote(&self) -> Option<u64> {
        (self.place == Place::Inside).then_some(self.quote_at)
    }

    /// Goes through the next piece of the file, as far as behind the first record's end that is at
    /// byte `wanted` or later: gives how many bytes that is. All of them when there is none.
    pub(super) fn scan(&mut self, piece: &[u8], wanted: u64) -> Option<usize> {
        let start = self.at;
        let mut done = 0;
        while done < piece.len() {
            match self.place {
                Place::Inside => match memchr(b'"', &piece[done..]) {
                    None => done = piece.len(),
                    Some(more) => {
                        done += more + 1;
                        self.place = Place::Quote;
                    }
                },
                Place::Quote if piece[done] == b'"' => {
                    done += 1;
                    self.place = Place::Inside;
                }
                Place::Quote => {
                    self.place = Place::Outside;
                }
                Place::Outside => {
                    // Line feeds count from the last byte before the one that is wanted.
                    let quiet = wanted.saturating_sub(1).saturating_sub(start + done as u64);
                    let quiet = usize::try_from(quiet).unwrap_or(usize::MAX);
                    let rest = &piece[done..];
                    let found = match rest.split_at_checked(quiet) {
                        None | Some((_, [])) => memchr(b'"', rest),
                        Some((quietly, _)) => memchr(b'"', quietly).or_else(|| {
                            memchr2(b'"', b'\n', &rest[quiet..]).map(|more| quiet + more)
                        }),
                    };
                    let Some(more) = found else {
                        done = piece.len();
                        continue;
                    };
                    let hit = done + more;
                    done = hit + 1;
                    if piece[hit] == b'\n' {
                        self.advance(piece, done);
                        return Some(done);
                    }
                    let before = hit.checked_sub(1).map_or(self.last, |before| piece[before]);
                    if self.opens(before) {
                        self.place = Place::Inside;
                        self.quote_at = start + hit as u64;
                    }
                }
            }
        }
        self.advance(piece, done);
        None
    }

    fn advance(&mut self, piece: &[u8], done: usize) {
        self.at += done as u64;
        self.last = piece[..done].last().copied().unwrap_or(self.last);
    }

    /// Whether a quote behind this byte begins a quoted field.
    fn opens(&self, before: u8) -> bool {
        before == self.delimiter || matches!(before, b'\n' | b'\r')
    }
}

/// The fields of a record, without the byte order mark of a file's first. When they are not text,
/// the first byte that is not.
pub(super) fn fields(record: &[u8], delimiter: u8) -> Result<Vec<String>, usize> {
    let mark = if record.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let text = std::str::from_utf8(record).map_err(|error| error.valid_up_to())?;
    let text = &text[mark..];
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let delimiter = char::from(delimiter);
    let mut fields = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        let mut field = String::new();
        let mut more = false;
        let mut is_quoted = rest.next_if_eq(&'"').is_some();
        while let Some(next) = rest.next() {
            match next {
                '"' if is_quoted && rest.next_if_eq(&'"').is_some() => field.push('"'),
                '"' if is_quoted => is_quoted = false,
                next if next == delimiter && !is_quoted => {
                    more = true;
                    break;
                }
                next => field.push(next),
            }
        }
        fields.push(field);
        if !more {
            return Ok(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ends of all records, as a machine says that takes one byte after the other.
    fn ends(text: &[u8]) -> Vec<u64> {
        let (mut ends, mut is_inside, mut before) = (Vec::new(), false, b'\n');
        let mut bytes = text.iter().copied().enumerate().peekable();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' if is_inside => {
                    // Two are one, and the field goes on.
                    is_inside = bytes.next_if(|(_, next)| *next == b'"').is_some();
                }
                b'"' => is_inside = matches!(before, b'\n' | b'\r' | b','),
                b'\n' if !is_inside => ends.push(at as u64 + 1),
                _ => {}
            }
            before = byte;
        }
        ends
    }

    /// The same by the scanner, in pieces of a size, for a wish.
    fn first_end(text: &[u8], piece: usize, wanted: u64) -> Option<u64> {
        let mut scanner = Scanner::new(b',', 0);
        for piece in text.chunks(piece) {
            if scanner.scan(piece, wanted).is_some() {
                return Some(scanner.at());
            }
        }
        assert_eq!(text.len() as u64, scanner.at());
        None
    }

    fn check(text: &[u8]) {
        let ends = ends(text);
        for piece in [1, 2, 3, 7, text.len().max(1)] {
            for wanted in 0..=text.len() as u64 + 1 {
                let expected = ends.iter().copied().find(|end| *end >= wanted);
                let shown = String::from_utf8_lossy(text);
                assert_eq!(expected, first_end(text, piece, wanted), "{shown:?} {piece} {wanted}");
            }
        }
    }

    #[test]
    fn every_short_text_is_cut_as_byte_by_byte() {
        let alphabet = b"\",\na\r";
        for length in 0..6_u32 {
            for number in 0..5_usize.pow(length) {
                let text: Vec<u8> =
                    (0..length).map(|at| alphabet[number / 5_usize.pow(at) % 5]).collect();
                check(&text);
            }
        }
    }

    #[test]
    fn what_is_found_in_files() {
        for text in [
            "a,b\n1,2\n",
            "a,b\r\n\"1\n1\",2\r\n3,4",
            "\"say \"\"\n\"\"\",x\ny\n",
            "5\" disk,\"a\nb\"\nc\n",
            "\"\",\"\"\n\"\n\"\n",
            "\"a\"b\"\nc\n",
            "\n\n\"\n\n\"\n",
        ] {
            check(text.as_bytes());
        }
    }

    #[test]
    fn a_quote_that_stays_open_is_known() {
        let mut scanner = Scanner::new(b';', 3);
        assert_eq!(None, scanner.scan(b"a;\"b\n", 0));
        assert_eq!(Some(5), scanner.open_quote());
        assert_eq!(Some(2), scanner.scan(b"\"\nc", 0));
        assert_eq!((None, 10), (scanner.open_quote(), scanner.at()));
    }

    #[test]
    fn a_header_is_its_names() {
        let names = |record: &str| fields(record.as_bytes(), b',').unwrap();
        assert_eq!(["a", "b c", ""], *names("a,b c,\r\n"));
        assert_eq!(["a,\"x\"\n", "ü"], *names("\u{feff}\"a,\"\"x\"\"\n\",ü\n"));
        assert_eq!([""], *names(""));
        assert_eq!(["a", "b"], *fields(b"a\tb", b'\t').unwrap());
        assert_eq!(Err(2), fields(b"a,\xff", b','));
    }
}
