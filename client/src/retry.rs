//! When a call is tried again: what a caller says about it. Trying is the daemon's, so a caller
//! waits for one answer, and nothing is sent twice.

use std::time::Duration;

use clutch_protocol::Reason;
use clutch_protocol::message::{self, RetryOn};
use clutch_protocol::retry::RetryError;

/// What is to be done when an attempt of a call fails. Without a `Retry`, a call has one attempt.
///
/// A call that is tried again runs more than once: name only failures after which that is right.
/// A call that has killed two workers is not given a third, whatever is asked for here; its
/// failure says `quarantined`.
///
/// ```no_run
/// # async fn f(client: clutch_client::Client) -> Result<(), clutch_client::Failure> {
/// use std::time::Duration;
///
/// use clutch_client::Retry;
///
/// let retry = Retry::new(3)
///     .on_worker_died()
///     .on_timed_out(Duration::from_secs(2))
///     .on_raised("requests.exceptions.ConnectionError")
///     .backoff(Duration::from_millis(100));
/// let page: String = client.request("shop:fetch").args(("/",)).retry(retry).send().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Retry {
    attempts: u32,
    worker_died: bool,
    raised: Vec<String>,
    backoff: Duration,
    attempt_timeout: Option<Duration>,
}

impl Retry {
    /// At most this many attempts, the first included: 1 to
    /// [`RETRY_ATTEMPTS_MAX`](clutch_protocol::limits::RETRY_ATTEMPTS_MAX).
    pub fn new(attempts: u32) -> Retry {
        Retry {
            attempts,
            worker_died: false,
            raised: Vec::new(),
            backoff: Duration::ZERO,
            attempt_timeout: None,
        }
    }

    /// Tries again when the worker died. The call may have run in part.
    #[must_use]
    pub fn on_worker_died(mut self) -> Retry {
        self.worker_died = true;
        self
    }

    /// Gives one attempt this long, and tries again when it has taken longer. Waiting for a worker
    /// does not count; the call's own timeout holds for all attempts together.
    #[must_use]
    pub fn on_timed_out(mut self, attempt: Duration) -> Retry {
        self.attempt_timeout = Some(attempt);
        self
    }

    /// Tries again when the function raised this exception, or one derived from it. The name is the
    /// one that Python's traceback shows: `KeyError`, `pkg.mod.Transient`. May be said several
    /// times.
    #[must_use]
    pub fn on_raised(mut self, exception: impl Into<String>) -> Retry {
        self.raised.push(exception.into());
        self
    }

    /// Waits this long before the second attempt, and twice as long before each one after it. The
    /// call's worker does other work meanwhile.
    #[must_use]
    pub fn backoff(mut self, wait: Duration) -> Retry {
        self.backoff = wait;
        self
    }

    /// Says no to what makes no sense. A call that is sent is checked by itself, and fails with
    /// [`Reason::BadArguments`].
    ///
    /// # Errors
    ///
    /// See [`RetryError`].
    pub fn check(&self) -> Result<(), RetryError> {
        self.message().check()
    }

    /// As it travels, if it makes sense.
    pub(crate) fn checked(&self) -> Result<message::Retry, Reason> {
        let retry = self.message();
        match retry.check() {
            Ok(()) => Ok(retry),
            Err(error) => Err(Reason::BadArguments { message: format!("retry: {error}") }),
        }
    }

    /// Whether it says something about one item that cannot be said of several together.
    pub(crate) fn is_of_one_item(&self) -> bool {
        self.attempt_timeout.is_some() || !self.raised.is_empty()
    }

    /// Whether there is one more attempt when so many have ended with their workers' deaths.
    pub(crate) fn survives_deaths(&self, attempts: u32) -> bool {
        self.worker_died && attempts < self.attempts
    }

    /// What is left of it after so many attempts.
    pub(crate) fn after(mut self, attempts: u32) -> Retry {
        if attempts > 0 {
            self.attempts = self.attempts.saturating_sub(attempts).max(1);
        }
        self
    }

    fn message(&self) -> message::Retry {
        message::Retry {
            attempts: self.attempts,
            on: RetryOn {
                worker_died: self.worker_died,
                timed_out: self.attempt_timeout.is_some(),
                raised: self.raised.clone(),
            },
            backoff_ms: millis(self.backoff),
            // 0 would say that there is none.
            attempt_timeout_ms: self.attempt_timeout.map_or(0, |timeout| millis(timeout).max(1)),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
