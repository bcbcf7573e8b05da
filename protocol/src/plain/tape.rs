//! A value between its bytes and its Rust type: a flat tape of nodes.
//!
//! It holds nothing that the bytes did not pay for: a text is a place in the input, and a part that
//! occurs twice is one group that two nodes point to. `machine` writes it, `de` reads it. Each
//! group knows how much it would be with its shared parts copied, so nobody has to copy them.
//!
//! ```text
//!   stack   [1, 2]  ─ APPENDS ─►  items   │Run 2│ 1 │ 2 │      groups  │first, last, totals│
//!           list#0                            ▲                              │
//!                                             └──────────────────────────────┘
//! ```

use std::collections::BTreeMap;

use super::attach::Attached;
use super::error::{Error, ErrorKind};
use super::{Limits, machine};
use crate::limits::PAYLOAD_BYTES_MAX;

/// A place in the input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) at: u32,
    pub(super) len: u32,
}

/// Which container a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    List,
    Tuple,
    Dict,
    Set,
    FrozenSet,
}

/// One value, or the header of a run of them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    BigInt(Span),
    Str(Span),
    Bytes(Span),
    ByteArray(Span),
    /// An attachment, by its index.
    Attached(u32),
    /// [`EMPTY`] until something is put into it or refers to it.
    Group(Shape, u32),
    /// Heads `len` items of a group; the group's next run is at `next`. Never on the stack.
    Run {
        len: u32,
        next: u32,
    },
}

// Four nodes a cache line: a list of a million floats takes no more room than it must.
const _: () = assert!(size_of::<Node>() == 16);

/// No run.
const NOWHERE: u32 = u32::MAX;

/// An empty container: one byte of input does not get to make a whole group.
pub(super) const EMPTY: u32 = u32::MAX;

/// One container. Dicts hold their keys and values in turn.
#[derive(Clone, Copy, Debug)]
struct Group {
    first: u32,
    last: u32,
    len: u32,
    /// Nodes in it, itself included, after its shared parts were copied.
    nodes: u32,
    /// Bytes of text and data in it, after its shared parts were copied.
    bytes: u32,
    /// Levels in it: 1 when it holds no container.
    depth: u16,
    /// It occurs twice, so it may not change any more. Python's pickler gets here only when a
    /// container holds itself: it writes a container's items before anyone can refer to it.
    frozen: bool,
}

/// A value, flat.
pub(super) struct Tape<'de> {
    pub(super) input: &'de [u8],
    pub(super) attached: Option<&'de dyn Attached>,
    pub(super) arena: Arena,
    pub(super) root: Node,
}

impl<'de> Tape<'de> {
    /// Reads a whole value.
    pub(super) fn read(
        input: &'de [u8],
        attached: Option<&'de dyn Attached>,
        limits: Limits,
    ) -> Result<Tape<'de>, Error> {
        machine::run(input, attached, limits)
    }

    pub(super) fn root(&self) -> Node {
        self.root
    }

    #[inline]
    pub(super) fn bytes(&self, span: Span) -> &'de [u8] {
        let at = span.at as usize;
        &self.input[at..at + span.len as usize]
    }

    /// The items of a group.
    pub(super) fn items(&self, group: u32) -> Items<'_> {
        let group = self.arena.groups.get(group as usize);
        Items {
            items: &self.arena.items,
            run: [].iter(),
            next: group.map_or(NOWHERE, |group| group.first),
            left: group.map_or(0, |group| group.len as usize),
        }
    }
}

/// Everything in a value's containers.
#[derive(Debug, Default)]
pub(super) struct Arena {
    items: Vec<Node>,
    groups: Vec<Group>,
    /// Bytes of each attachment.
    sizes: Vec<u64>,
    /// Bytes of attachments in each group that has any, after its shared parts were copied. Apart,
    /// because hardly any has.
    attached: BTreeMap<u32, u64>,
}

impl Arena {
    /// For a value with attachments of these sizes.
    pub(super) fn with(sizes: Vec<u64>) -> Arena {
        Arena { sizes, ..Arena::default() }
    }

    /// A new container, empty.
    pub(super) fn open(&mut self) -> u32 {
        let id = index(self.groups.len());
        self.groups.push(Group {
            first: NOWHERE,
            last: NOWHERE,
            len: 0,
            nodes: 1,
            bytes: 0,
            depth: 1,
            frozen: false,
        });
        id
    }

    /// Says that a container occurs again.
    pub(super) fn freeze(&mut self, id: u32) {
        self.groups[id as usize].frozen = true;
    }

    pub(super) fn is_frozen(&self, id: u32) -> bool {
        self.groups[id as usize].frozen
    }

    /// Puts finished values into a container, unless it would then be too much.
    pub(super) fn adopt(&mut self, id: u32, values: &[Node], limits: Limits) -> Result<(), Error> {
        let group = &self.groups[id as usize];
        let (mut nodes, mut bytes) = (group.nodes as usize, group.bytes as usize);
        let mut depth = group.depth;
        let mut attached = 0_u64;
        for node in values {
            match *node {
                Node::Group(_, EMPTY) => {
                    nodes += 1;
                    depth = depth.max(2);
                }
                Node::Group(_, id) => {
                    let child = &self.groups[id as usize];
                    nodes = nodes.saturating_add(child.nodes as usize);
                    bytes = bytes.saturating_add(child.bytes as usize);
                    depth = depth.max(child.depth + 1);
                    if !self.attached.is_empty() {
                        let inside = self.attached.get(&id).copied().unwrap_or(0);
                        attached = attached.saturating_add(inside);
                    }
                }
                Node::Attached(index) => {
                    nodes += 1;
                    attached = attached.saturating_add(self.sizes[index as usize]);
                }
                Node::Str(span)
                | Node::Bytes(span)
                | Node::ByteArray(span)
                | Node::BigInt(span) => {
                    nodes += 1;
                    bytes = bytes.saturating_add(span.len as usize);
                }
                _ => nodes += 1,
            }
        }
        let Limits { bytes: bytes_max, nodes: nodes_max, depth: depth_max } = limits;
        if nodes > nodes_max {
            return Err(ErrorKind::TooManyNodes { limit: nodes_max }.into());
        }
        if bytes > bytes_max {
            return Err(ErrorKind::TooLong { limit: bytes_max }.into());
        }
        if usize::from(depth) > depth_max {
            return Err(ErrorKind::TooDeep { limit: depth_max }.into());
        }
        if attached > 0 {
            self.count_attached(id, attached, bytes_max)?;
        }
        let group = &mut self.groups[id as usize];
        (group.nodes, group.bytes) = (index(nodes), index(bytes));
        group.depth = depth;
        self.store(id, values);
        Ok(())
    }

    /// Copies of attachments may be as much as they are themselves, and as text and data may be.
    fn count_attached(&mut self, id: u32, more: u64, copies_max: usize) -> Result<(), Error> {
        let originals = self.sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(*size));
        let count = self.attached.entry(id).or_default();
        *count = count.saturating_add(more);
        if *count > originals.saturating_add(copies_max as u64) {
            return Err(ErrorKind::TooLong { limit: copies_max }.into());
        }
        Ok(())
    }

    fn store(&mut self, id: u32, values: &[Node]) {
        let count = index(values.len());
        if count == 0 {
            return;
        }
        let group = &mut self.groups[id as usize];
        group.len += count;
        let end = index(self.items.len());
        match self.items.get_mut(group.last as usize) {
            // The last run grows where it is, if nothing was put behind it since.
            Some(Node::Run { len, .. }) if group.last + 1 + *len == end => *len += count,
            last => {
                match last {
                    Some(Node::Run { next, .. }) => *next = end,
                    _ => group.first = end,
                }
                group.last = end;
                self.items.push(Node::Run { len: count, next: NOWHERE });
            }
        }
        self.items.extend_from_slice(values);
    }
}

/// Goes through the items of a group.
#[derive(Clone, Debug)]
pub(super) struct Items<'t> {
    items: &'t [Node],
    run: std::slice::Iter<'t, Node>,
    next: u32,
    left: usize,
}

impl Items<'_> {
    /// How many are left.
    pub(super) fn left(&self) -> usize {
        self.left
    }
}

impl Iterator for Items<'_> {
    type Item = Node;

    #[inline]
    fn next(&mut self) -> Option<Node> {
        loop {
            if let Some(node) = self.run.next() {
                self.left -= 1;
                return Some(*node);
            }
            if self.next == NOWHERE {
                return None;
            }
            let at = self.next as usize;
            let Node::Run { len, next } = self.items[at] else {
                unreachable!("a group's runs start with their header")
            };
            self.run = self.items[at + 1..at + 1 + len as usize].iter();
            self.next = next;
        }
    }
}

/// A place or count as the tape keeps it. There is at most one item and one run for each byte of
/// input, and the limits on input, nodes and bytes are never above [`PAYLOAD_BYTES_MAX`].
#[expect(clippy::cast_possible_truncation, reason = "proved by the assertion below")]
pub(super) fn index(count: usize) -> u32 {
    const { assert!((PAYLOAD_BYTES_MAX as u64) * 2 < NOWHERE as u64) }
    debug_assert!(count < NOWHERE as usize);
    count as u32
}
