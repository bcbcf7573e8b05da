//! A client as the dispatcher sees it: a way to answer, and the calls it is owed.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;

use tokio::sync::Notify;

use crate::dispatch::{Handles, Home};
use crate::net::{Attached, Outbox, OutboxError};
use crate::pool::CallKey;

/// A connected client.
#[derive(Debug)]
pub struct Peer {
    /// The connection's number, for logs.
    pub id: u64,
    /// Where answers go.
    pub outbox: Outbox,
    /// The calls it waits for, by its own ids.
    pub calls: RefCell<HashMap<u64, CallKey>>,
    /// What it has put with the daemon.
    pub handles: Handles,
    /// Tells the session that something it waits for may have changed.
    pub changed: Notify,
    /// Reports it is owed.
    pub reports: Cell<usize>,
    /// The worker it belongs to, if it belongs to one.
    pub(crate) home: OnceCell<Home>,
    lost: Cell<Option<OutboxError>>,
}

impl Peer {
    /// A client without calls.
    pub fn new(id: u64, outbox: Outbox, handles: Handles) -> Peer {
        Peer {
            id,
            outbox,
            calls: RefCell::default(),
            handles,
            changed: Notify::new(),
            reports: Cell::new(0),
            home: OnceCell::new(),
            lost: Cell::new(None),
        }
    }

    /// How many answers it waits for.
    pub fn in_flight(&self) -> usize {
        self.calls.borrow().len() + self.reports.get()
    }

    /// Sends it a frame. A client that cannot be written to any more is lost; its session sees to
    /// the rest, so the caller has nothing to do about it.
    pub fn send(&self, head: &[u8], payload: &bytes::Bytes) {
        self.send_attached(head, payload, &Attached::default());
    }

    /// The same, with what is attached to it.
    pub fn send_attached(&self, head: &[u8], payload: &bytes::Bytes, attached: &Attached) {
        if let Err(error) = self.outbox.send_attached(head, payload, attached) {
            self.lose(error);
        }
    }

    /// It cannot be written to any more. The first reason is the one that counts.
    pub fn lose(&self, error: OutboxError) {
        if self.lost.get().is_none() {
            self.lost.set(Some(self.outbox.crowded_out().unwrap_or(error)));
            self.changed.notify_one();
        }
    }

    /// Why it cannot be written to any more.
    pub fn lost(&self) -> Option<OutboxError> {
        self.lost.get()
    }
}
