//! The exit codes: what each means, and which failure ends with which.
//!
//! They are a contract with scripts: a code never changes its meaning. The table below is the one
//! that `clutch --help` prints and the documentation repeats. How a failure is put into words is
//! in `report`.

use clutch_client::{ConnectError, Denial};
use clutch_protocol::Reason;
use clutch_protocol::failure::Payload;
use clutch_protocol::message::{Refusal, RunRefusal};

use crate::interrupt::Ask;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    Raised = 1,
    Usage = 2,
    NoDaemon = 3,
    TimedOut = 4,
    Cancelled = 5,
    WorkerDied = 6,
    Refused = 7,
    Configuration = 8,
    HungUp = 129,
    Interrupted = 130,
    Terminated = 143,
}

/// Every code with its meaning, in order.
const TABLE: [(Exit, &str); 12] = [
    (Exit::Ok, "success; also when the reader of the output went away"),
    (Exit::Raised, "the Python code raised, or its result could not be delivered"),
    (Exit::Usage, "wrong usage: options, arguments, input, or a name or number that is not there"),
    (Exit::NoDaemon, "no daemon answers at the socket, or the connection was lost"),
    (Exit::TimedOut, "timed out"),
    (Exit::Cancelled, "cancelled by an operator or by the daemon"),
    (Exit::WorkerDied, "the worker died while it ran the call"),
    (
        Exit::Refused,
        "refused: queue full, not allowed, crash loop, nested calls, shutting down, socket in use",
    ),
    (Exit::Configuration, "the configuration is wrong, or its workers cannot start"),
    (Exit::HungUp, "ended by SIGHUP: the terminal was closed"),
    (Exit::Interrupted, "ended by Ctrl-C; what it had called was cancelled"),
    (Exit::Terminated, "ended by SIGTERM; what it had called was cancelled"),
];

impl Exit {
    /// The exit code of a call that failed for this reason.
    ///
    /// The line between 1 and 2 is who can mend it: 2 is for what the caller named or passed, 1 for
    /// what the function did with it.
    pub(crate) fn of(reason: &Reason) -> Exit {
        match reason {
            Reason::Raised(_) | Reason::Unserializable { .. } => Exit::Raised,
            Reason::TooLarge { what, .. } => match what {
                Payload::Arguments => Exit::Usage,
                Payload::Result => Exit::Raised,
            },
            Reason::NotFound(_) | Reason::BadArguments { .. } => Exit::Usage,
            Reason::Disconnected { .. } | Reason::Protocol { .. } => Exit::NoDaemon,
            Reason::TimedOut { .. } => Exit::TimedOut,
            Reason::Cancelled => Exit::Cancelled,
            Reason::WorkerDied(_) => Exit::WorkerDied,
            Reason::QueueFull { .. }
            | Reason::CrashLoop { .. }
            | Reason::NotAllowed
            | Reason::Nested { .. }
            | Reason::HandlesFull { .. }
            | Reason::ShuttingDown { .. } => Exit::Refused,
        }
    }

    /// The exit code of a program that was asked to end: that of a shell for the same signal.
    pub(crate) fn asked(ask: Ask) -> Exit {
        match ask {
            Ask::HangUp => Exit::HungUp,
            Ask::Interrupt => Exit::Interrupted,
            Ask::Terminate => Exit::Terminated,
        }
    }

    /// Whether somebody wanted it to end before it was done.
    pub(crate) fn is_given_up(self) -> bool {
        use Exit::{Cancelled, HungUp, Interrupted, Terminated, TimedOut};
        matches!(self, TimedOut | Cancelled | HungUp | Interrupted | Terminated)
    }

    /// The exit code of an operation that was refused. What was never there is the asker's mistake;
    /// what is not there now, the daemon's state.
    pub(crate) fn of_denial(denial: Denial) -> Exit {
        match denial {
            Denial::NoSuchPool | Denial::NoSuchSlot | Denial::NoSuchCall | Denial::Invalid => {
                Exit::Usage
            }
            Denial::TimedOut => Exit::TimedOut,
            Denial::Ended | Denial::ShuttingDown | Denial::Unavailable | Denial::Busy => {
                Exit::Refused
            }
        }
    }

    /// The exit code when a program was not run.
    pub(crate) fn of_program(refusal: RunRefusal) -> Exit {
        match refusal {
            RunRefusal::NoSuchPool => Exit::Usage,
            RunRefusal::NotAllowed
            | RunRefusal::TooMany
            | RunRefusal::ShuttingDown
            | RunRefusal::NotYet => Exit::Refused,
            RunRefusal::CannotStart => Exit::Configuration,
            RunRefusal::Lost => Exit::WorkerDied,
        }
    }

    /// The exit code when there is no connection.
    pub(crate) fn of_connect(error: &ConnectError) -> Exit {
        match error {
            ConnectError::Refused {
                refusal: Refusal::Overloaded | Refusal::User | Refusal::ShuttingDown,
                ..
            } => Exit::Refused,
            _ => Exit::NoDaemon,
        }
    }

    /// The number.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// The table as text, for the end of a help page.
pub(crate) fn help() -> String {
    TABLE.iter().fold(String::from("Exit codes:"), |text, (exit, meaning)| {
        format!("{text}\n  {:<3}  {meaning}", exit.code())
    })
}

#[cfg(test)]
mod tests {
    use clutch_protocol::failure::{
        Cause, Certificate, Exception, Hindrance, Missing, MissingWhat, NestedBound, Payload,
        Reason, Shutdown,
    };
    use clutch_protocol::message::WorkerId;

    use super::*;

    fn certificate() -> Box<Certificate> {
        let worker = WorkerId { slot: 0, generation: 1 };
        Box::new(Certificate::unknown("default", worker, Cause::Signalled))
    }

    fn text(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn every_reason_has_one_documented_code() {
        let exception = Exception {
            type_name: text("ValueError"),
            message: String::new(),
            notes: Vec::new(),
            frames: Vec::new(),
            traceback: String::new(),
            chain: Vec::new(),
            bases: Vec::new(),
        };
        let missing =
            Missing { what: MissingWhat::Pool, message: String::new(), traceback: String::new() };
        let too_large = |what| Reason::TooLarge { what, bytes: 2, limit: 1 };
        let unserializable = Reason::Unserializable {
            path: text("result"),
            type_name: text("object"),
            message: String::new(),
        };
        let (message, detail) = (String::new(), String::new());
        let expected = [
            (Reason::Raised(Box::new(exception)), 1),
            (unserializable, 1),
            (too_large(Payload::Result), 1),
            (too_large(Payload::Arguments), 2),
            (Reason::NotFound(Box::new(missing)), 2),
            (Reason::BadArguments { message }, 2),
            (Reason::Disconnected { detail: detail.clone() }, 3),
            (Reason::Protocol { detail }, 3),
            (
                Reason::TimedOut {
                    timeout_ms: 1,
                    stack: String::new(),
                    hindrance: Hindrance::Work,
                },
                4,
            ),
            (Reason::Cancelled, 5),
            (Reason::WorkerDied(certificate()), 6),
            (Reason::QueueFull { limit: 1 }, 7),
            (Reason::Nested { chain: Vec::new(), bound: NestedBound::Depth, limit: 1 }, 7),
            (Reason::NotAllowed, 7),
            (Reason::ShuttingDown { why: Shutdown::Daemon }, 7),
            (Reason::CrashLoop { failures: 3, last: certificate() }, 7),
        ];
        for (reason, code) in expected {
            assert_eq!(code, Exit::of(&reason).code(), "{}", reason.name());
        }
    }

    #[test]
    fn every_denial_has_one_documented_code() {
        let expected = [
            (Denial::NoSuchPool, 2),
            (Denial::NoSuchSlot, 2),
            (Denial::NoSuchCall, 2),
            (Denial::Invalid, 2),
            (Denial::TimedOut, 4),
            (Denial::Ended, 7),
            (Denial::ShuttingDown, 7),
            (Denial::Unavailable, 7),
            (Denial::Busy, 7),
        ];
        for (denial, code) in expected {
            assert_eq!(code, Exit::of_denial(denial).code(), "{denial:?}");
        }
    }

    #[test]
    fn every_program_that_is_not_run_has_one_documented_code() {
        let expected = [
            (RunRefusal::NoSuchPool, 2),
            (RunRefusal::NotAllowed, 7),
            (RunRefusal::TooMany, 7),
            (RunRefusal::ShuttingDown, 7),
            (RunRefusal::CannotStart, 8),
            (RunRefusal::Lost, 6),
            (RunRefusal::NotYet, 7),
        ];
        for (refusal, code) in expected {
            assert_eq!(code, Exit::of_program(refusal).code(), "{refusal:?}");
        }
    }

    #[test]
    fn a_daemon_that_refuses_is_not_one_that_is_missing() {
        let refused = |refusal| {
            let sentence = text("no");
            Exit::of_connect(&ConnectError::Refused { refusal, sentence }).code()
        };
        for refusal in [Refusal::Overloaded, Refusal::User, Refusal::ShuttingDown] {
            assert_eq!(7, refused(refusal), "{refusal:?}");
        }
        for refusal in [Refusal::Version, Refusal::Role, Refusal::Protocol, Refusal::TooSlow] {
            assert_eq!(3, refused(refusal), "{refusal:?}");
        }
        assert_eq!(3, Exit::of_connect(&ConnectError::NoPath).code());
    }

    #[test]
    fn a_program_that_was_asked_to_end_has_the_code_of_a_shell() {
        for (ask, code) in [(Ask::HangUp, 1), (Ask::Interrupt, 2), (Ask::Terminate, 15)] {
            let exit = Exit::asked(ask);
            assert_eq!((128 + code, true), (exit.code(), exit.is_given_up()), "{ask}");
        }
        assert!(!Exit::Ok.is_given_up() && !Exit::Raised.is_given_up());
    }

    #[test]
    fn the_table_lists_each_code_once_and_in_order() {
        let codes: Vec<u8> = TABLE.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, 8, 129, 130, 143], *codes);
        let help = help();
        assert!(
            help.contains("\n  0    success") && help.contains("\n  143  ended by SIGTERM"),
            "{help}"
        );
    }
}
