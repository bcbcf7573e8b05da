//! What is attached to a value that is sent: large buffers, copied once into one memfd, and memory
//! that has a descriptor already.
//!
//! How much there is, is known before anything of it is copied, but for bytes that serde lends for
//! a moment only: those are copied as they come, as long as they are within the limit.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use clutch_protocol::Reason;
use clutch_protocol::attachment::{Attachment, Attachments, Content};
use clutch_protocol::failure::Payload;
use clutch_protocol::limits::{ATTACHMENTS_MAX, DESCRIPTORS_MAX, STREAMS_MAX};
use clutch_protocol::plain::{Attach, Unattached};

use super::hand::{self, Enclosure, Place};
use super::memfd::Pile;
use super::reuse;
use crate::feed::Feed;
use crate::handle::Ref;

mod put;

pub(crate) use put::Packed;

/// A payload, and what travels beside it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    /// Whether the bytes begin with a table of attachments.
    pub(crate) attached: bool,
    pub(crate) descriptors: Vec<Arc<OwnedFd>>,
    /// Bytes of what they stand for.
    pub(crate) beside: u64,
    /// What its streams are fed with, by their numbers from 1.
    pub(crate) feeds: Vec<Feed>,
    /// What it needs of the values that were put, each once.
    pub(crate) refs: Vec<Ref>,
}

impl Body {
    /// Bytes of the payload itself.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body { bytes, ..Body::default() }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Bytes::from(bytes).into()
    }
}

/// Gathers the attachments of one payload.
pub(crate) struct Gather {
    /// How many bytes may be attached.
    limit: u64,
    /// How many are: the sizes of all descriptors, as the daemon will count them.
    elsewhere: u64,
    list: Vec<Attachment>,
    descriptors: Vec<Arc<OwnedFd>>,
    feeds: Vec<Feed>,
    refs: Vec<Ref>,
    /// Descriptors of those.
    refs_descriptors: usize,
    /// Whether it is a value to be put.
    is_put: bool,
    /// What is copied, if anything is.
    pile: Option<Piled>,
    refusal: Option<Reason>,
}

/// The memory for copies.
struct Piled {
    pile: Pile,
    /// Its end when all that waits will have been copied.
    end: u64,
    /// What is copied last, when it is known that it may be: the attachment, and its bytes.
    waiting: Vec<(usize, Waiting)>,
}

enum Waiting {
    Here(Arc<dyn AsRef<[u8]> + Send + Sync>),
    Still(Arc<super::memfd::StillMemory>, std::ops::Range<usize>),
}

/// The number of the pile among the descriptors, which is only known at the end.
const PILE: u32 = u32::MAX;

/// What stands for the number of the first descriptor of the first value that was put, which is
/// known no sooner, and up from there for those of the others.
const REFS: u32 = 1 << 16;

const _: () = assert!(DESCRIPTORS_MAX as u32 * 2 < REFS && REFS * 2 < PILE);

impl Gather {
    pub(crate) fn new(limit: u64) -> Gather {
        Gather {
            limit,
            elsewhere: 0,
            list: Vec::new(),
            descriptors: Vec::new(),
            feeds: Vec::new(),
            refs: Vec::new(),
            refs_descriptors: 0,
            is_put: false,
            pile: None,
            refusal: None,
        }
    }

    /// Attaches bytes, which are copied now.
    pub(crate) fn copy(&mut self, bytes: &[u8], content: Content) -> Result<(), Unattached> {
        let may = self.reserve(bytes.len() as u64)?;
        let piled = self.pile.as_mut().expect("room was reserved in it");
        // What would be too much is only counted, so that the refusal can say how much it is.
        let offset = match may {
            true => piled.pile.add(bytes).map_err(|error| self.refuse(failed(&error)))?,
            false => 0,
        };
        let bytes = bytes.len() as u64;
        self.list.push(Attachment { descriptor: PILE, offset, bytes, content });
        Ok(())
    }

    /// Attaches what was handed over.
    pub(crate) fn enclose(&mut self, enclosure: Enclosure) -> Result<(), Unattached> {
        if self.list.len() >= ATTACHMENTS_MAX {
            let message =
                format!("they hold more than {ATTACHMENTS_MAX} arrays; send fewer at a time");
            return Err(self.refuse(Reason::BadArguments { message }));
        }
        let Enclosure { content, place } = enclosure;
        match place {
            Place::Feed(_) | Place::Kept(_) if self.is_put => {
                let message = "a value that is put can hold neither a feed nor a Ref".to_owned();
                Err(self.refuse(Reason::BadArguments { message }))
            }
            Place::Kept(kept) => self.refer(kept),
            Place::Feed(feed) => {
                self.feeds.push(feed);
                let stream = u32::try_from(self.feeds.len()).unwrap_or(u32::MAX);
                if stream >= STREAMS_MAX {
                    let message = format!("they hold more than {} feeds", STREAMS_MAX - 1);
                    return Err(self.refuse(Reason::BadArguments { message }));
                }
                let (descriptor, offset, bytes) = (0, 0, 0);
                let content = Content::Stream { stream };
                self.list.push(Attachment { descriptor, offset, bytes, content });
                Ok(())
            }
            Place::Here(bytes) => {
                let length = (*bytes).as_ref().len() as u64;
                self.wait(Waiting::Here(bytes), length, content)
            }
            Place::Still { memory, offset, bytes } => {
                let size = memory.memory.bytes().len() as u64;
                if let Some(descriptor) = self.descriptor(&memory.descriptor, size) {
                    self.list.push(Attachment { descriptor, offset, bytes, content });
                    return Ok(());
                }
                let at = |place: u64| usize::try_from(place).expect("it is mapped");
                let range = at(offset)..at(offset + bytes);
                self.wait(Waiting::Still(memory, range), bytes, content)
            }
            Place::Descriptor { descriptor, size, offset, bytes } => {
                let Some(descriptor) = self.descriptor(&descriptor, size) else {
                    return Err(self.refuse(crowded()));
                };
                self.list.push(Attachment { descriptor, offset, bytes, content });
                Ok(())
            }
        }
    }

    /// The number of a descriptor, the same every time; none when there is no room for it. One
    /// place is left for copies.
    fn descriptor(&mut self, descriptor: &Arc<OwnedFd>, size: u64) -> Option<u32> {
        let known = self.descriptors.iter().position(|other| Arc::ptr_eq(other, descriptor));
        if let Some(number) = known {
            return u32::try_from(number).ok();
        }
        if !self.has_room_for(1) {
            return None;
        }
        self.descriptors.push(Arc::clone(descriptor));
        self.elsewhere = self.elsewhere.saturating_add(size);
        u32::try_from(self.descriptors.len() - 1).ok()
    }

    /// Whether so many descriptors more, and one for copies, can travel.
    fn has_room_for(&self, more: usize) -> bool {
        let most = usize::from(if self.is_put { DESCRIPTORS_MAX - 1 } else { DESCRIPTORS_MAX });
        self.descriptors.len() + self.refs_descriptors + more < most
    }

    /// Attaches what was put.
    fn refer(&mut self, kept: Ref) -> Result<(), Unattached> {
        let (offset, bytes) = kept.place();
        let known = self.refs.iter().position(|other| other.is(&kept));
        let number = match known {
            Some(number) => number,
            None => {
                if !self.has_room_for(kept.descriptors()) {
                    return Err(self.refuse(crowded()));
                }
                self.refs_descriptors += kept.descriptors();
                self.elsewhere = self.elsewhere.saturating_add(kept.bytes());
                self.refs.push(kept);
                self.refs.len() - 1
            }
        };
        let descriptor = REFS + u32::try_from(number).expect("they were counted");
        self.list.push(Attachment { descriptor, offset, bytes, content: Content::Value });
        Ok(())
    }

    fn wait(&mut self, what: Waiting, bytes: u64, content: Content) -> Result<(), Unattached> {
        self.reserve(bytes)?;
        let index = self.list.len();
        let piled = self.pile.as_mut().expect("room was reserved in it");
        piled.waiting.push((index, what));
        self.list.push(Attachment { descriptor: PILE, offset: 0, bytes, content });
        Ok(())
    }

    /// Makes room for copies; false when that is too much.
    fn reserve(&mut self, bytes: u64) -> Result<bool, Unattached> {
        if self.pile.is_none() {
            self.pile = Some(Piled::new());
        }
        let piled = self.pile.as_mut().expect("it was just made");
        piled.end = Pile::next(piled.end).saturating_add(bytes);
        Ok(self.total() <= self.limit)
    }

    /// How many bytes will be attached.
    fn total(&self) -> u64 {
        let copies = self.pile.as_ref().map_or(0, |piled| piled.end);
        self.elsewhere.saturating_add(copies)
    }

    /// Puts the table before the value.
    pub(crate) fn finish(mut self, value: Vec<u8>) -> Result<Body, Reason> {
        if self.list.is_empty() {
            return Ok(value.into());
        }
        let (total, limit) = (self.total(), self.limit);
        if total > limit {
            return Err(Reason::TooLarge { what: Payload::Arguments, bytes: total, limit });
        }
        if let Some(piled) = self.pile.take() {
            let number = u32::try_from(self.descriptors.len()).expect("they were counted");
            let room = limit - self.elsewhere;
            let pile = pile_up(piled, &mut self.list, room).map_err(|error| failed(&error))?;
            for attachment in self.list.iter_mut().filter(|one| one.descriptor == PILE) {
                attachment.descriptor = number;
            }
            self.descriptors.push(Arc::new(pile));
        }
        self.number_refs();
        let table = Attachments { list: self.list }.encode();
        let table = table.map_err(|error| Reason::BadArguments { message: error.to_string() })?;
        let bytes = if value.is_empty() { table } else { [table, value].concat() };
        let (descriptors, feeds, refs) = (self.descriptors, self.feeds, self.refs);
        Ok(Body { bytes: bytes.into(), attached: true, descriptors, beside: total, feeds, refs })
    }

    /// Numbers the descriptors of what was put, which are behind the others.
    fn number_refs(&mut self) {
        let count = |descriptors: usize| u32::try_from(descriptors).expect("they were counted");
        let mut next = count(self.descriptors.len());
        let mut first = Vec::with_capacity(self.refs.len());
        for kept in &self.refs {
            first.push(next);
            next += count(kept.descriptors());
        }
        for attachment in self.list.iter_mut().filter(|one| one.content == Content::Value) {
            attachment.descriptor = first[(attachment.descriptor - REFS) as usize];
        }
    }

    /// Why something could not be attached.
    pub(crate) fn refusal(self) -> Option<Reason> {
        self.refusal
    }

    fn refuse(&mut self, reason: Reason) -> Unattached {
        self.refusal.get_or_insert(reason);
        Unattached
    }
}

/// Copies what waited, and seals the memory, of which there may be so much.
fn pile_up(mut piled: Piled, list: &mut [Attachment], room: u64) -> io::Result<OwnedFd> {
    let parts: Vec<&[u8]> = piled.waiting.iter().map(|(_, waiting)| waiting.bytes()).collect();
    let reused = if piled.pile.is_empty() { reuse::pack(&parts, room) } else { None };
    if let Some((descriptor, places)) = reused {
        for ((index, _), place) in piled.waiting.iter().zip(places) {
            list[*index].offset = place;
        }
        return Ok(descriptor);
    }
    for ((index, _), bytes) in piled.waiting.iter().zip(parts) {
        list[*index].offset = piled.pile.add(bytes)?;
    }
    piled.pile.finish()
}

impl Piled {
    fn new() -> Piled {
        Piled { pile: Pile::new(), end: 0, waiting: Vec::new() }
    }
}

impl Waiting {
    fn bytes(&self) -> &[u8] {
        match self {
            Waiting::Here(bytes) => (**bytes).as_ref(),
            Waiting::Still(memory, range) => &memory.memory.bytes()[range.clone()],
        }
    }
}

fn crowded() -> Reason {
    let message = format!(
        "they hold more than {} shared arrays or files, those of what was put among them; send \
         fewer at a time",
        DESCRIPTORS_MAX - 1
    );
    Reason::BadArguments { message }
}

fn failed(error: &io::Error) -> Reason {
    let message = format!("memory for large arguments is not to be had: {error}");
    Reason::BadArguments { message }
}

impl Attach for Gather {
    fn bytes(&mut self, bytes: &[u8], content: Content) -> Result<bool, Unattached> {
        if self.list.len() >= ATTACHMENTS_MAX {
            return Ok(false);
        }
        self.copy(bytes, content).map(|()| true)
    }

    fn invite(&mut self) {
        hand::invite();
    }

    fn accept(&mut self) -> Result<bool, Unattached> {
        match hand::accept() {
            Some(enclosure) => self.enclose(enclosure).map(|()| true),
            None => Ok(false),
        }
    }
}
