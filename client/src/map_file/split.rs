//! How a file is cut into records.

/// Where records end, so that no chunk ends inside one. The function is given whole records: those
/// that begin in its chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// Behind line feeds: text, logs, JSON Lines. The function is given a `memoryview`.
    #[default]
    Lines,
    /// Anywhere: records of a fixed length, if the chunk's is a multiple of it. The function is
    /// given a `memoryview`.
    Bytes,
    /// Behind line feeds that are not in quotes. The function is given a `memoryview`.
    Csv(Csv),
    /// A row group of a Parquet file is a chunk. The function is given a `pyarrow.Table`; its pool
    /// needs pyarrow.
    ParquetRowGroups,
}

/// What CSV is written like: RFC 4180, and what is found beside it. A quote opens a quoted field
/// only at the field's beginning; inside, two of them are one; elsewhere it is a character like
/// any other. Records end with LF or CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Csv {
    pub(super) delimiter: u8,
    pub(super) has_header: bool,
}

impl Default for Csv {
    fn default() -> Csv {
        Csv { delimiter: b',', has_header: false }
    }
}

impl Csv {
    /// Fields are separated by commas, and the first record is one like any other.
    pub fn new() -> Csv {
        Csv::default()
    }

    /// The first record names the columns. It is in no chunk; the function is given the names with
    /// each, as the keyword argument `header`: a list of text.
    #[must_use]
    pub fn with_header(mut self) -> Csv {
        self.has_header = true;
        self
    }

    /// Fields are separated by this byte instead of a comma.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Csv {
        self.delimiter = delimiter;
        self
    }
}
