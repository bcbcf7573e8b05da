//! How a value meets who gathers its attachments, and who has them: on the stack of the thread that
//! serializes, since serde lets nothing pass that is not data.
//!
//! An invitation is good for the very next serialization only, which the codec arranges. So a
//! tensor that is written by any other format, even in the middle of a call's arguments, finds none
//! and writes itself as lists.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use clutch_protocol::attachment::Content;
use clutch_protocol::plain::ATTACHED;
use serde::ser::{Error as _, Serialize, Serializer};

use super::memfd::{SharedMemory, StillMemory};
use crate::feed::Feed;
use crate::handle::Ref;

/// Something that is attached as a whole.
pub(crate) struct Enclosure {
    pub(crate) content: Content,
    pub(crate) place: Place,
}

/// Where it is.
pub(crate) enum Place {
    /// In memory of this process, to be copied.
    Here(Arc<dyn AsRef<[u8]> + Send + Sync>),
    /// In memory that has a descriptor and may be sent by it, or copied.
    Still {
        /// The memory.
        memory: Arc<StillMemory>,
        /// Where it begins in that.
        offset: u64,
        /// How long it is.
        bytes: u64,
    },
    /// Nowhere yet: it comes item by item.
    Feed(Feed),
    /// With the daemon, which was given it before.
    Kept(Ref),
    /// In what a descriptor stands for, and nowhere else: shared memory, a file.
    Descriptor {
        /// The descriptor.
        descriptor: Arc<OwnedFd>,
        /// How much the daemon will count for it: the size of memory, nothing for a file.
        size: u64,
        /// Where it begins in that.
        offset: u64,
        /// How long it is.
        bytes: u64,
    },
}

/// Something that came and is taken as a whole.
pub(crate) struct Offer {
    pub(crate) content: Content,
    pub(crate) memory: Memory,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// Memory that came.
#[derive(Clone)]
pub(crate) enum Memory {
    /// It never changes.
    Still(Arc<StillMemory>),
    /// Others may write it.
    Shared(Arc<SharedMemory>),
}

thread_local! {
    static INVITED: Cell<bool> = const { Cell::new(false) };
    static HANDED: RefCell<Option<Enclosure>> = const { RefCell::new(None) };
    static OFFERED: RefCell<Option<Offer>> = const { RefCell::new(None) };
}

/// Lets the next value that is serialized hand itself over.
pub(crate) fn invite() {
    HANDED.take();
    INVITED.set(true);
}

/// What was handed over since, if anything was.
pub(crate) fn accept() -> Option<Enclosure> {
    INVITED.set(false);
    HANDED.take()
}

/// Gives something to the value that is deserialized next.
pub(crate) fn offer(offer: Offer) {
    OFFERED.replace(Some(offer));
}

/// What was given.
pub(crate) fn take_offer() -> Option<Offer> {
    OFFERED.take()
}

/// Serializes what can be attached as a whole, and is `otherwise` where nobody invites it to.
pub(crate) fn serialize<S: Serializer>(
    serializer: S,
    enclosure: impl Fn() -> Result<Enclosure, String>,
    otherwise: impl Serialize,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_newtype_struct(ATTACHED, &Inner { enclosure, otherwise })
}

struct Inner<E, O> {
    enclosure: E,
    otherwise: O,
}

impl<E: Fn() -> Result<Enclosure, String>, O: Serialize> Serialize for Inner<E, O> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if INVITED.replace(false) {
            let enclosure = (self.enclosure)().map_err(S::Error::custom)?;
            HANDED.replace(Some(enclosure));
            serializer.serialize_unit()
        } else {
            self.otherwise.serialize(serializer)
        }
    }
}
