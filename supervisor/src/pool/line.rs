//! The waiting line: whose call is next.
//!
//! Higher priorities go first. Within one priority callers take turns (start-time fair queueing
//! with unit cost): a caller's next call stands one turn behind its last one, and a caller who had
//! nothing to say starts at the turn that is being served. So all callers who wait stand within two
//! turns of one another, and one caller's million calls delay another's single call by one round.
//! Within one caller calls go by arrival.
//!
//! ```text
//!   turn 7 (being served)        turn 8
//!   B's oldest · C's oldest   │  A's oldest       A has had its turn 7; its other calls have no
//!                             │                   place yet: they get one when A's turn comes
//! ```
//!
//! A call that was handed out and comes back keeps the spot it had, beside its caller's turns.
//! Everything is logarithmic; nothing is scanned.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::event::{CallKey, Caller};

/// A place in the line of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    turn: u64,
    /// Breaks ties by who stood there first.
    seq: u64,
}

/// Who stands at a spot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A caller, with the oldest call it has.
    Caller(Caller),
    /// A call that has come back.
    Call(CallKey),
}

/// All that wait with one priority.
#[derive(Debug)]
struct Class {
    turn: u64,
    order: BTreeMap<Spot, Next>,
    /// Callers who have nothing waiting, but have had the turn being served: kept until that turn
    /// is over, so that nobody takes it twice.
    spent: Vec<Caller>,
}

/// What one caller has waiting with one priority.
#[derive(Debug)]
struct Flow {
    calls: BTreeMap<u64, CallKey>,
    /// Where it stands; where it may stand next, while it has nothing waiting.
    spot: Spot,
    is_spent: bool,
}

/// What one caller has waiting.
#[derive(Debug, Default)]
struct Holder {
    waiting: usize,
    flows: BTreeMap<i8, Flow>,
}

/// A call as the line knows it.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// Which call.
    pub call: CallKey,
    /// Who sent it.
    pub caller: Caller,
    /// Its priority.
    pub priority: i8,
    /// Its number by arrival.
    pub number: u64,
}

/// The waiting line of a pool.
#[derive(Debug, Default)]
pub struct Line {
    classes: BTreeMap<Reverse<i8>, Class>,
    holders: HashMap<Caller, Holder>,
    by_waiting: BTreeSet<(usize, Caller)>,
    /// The latest turn that was ever served: spots of calls that come back are not beyond it.
    turn: u64,
    next_seq: u64,
    len: usize,
}

impl Line {
    /// How many wait.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A call that need not wait at all: the spot it would come back to.
    pub fn pass(&mut self) -> Spot {
        assert!(self.is_empty(), "only who finds nobody waiting passes");
        self.spot()
    }

    /// The spot to come back to of a call that has gone ahead of its turn.
    pub fn spot(&mut self) -> Spot {
        Spot { turn: self.turn, seq: self.take_seq() }
    }

    /// Takes a new call in.
    pub fn push(&mut self, ticket: Ticket) {
        let Ticket { call, caller, priority, number } = ticket;
        let seq = self.take_seq();
        let class = class_of(&mut self.classes, priority, self.turn);
        let holder = self.holders.entry(caller).or_default();
        let flow = holder.flows.entry(priority).or_insert_with(|| Flow {
            calls: BTreeMap::new(),
            spot: Spot { turn: class.turn, seq },
            is_spent: false,
        });
        if flow.calls.is_empty() {
            flow.spot = Spot { turn: flow.spot.turn.max(class.turn), seq };
            assert!(flow.spot.turn <= class.turn + 1, "nobody is more than one turn ahead");
            class.order.insert(flow.spot, Next::Caller(caller));
        }
        flow.calls.insert(number, call);
        self.len += 1;
        self.count(caller, 1);
    }

    /// Takes the call whose turn it is out, with the spot it had.
    pub fn pop(&mut self) -> Option<(CallKey, Spot)> {
        let (&Reverse(priority), class) = self.classes.iter_mut().next()?;
        let (spot, next) = class.order.pop_first().expect("a class without calls is dropped");
        self.len -= 1;
        let call = match next {
            Next::Call(call) => call,
            Next::Caller(caller) => {
                let begins = spot.turn > class.turn;
                class.turn = class.turn.max(spot.turn);
                self.turn = self.turn.max(spot.turn);
                if begins {
                    self.end_turn(priority);
                }
                self.take_turn(priority, caller, spot)
            }
        };
        self.drop_if_empty(priority);
        Some((call, spot))
    }

    /// Puts a call that was handed out back to the spot it had.
    pub fn give_back(&mut self, call: CallKey, priority: i8, spot: Spot) {
        let class = class_of(&mut self.classes, priority, self.turn);
        let before = class.order.insert(spot, Next::Call(call));
        assert!(before.is_none(), "every spot is given to one");
        self.len += 1;
    }

    /// Takes a call out that has never been handed out.
    pub fn remove(&mut self, ticket: Ticket) {
        let Ticket { caller, priority, number, .. } = ticket;
        let class = self.classes.get_mut(&Reverse(priority)).expect("its class is there");
        let holder = self.holders.get_mut(&caller).expect("its caller is there");
        let flow = holder.flows.get_mut(&priority).expect("its flow is there");
        let had = flow.calls.remove(&number);
        assert_eq!(Some(ticket.call), had, "what waits is where it was put");
        if flow.calls.is_empty() {
            class.order.remove(&flow.spot);
            if flow.spot.turn <= class.turn {
                holder.flows.remove(&priority);
            } else if !flow.is_spent {
                flow.is_spent = true;
                class.spent.push(caller);
            }
        }
        self.len -= 1;
        self.count(caller, -1);
        self.drop_if_empty(priority);
    }

    /// Takes a call out that had come back.
    pub fn remove_returned(&mut self, priority: i8, spot: Spot) {
        let class = self.classes.get_mut(&Reverse(priority)).expect("its class is there");
        let had = class.order.remove(&spot);
        assert!(matches!(had, Some(Next::Call(_))), "what came back is where it was put");
        self.len -= 1;
        self.drop_if_empty(priority);
    }

    /// Who makes room for a newcomer in a full line: the newest call of the lowest priority of the
    /// caller who has most waiting, if that caller has more than the newcomer's would have then,
    /// and its call is not the more important one.
    pub fn victim(&self, newcomer: Caller, priority: i8) -> Option<CallKey> {
        let &(most, caller) = self.by_waiting.last()?;
        let has = self.holders.get(&newcomer).map_or(0, |holder| holder.waiting);
        if has + 1 >= most {
            return None;
        }
        let flows = &self.holders[&caller].flows;
        let (lowest, flow) = flows.iter().find(|(_, flow)| !flow.calls.is_empty())?;
        if *lowest > priority {
            return None;
        }
        flow.calls.last_key_value().map(|(_, call)| *call)
    }

    /// A caller has its turn: its oldest call is taken, and the caller stands behind.
    fn take_turn(&mut self, priority: i8, caller: Caller, spot: Spot) -> CallKey {
        let seq = self.take_seq();
        let class = self.classes.get_mut(&Reverse(priority)).expect("its turn was just taken");
        let holder = self.holders.get_mut(&caller).expect("who stands in line is known");
        let flow = holder.flows.get_mut(&priority).expect("who stands in line has calls");
        let (_, call) = flow.calls.pop_first().expect("who stands in line has calls");
        flow.spot = Spot { turn: spot.turn + 1, seq };
        if !flow.calls.is_empty() {
            class.order.insert(flow.spot, Next::Caller(caller));
        } else if !flow.is_spent {
            flow.is_spent = true;
            class.spent.push(caller);
        }
        self.count(caller, -1);
        call
    }

    /// A new turn is served: those who had only had the last one need not be remembered.
    fn end_turn(&mut self, priority: i8) {
        let class = self.classes.get_mut(&Reverse(priority)).expect("it is being served");
        for caller in std::mem::take(&mut class.spent) {
            forget_spent(&mut self.holders, caller, priority);
        }
    }

    fn drop_if_empty(&mut self, priority: i8) {
        let is_empty = |class: &Class| class.order.is_empty();
        if self.classes.get(&Reverse(priority)).is_some_and(is_empty) {
            let class = self.classes.remove(&Reverse(priority)).expect("it was just found");
            for caller in class.spent {
                forget_spent(&mut self.holders, caller, priority);
            }
        }
    }

    fn count(&mut self, caller: Caller, change: isize) {
        let holder = self.holders.get_mut(&caller).expect("who is counted has a call");
        if holder.waiting > 0 {
            self.by_waiting.remove(&(holder.waiting, caller));
        }
        holder.waiting = holder.waiting.checked_add_signed(change).expect("no less than none");
        if holder.waiting > 0 {
            self.by_waiting.insert((holder.waiting, caller));
        } else if holder.flows.is_empty() {
            self.holders.remove(&caller);
        }
    }

    const fn take_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }
}

/// The class of a priority. A new one goes on where the line is, so that spots given out before
/// are ahead of those to come.
fn class_of(classes: &mut BTreeMap<Reverse<i8>, Class>, priority: i8, turn: u64) -> &mut Class {
    classes.entry(Reverse(priority)).or_insert_with(|| Class {
        turn,
        order: BTreeMap::new(),
        spent: Vec::new(),
    })
}

fn forget_spent(holders: &mut HashMap<Caller, Holder>, caller: Caller, priority: i8) {
    let holder = holders.get_mut(&caller).expect("the spent are remembered");
    let flow = holder.flows.get_mut(&priority).expect("the spent are remembered");
    flow.is_spent = false;
    if flow.calls.is_empty() {
        holder.flows.remove(&priority);
    }
    if holder.flows.is_empty() {
        assert_eq!(0, holder.waiting, "what waits is in a flow");
        holders.remove(&caller);
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
