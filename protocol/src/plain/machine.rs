//! The reader's first half: a stack machine that turns bytes into a tape.
//!
//! It never recurses and allocates nothing for a length that is only claimed. What each container
//! would hold *after* its shared parts were copied is added up as it is filled, so a "billion
//! laughs" is refused before anything is copied. What the nodes mean to serde is in `de`.

use super::attach::Attached;
use super::error::{Error, ErrorKind};
use super::tape::{Arena, EMPTY, Node, Shape, Span, Tape, index};
use super::{Limits, opcode};

/// Reads a whole value.
pub(super) fn run<'de>(
    input: &'de [u8],
    attached: Option<&'de dyn Attached>,
    limits: Limits,
) -> Result<Tape<'de>, Error> {
    let limits = limits.clamped();
    if input.len() > limits.bytes {
        return Err(ErrorKind::TooLong { limit: limits.bytes }.into());
    }
    let mut machine = Machine {
        input,
        at: 0,
        code_at: 0,
        // Never more than the bytes could need, and mostly enough.
        stack: Vec::with_capacity((input.len() / 4).clamp(4, 1024)),
        marks: Vec::new(),
        memo: Vec::new(),
        arena: match attached {
            Some(attached) => {
                Arena::with((0..attached.count()).map(|i| attached.size(i)).collect())
            }
            None => Arena::default(),
        },
        attached: attached.map(Attached::count),
        used: 0,
        limits,
    };
    let root = machine.run()?;
    Ok(Tape { input, attached, arena: machine.arena, root })
}

/// What CPython's unpickler would be in the middle of.
struct Machine<'de> {
    input: &'de [u8],
    at: usize,
    /// Where the opcode is that is being done, for messages.
    code_at: usize,
    stack: Vec<Node>,
    /// Where in the stack each open container begins. What is below the last one is out of reach.
    marks: Vec<u32>,
    memo: Vec<Node>,
    arena: Arena,
    /// How many attachments came with the value, if it is one that may have any.
    attached: Option<usize>,
    /// How many the value has referred to.
    used: usize,
    limits: Limits,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Node, Error> {
        match self.input {
            [opcode::PROTO, 4 | 5, ..] => self.at = 2,
            _ => return Err(ErrorKind::Protocol.into()),
        }
        loop {
            self.code_at = self.at;
            let code = self.array::<1>()?[0];
            // The arms are in the order of how often they are met.
            let node = match code {
                opcode::BINFLOAT => Node::Float(f64::from_be_bytes(self.array()?)),
                opcode::BININT1 => Node::Int(i64::from(self.array::<1>()?[0])),
                opcode::BININT2 => Node::Int(i64::from(u16::from_le_bytes(self.array()?))),
                opcode::BININT => Node::Int(i64::from(i32::from_le_bytes(self.array()?))),
                opcode::SHORT_BINUNICODE => Node::Str(self.short_span()?),
                opcode::NONE => Node::None,
                opcode::NEWTRUE => Node::Bool(true),
                opcode::NEWFALSE => Node::Bool(false),
                opcode::BINUNICODE => Node::Str(self.span()?),
                opcode::BINUNICODE8 => Node::Str(self.long_span()?),
                opcode::SHORT_BINBYTES => Node::Bytes(self.short_span()?),
                opcode::BINBYTES => Node::Bytes(self.span()?),
                opcode::BINBYTES8 => Node::Bytes(self.long_span()?),
                opcode::BYTEARRAY8 => Node::ByteArray(self.long_span()?),
                opcode::LONG1 => {
                    let span = self.short_span()?;
                    self.integer(span)
                }
                opcode::LONG4 => {
                    let span = self.span()?;
                    self.integer(span)
                }
                opcode::STOP => return self.stop(),
                _ => match self.structure(code)? {
                    Some(node) => node,
                    None => continue,
                },
            };
            self.push(node)?;
        }
    }

    /// The opcodes that make, fill and share containers.
    fn structure(&mut self, code: u8) -> Result<Option<Node>, Error> {
        let node = match code {
            opcode::MEMOIZE => {
                let at = self.last(code, 1)?;
                self.group_at(at);
                self.memo.push(self.stack[at]);
                return Ok(None);
            }
            opcode::MARK => {
                // A mark is an open container, or garbage. Neither may nest without end.
                if self.marks.len() >= self.limits.depth {
                    return Err(self.too_deep());
                }
                self.marks.push(index(self.stack.len()));
                return Ok(None);
            }
            opcode::APPENDS | opcode::SETITEMS | opcode::ADDITEMS => {
                let mark = self.take_mark(code)?;
                self.fill(code, mark)?;
                return Ok(None);
            }
            opcode::APPEND => {
                self.fill_last(code, 1)?;
                return Ok(None);
            }
            opcode::SETITEM => {
                self.fill_last(code, 2)?;
                return Ok(None);
            }
            opcode::FRAME => {
                self.frame()?;
                return Ok(None);
            }
            opcode::BINGET => {
                let at = usize::from(self.array::<1>()?[0]);
                self.recall(code, at)?
            }
            opcode::LONG_BINGET => {
                let at = u32::from_le_bytes(self.array()?) as usize;
                self.recall(code, at)?
            }
            opcode::EMPTY_LIST => Node::Group(Shape::List, EMPTY),
            opcode::EMPTY_TUPLE => Node::Group(Shape::Tuple, EMPTY),
            opcode::EMPTY_DICT => Node::Group(Shape::Dict, EMPTY),
            opcode::EMPTY_SET => Node::Group(Shape::Set, EMPTY),
            opcode::TUPLE1 => self.close_last(code, 1)?,
            opcode::TUPLE2 => self.close_last(code, 2)?,
            opcode::TUPLE3 => self.close_last(code, 3)?,
            opcode::TUPLE => self.close_marked(code, Shape::Tuple)?,
            opcode::FROZENSET => self.close_marked(code, Shape::FrozenSet)?,
            opcode::NEXT_BUFFER => self.next_attached()?,
            opcode::READONLY_BUFFER => {
                let at = self.last(code, 1)?;
                return match self.stack[at] {
                    // A pickler's remark on what it was given. Nobody writes into it here.
                    Node::Attached(_) => Ok(None),
                    _ => Err(self.refuse(code)),
                };
            }
            opcode::PROTO => return Err(self.misplaced(code)),
            _ => return Err(self.refuse(code)),
        };
        Ok(Some(node))
    }

    fn push(&mut self, node: Node) -> Result<(), Error> {
        if self.stack.len() >= self.limits.nodes {
            return Err(self.too_many());
        }
        self.stack.push(node);
        Ok(())
    }

    /// Where the part of the stack begins that an opcode may touch.
    fn floor(&self) -> usize {
        self.marks.last().map_or(0, |mark| *mark as usize)
    }

    fn take_mark(&mut self, code: u8) -> Result<usize, Error> {
        match self.marks.pop() {
            Some(mark) => Ok(mark as usize),
            None => Err(self.misplaced(code)),
        }
    }

    /// Where the last `count` values begin.
    fn last(&self, code: u8, count: usize) -> Result<usize, Error> {
        match self.stack.len().checked_sub(count) {
            Some(at) if at >= self.floor() => Ok(at),
            _ => Err(self.misplaced(code)),
        }
    }

    fn recall(&mut self, code: u8, at: usize) -> Result<Node, Error> {
        let Some(&node) = self.memo.get(at) else {
            return Err(self.misplaced(code));
        };
        if let Node::Group(_, id) = node {
            self.arena.freeze(id);
        }
        Ok(node)
    }

    /// The group of the container at `at` in the stack, which may have been empty until now.
    fn group_at(&mut self, at: usize) -> Option<u32> {
        let Some(Node::Group(_, id)) = self.stack.get_mut(at) else {
            return None;
        };
        if *id == EMPTY {
            *id = self.arena.open();
        }
        Some(*id)
    }

    /// Makes a finished container of everything from `from` up.
    fn close(&mut self, shape: Shape, from: usize) -> Result<Node, Error> {
        if from == self.stack.len() {
            return Ok(Node::Group(shape, EMPTY));
        }
        let id = self.arena.open();
        self.adopt(id, from)?;
        Ok(Node::Group(shape, id))
    }

    fn close_last(&mut self, code: u8, count: usize) -> Result<Node, Error> {
        let from = self.last(code, count)?;
        self.close(Shape::Tuple, from)
    }

    fn close_marked(&mut self, code: u8, shape: Shape) -> Result<Node, Error> {
        let from = self.take_mark(code)?;
        self.close(shape, from)
    }

    fn fill_last(&mut self, code: u8, count: usize) -> Result<(), Error> {
        let from = self.last(code, count)?;
        self.fill(code, from)
    }

    /// Moves everything from `from` up into the container below it.
    fn fill(&mut self, code: u8, from: usize) -> Result<(), Error> {
        let below = match from.checked_sub(1) {
            Some(below) if below >= self.floor() => below,
            _ => return Err(self.misplaced(code)),
        };
        let fits = match (code, self.stack[below]) {
            (opcode::APPEND | opcode::APPENDS, Node::Group(Shape::List, _))
            | (opcode::ADDITEMS, Node::Group(Shape::Set, _)) => true,
            (opcode::SETITEM | opcode::SETITEMS, Node::Group(Shape::Dict, _)) => {
                (self.stack.len() - from).is_multiple_of(2)
            }
            _ => false,
        };
        let id = match self.group_at(below) {
            Some(id) if fits => id,
            _ => return Err(self.misplaced(code)),
        };
        if self.arena.is_frozen(id) {
            return Err(ErrorKind::Recursive.into());
        }
        self.adopt(id, from)
    }

    /// Moves the values from `from` up into a group.
    fn adopt(&mut self, id: u32, from: usize) -> Result<(), Error> {
        self.arena.adopt(id, &self.stack[from..], self.limits)?;
        self.stack.truncate(from);
        Ok(())
    }

    /// Each attachment is used once, in their order.
    fn next_attached(&mut self) -> Result<Node, Error> {
        let Some(attached) = self.attached else {
            return Err(self.refuse(opcode::NEXT_BUFFER));
        };
        self.used += 1;
        if self.used > attached {
            return Err(ErrorKind::Attachments { used: self.used, attached }.into());
        }
        Ok(Node::Attached(index(self.used - 1)))
    }

    fn stop(&mut self) -> Result<Node, Error> {
        if self.at < self.input.len() {
            return Err(ErrorKind::Trailing(self.input.len() - self.at).into());
        }
        if let Some(attached) = self.attached.filter(|attached| self.used < *attached) {
            return Err(ErrorKind::Attachments { used: self.used, attached }.into());
        }
        match (&self.stack[..], &self.marks[..]) {
            (&[root], []) => Ok(root),
            _ => Err(self.misplaced(opcode::STOP)),
        }
    }

    /// A frame is a hint for buffered reading. Its length is checked and otherwise ignored.
    fn frame(&mut self) -> Result<(), Error> {
        let length = u64::from_le_bytes(self.array()?);
        self.ensure(length)?;
        Ok(())
    }

    fn integer(&self, span: Span) -> Node {
        let at = span.at as usize;
        let bytes = &self.input[at..at + span.len as usize];
        match crate::value::small_int(bytes) {
            Some(int) => Node::Int(int),
            None => Node::BigInt(span),
        }
    }

    /// That many bytes are really there.
    fn ensure(&self, count: u64) -> Result<usize, Error> {
        let left = self.input.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= left => Ok(count),
            claimed => Err(ErrorKind::Truncated {
                at: self.at,
                missing: claimed.unwrap_or(usize::MAX) - left,
            }
            .into()),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        match self.input[self.at..].first_chunk::<N>() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => {
                Err(ErrorKind::Truncated { at: self.at, missing: N - (self.input.len() - self.at) }
                    .into())
            }
        }
    }

    fn take(&mut self, len: u64) -> Result<Span, Error> {
        let len = self.ensure(len)?;
        let span = Span { at: index(self.at), len: index(len) };
        self.at += len;
        Ok(span)
    }

    fn short_span(&mut self) -> Result<Span, Error> {
        let [len] = self.array()?;
        self.take(u64::from(len))
    }

    fn span(&mut self) -> Result<Span, Error> {
        let len = u32::from_le_bytes(self.array()?);
        self.take(u64::from(len))
    }

    fn long_span(&mut self) -> Result<Span, Error> {
        let len = u64::from_le_bytes(self.array()?);
        self.take(len)
    }

    #[cold]
    fn refuse(&self, byte: u8) -> Error {
        let at = self.code_at;
        match opcode::name(byte) {
            Some(opcode) => ErrorKind::Refused { opcode, at }.into(),
            None => ErrorKind::Opcode { byte, at }.into(),
        }
    }

    #[cold]
    fn misplaced(&self, code: u8) -> Error {
        ErrorKind::Misplaced { opcode: opcode::name(code).unwrap_or("?"), at: self.code_at }.into()
    }

    #[cold]
    fn too_many(&self) -> Error {
        ErrorKind::TooManyNodes { limit: self.limits.nodes }.into()
    }

    #[cold]
    fn too_deep(&self) -> Error {
        ErrorKind::TooDeep { limit: self.limits.depth }.into()
    }
}
