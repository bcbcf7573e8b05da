//! The waiting line, tested: its rules by sentences, its fairness under random traffic.

use std::collections::BTreeMap;

use super::super::backoff::Dice;
use super::*;

/// A line and the tickets of all that wait in it.
#[derive(Default)]
struct World {
    line: Line,
    tickets: BTreeMap<CallKey, Ticket>,
    next: u64,
}

impl World {
    fn push(&mut self, caller: u64, priority: i8) -> u64 {
        self.next += 1;
        let call = CallKey(self.next);
        let ticket = Ticket { call, caller: Caller(caller), priority, number: self.next };
        self.line.push(ticket);
        self.tickets.insert(call, ticket);
        self.next
    }

    fn pop(&mut self) -> Option<(u64, Spot)> {
        let (call, spot) = self.line.pop()?;
        self.tickets.remove(&call);
        Some((call.0, spot))
    }

    fn pop_all(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.pop()).map(|(call, _)| call).collect()
    }

    fn is_forgotten(&self) -> bool {
        let line = &self.line;
        line.is_empty()
            && line.classes.is_empty()
            && line.holders.is_empty()
            && line.by_waiting.is_empty()
    }
}

#[test]
fn callers_take_turns_and_their_own_calls_go_by_arrival() {
    let mut world = World::default();
    for caller in [1, 1, 1, 2, 2, 3] {
        world.push(caller, 0);
    }
    assert_eq!(vec![1, 4, 6, 2, 5, 3], world.pop_all());
    assert!(world.is_forgotten());
}

#[test]
fn a_higher_priority_goes_first_whoever_sends_it() {
    let mut world = World::default();
    world.push(1, 0);
    world.push(1, -5);
    world.push(2, 7);
    world.push(1, 7);
    assert_eq!(vec![3, 4, 1, 2], world.pop_all());
}

#[test]
fn a_flood_delays_anothers_call_by_one_round() {
    let mut world = World::default();
    for _ in 0..10_000 {
        world.push(1, 0);
    }
    for _ in 0..5_000 {
        world.pop();
    }
    let single = world.push(2, 0);
    let served: Vec<_> = (0..2).filter_map(|_| world.pop()).map(|(call, _)| call).collect();
    assert!(served.contains(&single), "{served:?}");
}

#[test]
fn a_caller_with_always_one_call_waiting_does_not_starve_a_flood() {
    let mut world = World::default();
    let flood: Vec<_> = (0..100).map(|_| world.push(1, 0)).collect();
    let mut served = 0;
    for _ in 0..100 {
        if !world.tickets.values().any(|ticket| ticket.caller == Caller(2)) {
            world.push(2, 0);
        }
        let (call, _) = world.pop().unwrap();
        served += usize::from(flood.contains(&call));
    }
    assert!((49..=51).contains(&served), "{served} of the flood in a hundred turns");
}

#[test]
fn a_call_that_comes_back_keeps_its_place_and_costs_nobody_a_turn() {
    let mut world = World::default();
    for caller in [1, 1, 2, 2] {
        world.push(caller, 0);
    }
    let (first, spot) = world.pop().unwrap();
    assert_eq!(3, world.pop().unwrap().0);
    world.line.give_back(CallKey(first), 0, spot);
    assert_eq!(vec![first, 2, 4], world.pop_all());

    // Also when nothing was left, and others have come since.
    world.line.give_back(CallKey(first), 0, spot);
    world.push(3, 0);
    assert_eq!(first, world.pop().unwrap().0);
}

#[test]
fn a_full_line_makes_room_at_the_cost_of_who_fills_it() {
    let mut world = World::default();
    for priority in [0, -1, -1, 3] {
        world.push(1, priority);
    }
    world.push(2, 0);
    let victim = |world: &World, caller, priority| {
        world.line.victim(Caller(caller), priority).map(|call| call.0)
    };
    assert_eq!(Some(3), victim(&world, 3, 0), "its newest call of the lowest priority");
    assert_eq!(None, victim(&world, 1, 0), "who fills the line is refused first");
    assert_eq!(None, victim(&world, 3, -2), "a less important call displaces nothing");
    assert_eq!(Some(3), victim(&world, 2, 0));
    world.push(2, 0);
    world.push(2, 0);
    assert_eq!(None, victim(&world, 2, 0), "nobody ends up with more than the other had");
}

/// A caller without anything waiting is served within one round of those who wait, and whoever has
/// something waiting all the time gets as many turns as any other.
#[test]
fn turns_are_fair_under_random_traffic() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let mut below = |bound: u64| dice.roll() % bound;
        let mut world = World::default();
        // Turns served to each caller since it last had nothing waiting.
        let mut served: BTreeMap<u64, i64> = BTreeMap::new();
        let mut starts: BTreeMap<u64, BTreeMap<u64, i64>> = BTreeMap::new();
        for _ in 0..500 {
            match below(10) {
                0..5 => {
                    let caller = below(5);
                    if !world.tickets.values().any(|t| t.caller.0 == caller) {
                        starts.insert(caller, served.clone());
                    }
                    world.push(caller, 0);
                }
                5..9 => {
                    let waiting: BTreeMap<_, _> =
                        world.tickets.iter().map(|(call, ticket)| (call.0, *ticket)).collect();
                    let Some((call, _)) = world.pop() else { continue };
                    *served.entry(waiting[&call].caller.0).or_default() += 1;
                }
                _ => {
                    let tickets: Vec<_> = world.tickets.values().copied().collect();
                    let at = usize::try_from(below(tickets.len().max(1) as u64)).unwrap();
                    if let Some(ticket) = tickets.get(at) {
                        world.line.remove(*ticket);
                        world.tickets.remove(&ticket.call);
                    }
                }
            }
            let waits: Vec<u64> = (0..5)
                .filter(|caller| world.tickets.values().any(|t| t.caller.0 == *caller))
                .collect();
            for a in &waits {
                for b in &waits {
                    // Both have waited since the one that began later did.
                    let turns = |who: &u64, since: &u64| {
                        let now = served.get(who).copied().unwrap_or(0);
                        now - starts[since].get(who).copied().unwrap_or(0)
                    };
                    let (mine, theirs) = (turns(a, a), turns(b, a));
                    let began_later = waits_since(&starts, a) >= waits_since(&starts, b);
                    if began_later {
                        assert!((mine - theirs).abs() <= 2, "{mine} {theirs}, seed {seed}");
                    }
                }
            }
            assert_eq!(world.tickets.len(), world.line.len(), "seed {seed}");
        }
        world.pop_all();
        assert!(world.is_forgotten(), "seed {seed}: {:?}", world.line);
    }
}

/// How many turns had been served when a caller's wait began.
fn waits_since(starts: &BTreeMap<u64, BTreeMap<u64, i64>>, caller: &u64) -> i64 {
    starts[caller].values().sum()
}
