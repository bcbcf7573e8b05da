//! `clutch call --stream`: the items of a generator, one JSON line each, as they come.

use std::io;

use clutch_client::{Client, Failure, ItemStream, RawValue, Reason};
use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Args, CANCEL_MAX, OUTPUT_PIECES_MAX, format, request, unanswered};
use crate::args::Global;
use crate::connect::{self, Link};
use crate::error::Error;
use crate::exit::Exit;
use crate::interrupt::{Ask, Interrupt};
use crate::output::{self, Results};
use crate::printed::{HELD_MAX, Printed};
use crate::progress::CallBar;
use crate::report;
use crate::unread::Unread;
use crate::value::Arguments;

/// What happens next.
enum Next {
    Item(Option<Result<Box<RawValue>, Failure>>),
    Printed(clutch_client::OutputChunk),
    /// The function says how far it is.
    Progress,
    /// The beginning of a line was held back for long enough.
    Unfinished,
    Interrupted(Ask),
    /// Nobody reads standard output any more.
    Unread,
    /// The daemon does not say how the cancelled call has ended.
    Silent(Ask),
}

struct Reader<'a> {
    args: &'a Args,
    items: ItemStream<Box<RawValue>>,
    pieces: mpsc::Receiver<clutch_client::OutputChunk>,
    reports: watch::Receiver<Option<clutch_client::Progress>>,
    printed: Printed,
    bar: CallBar,
    results: Results,
    /// Set when the call was cancelled from here: why, and how long its end is waited for.
    settled: Option<(Ask, Instant)>,
    unread: Unread,
}

/// Makes the call and prints its items.
pub(super) async fn run(
    link: &Link,
    args: &Args,
    arguments: Arguments,
    interrupt: &mut Interrupt,
    global: &Global,
) -> Result<Exit, Error> {
    let ended = {
        let mut reader = Reader::new(&link.client, args, arguments);
        let ended = reader.read(interrupt).await;
        reader.last_prints();
        let ended = ended.and_then(|exit| reader.flush().map(|()| exit));
        if let Some(reply) = reader.items.reply().filter(|_| global.verbose && ended.is_ok()) {
            let returned = String::from_utf8_lossy(&reply.payload);
            output::note(&format!("the stream has ended and returned {returned}"));
        }
        ended
    };
    // Dropping the stream cancels the call; the daemon must hear of that before we go.
    connect::delivered(&link.client).await;
    ended.map_err(Error::Output)
}

impl<'a> Reader<'a> {
    fn new(client: &Client, args: &'a Args, arguments: Arguments) -> Reader<'a> {
        let (sink, pieces) = mpsc::channel(OUTPUT_PIECES_MAX);
        let bar = CallBar::new(!args.no_progress);
        let (request, reports) = bar.follow(request(client, args, arguments).output(sink));
        let mut items = request.stream();
        if let Some(window) = args.window {
            items = items.window(window);
        }
        Reader {
            args,
            items,
            pieces,
            reports,
            printed: Printed::default(),
            bar,
            results: Results::new(),
            settled: None,
            unread: Unread::new(),
        }
    }

    async fn read(&mut self, interrupt: &mut Interrupt) -> io::Result<Exit> {
        loop {
            let next = match self.next(interrupt).now_or_never() {
                Some(next) => next,
                None => {
                    self.flush()?;
                    self.next(interrupt).await
                }
            };
            match next {
                Next::Item(Some(Ok(item))) => {
                    let results = &mut self.results;
                    self.bar.aside(|| results.line(item.get().as_bytes()))?;
                }
                Next::Item(None) => return Ok(Exit::Ok),
                Next::Item(Some(Err(failure))) => return Ok(self.failed(failure)),
                Next::Printed(piece) => self.bar.aside(|| self.printed.print(&piece)),
                Next::Progress => self.bar.show_newest(&mut self.reports),
                Next::Unfinished => self.bar.aside(|| self.printed.flush()),
                Next::Interrupted(ask) => {
                    // The daemon says which call that was, and it must hear of it before we go.
                    self.items.cancel();
                    self.settled = Some((ask, Instant::now() + CANCEL_MAX));
                }
                Next::Unread => return Err(io::ErrorKind::BrokenPipe.into()),
                Next::Silent(ask) => return Ok(self.interrupted(ask, &unanswered(self.args))),
            }
        }
    }

    async fn next(&mut self, interrupt: &mut Interrupt) -> Next {
        let silent = self.settled;
        let silent = async {
            match silent {
                Some((ask, settle)) => {
                    tokio::time::sleep_until(settle).await;
                    ask
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ask = interrupt.wait(), if self.settled.is_none() => Next::Interrupted(ask),
            Some(piece) = self.pieces.recv() => Next::Printed(piece),
            Ok(()) = self.reports.changed() => Next::Progress,
            item = self.items.next() => Next::Item(item),
            () = tokio::time::sleep_until(Instant::now() + HELD_MAX), if self.printed.holds() => {
                Next::Unfinished
            }
            () = self.unread.wait() => Next::Unread,
            ask = silent => Next::Silent(ask),
        }
    }

    fn failed(&mut self, mut failure: Failure) -> Exit {
        self.last_prints();
        if self.args.target.local.local {
            // Its supervisor is gone now: nobody can be asked about this number.
            failure.call = 0;
        }
        if let Some((ask, _)) = self.settled.filter(|_| failure.reason == Reason::Cancelled) {
            return self.interrupted(ask, &failure);
        }
        // What was printed before it belongs above it, where both are read on one terminal.
        let _unread = self.flush();
        report::failure(&failure, format(self.args), &std::mem::take(&mut self.printed).end())
    }

    fn interrupted(&mut self, ask: Ask, failure: &Failure) -> Exit {
        self.last_prints();
        let _unread = self.flush();
        report::interrupted(failure, ask, format(self.args))
    }

    /// Shows what was printed last, and no bar any more.
    fn last_prints(&mut self) {
        self.bar.end();
        while let Ok(piece) = self.pieces.try_recv() {
            self.printed.print(&piece);
        }
        self.printed.flush();
    }

    fn flush(&mut self) -> io::Result<()> {
        let results = &mut self.results;
        self.bar.aside(|| results.flush())
    }
}
