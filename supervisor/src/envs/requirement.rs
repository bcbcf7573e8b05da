//! One requirement as PEP 508 writes it: whether a text can be one, and its normal form.
//!
//! This is no resolver and no full parser: it finds what no installer would take, early and with
//! the place in the configuration, and leaves the rest to the installer.

use thiserror::Error;

/// The longest requirement. A URL with a hash has some hundred bytes.
const BYTES_MAX: usize = 4096;

/// What compares versions, longest first.
const OPERATORS: [&str; 8] = ["===", "==", "~=", "!=", "<=", ">=", "<", ">"];

/// Why a text is no requirement.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RequirementError {
    /// Nothing is there.
    #[error("it is empty")]
    Empty,
    /// More than anybody needs.
    #[error("it has more than {BYTES_MAX} bytes")]
    Long,
    /// A line break, a NUL or the like.
    #[error("it holds a control character")]
    Control,
    /// An option of pip's.
    #[error("options of pip stand in a requirements file, not in this list")]
    Option,
    /// A path.
    #[error(
        "it is a path; write \"NAME @ file:///ABSOLUTE/PATH\", or put it into a requirements \
             file"
    )]
    Path,
    /// It does not begin with a name.
    #[error("a requirement begins with the name of a package, of letters, digits, `-`, `_`, `.`")]
    Name,
    /// Brackets that are not closed, or with something else in them.
    #[error("the extras in brackets are not a list of names")]
    Extras,
    /// No operator where one must be.
    #[error(
        "after the name comes a version like \">=2\", \"==1.26.*\" or \"~=1.4\", not {found:?}"
    )]
    Operator {
        /// What is there.
        found: String,
    },
    /// No version behind an operator.
    #[error("{version:?} is no version")]
    Version {
        /// What is there.
        version: String,
    },
    /// Nothing behind an `@`.
    #[error("behind the `@` comes a URL, like https://... or file:///...")]
    Url,
    /// Nothing behind a `;`.
    #[error("behind the `;` comes a marker, like python_version < \"3.11\"")]
    Marker,
}

/// Checks a requirement, and gives its normal form: equal ones have equal forms, as far as one can
/// tell without a resolver.
///
/// # Errors
///
/// What no installer would take.
pub(crate) fn normal(text: &str) -> Result<String, RequirementError> {
    if text.len() > BYTES_MAX {
        return Err(RequirementError::Long);
    }
    if text.chars().any(char::is_control) {
        return Err(RequirementError::Control);
    }
    let text = text.trim();
    match text.chars().next() {
        None => return Err(RequirementError::Empty),
        Some('-') => return Err(RequirementError::Option),
        Some('.' | '/' | '~') => return Err(RequirementError::Path),
        Some(_) => {}
    }
    let (name, rest) = name(text)?;
    let (extras, rest) = extras(rest.trim_start())?;
    let head = format!("{name}{extras}");
    let rest = rest.trim_start();
    if let Some(url) = rest.strip_prefix('@') {
        let url = url.trim();
        let scheme = url.split("://").next().unwrap_or_default();
        return if url.contains("://") && !scheme.is_empty() {
            Ok(format!("{head} @ {url}"))
        } else {
            Err(RequirementError::Url)
        };
    }
    let (versions, marker) = match rest.split_once(';') {
        Some((_, marker)) if marker.trim().is_empty() => return Err(RequirementError::Marker),
        Some((versions, marker)) => (versions, format!("; {}", marker.trim())),
        None => (rest, String::new()),
    };
    Ok(format!("{head}{}{marker}", specifiers(versions.trim())?))
}

fn name(text: &str) -> Result<(String, &str), RequirementError> {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = text.find(|c| !inside(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if !alphanumeric(name.chars().next()) || !alphanumeric(name.chars().last()) {
        return Err(RequirementError::Name);
    }
    if rest.starts_with(['/', '\\', ':']) {
        return Err(RequirementError::Path);
    }
    Ok((canonical(name), rest))
}

/// Names that differ in case and in runs of `-`, `_` and `.` are one name (PEP 503).
fn canonical(name: &str) -> String {
    let mut canonical = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if canonical.ends_with('-') => {}
            '-' | '_' | '.' => canonical.push('-'),
            _ => canonical.push(c.to_ascii_lowercase()),
        }
    }
    canonical
}

fn extras(text: &str) -> Result<(String, &str), RequirementError> {
    let Some(inside) = text.strip_prefix('[') else {
        return Ok((String::new(), text));
    };
    let (list, rest) = inside.split_once(']').ok_or(RequirementError::Extras)?;
    if list.trim().is_empty() {
        return Ok((String::new(), rest));
    }
    let mut names = Vec::new();
    for extra in list.split(',') {
        match name(extra.trim()) {
            Ok((name, "")) => names.push(name),
            _ => return Err(RequirementError::Extras),
        }
    }
    names.sort();
    names.dedup();
    Ok((format!("[{}]", names.join(",")), rest))
}

fn specifiers(text: &str) -> Result<String, RequirementError> {
    let inside = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).unwrap_or(text);
    let mut clauses = Vec::new();
    for clause in inside.split(',').map(str::trim).filter(|clause| !clause.is_empty()) {
        let Some(operator) = OPERATORS.iter().find(|operator| clause.starts_with(**operator))
        else {
            return Err(RequirementError::Operator { found: clause.to_owned() });
        };
        let version = clause[operator.len()..].trim();
        let fits =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '*' | '+' | '!' | '-' | '_');
        if version.is_empty() || !version.chars().all(fits) {
            return Err(RequirementError::Version { version: version.to_owned() });
        }
        clauses.push(format!("{operator}{version}"));
    }
    clauses.sort();
    clauses.dedup();
    Ok(clauses.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_that_mean_the_same_have_one_form() {
        for (text, form) in [
            ("numpy", "numpy"),
            (" NumPy >= 2 ", "numpy>=2"),
            ("numpy<3,>=2", "numpy<3,>=2"),
            ("numpy>=2 , <3", "numpy<3,>=2"),
            ("numpy (>=2)", "numpy>=2"),
            ("Zope.Interface__x==1.*", "zope-interface-x==1.*"),
            ("requests[Socks, security]~=2.8", "requests[security,socks]~=2.8"),
            ("a[]", "a"),
            ("a===1.0+local.1", "a===1.0+local.1"),
            ("a>=1!2.0rc1; python_version < '3.11'", "a>=1!2.0rc1; python_version < '3.11'"),
            (
                "pip @ https://x.example/pip-1.whl#sha1=a",
                "pip @ https://x.example/pip-1.whl#sha1=a",
            ),
            ("a@file:///tmp/a.whl", "a @ file:///tmp/a.whl"),
        ] {
            assert_eq!(Ok(form.to_owned()), normal(text), "{text}");
        }
    }

    #[test]
    fn what_no_installer_takes_is_refused() {
        use RequirementError as Error;
        let operator = |found: &str| Error::Operator { found: found.to_owned() };
        let version = |version: &str| Error::Version { version: version.to_owned() };
        for (text, error) in [
            ("", Error::Empty),
            ("  ", Error::Empty),
            ("-r other.txt", Error::Option),
            ("--index-url=https://evil", Error::Option),
            ("./pkg", Error::Path),
            ("/pkg", Error::Path),
            ("pkg/", Error::Path),
            ("https://x.example/a.whl", Error::Path),
            ("a\n-r b", Error::Control),
            ("_a", Error::Name),
            ("a-", Error::Name),
            ("$(id)", Error::Name),
            ("a[b", Error::Extras),
            ("a[b c]", Error::Extras),
            ("numpy=2", operator("=2")),
            ("numpy 2", operator("2")),
            ("a>=", version("")),
            ("a>=2 3", version("2 3")),
            ("a @ pkg", Error::Url),
            ("a;", Error::Marker),
        ] {
            assert_eq!(Err(error), normal(text), "{text:?}");
        }
        assert_eq!(Err(Error::Long), normal(&"a".repeat(BYTES_MAX + 1)));
    }
}
