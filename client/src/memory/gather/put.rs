//! A value for the daemon to keep: its payload, and all that is copied of what is attached to it,
//! in one memory that nobody can write any more.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use clutch_protocol::Reason;
use clutch_protocol::attachment::{Attachment, Attachments};
use clutch_protocol::failure::Payload;

use super::{Gather, PILE, Piled, failed};
use crate::memory::memfd::Pile;

/// A value that is ready to be put.
#[derive(Debug)]
pub(crate) struct Packed {
    /// The memory with the payload, and memory that it refers to besides.
    pub(crate) descriptors: Vec<Arc<OwnedFd>>,
    /// How much that is, as the daemon counts.
    pub(crate) bytes: u64,
    /// Where in the first one the payload begins, and how long it is.
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Gather {
    /// Gathers for a value that is put, which holds nothing that only a call can have.
    pub(crate) fn for_put(limit: u64) -> Gather {
        Gather { is_put: true, ..Gather::new(limit) }
    }

    /// Puts the table and the value behind what is copied. That memory is never used again for
    /// anything else, and may be sealed for good.
    pub(crate) fn pack(mut self, value: &[u8]) -> Result<Packed, Reason> {
        let Piled { mut pile, end, waiting } = self.pile.take().unwrap_or_else(Piled::new);
        // Numbers have one length, so a table that is not right yet has that of the right one.
        let length = table(&self.list)?.len() as u64 + value.len() as u64;
        let most = Pile::next(end).saturating_add(length).saturating_add(self.elsewhere);
        if most > self.limit {
            let limit = self.limit;
            return Err(Reason::TooLarge { what: Payload::Arguments, bytes: most, limit });
        }
        for (index, waiting) in waiting {
            let at = pile.add(waiting.bytes()).map_err(|error| failed(&error))?;
            self.list[index].offset = at;
        }
        for attachment in &mut self.list {
            attachment.descriptor = match attachment.descriptor {
                PILE => 0,
                other => other + 1,
            };
        }
        let offset = pile.add(&table(&self.list)?).map_err(|error| failed(&error))?;
        pile.extend(value).map_err(|error| failed(&error))?;
        let pile = pile.finish().map_err(|error| failed(&error))?;
        let mut descriptors = vec![Arc::new(pile)];
        descriptors.append(&mut self.descriptors);
        let bytes = offset + length + self.elsewhere;
        Ok(Packed { descriptors, bytes, offset, length })
    }
}

fn table(list: &[Attachment]) -> Result<Vec<u8>, Reason> {
    let table = Attachments { list: list.to_vec() }.encode();
    table.map_err(|error| Reason::BadArguments { message: error.to_string() })
}
