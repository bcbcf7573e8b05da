//! What a function answered: still encoded, or as a result together with how it came about, for
//! callers who measure, log, or ask an operator.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use clutch_protocol::message::{Answer, Phases, WorkerId};
use clutch_protocol::{Codec, Failure, Flags, Reason};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::decode;
use crate::memory::Received;
use crate::request::{Request, value};
use crate::{Client, blocking};

/// What came beside a payload, if anything did: the memory of large parts of its value.
#[derive(Clone, Default)]
pub struct Beside(Option<Arc<Received>>);

impl Beside {
    pub(crate) fn new(received: Option<Received>) -> Beside {
        Beside(received.map(Arc::new))
    }

    pub(crate) fn get(&self) -> Option<&Received> {
        self.0.as_deref()
    }
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Beside(..)" } else { "Beside(nothing)" })
    }
}

/// What a function answered, still encoded.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The call's id on its connection.
    pub id: u64,
    /// How the payload is encoded.
    pub codec: Codec,
    /// [`Flags::ITEMS`] when the payload is `(results, failures)`.
    pub flags: Flags,
    /// The value; in `raw`, whatever its length. In `plain`, large parts of it may be attached, and
    /// then it can only be read by [`Reply::value`].
    pub payload: Bytes,
    /// What came beside it.
    pub attached: Beside,
    /// Who answered, and how long it took.
    pub answer: Answer,
}

impl Reply {
    /// The value.
    ///
    /// # Errors
    ///
    /// When it is not what the type can hold.
    pub fn value<T: DeserializeOwned>(&self) -> Result<T, Reason> {
        decode(self.codec, &self.payload, self.attached.get())
    }
}

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
        let Answer { phases, worker, call, attempt, pid } = reply.answer;
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
