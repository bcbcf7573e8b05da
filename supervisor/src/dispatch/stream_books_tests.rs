//! What the books of streams let through.

use std::rc::Rc;

use super::*;
use crate::net::Lent;

const MIB: usize = 1 << 20;

fn asked(items: u32) -> Streams {
    let mut streams = Streams::new(false, true);
    streams.ask(Credit { stream: 1, items }).unwrap();
    streams
}

/// How many more a client is told to send where so many bytes wait already.
fn release(input: &mut Input, waiting: usize) -> u32 {
    thread_local! {
        static LENT: Rc<Lent> = Rc::default();
    }
    LENT.with(|lent| input.release(&Room::taken(lent, waiting, 0)))
}

#[test]
fn a_worker_may_send_what_it_was_asked_for_and_in_order() {
    let mut streams = Streams::new(true, false);
    let lent = Rc::default();
    assert_eq!(1, streams.output.release(2, &Room::taken(&lent, 0, 0)));
    let item = |stream, index| Item { stream, index };
    assert!(streams.give(item(1, 0), 100, 0).unwrap_err().contains("not its to send"));
    assert!(streams.give(item(0, 1), 100, 0).unwrap_err().contains("item 0 is the next"));
    streams.give(item(0, 0), 100, 0).unwrap();
    assert!(streams.wait_for_reader());
    assert_eq!(1, streams.output.release(1, &Room::taken(&lent, 0, 0)));
    assert!(!streams.wait_for_reader());
    streams.give(item(0, 1), 100, 0).unwrap();
    assert!(streams.wait_for_reader() && streams.sent() == Some(2));
    assert!(streams.give(item(0, 2), 100, 0).unwrap_err().contains("nobody has asked for"));
    let mut none = Streams::new(false, false);
    assert!(none.give(item(0, 0), 100, 0).is_err() && none.sent().is_none());
    assert!(none.ask(Credit { stream: 1, items: 1 }).is_err());
}

#[test]
fn a_worker_asks_for_so_much_and_of_streams_that_can_be() {
    let mut streams = asked(4000);
    for (stream, items) in [(1, 97), (1, 0), (0, 1), (STREAMS_MAX, 1), (2, 4097)] {
        assert!(streams.ask(Credit { stream, items }).is_err(), "{stream} {items}");
    }
    streams.ask(Credit { stream: 1, items: 96 }).unwrap();
    streams.input(1).unwrap().has_ended = true;
    assert!(streams.input(1).is_none(), "it takes no more");
    streams.ask(Credit { stream: 1, items: 4096 }).expect("it could not know");
}

#[test]
fn a_client_is_told_to_send_what_there_is_room_for() {
    let mut streams = asked(64);
    let input = streams.input(1).unwrap();
    assert_eq!(1, release(input, 0), "how long they are is not known yet");
    assert_eq!(0, release(input, 0));
    assert!(!input.take(1, 100, 0) && input.take(0, MIB / 4, 0));
    assert!(!input.take(1, 100, 0), "it was not asked for");
    assert_eq!(4, release(input, 0));
    assert!(input.take(1, 100, 0) && input.take(2, 100, 0) && input.take(3, 100, 0));
    assert_eq!(0, release(input, MIB * 3 / 4), "that is on its way");
    assert_eq!(1, release(input, MIB / 2));
    assert!(input.take(4, 64 * MIB, 0));
    assert_eq!((0, 0), (release(input, 0), release(input, 64 * MIB)), "one is on its way");
    assert!(input.take(5, 100, 0));
    assert_eq!((0, 1), (release(input, 1), release(input, 0)), "one is always let through");
    // Short ones all at once.
    let mut streams = asked(64);
    let input = streams.input(1).unwrap();
    assert!(release(input, 0) == 1 && input.take(0, 100, 0));
    assert_eq!(63, release(input, 0));
}
