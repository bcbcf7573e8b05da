//! How a blocking client feeds a call: the thread that waits for its answer sends what is asked
//! for.

use std::task::{Context, Poll, Waker};

use clutch_protocol::stream::Credit;

use super::connection::{Connection, read};
use super::desk::Mailbox;
use crate::exchange::{Deadline, Letter, Trouble};
use crate::feed::Sources;
use crate::inbox::Delivery;
use crate::pending::Outcome;

/// Waits for what comes for a call next, and feeds the call meanwhile. None when the deadline
/// comes first.
pub(super) fn collect(
    connection: &Connection,
    (mailbox, id): (&Mailbox, u64),
    deadline: Deadline,
    sources: &mut Option<Sources>,
) -> Result<Option<Outcome>, Trouble> {
    loop {
        match connection.collect(mailbox, deadline.net()) {
            Some((_, Outcome::Credit(credit))) => {
                if let Some(sources) = sources {
                    feed(connection, id, credit, deadline, sources)?;
                }
            }
            other => return Ok(other.map(|(_, outcome)| outcome)),
        }
    }
}

/// Waits for the answer of a call, and feeds it meanwhile.
pub(super) fn answer(
    connection: &Connection,
    (mailbox, id): (&Mailbox, u64),
    deadline: Deadline,
    sources: &mut Option<Sources>,
) -> Result<Delivery, Trouble> {
    match collect(connection, (mailbox, id), deadline, sources)? {
        Some(outcome) => read(outcome),
        None => Err(Trouble::sent(0, deadline.passed())),
    }
}

fn feed(
    connection: &Connection,
    id: u64,
    credit: Credit,
    deadline: Deadline,
    sources: &mut Sources,
) -> Result<(), Trouble> {
    sources.ask(credit.stream, credit.items);
    // An iterator always has its next item, or none: nobody has to be woken.
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(step) = sources.poll_step(&mut context) {
        let letter = Letter::fed(step, sources.how.codec);
        connection.write(id, &letter, deadline).map_err(|reason| Trouble::sent(0, reason))?;
    }
    Ok(())
}
