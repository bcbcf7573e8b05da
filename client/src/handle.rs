//! Values that the daemon keeps for a client: put once, used in any number of its calls.
//!
//! ```text
//!   put ──Packed──► Put, descriptors ══► daemon keeps them
//!                   Kept ◄══             Ref: a number
//!   call(.., Ref) ──Gather──► Call, handles: [number] ══► daemon sends the descriptors along
//!   last clone dropped ──► Release ══► daemon lets go, behind the calls that have it
//! ```

use std::fmt;
use std::sync::{Arc, Weak};

use clutch_protocol::attachment::Content;
use clutch_protocol::message::Welcome;
use clutch_protocol::{Failure, Frame, Kind, Reason};
use serde::ser::{Error as _, Serialize, Serializer};

use crate::exchange::{Letter, Target, Trouble, open};
use crate::memory::Packed;
use crate::memory::hand::{self, Enclosure, Place};

/// A value that the daemon keeps, as an argument of calls: what stands there is the value itself.
///
/// ```no_run
/// # async fn f(client: clutch_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use clutch_client::Tensor;
///
/// let weights = client.put(Tensor::from(vec![0.5_f64; 8_000_000])).await?;
/// for batch in 0..100 {
///     let loss: f64 = client.call("model:loss", (&weights, batch)).await?;
/// #   let _ = loss;
/// }
/// # Ok(())
/// # }
/// ```
///
/// It may stand anywhere in the arguments of a call or in the items of a map, any number of times,
/// in the codec `Plain`; not in an item of a [`Feed`](crate::Feed), nor in a value that is put.
/// Arrays in it are read-only for the function, and no worker copies them; everything else is made
/// anew for each call.
///
/// Clones are the same value. When the last one is dropped the daemon lets go of it, behind the
/// calls that have it; so it does when the connection ends. It belongs to the client that put it,
/// and to its clones: calls of another one refuse it before anything is sent.
#[derive(Clone)]
pub struct Ref(Arc<Held>);

struct Held {
    handle: u64,
    /// Where the value lies in the first of its descriptors, of which there are so many.
    offset: u64,
    length: u64,
    descriptors: usize,
    /// What the daemon counts for it.
    bytes: u64,
    /// The connection that it was put by.
    keeper: Weak<dyn Keeper>,
}

/// A connection by which values are put.
pub(crate) trait Keeper: Send + Sync {
    /// What its daemon has said.
    fn welcome(&self) -> &Welcome;

    /// Tells the daemon that no call to come has this handle. Never waits.
    fn release(&self, handle: u64);
}

impl Ref {
    /// Bytes of memory that the daemon keeps for it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    pub(crate) fn handle(&self) -> u64 {
        self.0.handle
    }

    pub(crate) fn descriptors(&self) -> usize {
        self.0.descriptors
    }

    /// Where the value lies in the first of them.
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.0.offset, self.0.length)
    }

    pub(crate) fn is(&self, other: &Ref) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Refuses a connection that has not put it, whose handles have other numbers.
    pub(crate) fn check<K: Keeper>(&self, keeper: &K) -> Result<(), Reason> {
        // As long as a weak one is there, no other connection has the same place in memory.
        if std::ptr::addr_eq(self.0.keeper.as_ptr(), std::ptr::from_ref(keeper)) {
            return Ok(());
        }
        let message = "a Ref of theirs was put by another client, or by one that has connected \
                       again since; put the value by this client";
        Err(Reason::BadArguments { message: message.to_owned() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.upgrade() {
            keeper.release(self.handle);
        }
    }
}

impl fmt::Debug for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Held { handle, bytes, .. } = &*self.0;
        f.debug_struct("Ref").field("handle", handle).field("bytes", bytes).finish()
    }
}

impl Serialize for Ref {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let enclosure =
            || Ok(Enclosure { content: Content::Value, place: Place::Kept(self.clone()) });
        hand::serialize(serializer, enclosure, Unwritable)
    }
}

/// A handle where it cannot be one.
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("a Ref can only be in the arguments of a call, in the codec Plain"))
    }
}

/// The request that a value be kept.
pub(crate) fn letter(packed: &Packed) -> Letter {
    Letter { descriptors: packed.descriptors.clone(), ..Letter::bare(Kind::Put) }
}

/// Who is said to have failed.
pub(crate) fn target() -> Target {
    Target::control("put")
}

/// Reads the answer.
pub(crate) fn opened(
    answer: Result<Frame, Trouble>,
    packed: &Packed,
    keeper: Weak<dyn Keeper>,
) -> Result<Ref, Failure> {
    let target = target();
    let answer = answer.map_err(|trouble| target.failure(trouble))?;
    let handle = open(answer, Kind::Kept, &target)?.header.id;
    let Packed { descriptors, bytes, offset, length } = packed;
    let (offset, length, bytes) = (*offset, *length, *bytes);
    let descriptors = descriptors.len();
    Ok(Ref(Arc::new(Held { handle, offset, length, descriptors, bytes, keeper })))
}
