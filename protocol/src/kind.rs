//! The kinds of frames, the codecs of payloads, and the flags of a header: the numbers of the wire
//! and their names. How they travel is in `frame`.

/// Declares a `#[repr(u8)]` enum together with its reverse, so that the two cannot drift apart.
macro_rules! byte_enum {
    (
        $(#[$meta:meta])* pub enum $name:ident {
            $($(#[$doc:meta])* $variant:ident = $value:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $value,)* }

        impl $name {
            /// Every variant, in the order of its number.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The variant with this number, if there is one.
            pub const fn from_byte(byte: u8) -> Option<$name> {
                match byte { $($value => Some($name::$variant),)* _ => None }
            }
        }
    };
}

byte_enum! {
    /// What a frame is. New kinds are only ever added at the end of their group.
    pub enum Kind {
        /// Client → daemon, first: versions and role. Meta [`crate::message::Hello`].
        Hello = 1,
        /// Daemon → client: the version chosen and the limits. Meta [`crate::message::Welcome`].
        Welcome = 2,
        /// Daemon → client, last before closing: why. Meta [`crate::message::Refused`].
        Refused = 3,
        /// Client → daemon: call a function. Meta [`crate::message::Call`], payload the arguments.
        Call = 4,
        /// Client → daemon: the caller no longer wants call `id`. No meta.
        Cancel = 5,
        /// The value of call `id`. To a client with meta [`crate::message::Answer`]; from a worker
        /// with none.
        Result = 6,
        /// Daemon → client: call `id` failed. Meta [`crate::failure::Failure`].
        Error = 7,
        /// Daemon → client: something call `id` printed. Meta [`crate::message::Output`].
        Output = 8,
        /// Any → any: are you there? Echoed id. No meta.
        Ping = 9,
        /// The answer to a ping, with its id. No meta.
        Pong = 10,
        /// Client → daemon: what is everyone doing? No meta.
        Status = 11,
        /// Daemon → client: JSON payload, [`crate::status::Status`].
        StatusReport = 12,
        /// Client → daemon: stop the daemon. Meta [`crate::message::Stop`].
        Stop = 13,
        /// Daemon → client: the stop has begun. No meta.
        Stopping = 14,
        /// Client → daemon: an operator's order or question. Meta [`crate::operate::Operation`].
        Operate = 15,
        /// Daemon → client: what became of it. Meta [`crate::operate::Outcome`], payload JSON where
        /// there is something to tell.
        Operated = 16,
        /// Daemon → client: lines of the output store. Meta [`crate::message::LogLines`], JSON
        /// payload: a list of [`crate::logs::LogLine`].
        LogLines = 17,
        /// Client → daemon: what have workers printed? Meta [`crate::message::Logs`]. Ended by a
        /// `Cancel` with its id.
        Logs = 18,
        /// Client → daemon: read the configuration anew. Meta [`crate::message::Reload`].
        Reload = 19,
        /// Daemon → client: what a reload changed, or why it changed nothing; JSON payload,
        /// [`crate::reload::Reloaded`].
        Reloaded = 20,
        /// Client → daemon: run a program with my standard streams. Meta
        /// [`crate::message::RunProgram`]. Nothing but the kinds that follow, and pings, may be
        /// sent on its connection from then on.
        RunProgram = 21,
        /// Daemon → client: the program may be run; send its streams. No meta.
        RunReady = 22,
        /// Client → daemon: the streams, as descriptors. No meta.
        RunStreams = 23,
        /// Daemon → client: the program runs. Meta [`crate::message::Spawned`].
        RunStarted = 24,
        /// Client → daemon: a signal for it. Meta [`crate::message::Forward`].
        RunSignal = 25,
        /// Daemon → client: it has ended. Meta [`crate::message::RunEnded`].
        RunEnded = 26,
        /// Daemon → client: it is not run, or nobody knows how it ended. Meta
        /// [`crate::message::RunRefused`].
        RunRefused = 27,
        /// Worker → daemon → client, and client → daemon → worker: one item of a stream of call
        /// `id`. Meta [`crate::stream::Item`], payload the item.
        Item = 28,
        /// Against the items: how many more of them may be sent. Meta [`crate::stream::Credit`].
        Credit = 29,
        /// Client → daemon → worker: a stream that an argument stands for has ended. Meta
        /// [`crate::stream::ItemsEnd`].
        ItemsEnd = 30,
        /// Worker → daemon on the control socket, daemon → client: how far call `id` has come. Meta
        /// [`crate::stream::Progress`].
        Progress = 31,

        /// Daemon → worker, first: how to become a worker. Meta [`crate::message::Setup`].
        Setup = 32,
        /// Worker → daemon: ready for calls. Meta [`crate::message::Ready`].
        Ready = 33,
        /// Daemon → worker: run a function. Meta [`crate::message::Run`], payload the arguments.
        Run = 34,
        /// Worker → daemon: call `id` failed (0: the start failed). Meta
        /// [`crate::failure::WorkerFailure`].
        Failed = 35,
        /// Daemon → worker, on the control socket: interrupt call `id`. No meta.
        Interrupt = 36,
        /// Daemon → worker, on the call socket: finish and exit. No meta.
        Exit = 37,
        /// Daemon → worker, on the control socket: the caller no longer wants call `id`; sets the
        /// flag that its code can look at, and nothing more. No meta.
        Warn = 38,
        /// Worker → daemon, on the control socket: a record of Python's `logging`. Meta
        /// [`crate::message::Log`].
        Log = 39,
        /// Daemon → worker, on the control socket: write the stacks of all threads into the pipe
        /// for them. No meta.
        Stack = 40,
        /// Worker → daemon, on the control socket: how long a start's imports take. Meta
        /// [`crate::message::Imports`].
        Imports = 41,

        /// Daemon → guardian, first: what to run. Meta [`crate::message::Spawn`], four descriptors.
        Spawn = 48,
        /// Guardian → daemon: python was started. Meta [`crate::message::Spawned`].
        Spawned = 49,
        /// Guardian → daemon: python could not be started. Meta [`crate::message::SpawnFailed`].
        SpawnFailed = 50,
        /// Daemon → guardian: signal python, or kill the tree. Meta [`crate::message::Signal`].
        Signal = 51,
        /// Guardian → daemon: python ended. Meta [`crate::message::Exited`].
        Exited = 52,
        /// Guardian → daemon, last: no process of the tree is left. Meta
        /// [`crate::message::Swept`].
        Swept = 53,
        /// Guardian → daemon: a signal has stopped python, or it goes on. Meta
        /// [`crate::message::Halted`].
        Halted = 54,
        /// Daemon → guardian, first: which program to run for a client. Meta
        /// [`crate::message::SpawnProgram`], a descriptor for each of its open streams.
        SpawnProgram = 55,
        /// Daemon → guardian: send a program a signal. Meta [`crate::message::Forward`].
        Forward = 56,

        /// Client → daemon: keep a value for calls to come, until it is released or I am gone. No
        /// meta; its descriptors, see [`crate::attachment::Content::Value`].
        Put = 64,
        /// Daemon → client: it is kept, and its handle is this id. No meta.
        Kept = 65,
        /// Client → daemon: no call to come has handle `id`. No meta, and no answer.
        Release = 66,
    }
}

byte_enum! {
    /// How a payload is encoded. The daemon never looks inside; it only passes the number on.
    pub enum Codec {
        /// No payload.
        None = 0,
        /// The data-only subset of pickle protocol 5; see `plain`.
        Plain = 1,
        /// Standard JSON in UTF-8.
        Json = 2,
        /// Bytes in, bytes out.
        Raw = 3,
    }
}

/// Bits of a header that change how its frame is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// `Call`, `Run`: the payload is `(args, kwargs)` instead of `args`.
    pub const KEYWORDS: Flags = Flags(1);
    /// `Call`, `Run`: the payload is a list of items; call the function once for each, and answer
    /// with the list of results. `Result`: the payload is `(results, failures)`, see PROTOCOL.md.
    pub const ITEMS: Flags = Flags(2);
    /// `Call`: send what the call prints to the caller as `Output` frames.
    pub const OUTPUT: Flags = Flags(4);

    /// `Call`, `Run`, `Result`, `Item`: the payload begins with a table of what travels beside it,
    /// see [`crate::attachment`].
    pub const ATTACHED: Flags = Flags(8);
    /// `Call`, `Run`: the function gives an iterator, whose items are wanted one by one.
    pub const STREAM: Flags = Flags(16);
    /// `Call`: the caller wants to know how far it has come, as `Progress` frames.
    pub const PROGRESS: Flags = Flags(32);

    const KNOWN: u8 = 63;

    /// The flags with this number, if every bit is known.
    pub const fn from_byte(byte: u8) -> Option<Flags> {
        if byte & !Self::KNOWN == 0 { Some(Flags(byte)) } else { None }
    }

    /// The number on the wire.
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// Whether every bit of `other` is set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}
