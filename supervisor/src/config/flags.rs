//! Options of the interpreter itself that a worker can have.
//!
//! The worker's script follows them, so an option that takes the script's place (`-c`, `-m`, `-`),
//! ends Python at once (`-h`, `-V`) or waits for a person (`-i`) would never become a worker.

use super::reason::Reason;

/// Letters that stand alone and may be joined, as in `-OO` and `-bb`.
const LETTERS: &str = "bBdEIOPqRsStuv";

/// Letters that take a value, joined or as the next argument.
const LETTERS_WITH_VALUE: &str = "WX";

/// The one long option that is no command; its value is the next argument.
const LONG_WITH_VALUE: &str = "--check-hash-based-pycs";

/// Checks a list of options, and says which one is wrong.
pub(super) fn check_flags(flags: &[String]) -> Result<(), (usize, Reason)> {
    let mut rest = flags.iter().enumerate();
    while let Some((index, flag)) = rest.next() {
        let lacks_value = if flag == LONG_WITH_VALUE {
            true
        } else {
            let Some(lacks_value) = letters(flag) else {
                let flag = flag.clone();
                return Err((index, Reason::Flag { flag }));
            };
            lacks_value
        };
        if lacks_value && rest.next().is_none_or(|(_, value)| value.is_empty()) {
            let flag = flag.clone();
            return Err((index, Reason::FlagValue { flag }));
        }
    }
    Ok(())
}

/// Whether joined letters still lack a value; none if one of them is unknown.
fn letters(flag: &str) -> Option<bool> {
    let letters = flag.strip_prefix('-').filter(|letters| !letters.is_empty())?;
    for (index, letter) in letters.char_indices() {
        if LETTERS_WITH_VALUE.contains(letter) {
            return Some(index + 1 == letters.len());
        }
        if !LETTERS.contains(letter) {
            return None;
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flags: &[&str]) -> Result<(), (usize, Reason)> {
        check_flags(&flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_of_a_worker_are_taken() {
        for good in [
            &[] as &[&str],
            &["-OO"],
            &["-bb", "-u"],
            &["-X", "dev"],
            &["-Xdev", "-W", "error"],
            &["-IXutf8"],
            &["-Wignore::DeprecationWarning"],
            &["--check-hash-based-pycs", "always"],
        ] {
            assert!(check(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn what_takes_the_scripts_place_is_refused_f167() {
        let bad: [(&[&str], usize); 13] = [
            (&["-c"], 0),
            (&["-uc", "import os"], 0),
            (&["-m"], 0),
            (&["-"], 0),
            (&["--"], 0),
            (&["-h"], 0),
            (&["-V"], 0),
            (&["-i"], 0),
            (&["--version"], 0),
            (&["evil.py"], 0),
            (&["-u", "evil.py"], 1),
            (&[""], 0),
            (&["-X", "dev", "-x"], 2),
        ];
        for (flags, expected) in bad {
            let (index, reason) = check(flags).expect_err("a bad option");
            assert_eq!(expected, index, "{flags:?}");
            assert!(matches!(reason, Reason::Flag { .. }), "{flags:?}");
        }
    }

    #[test]
    fn a_value_is_needed_where_one_belongs() {
        for bad in [&["-X"] as &[&str], &["-u", "-W"], &["-IX"], &["--check-hash-based-pycs"]] {
            let (index, reason) = check(bad).expect_err("an option without its value");
            assert_eq!(bad.len() - 1, index);
            assert!(matches!(reason, Reason::FlagValue { .. }), "{bad:?}");
        }
    }
}
