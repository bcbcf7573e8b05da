//! What came beside a value, checked before it is mapped: seals and sizes are asked of the kernel,
//! and the sender's table is believed only as far as they go.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use clutch_protocol::attachment::{Attachment, Attachments, Content};
use clutch_protocol::failure::Payload;
use clutch_protocol::plain::Attached;
use clutch_protocol::{Codec, Flags, Reason};
use nix::sys::stat::fstat;

use super::hand::{self, Memory, Offer};
use super::memfd::{adopt_ours, adopt_shared, adopt_still, copied, size};
use super::reuse;
use crate::inbox::Delivery;
use crate::sys::{FUTURE_SEALS, LENGTH_SEALS, VALUE_SEALS, seals};

/// The attachments of one payload. What they hold is unmapped and closed with the last value that
/// was made of it.
pub(crate) struct Received {
    list: Vec<Attachment>,
    memory: Vec<Memory>,
    /// Copies of what others may write while it is read.
    copies: Vec<OnceLock<Vec<u8>>>,
}

impl Received {
    /// What came with a frame: its value, and what is attached to that. What is attached in `raw`
    /// is the value.
    pub(crate) fn take(
        delivery: Delivery,
        limit: u64,
    ) -> Result<(Bytes, Option<Received>), Reason> {
        let Delivery { frame, descriptors } = delivery;
        if !frame.header.flags.has(Flags::ATTACHED) {
            return Ok((frame.payload, None));
        }
        if descriptors.len() < usize::from(frame.header.descriptors) {
            return Err(Reason::Unserializable {
                path: "result".into(),
                type_name: format!("memory with {} descriptors", frame.header.descriptors),
                message: "the program that called has too many open files to take it: raise its \
                          `ulimit -n`, keep fewer arrays, or make a stream's window smaller"
                    .into(),
            });
        }
        let (attached, value) = Received::open(&frame.payload, descriptors, limit)?;
        if frame.header.codec != Codec::Raw {
            return Ok((value, Some(attached)));
        }
        match attached.into_bytes() {
            Some(bytes) if value.is_empty() => Ok((bytes, None)),
            _ => {
                let detail = "a raw result is more or less than its only attachment".into();
                Err(Reason::Protocol { detail })
            }
        }
    }

    /// Takes a payload apart into what came beside it and its value.
    fn open(
        payload: &Bytes,
        descriptors: Vec<OwnedFd>,
        limit: u64,
    ) -> Result<(Received, Bytes), Reason> {
        let fault = |detail: String| Reason::Protocol {
            detail: format!("the result's attachments cannot be taken: {detail}"),
        };
        let (table, value) = Attachments::split(payload, descriptors.len())
            .map_err(|error| fault(error.to_string()))?;
        let value = payload.slice_ref(value);
        let list = table.list;
        let mut total = 0_u64;
        let mut sizes = Vec::with_capacity(descriptors.len());
        for (index, descriptor) in descriptors.iter().enumerate() {
            let size = checked_size(descriptor)
                .map_err(|what| fault(format!("descriptor {index} {what}")))?;
            total = total.saturating_add(size);
            sizes.push(size);
        }
        if total > limit {
            return Err(Reason::TooLarge { what: Payload::Result, bytes: total, limit });
        }
        // Attachments may lie on each other, and each can become a copy of its own.
        let claimed = list.iter().fold(0_u64, |sum, one| sum.saturating_add(one.bytes));
        if claimed > limit {
            return Err(Reason::TooLarge { what: Payload::Result, bytes: claimed, limit });
        }
        check_table(&list, &descriptors, &sizes).map_err(fault)?;
        let memory = map(&list, descriptors).map_err(|error| fault(error.to_string()))?;
        let copies = list.iter().map(|_| OnceLock::new()).collect();
        Ok((Received { list, memory, copies }, value))
    }

    /// The only attachment of a payload that has no value, as bytes.
    fn into_bytes(self) -> Option<Bytes> {
        let [attachment] = &self.list[..] else { return None };
        let (from, to) = ends(attachment);
        match (&self.memory[attachment.descriptor as usize], &attachment.content) {
            (Memory::Still(memory), Content::Bytes | Content::ByteArray) => {
                Some(Bytes::from_owner(Mapped(Arc::clone(memory))).slice(from..to))
            }
            _ => None,
        }
    }
}

/// Bytes that stay mapped as long as somebody looks at them.
pub(crate) struct Mapped(pub(crate) Arc<super::memfd::StillMemory>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.0.memory.bytes()
    }
}

/// The size of memory that nobody can make shorter, or what is wrong with it.
fn checked_size(descriptor: &OwnedFd) -> Result<u64, String> {
    if seals(descriptor.as_fd()) & LENGTH_SEALS == LENGTH_SEALS {
        return size(descriptor.as_fd()).map_err(|error| error.to_string());
    }
    let kind = fstat(descriptor).map_or(0, |status| status.st_mode) & nix::libc::S_IFMT;
    Err(match kind {
        nix::libc::S_IFREG => "is memory or a file whose length is not sealed".into(),
        nix::libc::S_IFIFO => "is a pipe, not memory".into(),
        nix::libc::S_IFSOCK => "is a socket, not memory".into(),
        _ => "is not memory".into(),
    })
}

/// Whether each attachment lies in its descriptor, is sealed as what it says it is, and each
/// descriptor has one.
fn check_table(list: &[Attachment], descriptors: &[OwnedFd], sizes: &[u64]) -> Result<(), String> {
    let mut used = BTreeSet::new();
    for (index, attachment) in list.iter().enumerate() {
        let number = attachment.descriptor as usize;
        let needs_value = match attachment.content {
            Content::Array { .. } => false,
            Content::Bytes | Content::ByteArray | Content::Arrow => true,
            Content::Range { .. }
            | Content::RowGroup { .. }
            | Content::Stream { .. }
            | Content::Value => {
                return Err(format!("attachment {index} is of a kind that no result has"));
            }
        };
        used.insert(number);
        let (end, size) = (attachment.end(), sizes[number]);
        if end.is_none_or(|end| end > size) {
            return Err(format!(
                "attachment {index} ends at byte {} of {size}",
                end.unwrap_or(u64::MAX)
            ));
        }
        let descriptor = descriptors[number].as_fd();
        let is_value = seals(descriptor) & VALUE_SEALS == VALUE_SEALS || reuse::is_ours(descriptor);
        if needs_value && !is_value {
            return Err(format!("attachment {index} is bytes that others can still change"));
        }
    }
    match used.len() {
        count if count == descriptors.len() => Ok(()),
        count => Err(format!("{} descriptors came for {count}", descriptors.len())),
    }
}

fn map(list: &[Attachment], descriptors: Vec<OwnedFd>) -> std::io::Result<Vec<Memory>> {
    let is_writable = |number: usize| {
        let mut its = list.iter().filter(|one| one.descriptor as usize == number);
        its.any(|one| matches!(one.content, Content::Array { writable: true, .. }))
    };
    let map = |(number, descriptor): (usize, OwnedFd)| {
        let seals = seals(descriptor.as_fd());
        if seals & VALUE_SEALS == VALUE_SEALS {
            adopt_still(descriptor).map(Memory::Still)
        } else if reuse::is_ours(descriptor.as_fd()) {
            adopt_ours(descriptor).map(Memory::Still)
        } else if seals & FUTURE_SEALS == FUTURE_SEALS {
            // What was shared for readers came back as a value, so as what it is now.
            copied(&*adopt_shared(descriptor, false)?).map(Memory::Still)
        } else {
            adopt_shared(descriptor, is_writable(number)).map(Memory::Shared)
        }
    };
    descriptors.into_iter().enumerate().map(map).collect()
}

/// Where an attachment begins and ends in its memory, which is mapped and so has a length.
fn ends(attachment: &Attachment) -> (usize, usize) {
    let place = |place: u64| usize::try_from(place).expect("it is mapped");
    (place(attachment.offset), place(attachment.offset + attachment.bytes))
}

impl Attached for Received {
    fn count(&self) -> usize {
        self.list.len()
    }

    fn content(&self, index: usize) -> &Content {
        &self.list[index].content
    }

    fn size(&self, index: usize) -> u64 {
        self.list[index].bytes
    }

    fn bytes(&self, index: usize) -> Result<&[u8], &'static str> {
        let attachment = &self.list[index];
        let (from, to) = ends(attachment);
        match &self.memory[attachment.descriptor as usize] {
            Memory::Still(memory) => Ok(&memory.memory.bytes()[from..to]),
            Memory::Shared(memory) => Ok(self.copies[index].get_or_init(|| {
                let mut copy = vec![0; to - from];
                memory.memory.read(from, &mut copy);
                copy
            })),
        }
    }

    fn offer(&self, index: usize) {
        let attachment = &self.list[index];
        let (offset, end) = ends(attachment);
        hand::offer(Offer {
            content: attachment.content.clone(),
            memory: self.memory[attachment.descriptor as usize].clone(),
            offset,
            bytes: end - offset,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::memfd::{create, seal, write_at};

    #[test]
    fn attachments_that_lie_on_each_other_count_each() {
        let bytes = [7; 4096];
        let one = Attachment { descriptor: 0, offset: 0, bytes: 4096, content: Content::Bytes };
        let payload = Attachments { list: vec![one.clone(), one] }.encode().unwrap().into();
        let open = |limit| {
            let descriptor = create().unwrap();
            write_at(descriptor.as_fd(), &bytes, 0).unwrap();
            seal(descriptor.as_fd(), VALUE_SEALS).unwrap();
            Received::open(&payload, vec![descriptor], limit).map(|(received, _)| received)
        };
        let both = open(8192).unwrap_or_else(|reason| panic!("{reason:?}"));
        assert_eq!([Ok(&bytes[..]); 2], [both.bytes(0), both.bytes(1)]);
        assert!(matches!(
            open(8191),
            Err(Reason::TooLarge { what: Payload::Result, bytes: 8192, limit: 8191 })
        ));
    }
}
