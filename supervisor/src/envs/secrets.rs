//! Users and passwords in the URLs of indexes and packages. Builders get them as variables or in
//! files that only the daemon's user may read; what is shown, logged or noted goes through here.

use std::borrow::Cow;
use std::ffi::OsString;

/// What stands where a user and a password were.
const HIDDEN: &str = "***";

/// A shorter password is not looked for where it stands alone: it would be found everywhere.
const PASSWORD_CHARS_MIN: usize = 4;

/// Text without the user and password of any URL in it.
pub(super) fn hide(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown += before;
        let authority = &after[..authority_end(after)];
        rest = match authority.rfind('@') {
            Some(sign) => {
                shown += HIDDEN;
                &after[sign..]
            }
            None => after,
        };
    }
    shown += rest;
    Cow::Owned(shown)
}

/// Where a URL's host and what precedes it end. A password may hold any character that is not one
/// of these unquoted.
fn authority_end(text: &str) -> usize {
    let ends =
        |c: char| matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>' | ',') || c.is_whitespace();
    text.find(ends).unwrap_or(text.len())
}

/// What must not be seen in a builder's words beyond what stands in URLs: the passwords it was
/// given.
#[derive(Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// The passwords in these values of variables and arguments, and in these requirements.
    pub(super) fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Secrets {
        let mut found: Vec<String> = texts.flat_map(passwords).collect();
        // One that holds another is replaced as a whole.
        found.sort_by_key(|password| std::cmp::Reverse(password.len()));
        found.dedup();
        Secrets(found)
    }

    /// The same, of a builder's environment and more.
    pub(super) fn of_builder(environment: &[(OsString, OsString)], more: &[String]) -> Secrets {
        let values = environment.iter().filter_map(|(_, value)| value.to_str());
        Secrets::of(values.chain(more.iter().map(String::as_str)))
    }

    /// Text without them.
    pub(super) fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut shown = hide(text);
        for password in &self.0 {
            if shown.contains(password) {
                shown = Cow::Owned(shown.replace(password, HIDDEN));
            }
        }
        shown
    }
}

/// The passwords of the URLs in a text.
fn passwords(text: &str) -> Vec<String> {
    let after_schemes = text.split("://").skip(1);
    let users = after_schemes.filter_map(|after| {
        let authority = &after[..authority_end(after)];
        authority.rfind('@').map(|sign| &authority[..sign])
    });
    let passwords = users.filter_map(|user| user.split_once(':').map(|(_, password)| password));
    let long = passwords.filter(|password| password.chars().count() >= PASSWORD_CHARS_MIN);
    long.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_of_urls_are_hidden() {
        for (text, expected) in [
            (
                "Looking in indexes: https://u:p@h/simple",
                "Looking in indexes: https://***@h/simple",
            ),
            ("a @ https://u:p@h.example/a.whl#x@y", "a @ https://***@h.example/a.whl#x@y"),
            ("https://token@h https://h/b@1", "https://***@h https://h/b@1"),
            ("'http://u:p@ss@h:80', git+ssh://git@h/r", "'http://***@h:80', git+ssh://***@h/r"),
            ("nothing@all", "nothing@all"),
            ("https://", "https://"),
        ] {
            assert_eq!(expected, hide(text));
        }
    }

    #[test]
    fn a_password_is_hidden_wherever_it_stands() {
        let secrets = Secrets::of(["x https://u:hunter2@h/ https://v:abc@h/"].into_iter());
        assert_eq!("denied: u, ***, abc", secrets.hide("denied: u, hunter2, abc"));
        let none = Secrets::of(["https://h/"].into_iter());
        assert_eq!("as it is", none.hide("as it is"));
    }
}
