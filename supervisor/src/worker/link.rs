//! A running worker's sockets and pipes, and the tasks that listen to them. What is heard goes to
//! the dispatcher by plain function calls; nothing is decided here.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use clutch_protocol::frame::Decoder;
use clutch_protocol::limits::DESCRIPTORS_MAX;
use clutch_protocol::message::{Signal, Stream, WorkerId};
use clutch_protocol::stream::Credit;
use clutch_protocol::wire::{self, Encode};
use clutch_protocol::{Frame, Header, Kind};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::cgroup::Group;
use crate::dispatch::Core;
use crate::limits::SIDE_OUTBOX_BYTES_MAX;
use crate::net::intake::OF_WORKERS;
use crate::net::{
    Attached, Holdings, Inbox, InboxError, Ledger, Outbox, OutboxError, Pumped, SharedBudget,
};
use crate::worker::output::Pipe;
use crate::worker::page::Page;
use crate::worker::spawner::{Channels, PoolIndex};
use crate::worker::stack::StackPipe;

/// How long a guardian's report may come after the end of a worker's sockets.
const REPORT_TIMEOUT: Duration = Duration::from_millis(100);

/// A running worker, as the data plane holds it.
#[derive(Debug)]
pub struct Link {
    /// For which pool.
    pub pool: PoolIndex,
    /// Which worker.
    pub worker: WorkerId,
    /// The guardian's process id.
    pub guardian: u32,
    /// The group that its python is to join.
    pub group: Option<Group>,
    call_stream: Rc<UnixStream>,
    control_stream: Rc<UnixStream>,
    report_stream: Rc<UnixStream>,
    /// Setup, calls and exit go out here.
    pub call: Outbox,
    control: Outbox,
    report: Outbox,
    call_in: RefCell<Inbox>,
    control_in: RefCell<Inbox>,
    report_in: RefCell<Inbox>,
    last_words_max: usize,
    stdout: RefCell<Pipe>,
    stderr: RefCell<Pipe>,
    stack: RefCell<StackPipe>,
    page: Page,
    pidfd: AsyncFd<OwnedFd>,
    /// Whether a caller may want to know how far a call is that the worker has.
    pub followed: Followed,
}

/// Whether any of several calls is followed by its caller: said with each, and forgotten with all.
#[derive(Debug, Default)]
pub struct Followed(Cell<bool>);

impl Followed {
    /// Another call begins, the only one or beside others.
    pub fn begin(&self, wants_progress: bool, is_only: bool) {
        self.0.set(wants_progress || (!is_only && self.0.get()));
    }

    /// Whether one of them may be.
    pub fn any(&self) -> bool {
        self.0.get()
    }
}

impl Link {
    /// Takes a new worker's channels over.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch them.
    pub fn new(
        pool: PoolIndex,
        worker: WorkerId,
        channels: Channels,
        payload_bytes_max: u32,
        lanes: u32,
        holdings: &Rc<Holdings>,
    ) -> io::Result<Link> {
        let watch = |stream: std::os::unix::net::UnixStream| {
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream).map(Rc::new)
        };
        let (call, control, report) =
            (watch(channels.call)?, watch(channels.control)?, watch(channels.report)?);
        // A call's frame is sent only to a worker with a free lane, so that no more wait than it
        // has lanes.
        let one_call = payload_bytes_max as usize + SIDE_OUTBOX_BYTES_MAX;
        let calls = one_call.saturating_mul(lanes as usize);
        // Its own limits are its bound: what waits here was admitted to the daemon's memory before.
        let free = SharedBudget::new(usize::MAX, usize::MAX);
        let ledger = Ledger::of_worker(holdings.clone());
        // Those of its calls, and of items that it has asked for and does not read.
        let descriptors =
            usize::from(DESCRIPTORS_MAX).saturating_mul(lanes as usize) + holdings.limit_of_one();
        Ok(Link {
            pool,
            worker,
            guardian: channels.guardian,
            group: channels.group,
            call: Outbox::new(call.clone(), calls, free.clone()).within(descriptors),
            control: Outbox::new(control.clone(), SIDE_OUTBOX_BYTES_MAX, free.clone()),
            report: Outbox::new(report.clone(), SIDE_OUTBOX_BYTES_MAX, free),
            call_in: RefCell::new(
                Inbox::new(call.clone(), Decoder::with_payload_max(payload_bytes_max))
                    .taking(OF_WORKERS, ledger.clone()),
            ),
            control_in: RefCell::new(
                Inbox::new(control.clone(), Decoder::with_payload_max(0)).taking(&[], ledger),
            ),
            report_in: RefCell::new(Inbox::new(report.clone(), Decoder::with_payload_max(0))),
            last_words_max: calls,
            stdout: RefCell::new(Pipe::new(channels.stdout)?),
            stderr: RefCell::new(Pipe::new(channels.stderr)?),
            stack: RefCell::new(StackPipe::new(channels.stack)?),
            page: channels.page,
            pidfd: crate::sys::watch(channels.pidfd)?,
            followed: Followed::default(),
            call_stream: call,
            control_stream: control,
            report_stream: report,
        })
    }

    /// Starts listening. The tasks end with `tasks`, which the worker's owner holds.
    pub fn listen(self: &Rc<Link>, core: &Core, tasks: &mut JoinSet<()>) {
        tasks.spawn_local(self.clone().listen_to_worker(core.clone()));
        tasks.spawn_local(self.clone().listen_to_control(core.clone()));
        tasks.spawn_local(self.clone().listen_to_guardian(core.clone()));
        tasks.spawn_local(self.clone().await_guardian(core.clone()));
        tasks.spawn_local(self.clone().listen_to_pipe(core.clone(), Stream::Stdout));
        tasks.spawn_local(self.clone().listen_to_pipe(core.clone(), Stream::Stderr));
        tasks.spawn_local(self.clone().listen_to_stacks(core.clone()));
        let link = self.clone();
        tasks.spawn_local(async move {
            tokio::join!(
                link.call.flush_forever(),
                link.control.flush_forever(),
                link.report.flush_forever()
            );
        });
        let (link, core) = (self.clone(), core.clone());
        tasks.spawn_local(async move {
            loop {
                link.call.lent().freed().await;
                core.resume_inputs(&link);
            }
        });
    }

    /// Tells the worker to interrupt a call.
    ///
    /// # Errors
    ///
    /// When its control socket is gone or full.
    pub fn interrupt(&self, call: u64) -> Result<(), OutboxError> {
        self.control.send(&Header::new(Kind::Interrupt, call).encode(), &Default::default())
    }

    /// Tells the worker that a call is not wanted any more, by the flag its code can look at.
    ///
    /// # Errors
    ///
    /// When its control socket is gone or full.
    pub fn warn(&self, call: u64) -> Result<(), OutboxError> {
        self.control.send(&Header::new(Kind::Warn, call).encode(), &Default::default())
    }

    /// Lets the worker send more items of a run's stream. Of these, too, only so many are under
    /// way: what is outstanding of a stream is limited.
    ///
    /// # Errors
    ///
    /// When its call socket is gone.
    pub fn credit(&self, run: u64, stream: u32, items: u32) -> Result<(), OutboxError> {
        let head = frame_head(Kind::Credit, run, &Credit { stream, items });
        self.call.send_unlimited(&head, &Default::default(), &Default::default())
    }

    /// Has the worker's control thread write the stacks of all threads.
    ///
    /// # Errors
    ///
    /// When its control socket is gone or full.
    pub fn ask_for_stack(&self) -> Result<(), OutboxError> {
        self.control.send(&Header::new(Kind::Stack, 0).encode(), &Default::default())
    }

    /// Asks the worker's control thread for an answer.
    ///
    /// # Errors
    ///
    /// When its control socket is gone or full.
    pub fn ping(&self, id: u64) -> Result<(), OutboxError> {
        self.control.send(&Header::new(Kind::Ping, id).encode(), &Default::default())
    }

    /// Tells the worker to exit by itself.
    ///
    /// # Errors
    ///
    /// When its call socket is gone or full.
    pub fn exit(&self) -> Result<(), OutboxError> {
        self.call.send(&Header::new(Kind::Exit, 0).encode(), &Default::default())
    }

    /// Tells the guardian what to do to its tree.
    ///
    /// # Errors
    ///
    /// When the guardian is gone.
    pub fn signal(&self, signal: Signal) -> Result<(), OutboxError> {
        self.report.send(&frame_head(Kind::Signal, 0, &signal), &Default::default())
    }

    /// Kills a guardian that does not obey.
    pub fn abandon(&self) {
        // It may have ended by itself just now, which is as good.
        let _ = rustix::process::pidfd_send_signal(
            self.pidfd.get_ref().as_fd(),
            rustix::process::Signal::KILL,
        );
    }

    /// Everything the worker has sent and nobody has read yet.
    ///
    /// # Errors
    ///
    /// When that ends with something that is no frame; what came before it was handed on.
    pub fn hear_last_words(&self, take: impl FnMut(Frame, Attached)) -> Result<(), InboxError> {
        self.call_in.borrow_mut().drain(self.last_words_max, take)
    }

    /// What has come on the control socket and nobody has read yet, such as the records a dead
    /// worker has logged; and what is wrong with the rest, if it is no frame.
    pub fn last_records(&self) -> (Vec<Frame>, Result<(), InboxError>) {
        let mut frames = Vec::new();
        let keep = |frame, _| frames.push(frame);
        let end = self.control_in.borrow_mut().drain(SIDE_OUTBOX_BYTES_MAX, keep);
        (frames, end)
    }

    /// What the guardian has reported and nobody has read yet.
    pub fn last_reports(&self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let keep = |frame, _| frames.push(frame);
        let _ = self.report_in.borrow_mut().drain(SIDE_OUTBOX_BYTES_MAX, keep);
        frames
    }

    /// One of the pipes.
    pub fn pipe(&self, stream: Stream) -> &RefCell<Pipe> {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    /// The pipe that stacks come through.
    pub fn stack(&self) -> &RefCell<StackPipe> {
        &self.stack
    }

    /// Whether user code can have run for a call that was sent to this worker. Once the worker is
    /// dead, that will not change any more.
    pub fn has_begun(&self, call: u64) -> bool {
        self.page.has_begun(call)
    }

    /// Which of a call's items was the last to begin, if any.
    pub fn item_of(&self, call: u64) -> Option<u64> {
        self.page.item_of(call)
    }

    async fn listen_to_worker(self: Rc<Link>, core: Core) {
        let take = |frame, attached| core.worker_frame(&self, &frame, &attached);
        let deaf = || core.is_outlaw(&self);
        let end = listen(&self.call_stream, &self.call_in, take, deaf).await;
        self.channel_ended(&core, end).await;
    }

    /// The control socket brings records of `logging` and answers to pings; its end means the
    /// worker closed it.
    async fn listen_to_control(self: Rc<Link>, core: Core) {
        let take = |frame, _| core.control_frame(&self, &frame);
        let deaf = || core.is_outlaw(&self);
        let end = listen(&self.control_stream, &self.control_in, take, deaf).await;
        self.channel_ended(&core, end).await;
    }

    /// The end of a socket is nearly always that of the process, and then the guardian's report is
    /// on its way and says more. Only a process that lives on has closed its sockets.
    async fn channel_ended(&self, core: &Core, end: Result<(), InboxError>) {
        if matches!(end, Ok(()) | Err(InboxError::Socket(_))) {
            tokio::time::sleep_until(tokio::time::Instant::now() + REPORT_TIMEOUT).await;
        }
        core.worker_channel_ended(self, end);
    }

    async fn listen_to_guardian(self: Rc<Link>, core: Core) {
        // Its end needs no answer: the guardian's own end is told by its pidfd.
        let take = |frame, _| core.guardian_frame(&self, &frame);
        let _ = listen(&self.report_stream, &self.report_in, take, || false).await;
    }

    async fn await_guardian(self: Rc<Link>, core: Core) {
        // The error case cannot be told from the end, and the end is what both come to.
        let _ = self.pidfd.readable().await;
        core.guardian_ended(&self);
    }

    async fn listen_to_stacks(self: Rc<Link>, core: Core) {
        let source = self.stack.borrow().source();
        while source.readable().await.is_ok() {
            core.worker_stack(&self);
            if !self.stack.borrow().is_open() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn listen_to_pipe(self: Rc<Link>, core: Core, stream: Stream) {
        let source = self.pipe(stream).borrow().source();
        while source.readable().await.is_ok() {
            core.worker_output(&self, stream);
            if !self.pipe(stream).borrow().is_open() {
                return;
            }
            // A worker that prints without end must not keep others from their turn.
            tokio::task::yield_now().await;
        }
    }
}

/// Hands every frame that comes in to `take`, until the peer ends or faults, or is not to be heard
/// any more.
async fn listen(
    stream: &UnixStream,
    inbox: &RefCell<Inbox>,
    mut take: impl FnMut(Frame, Attached),
    deaf: impl Fn() -> bool,
) -> Result<(), InboxError> {
    loop {
        stream.readable().await.map_err(InboxError::Socket)?;
        let pumped = inbox.borrow_mut().pump(&mut take)?;
        if deaf() {
            // Unread, what the peer goes on sending fills its own socket and nothing of ours.
            return Ok(());
        }
        match pumped {
            Pumped::Empty => {}
            Pumped::More => tokio::task::yield_now().await,
            Pumped::End => return Ok(()),
        }
    }
}

/// A frame without payload: its header and `meta`.
pub fn frame_head<T: Encode>(kind: Kind, id: u64, meta: &T) -> Vec<u8> {
    let meta = wire::encode(meta).expect("a meta made here is within its limit");
    let meta_bytes = u32::try_from(meta.len()).expect("a meta is within its limit");
    let header = Header { meta_bytes, ..Header::new(kind, id) };
    [&header.encode()[..], &meta].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_followed_while_it_has_a_call_that_is() {
        let followed = Followed::default();
        let after = |wants_progress, is_only| {
            followed.begin(wants_progress, is_only);
            followed.any()
        };
        assert!(!followed.any() && !after(false, true));
        assert!(after(true, true) && after(false, false), "the first call is there still");
        assert!(!after(false, true) && after(true, false));
    }
}
