//! Nested calls: those that workers send. A worker's processes have a token in their environment;
//! a connection that shows it belongs to that worker, and what it sends while the worker has a call
//! is nested: that call waits for it. Where a worker has several, the connection has to say which
//! of them it serves, with the token; what it sends is an ordinary call if it does not, since a
//! guess could refuse a call that would have got its worker, or free a place that is none.
//!
//! The token says whose connection it is and gives no rights. Whoever may connect may send the same
//! calls without it.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clutch_protocol::Reason;
use clutch_protocol::failure::{Ancestor, NestedBound};
use clutch_protocol::message::WorkerId;
use rustix::rand::{GetRandomFlags, getrandom};

use super::core::Core;
use super::dispatcher::Dispatcher;
use super::history::{Record, What};
use crate::config;
use crate::pool::nesting::Runner;
use crate::pool::{CallKey, Event, Pool, WorkerState};
use crate::session::Peer;
use crate::worker::spawner::PoolIndex;

/// The variables of a worker's environment that let its calls be nested.
const SOCKET: &str = "CLUTCH_SOCKET";
const TOKEN: &str = "CLUTCH_WORKER";
const PROGRAM: &str = "CLUTCH_BIN";

/// The variable by which a process that works for one of several calls says for which.
const CALL: &str = "CLUTCH_CALL";

/// Where workers' calls go, and what sends them.
#[derive(Debug)]
pub(super) struct Address {
    /// The daemon's socket; empty for a private supervisor.
    socket: PathBuf,
    /// This program. Asked for once: the system has another answer after an upgrade.
    program: PathBuf,
}

impl Address {
    pub(super) fn at(socket: PathBuf) -> Address {
        Address { socket, program: std::env::current_exe().unwrap_or_default() }
    }

    /// The socket, as people read it.
    pub(super) fn shown(&self) -> String {
        self.socket.display().to_string()
    }
}

/// What tells one worker from all others, for its life. Empty where there is no socket to show it
/// at.
#[derive(Clone)]
pub(super) struct Token(Rc<str>);

impl Token {
    pub(super) fn none() -> Token {
        Token(Rc::from(""))
    }

    fn random() -> Token {
        let mut bytes = [0; 16];
        // It does not wait: what has started this process has seen to the system's randomness.
        match getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
            Ok(count) if count == bytes.len() => {
                Token(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
            }
            _ => Token::none(),
        }
    }

    /// Takes as long however much of it is right.
    fn is(&self, shown: &str) -> bool {
        let (own, shown) = (self.0.as_bytes(), shown.as_bytes());
        let pairs = own.iter().zip(shown);
        let difference = pairs.fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
        own.len() == shown.len() && !own.is_empty() && difference == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The worker that a connection belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pool: PoolIndex,
    worker: WorkerId,
    /// The call that it serves, where it says so.
    call: Option<CallKey>,
    /// Another pool may take the place of a removed one, and count its workers anew.
    token: Token,
}

/// Where a call comes from.
enum Lineage {
    /// From a client, or a worker without a call.
    Free,
    /// From a worker whose call waits for it.
    Nested(Runner),
    /// From a worker whose call nobody waits for any more.
    Orphan,
}

impl Core {
    /// The worker whose token this is, if there is one.
    pub(crate) fn home_of(&self, token: &str) -> Option<Home> {
        let (token, call) = named_call(token);
        self.with(|dispatcher| {
            let mut found = None;
            for (place, state) in dispatcher.pools.iter().enumerate() {
                for (worker, entry) in &state.workers {
                    if entry.token.is(token) {
                        let (pool, token) = (PoolIndex(place), entry.token.clone());
                        found = Some(Home { pool, worker: *worker, call, token });
                    }
                }
            }
            found
        })
    }

    /// Tells pools what nested calls, or their end, mean for the calls that wait for them.
    pub(crate) fn tell_nested(&self, now: Instant) {
        while let Some((pool, event)) = self.with(|d| d.nested_events.pop_front()) {
            self.tell_one(now, pool, event);
        }
    }

    /// Refuses nested calls that would wait in a pool for ever, the newest first.
    pub(super) fn unstick(&self, now: Instant, pool: PoolIndex) {
        while let Some(call) = self.with(|dispatcher| dispatcher.stuck_call(pool)) {
            self.tell_at(now, pool, Event::CallStuck { call });
        }
    }

    /// As [`Core::unstick`], after a change of a pool's size.
    pub(super) fn unstick_all(&self) {
        let count = self.with(|dispatcher| dispatcher.pools.len());
        for pool in (0..count).map(PoolIndex) {
            self.unstick(Instant::now(), pool);
        }
    }
}

/// A token, and the id of the call that is named behind it.
fn named_call(shown: &str) -> (&str, Option<CallKey>) {
    match shown.split_once('.') {
        Some((token, call)) => (token, Some(CallKey(call.parse().unwrap_or(0)))),
        None => (shown, None),
    }
}

/// A new worker's token, put into its environment with the socket to show it at. What the pool's
/// configuration sets stays.
pub(super) fn equip(
    address: &Address,
    config: &config::Pool,
    environment: &mut Vec<Vec<u8>>,
) -> Token {
    let [socket, program] = [&address.socket, &address.program].map(|path| path.as_os_str());
    if socket.is_empty() {
        return Token::none();
    }
    let token = Token::random();
    // What this daemon inherited is of no call here.
    if !config.env.set.contains_key(CALL) {
        environment.retain(|variable| !variable.starts_with(b"CLUTCH_CALL="));
    }
    let variables =
        [(SOCKET, socket.as_bytes()), (TOKEN, token.0.as_bytes()), (PROGRAM, program.as_bytes())];
    for (name, value) in variables {
        if config.env.set.contains_key(name) || value.is_empty() {
            continue;
        }
        let head = [name.as_bytes(), b"="].concat();
        environment.retain(|variable| !variable.starts_with(&head));
        environment.push([&head, value].concat());
    }
    token
}

impl Dispatcher {
    /// Where what a client sends now comes from.
    fn lineage(&self, peer: &Peer) -> Lineage {
        let Some(home) = peer.home.get() else {
            return Lineage::Free;
        };
        let (pool, worker) = (home.pool, home.worker);
        let state = &self.pools[pool.0];
        let is_same = |token: &Token| Rc::ptr_eq(&token.0, &home.token.0);
        let entry = state.workers.get(&worker).filter(|entry| is_same(&entry.token));
        let Some(view) = entry.and_then(|_| state.policy.worker(worker)) else {
            return Lineage::Orphan;
        };
        let of = |call: CallKey| {
            let runs = state.policy.runs(worker, call) && !state.policy.is_attempt_over(call);
            match runs && self.is_with(pool, worker, call) {
                true => Lineage::Nested(Runner { pool: pool.0, worker, call }),
                false => Lineage::Orphan,
            }
        };
        match (home.call, view.calls) {
            _ if matches!(view.state, WorkerState::Stopping(_) | WorkerState::Dead) => {
                Lineage::Orphan
            }
            (Some(call), _) => of(call),
            (None, [only]) => of(only.call),
            // Nobody waits, or nobody knows who.
            (None, _) => Lineage::Free,
        }
    }

    /// The call that waits for what a client sends to a pool now, if one does.
    ///
    /// # Errors
    ///
    /// Why that is refused.
    pub(super) fn parent_of(&self, peer: &Peer, pool: PoolIndex) -> Result<Option<Runner>, Reason> {
        match self.lineage(peer) {
            Lineage::Free => Ok(None),
            Lineage::Orphan => Err(Reason::Cancelled),
            Lineage::Nested(parent) => match self.too_deep(pool, parent.call) {
                Some(reason) => Err(reason),
                None => Ok(Some(parent)),
            },
        }
    }

    /// Why a call that this one would wait for is refused, if it is.
    fn too_deep(&self, pool: PoolIndex, parent: CallKey) -> Option<Reason> {
        let limit = self.pools[pool.0].config.nested.depth;
        let depth = 1 + self.nesting.ancestors(parent).count();
        (depth > limit as usize).then(|| {
            let mut chain = self.chain(parent);
            chain.extend(self.ancestor(parent));
            Reason::Nested { chain, bound: NestedBound::Depth, limit }
        })
    }

    /// How long a call may take, and whether that is all that the call has left that waits for it.
    pub(super) fn time_for(
        &self,
        now: Instant,
        pool: PoolIndex,
        timeout_ms: u64,
        parent: Option<Runner>,
    ) -> (Duration, bool) {
        let limits = &self.pools[pool.0].config.limits;
        let timeout = match timeout_ms {
            0 => limits.call_timeout,
            ms => Duration::from_millis(ms).min(limits.call_timeout_max),
        };
        let Some(parent) = parent.and_then(|parent| self.calls.get(&parent.call)) else {
            return (timeout, false);
        };
        let left = (parent.arrived + parent.timeout).saturating_duration_since(now);
        (timeout.min(left), left < timeout)
    }

    /// A running call waits for one more.
    pub(super) fn wait_for(&mut self, now: Instant, parent: Runner, key: CallKey, pool: PoolIndex) {
        let Runner { pool: of, worker, call } = parent;
        self.nesting.enter(parent, key, pool.0);
        let behind = u32::try_from(key.0 - call.0).unwrap_or(0);
        self.history.note(now, Record::new(What::Nested, pool).call(key).extra(behind));
        self.pools[pool.0].counters.one("nested");
        self.nested_events.push_back((PoolIndex(of), Event::Waits { worker, call, waits: true }));
    }

    /// A call is answered: whatever it waits for is not wanted any more, and who waits for it may
    /// have nothing to wait for.
    pub(super) fn end_waiting(&mut self, key: CallKey) {
        if self.nesting.is_empty() {
            return;
        }
        self.cancel_nested(key, "the call that waited for it has ended");
        if let Some(Runner { pool, worker, call }) = self.nesting.leave(key) {
            let event = Event::Waits { worker, call, waits: false };
            self.nested_events.push_back((PoolIndex(pool), event));
        }
    }

    /// What a call waits for is not wanted any more.
    pub(super) fn cancel_nested(&mut self, key: CallKey, why: &'static str) {
        if self.nesting.is_empty() {
            return;
        }
        let children: Vec<_> = self.nesting.children(key).collect();
        for (call, pool) in children {
            self.note_unwanted(call, why);
            self.nested_events.push_back((PoolIndex(pool), Event::CallCancelled { call }));
        }
    }

    fn stuck_call(&self, pool: PoolIndex) -> Option<CallKey> {
        let policy = &self.pools[pool.0].policy;
        let call = policy.calls().newest_nested().filter(|_| policy.is_full_of_waiting())?;
        let pools: Vec<&Pool> = self.pools.iter().map(|state| &state.policy).collect();
        self.nesting.is_stuck(pool.0, &pools).then_some(call)
    }

    /// What the caller of a call is told that would have waited for ever.
    pub(super) fn no_worker_ever(&self, pool: PoolIndex, key: CallKey) -> Reason {
        let limit = self.pools[pool.0].policy.settings().nested.extra;
        Reason::Nested { chain: self.chain(key), bound: NestedBound::Extra, limit }
    }

    /// The calls that wait for this one, the first one first.
    pub(super) fn chain(&self, key: CallKey) -> Vec<Ancestor> {
        let nearest_first = self.nesting.ancestors(key).filter_map(|call| self.ancestor(call));
        let mut chain: Vec<_> = nearest_first.collect();
        chain.reverse();
        chain
    }

    fn ancestor(&self, key: CallKey) -> Option<Ancestor> {
        let call = self.calls.get(&key)?;
        let pool = self.pools[call.pool().0].config.name.clone();
        Some(Ancestor { call: key.0, pool, function: call.function().to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_all_of_it_and_shown_to_nobody() {
        let (one, other) = (Token::random(), Token::random());
        assert_eq!((32, false), (one.0.len(), one.0 == other.0));
        assert!(one.is(&one.0) && !one.is(&other.0));
        assert!(!one.is("") && !one.is(&one.0[..31]) && !one.is(&format!("{}0", one.0)));
        assert!(!Token::none().is(""), "no token is nobody's");
        assert_eq!("Token(..)", format!("{one:?}"));
    }

    #[test]
    fn a_call_is_named_behind_its_token() {
        assert_eq!(("abc", None), named_call("abc"));
        assert_eq!(("abc", Some(CallKey(12))), named_call("abc.12"));
        assert_eq!(("abc", Some(CallKey(0))), named_call("abc.x"), "that is no call's");
    }
}
