//! Where in a value something is: `[3].name`, written as Python would reach it.
//!
//! An error collects its path on the way out of the value, so a value without a fault pays nothing.

use std::fmt;

/// One step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The item at this index of a list, tuple or set.
    Index(usize),
    /// The value under this key of a dict.
    Key(String),
    /// The value under a key that is no text, as Python would print the key.
    Other(String),
}

/// The steps from the root of a value to the part that is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Innermost first: the order in which an error meets them.
    inner: Vec<Step>,
}

impl Path {
    /// Puts one more step in front, since the error has reached the container around it.
    pub fn enter(&mut self, step: Step) {
        self.inner.push(step);
    }

    /// Whether the whole value is meant.
    pub fn is_root(&self) -> bool {
        self.inner.is_empty()
    }

    /// The steps, outermost first.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.inner.iter().rev()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.steps() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if is_identifier(key) => write!(f, ".{key}")?,
                Step::Key(key) => write!(f, "[{:?}]", Cut(key))?,
                Step::Other(key) => write!(f, "[{}]", Cut(key))?,
            }
        }
        Ok(())
    }
}

fn is_identifier(key: &str) -> bool {
    key.len() <= CUT_CHARS
        && key.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// How much of a text from the peer an error shows.
const CUT_CHARS: usize = 60;

/// A text that may be of any length, cut to what a message can hold.
pub(crate) struct Cut<'a>(pub(crate) &'a str);

impl Cut<'_> {
    fn parts(&self) -> (&str, &'static str) {
        match self.0.char_indices().nth(CUT_CHARS) {
            Some((at, _)) => (&self.0[..at], "..."),
            None => (self.0, ""),
        }
    }
}

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, dots) = self.parts();
        write!(f, "{text}{dots}")
    }
}

impl fmt::Debug for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, dots) = self.parts();
        write!(f, "{text:?}{dots}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_python_would_reach_it() {
        let mut path = Path::default();
        for step in [
            Step::Key("name".into()),
            Step::Index(3),
            Step::Key("two words".into()),
            Step::Other("(1, 2)".into()),
        ] {
            path.enter(step);
        }
        assert_eq!(r#"[(1, 2)]["two words"][3].name"#, path.to_string());
    }

    #[test]
    fn a_key_from_the_peer_cannot_fill_the_message() {
        let mut path = Path::default();
        path.enter(Step::Key("é".repeat(1 << 20)));
        assert!(path.to_string().len() < 200);
    }
}
