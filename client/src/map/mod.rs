//! One function over many items.
//!
//! - `builder`: what a map is told before it begins.
//! - `settings`: that, and how a chunk becomes a call.
//! - `plan`: what to do next; pure.
//! - `sizer`: how many items travel together; pure.
//! - `answers`, `fold`: what came of them, until it is given out or folded; pure.
//! - `stream`: the async client's driver. The blocking client's is in `blocking`.

mod builder;

mod settings;

mod plan;

mod sizer;

mod answers;

mod fold;

mod stream;

pub use builder::{ItemError, Items, Map, Outcome};
pub(crate) use plan::{Order, Parcel, Plan, Step};
pub use settings::Chunk;
pub use stream::{Enumerated, Ordered, Unordered};
