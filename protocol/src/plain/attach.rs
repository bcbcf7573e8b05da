//! What travels beside a value: where its large parts go when it is written, and where they come
//! from when it is read. The opcode `NEXT_BUFFER` stands for each of them, in their order.
//!
//! A type that is attached as a whole (an array) serializes itself as a newtype struct named
//! [`ATTACHED`] around what it is in other formats. Who gathers attachments is told before the
//! inner value is asked ([`Attach::invite`]) and afterwards ([`Attach::accept`]); in between, the
//! type hands itself over, if it knows how. Reading is the same the other way round: the type asks
//! for a newtype struct of that name, and is given a unit when [`Attached::offer`] was told which
//! attachment it is.

use crate::attachment::Content;

/// The name of the newtype struct that is attached.
pub const ATTACHED: &str = "$clutch::attached";

/// It could not be attached. Whoever said so keeps the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unattached;

/// Gathers what travels beside a value that is being written.
pub trait Attach {
    /// Takes bytes, of [`ATTACH_BYTES_MIN`](crate::limits::ATTACH_BYTES_MIN) or more; false leaves
    /// them in the value.
    ///
    /// # Errors
    ///
    /// When they could not be attached and must not stay in the value either.
    fn bytes(&mut self, bytes: &[u8], content: Content) -> Result<bool, Unattached>;

    /// The part that is serialized next may hand itself over.
    fn invite(&mut self);

    /// Whether it did. What it wrote meanwhile is then forgotten.
    ///
    /// # Errors
    ///
    /// When it could not be attached.
    fn accept(&mut self) -> Result<bool, Unattached>;
}

/// What came beside a value that is being read.
pub trait Attached {
    /// How many there are.
    fn count(&self) -> usize;

    /// What the one at `index` is.
    fn content(&self, index: usize) -> &Content;

    /// How many bytes it has.
    fn size(&self, index: usize) -> u64;

    /// Its bytes.
    ///
    /// # Errors
    ///
    /// When there are none to be had; why, is to be read behind "the attachment".
    fn bytes(&self, index: usize) -> Result<&[u8], &'static str>;

    /// The type that asks next takes it as a whole.
    fn offer(&self, index: usize);
}
