//! One function over the chunks of a file.
//!
//! ```text
//!   file ──cuts: where?──► plan ──a range, and the file's descriptor──► daemon ──► worker
//!                                                            maps its own range ◄──┘
//! ```
//!
//! Only bounds travel. Who cuts:
//!
//! | split | who looks for records' ends |
//! |---|---|
//! | bytes | nobody: ranges are what they say |
//! | lines | each worker, around its own bounds: ranges fall anywhere |
//! | csv | a thread of this client's, a few chunks ahead: it takes all quotes before to know |
//! | row groups | nobody: the file's footer counts them |
//!
//! - `builder`: what a map-file is told before it begins, and how it can fail.
//! - `split`: how a file is cut into records.
//! - `source`: the file: opened once, and watched for changes.
//! - `csv`, `parquet`: the two formats, as far as needed; pure.
//! - `cuts`: where the chunks are.
//! - `settings`: how a chunk becomes a call.
//! - `plan`: what to do next; pure.
//! - `stream`: the async client's driver. The blocking client's is in `blocking`.

mod builder;

mod split;

mod source;

mod csv;

mod parquet;

mod cuts;

mod settings;

mod plan;

mod stream;

pub use builder::{FileChunk, MapFile, MapFileError};
pub(crate) use cuts::Cuts;
pub use parquet::ParquetFault;
pub(crate) use plan::{Item, Order, Parcel, Plan, Step, indexed};
pub(crate) use settings::{Input, Job};
pub use source::{FileError, FileFault, SourceFile};
pub use split::{Csv, Split};
pub use stream::{FileOrdered, FileUnordered};
