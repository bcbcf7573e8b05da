//! The async driver of a map-file: does what the plan says, whenever it is polled. There is no task
//! behind it, so one that nobody polls sends nothing new.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use clutch_protocol::Failure;
use futures_core::Stream;
use futures_util::stream::FuturesUnordered;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Sleep};

use super::{
    Cuts, FileError, Item, Job, MapFile, MapFileError, Order, Parcel, Plan, Step, indexed,
};
use crate::client::Client;
use crate::exchange::Reply;

type Answer = (Parcel, Result<Reply, Failure>);
type Sending = Pin<Box<dyn Future<Output = Answer> + Send>>;

struct Driver<R> {
    client: Client,
    job: Job,
    plan: Plan<R>,
    cuts: Cuts,
    sending: FuturesUnordered<Sending>,
    pause: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

// Only `sending` and `pause` are pinned, and they are boxed.
impl<R> Unpin for Driver<R> {}

impl<R: DeserializeOwned> Driver<R> {
    fn begin(map: MapFile<Client, R>, order: Order) -> Result<Driver<R>, FileError> {
        let MapFile { client, input, settings, .. } = map;
        let (job, cuts) = Job::begin(settings, input)?;
        let plan = Plan::new(&job.settings, order, client.welcome());
        let sending = FuturesUnordered::new();
        Ok(Driver { client, job, plan, cuts, sending, pause: None, is_over: false })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item<R>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let mut may_cut = true;
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.plan.step(may_cut) {
                Step::Item(index, result) => return Poll::Ready(Some(Ok((index, result)))),
                Step::Send(parcel) => self.send(parcel, cx),
                Step::Cut => may_cut = self.cut(cx),
                Step::Pause(pause) => {
                    self.pause = Some(Box::pin(tokio::time::sleep_until(Instant::now() + pause)));
                }
                // When nothing is under way, it is the next cut that will wake us.
                Step::Wait => ready!(self.poll_answers(cx)),
                Step::Last(error) => return Poll::Ready(Some(Err(self.end(error)))),
                Step::Done => {
                    self.is_over = true;
                    let last = self.job.source.check().err();
                    return Poll::Ready(last.map(Err));
                }
            }
        }
    }

    /// Ends all: what is under way is cancelled.
    fn end(&mut self, error: FileError) -> FileError {
        self.is_over = true;
        self.sending.clear();
        error
    }

    /// Takes the next cut; false when there is none right now.
    fn cut(&mut self, cx: &mut Context<'_>) -> bool {
        match self.cuts.poll_next(cx) {
            Poll::Ready(Some(Ok(cut))) => self.plan.push(cut),
            Poll::Ready(Some(Err(error))) => self.plan.exhaust(Some(error)),
            Poll::Ready(None) => self.plan.exhaust(None),
            Poll::Pending => return false,
        }
        true
    }

    fn send(&mut self, parcel: Parcel, cx: &mut Context<'_>) {
        if let Err(changed) = self.job.source.check() {
            return self.plan.change(changed);
        }
        let mut ready = self.job.ready(self.client.clone(), &parcel.cut);
        self.sending.push(Box::pin(async move {
            let answer = ready.send().await;
            (parcel, answer)
        }));
        // It is written when it is first polled, which shall be now.
        let _nothing_yet = self.poll_answers(cx);
    }

    /// Polls what is under way and takes in one answer.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((parcel, answer)) = ready!(Pin::new(&mut self.sending).poll_next(cx)) else {
            return Poll::Pending;
        };
        if answer.is_err() {
            if self.client.is_closed() {
                // A lost connection does not come back.
                self.plan.exhaust(None);
            }
            if let Err(changed) = self.job.source.check() {
                // Which is why it failed.
                self.plan.change(changed);
            }
        }
        self.plan.answered(parcel, self.job.read(answer));
        Poll::Ready(())
    }
}

/// A map-file under way, with results in the order of the file: a [`Stream`].
#[must_use = "a map does nothing until it is polled"]
pub struct FileOrdered<R>(Driver<R>);

impl<R: DeserializeOwned> FileOrdered<R> {
    pub(super) fn begin(map: MapFile<Client, R>) -> Result<FileOrdered<R>, FileError> {
        Driver::begin(map, Order::File).map(FileOrdered)
    }

    /// The next result; `None` when there are no more.
    pub async fn next(&mut self) -> Option<Result<R, MapFileError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The next result and the index of its chunk: chunks that no record begins in have none.
    pub async fn next_indexed(&mut self) -> Option<Result<(u64, R), MapFileError>> {
        poll_fn(|cx| self.0.poll(cx)).await.map(indexed)
    }

    /// All results.
    ///
    /// # Errors
    ///
    /// The first chunk that failed, or what is wrong with the file; what was still under way is
    /// cancelled.
    pub async fn collect<T: FromIterator<R>>(mut self) -> Result<T, MapFileError> {
        let mut all = Vec::new();
        while let Some(result) = self.next().await {
            all.push(result?);
        }
        Ok(all.into_iter().collect())
    }

    /// How many of the file's bytes are in chunks that were answered.
    pub fn bytes_done(&self) -> u64 {
        self.0.plan.bytes_done()
    }

    /// How many bytes the file has.
    pub fn bytes_total(&self) -> u64 {
        self.0.job.source.bytes()
    }
}

impl<R: DeserializeOwned> Stream for FileOrdered<R> {
    type Item = Result<R, MapFileError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(self.0.poll(cx));
        Poll::Ready(item.map(|item| indexed(item).map(|(_, result)| result)))
    }
}

/// A map-file under way, with results as they are done: a [`Stream`] of chunk index and result.
#[must_use = "a map does nothing until it is polled"]
pub struct FileUnordered<R>(Driver<R>);

impl<R: DeserializeOwned> FileUnordered<R> {
    pub(super) fn begin(map: MapFile<Client, R>) -> Result<FileUnordered<R>, FileError> {
        Driver::begin(map, Order::Done).map(FileUnordered)
    }

    /// The next result and the index of its chunk; `None` when there are no more.
    pub async fn next(&mut self) -> Option<Result<(u64, R), MapFileError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// How many of the file's bytes are in chunks that were answered.
    pub fn bytes_done(&self) -> u64 {
        self.0.plan.bytes_done()
    }

    /// How many bytes the file has.
    pub fn bytes_total(&self) -> u64 {
        self.0.job.source.bytes()
    }
}

impl<R: DeserializeOwned> Stream for FileUnordered<R> {
    type Item = Result<(u64, R), MapFileError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(self.0.poll(cx));
        Poll::Ready(item.map(indexed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_can_be_taken_to_another_thread() {
        fn sent<T: Send>() {}
        sent::<FileOrdered<u64>>();
        sent::<FileUnordered<u64>>();
        sent::<crate::blocking::FileOrdered<u64>>();
    }
}
