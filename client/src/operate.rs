//! An operator's verbs, the same on both clients: orders to pools, cancelling anybody's call, the
//! life of a call, the stacks of a worker.

use bytes::Bytes;
use clutch_protocol::operate::{
    CancelledCall, Denial, Explanation, Operation, Outcome, PoolOrder, Stack,
};
use clutch_protocol::{Codec, Failure, Frame, Kind, Reason, wire};
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::exchange::{Target, Trouble};
use crate::{Client, blocking};

/// Why an operation was not done.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum OperateError {
    /// The daemon refused it, and nothing has changed.
    #[error("{sentence}")]
    Refused {
        /// Why, for programs.
        denial: Denial,
        /// Why and what to do, for people.
        sentence: String,
    },
    /// The daemon could not be asked, or did not answer.
    #[error(transparent)]
    Failed(#[from] Failure),
}

fn meta(operation: &Operation) -> Result<Vec<u8>, Failure> {
    wire::encode(operation).map_err(|error| {
        let reason = Reason::BadArguments { message: error.to_string() };
        Target::control("operate").failure(Trouble::unsent(reason))
    })
}

/// What the daemon has to tell, unless it refused.
fn open(frame: &Frame) -> Result<Bytes, OperateError> {
    match wire::decode(&frame.meta) {
        Ok(Outcome::Done) => Ok(frame.payload.clone()),
        Ok(Outcome::Refused { denial, sentence }) => {
            Err(OperateError::Refused { denial, sentence })
        }
        Err(error) => Err(unreadable(&error).into()),
    }
}

fn read<T: DeserializeOwned>(frame: &Frame) -> Result<T, OperateError> {
    let json = open(frame)?;
    if frame.header.codec != Codec::Json {
        return Err(unreadable(&format!("it came as {:?}, not as JSON", frame.header.codec)).into());
    }
    serde_json::from_slice(&json).map_err(|error| unreadable(&error).into())
}

fn unreadable(why: &dyn std::fmt::Display) -> Failure {
    let detail = format!("the daemon's answer to an operation cannot be read: {why}");
    Target::control("operate").failure(Trouble::sent(0, Reason::Protocol { detail }))
}

fn pool(name: &str, order: PoolOrder) -> Operation {
    Operation::Pool { name: name.to_owned(), order }
}

impl Client {
    async fn operate(&self, operation: &Operation) -> Result<Frame, Failure> {
        self.control("operate", Kind::Operate, meta(operation)?).await
    }

    /// Gives a pool an order. It is carried out from now on; `status` shows how far it is.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    pub async fn order_pool(&self, name: &str, order: PoolOrder) -> Result<(), OperateError> {
        open(&self.operate(&pool(name, order)).await?).map(drop)
    }

    /// Cancels a call by its id in the daemon, whoever sent it.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    pub async fn cancel_call(&self, call: u64) -> Result<CancelledCall, OperateError> {
        read(&self.operate(&Operation::Cancel { call }).await?)
    }

    /// The life of a call, by its id in the daemon.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    pub async fn explain(&self, call: u64) -> Result<Explanation, OperateError> {
        read(&self.operate(&Operation::Explain { call }).await?)
    }

    /// The Python stack of every thread of the worker in a slot, now.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    pub async fn stack(&self, pool: &str, slot: u32) -> Result<Stack, OperateError> {
        read(&self.operate(&Operation::Stack { pool: pool.to_owned(), slot }).await?)
    }
}

impl blocking::Client {
    fn operate(&self, operation: &Operation) -> Result<Frame, Failure> {
        self.control("operate", Kind::Operate, meta(operation)?)
    }

    /// Gives a pool an order. It is carried out from now on; `status` shows how far it is.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    pub fn order_pool(&self, name: &str, order: PoolOrder) -> Result<(), OperateError> {
        open(&self.operate(&pool(name, order))?).map(drop)
    }

    /// Cancels a call by its id in the daemon, whoever sent it.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    pub fn cancel_call(&self, call: u64) -> Result<CancelledCall, OperateError> {
        read(&self.operate(&Operation::Cancel { call })?)
    }

    /// The life of a call, by its id in the daemon.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    pub fn explain(&self, call: u64) -> Result<Explanation, OperateError> {
        read(&self.operate(&Operation::Explain { call })?)
    }

    /// The Python stack of every thread of the worker in a slot, now.
    ///
    /// # Errors
    ///
    /// See [`OperateError`].
    pub fn stack(&self, pool: &str, slot: u32) -> Result<Stack, OperateError> {
        read(&self.operate(&Operation::Stack { pool: pool.to_owned(), slot })?)
    }
}

#[cfg(test)]
mod tests {
    use clutch_protocol::Header;

    use super::*;

    fn operated(meta: &[u8], codec: Codec, payload: &'static [u8]) -> Frame {
        Frame {
            header: Header { codec, ..Header::new(Kind::Operated, 1) },
            meta: Bytes::copy_from_slice(meta),
            payload: Bytes::from_static(payload),
        }
    }

    #[test]
    fn an_answer_is_read_a_refusal_is_typed_and_nonsense_is_a_failure() {
        let done = wire::encode(&Outcome::Done).unwrap();
        let json = br#"{"call":7,"pool":"p","function":"m:f","worker":null,"new":1}"#;
        let cancelled: CancelledCall = read(&operated(&done, Codec::Json, json)).unwrap();
        assert_eq!((7, "m:f", None), (cancelled.call, &*cancelled.function, cancelled.worker));

        let sentence = "no".to_owned();
        let denial = Denial::NoSuchCall;
        let refused = wire::encode(&Outcome::Refused { denial, sentence }).unwrap();
        let error = read::<CancelledCall>(&operated(&refused, Codec::None, b"")).unwrap_err();
        assert_eq!(OperateError::Refused { denial, sentence: "no".into() }, error);
        assert_eq!("no", error.to_string());

        for nonsense in [
            operated(b"?", Codec::None, b""),
            operated(&done, Codec::Json, b"{"),
            operated(&done, Codec::Raw, json),
        ] {
            let error = read::<CancelledCall>(&nonsense).unwrap_err();
            assert!(matches!(&error, OperateError::Failed(f) if f.reason.name() == "Protocol"));
        }
    }
}
