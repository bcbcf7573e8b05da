//! What both clients do with a request before it is sent and with its answer afterwards: names are
//! checked, deadlines become numbers, frames become replies or failures. No waiting here.

mod incoming;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clutch_protocol::failure::Hindrance;
use clutch_protocol::failure::{Missing, MissingWhat, Payload};
use clutch_protocol::message::{Answer, Each, Phases, Welcome};
use clutch_protocol::stream::{Credit, Item, ItemsEnd};
use clutch_protocol::wire::Decode;
use clutch_protocol::{Codec, Failure, Flags, Frame, Header, Kind, Reason, name, wire};

use crate::feed::{Step, What};
use crate::handle::Ref;
use crate::inbox::Delivery;
use crate::limits::TIMEOUT_GRACE;
use crate::memory::{Body, Received};
use crate::retry::Retry;

pub use crate::reply::{Beside, Reply};
pub(crate) use incoming::{Incoming, garbage, sort};

/// The pool a call goes to unless it names another.
pub const DEFAULT_POOL: &str = "default";

/// Which function of which pool.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) pool: String,
    pub(crate) function: String,
}

impl Target {
    pub(crate) fn new(function: impl Into<String>) -> Target {
        Target { pool: DEFAULT_POOL.into(), function: function.into() }
    }

    /// For `ping`, `status` and `stop`, which no pool answers.
    pub(crate) fn control(verb: &str) -> Target {
        Target { pool: String::new(), function: verb.into() }
    }

    /// What no daemon would look up need not be sent.
    pub(crate) fn check(&self) -> Result<(), Reason> {
        let missing = |what, error: name::NameError| {
            let message = match what {
                MissingWhat::Pool => format!("no pool can be named {:?}: {error}", self.pool),
                _ => format!("no function can be named {:?}: {error}", self.function),
            };
            Reason::NotFound(Box::new(Missing { what, message, traceback: String::new() }))
        };
        name::check_pool(&self.pool).map_err(|error| missing(MissingWhat::Pool, error))?;
        match name::check_function(&self.function) {
            Ok(_) => Ok(()),
            Err(error) => Err(missing(MissingWhat::Name, error)),
        }
    }

    /// A failure that this side noticed, or read out of an answer.
    #[cold]
    pub(crate) fn failure(&self, trouble: Trouble) -> Failure {
        Failure {
            call: trouble.call,
            pool: self.pool.clone(),
            function: self.function.clone(),
            attempt: u32::from(trouble.started),
            started: trouble.started,
            phases: Phases::default(),
            reason: trouble.reason,
            quarantined: false,
            item: None,
        }
    }
}

/// What a caller wants beyond its answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// Higher goes first.
    pub(crate) priority: i8,
    /// What is to be done when an attempt fails.
    pub(crate) retry: Option<Retry>,
    /// What is to be done with each item.
    pub(crate) each: Option<Each>,
}

/// What this side noticed about a request.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// The call's id in the daemon; 0 when that is not known.
    pub(crate) call: u64,
    /// Whether user code can have begun.
    pub(crate) started: bool,
    /// What happened.
    pub(crate) reason: Reason,
}

impl Trouble {
    /// For a request that was never sent.
    pub(crate) fn unsent(reason: impl Into<Reason>) -> Trouble {
        Trouble { call: 0, started: false, reason: reason.into() }
    }

    /// For a request the daemon may have.
    pub(crate) fn sent(call: u64, reason: impl Into<Reason>) -> Trouble {
        Trouble { call, started: true, reason: reason.into() }
    }
}

/// When a request is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// What the caller asked for; none leaves it to the daemon.
    pub(crate) timeout: Option<Duration>,
    at: Option<Instant>,
}

impl Deadline {
    pub(crate) fn new(timeout: Option<Duration>) -> Deadline {
        // A timeout beyond the end of the clock is none.
        let at = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Deadline { timeout, at }
    }

    /// Until when a request may wait to be sent.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Until when the daemon's answer is waited for. It comes at the deadline; the grace is for the
    /// daemon that does not keep its word.
    pub(crate) fn net(&self) -> Option<Instant> {
        self.at.and_then(|at| at.checked_add(TIMEOUT_GRACE))
    }

    /// What is left, as it travels: 0 means the pool's default, so a rest is never less than 1.
    pub(crate) fn rest_ms(&self) -> u64 {
        match self.at {
            None => 0,
            Some(at) => {
                let rest = at.saturating_duration_since(Instant::now());
                u64::try_from(rest.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
            }
        }
    }

    /// What to say when it has passed.
    pub(crate) fn passed(&self) -> Reason {
        let timeout_ms = self.timeout.unwrap_or_default().as_millis();
        let timeout_ms = u64::try_from(timeout_ms).unwrap_or(u64::MAX);
        Reason::TimedOut { timeout_ms, stack: String::new(), hindrance: Hindrance::Unanswered }
    }
}

/// What takes back a request that was sent, if anything does.
pub(crate) fn undone_by(kind: Kind) -> Option<Kind> {
    match kind {
        Kind::Call | Kind::Logs => Some(Kind::Cancel),
        Kind::Put => Some(Kind::Release),
        _ => None,
    }
}

/// A request without its id, ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) kind: Kind,
    pub(crate) flags: Flags,
    pub(crate) codec: Codec,
    pub(crate) meta: Vec<u8>,
    pub(crate) payload: Bytes,
    /// What travels beside it.
    pub(crate) descriptors: Vec<Arc<OwnedFd>>,
    /// What it names of the values that were put: they are kept until it was sent.
    pub(crate) _refs: Vec<Ref>,
}

impl Letter {
    /// A frame with nothing behind its header.
    pub(crate) const fn bare(kind: Kind) -> Letter {
        Letter {
            kind,
            flags: Flags::NONE,
            codec: Codec::None,
            meta: Vec::new(),
            payload: Bytes::new(),
            descriptors: Vec::new(),
            _refs: Vec::new(),
        }
    }

    /// Leave to send more items of a call's answer.
    pub(crate) fn credit(items: u32) -> Letter {
        let meta = wire::encode(&Credit { stream: 0, items }).expect("it has a fixed size");
        Letter { meta, ..Letter::bare(Kind::Credit) }
    }

    /// Something of a stream that feeds a call.
    pub(crate) fn fed(step: Step, codec: Codec) -> Letter {
        let Step { stream, index, what } = step;
        match what {
            What::Item(body) => {
                let Body { bytes: payload, attached, descriptors, .. } = body;
                let meta = wire::encode(&Item { stream, index }).expect("it has a fixed size");
                let flags = if attached { Flags::ATTACHED } else { Flags::NONE };
                let kind = Kind::Item;
                Letter { flags, codec, meta, payload, descriptors, ..Letter::bare(kind) }
            }
            What::End(failure) => {
                let meta = wire::encode(&ItemsEnd { stream, failure }).expect("it was cut");
                Letter { meta, ..Letter::bare(Kind::ItemsEnd) }
            }
        }
    }

    /// Whether it is about a call that is under way, and small: it is sent even when others wait
    /// for room.
    pub(crate) fn is_remark(&self) -> bool {
        matches!(self.kind, Kind::Cancel | Kind::Credit | Kind::Release)
    }

    /// Whether it is a request itself, which can be taken back under its id.
    pub(crate) fn is_request(&self) -> bool {
        !self.is_remark() && !matches!(self.kind, Kind::Item | Kind::ItemsEnd)
    }

    /// A call. The meta is that of [`clutch_protocol::message::Call`], written from borrowed text.
    pub(crate) fn call(
        target: &Target,
        wishes: &Wishes,
        deadline: Deadline,
        (codec, flags, body): (Codec, Flags, Body),
        welcome: &Welcome,
    ) -> Result<Letter, Reason> {
        target.check()?;
        let retry = wishes.retry.as_ref().map(Retry::checked).transpose()?;
        let limit = welcome.payload_bytes_max;
        if body.len() as u64 > u64::from(limit) {
            return Err(Reason::TooLarge {
                what: Payload::Arguments,
                bytes: body.len() as u64,
                limit: u64::from(limit),
            });
        }
        let (pool, function) = (target.pool.as_str(), target.function.as_str());
        let each = wishes.each.clone();
        let handles: Vec<u64> = body.refs.iter().map(Ref::handle).collect();
        let meta = (pool, function, deadline.rest_ms(), wishes.priority, retry, each, handles);
        let meta = wire::encode(&meta).expect("checked names are far below a meta's limit");
        if flags.has(Flags::ITEMS) && !body.feeds.is_empty() {
            let message = "a feed is an argument of one call, and no item of a map".to_owned();
            return Err(Reason::BadArguments { message });
        }
        let Body { bytes: payload, attached, descriptors, refs, .. } = body;
        let flags = if attached { flags.with(Flags::ATTACHED) } else { flags };
        Ok(Letter { kind: Kind::Call, flags, codec, meta, payload, descriptors, _refs: refs })
    }

    /// Its header.
    pub(crate) fn header(&self, id: u64) -> Header {
        let bytes = |length: usize| u32::try_from(length).expect("both lengths were checked");
        Header {
            kind: self.kind,
            flags: self.flags,
            codec: self.codec,
            descriptors: u8::try_from(self.descriptors.len()).expect("they were counted"),
            id,
            meta_bytes: bytes(self.meta.len()),
            payload_bytes: bytes(self.payload.len()),
        }
    }
}

/// Reads a meta of the daemon's, or says what was wrong with it.
fn meta_of<T: Decode<()>>(frame: &Frame) -> Result<T, Reason> {
    wire::decode(&frame.meta).map_err(|error| Reason::Protocol {
        detail: format!("the daemon sent a {:?} that cannot be read: {error}", frame.header.kind),
    })
}

/// Reads the answer to a request that wanted a frame of kind `wanted`.
pub(crate) fn open(frame: Frame, wanted: Kind, target: &Target) -> Result<Frame, Failure> {
    if frame.header.kind == wanted {
        return Ok(frame);
    }
    let reason = match frame.header.kind {
        Kind::Error => match meta_of::<Failure>(&frame) {
            Ok(failure) => return Err(failure),
            Err(reason) => reason,
        },
        kind => Reason::Protocol { detail: format!("the daemon answered with {kind:?}") },
    };
    Err(target.failure(Trouble::sent(0, reason)))
}

/// Reads the answer to a call.
pub(crate) fn open_reply(
    delivery: Delivery,
    target: &Target,
    welcome: &Welcome,
) -> Result<Reply, Failure> {
    let Delivery { frame, descriptors } = delivery;
    let frame = open(frame, Kind::Result, target)?;
    let id = frame.header.id;
    let answer = meta_of::<Answer>(&frame);
    let answer = answer.map_err(|reason| target.failure(Trouble::sent(0, reason)))?;
    let Header { codec, flags, .. } = frame.header;
    let delivery = Delivery { frame, descriptors };
    let (payload, attached) = Received::take(delivery, welcome.attached_bytes_max)
        .map_err(|reason| target.failure(Trouble::sent(answer.call, reason)))?;
    let attached = Beside::new(attached);
    Ok(Reply { id, codec, flags, payload, attached, answer })
}

#[cfg(test)]
mod tests {
    use clutch_protocol::message;

    use super::*;

    fn welcome() -> Welcome {
        Welcome {
            version: 1,
            pid: 1,
            program: String::new(),
            payload_bytes_max: 10,
            in_flight_max: 1,
            pools: Vec::new(),
            attached_bytes_max: 0,
        }
    }

    fn call(target: &Target, timeout: Option<Duration>, bytes: usize) -> Result<Letter, Reason> {
        let payload = Bytes::from(vec![0; bytes]);
        let payload = (Codec::Plain, Flags::NONE, payload.into());
        Letter::call(target, &Wishes::default(), Deadline::new(timeout), payload, &welcome())
    }

    #[test]
    fn a_calls_meta_is_the_protocols() {
        let letter = call(&Target::new("math:sqrt"), None, 3).unwrap();
        let meta: message::Call = wire::decode(&letter.meta).unwrap();
        let (pool, function) = (DEFAULT_POOL.into(), "math:sqrt".into());
        let (priority, retry, each) = (0, None, None);
        let (timeout_ms, handles) = (0, Vec::new());
        let wanted = message::Call { pool, function, timeout_ms, priority, retry, each, handles };
        assert_eq!(wanted, meta);
    }

    #[test]
    fn wishes_travel_and_impossible_ones_do_not() {
        let send = |retry: Retry| {
            let each = Each { apply: message::Apply::Star, fold: "m:fold".into() };
            let wishes = Wishes { priority: -3, retry: Some(retry), each: Some(each) };
            let payload = (Codec::Plain, Flags::NONE, Body::default());
            let target = Target::new("math:sqrt");
            Letter::call(&target, &wishes, Deadline::new(None), payload, &welcome())
        };
        let second = Duration::from_secs(1);
        let retry = Retry::new(3).on_worker_died().on_timed_out(second).on_raised("a.B");
        let letter = send(retry.backoff(second / 10)).unwrap();
        let meta: message::Call = wire::decode(&letter.meta).unwrap();
        let on =
            message::RetryOn { worker_died: true, timed_out: true, raised: vec!["a.B".into()] };
        let (attempts, backoff_ms, attempt_timeout_ms) = (3, 100, 1000);
        let retry = message::Retry { attempts, on, backoff_ms, attempt_timeout_ms };
        assert_eq!((-3, Some(retry)), (meta.priority, meta.retry));
        assert_eq!("m:fold", meta.each.unwrap().fold);
        for impossible in [Retry::new(0), Retry::new(2), Retry::new(2).on_raised("a b")] {
            assert_eq!("BadArguments", send(impossible).unwrap_err().name());
        }
    }

    #[test]
    fn what_cannot_be_answered_is_not_sent_f083() {
        let refused = |target, bytes| call(&target, None, bytes).unwrap_err();
        let target = Target::new("math:sqrt");
        assert_eq!("TooLarge", refused(target.clone(), 11).name());
        assert_eq!("NotFound", refused(Target::new("math"), 1).name());
        assert_eq!("NotFound", refused(Target::new("m:f".repeat(999_999)), 1).name());
        assert_eq!("NotFound", refused(Target { pool: "a b".into(), ..target }, 1).name());
    }

    #[test]
    fn a_timeout_never_travels_as_no_timeout() {
        assert_eq!(1, Deadline::new(Some(Duration::ZERO)).rest_ms());
        assert_eq!(0, Deadline::new(None).rest_ms());
        let second = Deadline::new(Some(Duration::from_secs(1))).rest_ms();
        assert!((900..=1000).contains(&second), "{second}");
        let forever = Deadline::new(Some(Duration::MAX));
        assert_eq!((0, None), (forever.rest_ms(), forever.net()));
    }
}
