//! A result together with how it came about: for callers who measure, log, or ask an operator.

use clutch_protocol::Failure;
use clutch_protocol::message::{Phases, WorkerId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exchange::Reply;
use crate::request::{Request, value};
use crate::{Client, blocking};

/// What a function returned, and how the call went.
///
/// ```no_run
/// # async fn f(client: clutch_client::Client) -> Result<(), clutch_client::Failure> {
/// let answered = client.request("math:sqrt").args((2,)).send_answered::<f64>().await?;
/// println!("call {} took {}: {}", answered.call, answered.phases, answered.value);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered<R> {
    /// The result.
    pub value: R,
    /// How long it waited and ran.
    pub phases: Phases,
    /// Who ran it.
    pub worker: WorkerId,
    /// Its id, unique in the daemon's life: the one that logs and `clutch explain` know.
    pub call: u64,
    /// Which attempt was good, from 1.
    pub attempt: u32,
    /// The process id of who ran it.
    pub pid: u32,
}

impl<R> Answered<R> {
    fn new(value: R, reply: &Reply) -> Answered<R> {
        let clutch_protocol::message::Answer { phases, worker, call, attempt, pid } = reply.answer;
        Answered { value, phases, worker, call, attempt, pid }
    }
}

impl<A: Serialize, K: Serialize> Request<Client, A, K> {
    /// As [`send`](Request::send), and says how the call went beside its result.
    ///
    /// # Errors
    ///
    /// Every way a call can fail; see [`Reason`](crate::Reason).
    pub async fn send_answered<R: DeserializeOwned>(self) -> Result<Answered<R>, Failure> {
        let mut ready = self.ready()?;
        let reply = ready.send().await?;
        Ok(Answered::new(value(&reply, &ready.target)?, &reply))
    }
}

impl<A: Serialize, K: Serialize> Request<blocking::Client, A, K> {
    /// As [`send`](Request::send), and says how the call went beside its result.
    ///
    /// # Errors
    ///
    /// Every way a call can fail; see [`Reason`](crate::Reason).
    pub fn send_answered<R: DeserializeOwned>(self) -> Result<Answered<R>, Failure> {
        let mut ready = self.ready()?;
        let reply = ready.send()?;
        Ok(Answered::new(value(&reply, &ready.target)?, &reply))
    }
}
