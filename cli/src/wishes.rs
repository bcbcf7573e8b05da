//! What a caller may want beyond an answer: to go first, and to have a call that failed tried
//! again. Trying again is the daemon's; here are the words for it.

use std::str::FromStr;
use std::time::Duration;

use clutch_client::{Retry, RetryError};
use clutch_protocol::limits::RETRY_ATTEMPTS_MAX;
use clutch_protocol::name::{self, NameError};
use thiserror::Error;

use crate::args;

/// Priority and further attempts.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WishArgs {
    /// Go before waiting calls with a lower number, from -128 to 127
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) priority: i8,
    /// Try a call up to this many times in all, after the failures that --retry-on names
    #[arg(
        long,
        value_name = "N",
        requires = "retry_on",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(RETRY_ATTEMPTS_MAX)),
    )]
    retry: Option<u32>,
    /// After what to try again: worker_died, timed_out, raised:EXCEPTION; separated by commas
    #[arg(long, value_name = "WHAT", requires = "retry", value_delimiter = ',')]
    retry_on: Vec<On>,
    /// How long to wait before the second attempt; twice as long before each one after it
    #[arg(long, value_name = "TIME", requires = "retry", value_parser = args::duration)]
    retry_backoff: Option<Duration>,
    /// How long one attempt may run, for --retry-on timed_out; --timeout is for all together
    #[arg(long, value_name = "TIME", requires = "retry", value_parser = args::timeout)]
    attempt_timeout: Option<Duration>,
}

/// A failure after which a call is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
enum On {
    WorkerDied,
    TimedOut,
    Raised(String),
}

/// Why a word is no such failure.
#[derive(Debug, Error)]
pub(crate) enum OnError {
    #[error("it is neither worker_died nor timed_out nor raised:EXCEPTION")]
    Unknown,
    #[error("write raised:EXCEPTION, like raised:pkg.Transient: {0}")]
    Name(#[from] NameError),
}

impl FromStr for On {
    type Err = OnError;

    fn from_str(word: &str) -> Result<On, OnError> {
        match word {
            "worker_died" => Ok(On::WorkerDied),
            "timed_out" => Ok(On::TimedOut),
            word => {
                let name = word.strip_prefix("raised:").ok_or(OnError::Unknown)?;
                name::check_exception(name)?;
                Ok(On::Raised(name.to_owned()))
            }
        }
    }
}

/// Why options do not go together.
#[derive(Debug, Error)]
pub(crate) enum WishError {
    #[error("--retry-on timed_out needs --attempt-timeout: how long one attempt may run")]
    NoAttemptTimeout,
    #[error("--attempt-timeout is only for --retry-on timed_out; the time for all is --timeout")]
    AttemptTimeout,
    #[error(
        "with --retry-on raised:EXCEPTION items are called one by one; leave --chunk out, or pass \
         --chunk 1"
    )]
    Chunk,
    #[error(
        "with --reduce there is one result of all items or none, so --on-error can only be stop; \
         have the function return clutch.SKIP for items that shall not count"
    )]
    Reduce,
    #[error("{0}")]
    Retry(RetryError),
}

impl WishArgs {
    /// What is to be done when an attempt fails, if anything.
    pub(crate) fn retry(&self) -> Option<Retry> {
        let mut retry = Retry::new(self.retry?);
        for on in &self.retry_on {
            retry = match on {
                On::WorkerDied => retry.on_worker_died(),
                On::TimedOut => match self.attempt_timeout {
                    Some(timeout) => retry.on_timed_out(timeout),
                    None => retry,
                },
                On::Raised(name) => retry.on_raised(name),
            };
        }
        Some(match self.retry_backoff {
            Some(wait) => retry.backoff(wait),
            None => retry,
        })
    }

    /// Says no to options that do not go together.
    pub(crate) fn check(&self) -> Result<(), WishError> {
        match (self.retry_on.contains(&On::TimedOut), self.attempt_timeout) {
            (true, None) => return Err(WishError::NoAttemptTimeout),
            (false, Some(_)) => return Err(WishError::AttemptTimeout),
            _ => {}
        }
        self.retry().map_or(Ok(()), |retry| retry.check().map_err(WishError::Retry))
    }

    /// Whether exceptions are among the failures after which to try again.
    pub(crate) fn names_exceptions(&self) -> bool {
        self.retry_on.iter().any(|on| matches!(on, On::Raised(_)))
    }
}
