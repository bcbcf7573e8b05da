//! What comes of a call one by one before its answer: its items, and how far it has come. Where
//! each goes; no waiting here.

use std::fmt;
use std::sync::Arc;

use clutch_protocol::stream::{Item, Progress};
use clutch_protocol::wire;
use tokio::sync::mpsc;

use crate::exchange::garbage;
use crate::inbox::Delivery;
use crate::pending::Closing;

/// Where the items of a call's answer go, in their order.
#[derive(Debug)]
pub(crate) struct ItemSink {
    /// How many may be on their way.
    pub(crate) window: u32,
    next: u64,
    /// None when whoever waits for the answer takes them too.
    channel: Option<mpsc::Sender<Delivery>>,
}

impl ItemSink {
    /// Items go to whoever waits for the answer.
    pub(crate) fn to_waiter(window: u32) -> ItemSink {
        ItemSink { window, next: 0, channel: None }
    }

    /// Items go through a channel that holds all that may be on their way.
    pub(crate) fn channel(window: u32) -> (ItemSink, mpsc::Receiver<Delivery>) {
        let (sender, receiver) = mpsc::channel(window as usize);
        (ItemSink { window, next: 0, channel: Some(sender) }, receiver)
    }

    /// Takes the next item; gives it back if it is the waiter's.
    pub(crate) fn take(&mut self, delivery: Delivery) -> Result<Option<Delivery>, Closing> {
        let item = wire::decode(&delivery.frame.meta);
        let Item { stream, index } = item.map_err(|error| garbage(&error))?;
        let fault = |text: String| Closing::Protocol(text.into());
        if stream != 0 || index != self.next {
            let next = self.next;
            return Err(fault(format!(
                "the daemon sent item {index} of stream {stream} where item {next} is the next"
            )));
        }
        self.next += 1;
        let Some(channel) = &self.channel else {
            return Ok(Some(delivery));
        };
        match channel.try_send(delivery) {
            // Its receiver is gone when the caller is; it has cancelled then.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(None),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(fault(format!("the daemon sent item {index}, which nobody has asked for")))
            }
        }
    }
}

/// Who is told how far a call has come.
#[derive(Clone)]
pub(crate) struct ProgressSink(Arc<dyn Fn(Progress) + Send + Sync>);

impl ProgressSink {
    pub(crate) fn new(tell: impl Fn(Progress) + Send + Sync + 'static) -> ProgressSink {
        ProgressSink(Arc::new(tell))
    }

    pub(crate) fn tell(&self, progress: Progress) {
        (self.0)(progress);
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressSink")
    }
}

#[cfg(test)]
mod tests {
    use clutch_protocol::{Frame, Header, Kind};

    use super::*;

    fn item(stream: u32, index: u64) -> Delivery {
        let meta = wire::encode(&Item { stream, index }).unwrap().into();
        let (header, payload) = (Header::new(Kind::Item, 1), bytes::Bytes::new());
        Delivery { frame: Frame { header, meta, payload }, descriptors: Vec::new() }
    }

    #[test]
    fn what_was_not_asked_for_is_a_fault_and_a_reader_that_has_gone_is_none() {
        let (mut sink, receiver) = ItemSink::channel(2);
        assert!(sink.take(item(0, 0)).unwrap().is_none());
        assert!(matches!(sink.take(item(1, 1)), Err(Closing::Protocol(_))));
        assert!(matches!(sink.take(item(0, 0)), Err(Closing::Protocol(_))));
        assert!(sink.take(item(0, 1)).unwrap().is_none());
        assert!(matches!(sink.take(item(0, 2)), Err(Closing::Protocol(_))));
        drop(receiver);
        assert!(sink.take(item(0, 3)).unwrap().is_none());
        let mut sink = ItemSink::to_waiter(2);
        assert!(sink.take(item(0, 0)).unwrap().is_some());
        assert!(sink.take(item(0, 2)).is_err());
    }
}
