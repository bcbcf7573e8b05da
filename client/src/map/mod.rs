//! One function over many items.
//!
//! - `builder`: what a map is told before it begins.
//! - `settings`: that, and how a chunk becomes a call.
//! - `plan`: what to do next; pure.
//! - `sizer`: how many items travel together; pure.
//! - `stream`: the async client's driver. The blocking client's is in `blocking`.

mod builder;

mod settings;

mod plan;

mod sizer;

mod stream;

pub use builder::{ItemError, Items, Map};
pub(crate) use plan::{Order, Parcel, Plan, Step};
pub use settings::Chunk;
pub use stream::{Ordered, Unordered};
