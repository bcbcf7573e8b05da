//! Calls that are refused before a pool decides about them, and how any failure is sent.

use bytes::Bytes;
use clutch_protocol::failure::{Failure, Missing, MissingWhat, Payload, Reason};
use clutch_protocol::message::{self, Apply, Each, Phases, Retry};
use clutch_protocol::wire::MetaError;
use clutch_protocol::{Codec, Flags, Frame, Header, Kind, name, wire};

use super::core::Core;
use super::dispatcher::Dispatcher;
use crate::net::Attached;
use crate::session::Peer;
use crate::worker::link::frame_head;
use crate::worker::spawner::PoolIndex;

impl Dispatcher {
    /// What is wrong with a call whatever its pool is doing.
    pub(super) fn refusal(
        &self,
        pool: PoolIndex,
        function: &str,
        (header, attached): (&Header, &Attached),
        wishes: (Option<&Retry>, Option<&Each>),
    ) -> Option<Reason> {
        let config = &self.pools[pool.0].config;
        refusal(config, function, header, wishes)
            .or_else(|| too_large(attached, Payload::Arguments, self.daemon.attached))
    }

    pub(super) fn no_such_pool(&self, name: &str) -> Missing {
        let mut known: Vec<_> = self.by_name.keys().map(String::as_str).collect();
        known.sort_unstable();
        let was = self.pools.iter().any(|pool| pool.removed && pool.config.name == name);
        let name: String = name.chars().take(64).flat_map(char::escape_default).collect();
        let known = known.join(", ");
        let message = if was {
            format!("pool '{name}' was removed from the configuration; the pools are: {known}")
        } else {
            format!("there is no pool '{name}'; the pools are: {known}")
        };
        Missing { what: MissingWhat::Pool, message, traceback: String::new() }
    }
}

fn refusal(
    config: &crate::config::Pool,
    function: &str,
    header: &Header,
    (retry, each): (Option<&Retry>, Option<&Each>),
) -> Option<Reason> {
    if let Some(reason) =
        refusal_of_name(config, function).or_else(|| of_each(config, header, each?))
    {
        return Some(reason);
    }
    if let Some(Err(error)) = retry.map(Retry::check) {
        return Some(Reason::BadArguments { message: error.to_string() });
    }
    if header.codec == Codec::Raw && header.flags.has(Flags::KEYWORDS) {
        let message = "raw bytes have no keyword arguments; use another codec".to_owned();
        return Some(Reason::BadArguments { message });
    }
    if header.flags.has(Flags::STREAM) && header.flags.has(Flags::ITEMS) {
        let message = "the items of a chunk have one answer each, and no streams; call the \
                       function for each of them"
            .to_owned();
        return Some(Reason::BadArguments { message });
    }
    let limit = u64::from(clutch_protocol::limits::PAYLOAD_BYTES_MAX);
    let bytes = u64::from(header.payload_bytes);
    (bytes > limit).then_some(Reason::TooLarge { what: Payload::Arguments, bytes, limit })
}

fn refusal_of_name(config: &crate::config::Pool, function: &str) -> Option<Reason> {
    match name::check_function(function) {
        Ok((module, qualname)) => {
            let is_refused = |allow: &crate::config::Allow| !allow.allows(module, qualname);
            config.allow.as_ref().is_some_and(is_refused).then_some(Reason::NotAllowed)
        }
        Err(error) => {
            let missing = Missing {
                what: MissingWhat::Name,
                message: format!("this is no function's name: {error}"),
                traceback: String::new(),
            };
            Some(Reason::NotFound(Box::new(missing)))
        }
    }
}

/// What is wrong with what a call wants done with its items.
fn of_each(config: &crate::config::Pool, header: &Header, each: &Each) -> Option<Reason> {
    let bad = |message: &str| Some(Reason::BadArguments { message: message.to_owned() });
    if !header.flags.has(Flags::ITEMS) {
        return bad("only a call with items does something with each; set the flag ITEMS");
    }
    match each {
        Each { apply: Apply::Nothing, fold } if fold.is_empty() => {
            bad("with a function that is not called there must be a fold")
        }
        Each { fold, .. } if fold.is_empty() => None,
        Each { fold, .. } => refusal_of_name(config, fold),
    }
}

/// What is wrong with attachments of more memory than may be attached to one payload.
pub(super) fn too_large(attached: &Attached, what: Payload, limit: u64) -> Option<Reason> {
    let bytes = attached.bytes();
    (bytes > limit).then_some(Reason::TooLarge { what, bytes, limit })
}

impl Core {
    /// Answers a call that is not even taken in.
    ///
    /// # Errors
    ///
    /// When its frame is none of a call.
    pub(crate) fn turn_away(
        &self,
        peer: &Peer,
        frame: &Frame,
        reason: Reason,
    ) -> Result<(), MetaError> {
        let message::Call { pool, function, .. } = wire::decode(&frame.meta)?;
        self.count("calls_turned_away");
        send_failure(peer, frame.header.id, &early_failure(pool, function, reason));
        Ok(())
    }
}

/// A failure of a call that no pool has seen.
pub(super) fn early_failure(pool: String, function: String, reason: Reason) -> Failure {
    let phases = Phases::default();
    // Both came from outside and are shown to people; a name is cut where no good one ends.
    let cut = |text: String| text.chars().take(256).flat_map(char::escape_default).collect();
    Failure {
        call: 0,
        pool: cut(pool),
        function: cut(function),
        attempt: 0,
        started: false,
        phases,
        reason,
        quarantined: false,
        item: None,
    }
}

/// Sends a failure of the call that its client gave this `id`.
pub(super) fn send_failure(peer: &Peer, id: u64, failure: &Failure) {
    let head = if wire::encode(failure).is_ok() {
        frame_head(Kind::Error, id, failure)
    } else {
        let detail = "the failure's description is longer than a frame's meta may be".to_owned();
        let short = Failure { reason: Reason::Protocol { detail }, ..failure.clone() };
        frame_head(Kind::Error, id, &short)
    };
    peer.send(&head, &Bytes::new());
}
