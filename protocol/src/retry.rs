//! What may be asked for when an attempt of a call fails, and which exceptions are meant. Deciding
//! whether there is another attempt is the daemon's.

use thiserror::Error;

use crate::failure::Exception;
use crate::limits::{CALL_ID_BITS, RETRY_ATTEMPTS_MAX, RETRY_BACKOFF_MS_MAX, RETRY_NAMES_MAX};
use crate::message::{Retry, RetryOn};
use crate::name::{self, NameError};

/// Why a call cannot be tried again in the way that was asked for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RetryError {
    /// No attempt, or too many.
    #[error("a call has 1 to {RETRY_ATTEMPTS_MAX} attempts, not {0}")]
    Attempts(u32),
    /// There is no failure after which it would be tried again.
    #[error(
        "there are {0} attempts, but no failure is named after which to try again; name \
         worker_died, timed_out or raised:EXCEPTION"
    )]
    OnNothing(u32),
    /// An attempt has to have a time of its own, or it takes all the time there is.
    #[error("trying again after timed_out needs the time one attempt may take")]
    NoAttemptTimeout,
    /// The time of an attempt without its consequence.
    #[error("the time of one attempt is only for calls that are tried again after timed_out")]
    AttemptTimeout,
    /// The wait is too long.
    #[error("the wait before the second attempt may have {RETRY_BACKOFF_MS_MAX} ms, not {0}")]
    Backoff(u64),
    /// Too many exceptions are named.
    #[error("{0} exceptions are named, at most {RETRY_NAMES_MAX} may be; name a common base class")]
    Names(usize),
    /// An exception's name is none.
    #[error("'{}' is no exception's name: {error}", name.escape_debug())]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        error: NameError,
    },
}

impl Retry {
    /// Says no to what makes no sense.
    ///
    /// # Errors
    ///
    /// See [`RetryError`].
    pub fn check(&self) -> Result<(), RetryError> {
        let Retry { attempts, on, backoff_ms, attempt_timeout_ms } = self;
        if !(1..=RETRY_ATTEMPTS_MAX).contains(attempts) {
            return Err(RetryError::Attempts(*attempts));
        }
        if *attempts > 1 && *on == RetryOn::default() {
            return Err(RetryError::OnNothing(*attempts));
        }
        match (on.timed_out, *attempt_timeout_ms) {
            (true, 0) => return Err(RetryError::NoAttemptTimeout),
            (false, 1..) => return Err(RetryError::AttemptTimeout),
            _ => {}
        }
        if *backoff_ms > RETRY_BACKOFF_MS_MAX {
            return Err(RetryError::Backoff(*backoff_ms));
        }
        if on.raised.len() > RETRY_NAMES_MAX {
            return Err(RetryError::Names(on.raised.len()));
        }
        for name in &on.raised {
            name::check_exception(name).map_err(|error| {
                let name = name.chars().take(64).collect();
                RetryError::Name { name, error }
            })?;
        }
        Ok(())
    }
}

impl RetryOn {
    /// Whether this exception, or a class it is derived from, is named.
    pub fn names(&self, exception: &Exception) -> bool {
        self.raised.iter().any(|name| {
            *name == exception.type_name || exception.bases.iter().any(|base| base == name)
        })
    }
}

/// The id of a `Run`: the call's own, and which attempt it is, from 1.
///
/// # Panics
///
/// When the call's id has more bits than it may, or the attempt has no number.
pub fn run_id(call: u64, attempt: u32) -> u64 {
    assert!(
        call >> CALL_ID_BITS == 0 && attempt > 0,
        "ids are counted from 1, and are not so many"
    );
    call | u64::from(attempt - 1) << CALL_ID_BITS
}

/// The call's own id in the id of a `Run`.
pub const fn call_of_run(id: u64) -> u64 {
    id & ((1 << CALL_ID_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Retry {
        Retry {
            attempts: 3,
            on: RetryOn { worker_died: true, timed_out: false, raised: vec!["a.B".into()] },
            backoff_ms: 10,
            attempt_timeout_ms: 0,
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        retry().check().unwrap();
        let once = Retry { attempts: 1, on: RetryOn::default(), ..retry() };
        once.check().unwrap();
        let refused = |edit: &dyn Fn(&mut Retry)| {
            let mut retry = retry();
            edit(&mut retry);
            retry.check().unwrap_err()
        };
        let max = RETRY_ATTEMPTS_MAX;
        assert_eq!(RetryError::Attempts(0), refused(&|retry| retry.attempts = 0));
        assert_eq!(RetryError::Attempts(max + 1), refused(&|retry| retry.attempts = max + 1));
        assert_eq!(RetryError::OnNothing(3), refused(&|retry| retry.on = RetryOn::default()));
        assert_eq!(RetryError::NoAttemptTimeout, refused(&|retry| retry.on.timed_out = true));
        assert_eq!(RetryError::AttemptTimeout, refused(&|retry| retry.attempt_timeout_ms = 1));
        assert!(matches!(refused(&|retry| retry.backoff_ms = u64::MAX), RetryError::Backoff(_)));
        let many = vec!["a.B".to_owned(); RETRY_NAMES_MAX + 1];
        assert_eq!(
            RetryError::Names(RETRY_NAMES_MAX + 1),
            refused(&|retry| retry.on.raised.clone_from(&many))
        );
        for bad in ["", "a b", "a..B", "a:B", "a\n", "<lambda>", &"x".repeat(257)] {
            let error = refused(&|retry| retry.on.raised = vec![bad.to_owned()]);
            assert!(matches!(error, RetryError::Name { .. }), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_base_class_stands_for_what_is_derived_from_it() {
        let exception = Exception {
            type_name: "pkg.Busy".into(),
            message: String::new(),
            notes: vec![],
            frames: vec![],
            traceback: String::new(),
            chain: vec![],
            bases: vec!["pkg.Transient".into(), "Exception".into()],
        };
        let names = |name: &str| {
            RetryOn { raised: vec!["x.Y".into(), name.into()], ..RetryOn::default() }
                .names(&exception)
        };
        assert!(names("pkg.Busy") && names("pkg.Transient") && names("Exception"));
        assert!(!names("Busy") && !names("pkg.Trans") && !RetryOn::default().names(&exception));
    }

    #[test]
    fn the_attempts_of_a_call_have_ids_of_their_own() {
        assert_eq!(7, run_id(7, 1));
        let ids: std::collections::BTreeSet<_> = (1..=100).map(|n| run_id(7, n)).collect();
        assert_eq!(100, ids.len());
        assert!(ids.into_iter().all(|id| call_of_run(id) == 7));
    }
}
