//! Which versions of Python a declaration takes: `requires-python`, the specifiers of PEP 440 over
//! released versions. Interpreters have no other versions that matter here.

/// The parts of a version that are compared.
type Release = (u32, u32, u32);

/// Whether a version satisfies all clauses; none when the text is not understood.
pub(super) fn satisfies(text: &str, (major, minor, micro): (u8, u8, u8)) -> Option<bool> {
    let version = (u32::from(major), u32::from(minor), u32::from(micro));
    let mut all = true;
    for clause in text.split(',').map(str::trim).filter(|clause| !clause.is_empty()) {
        all &= clause_holds(clause, version)?;
    }
    Some(all)
}

fn clause_holds(clause: &str, version: Release) -> Option<bool> {
    let digits = clause.find(|c: char| c.is_ascii_digit())?;
    let (operator, wanted) = clause.split_at(digits);
    let (wanted, any) = match wanted.strip_suffix(".*") {
        Some(prefix) => (prefix, true),
        None => (wanted, false),
    };
    let (wanted, parts) = release(wanted)?;
    let starts = match parts {
        1 => version.0 == wanted.0,
        2 => (version.0, version.1) == (wanted.0, wanted.1),
        _ => version == wanted,
    };
    Some(match (operator.trim(), any) {
        ("==", true) => starts,
        ("!=", true) => !starts,
        (_, true) => return None,
        ("==" | "===", false) => version == wanted,
        ("!=", false) => version != wanted,
        (">=", false) => version >= wanted,
        ("<=", false) => version <= wanted,
        (">", false) => version > wanted,
        ("<", false) => version < wanted,
        // ~=3.8 is >=3.8, ==3.*; ~=3.8.1 is >=3.8.1, ==3.8.*
        ("~=", false) if parts >= 2 => {
            let same = version.0 == wanted.0 && (parts == 2 || version.1 == wanted.1);
            same && version >= wanted
        }
        _ => return None,
    })
}

/// The numbers of a version, and how many were written. What makes it a pre-release is left out: a
/// declaration that takes 3.13.0rc1 takes 3.13.0.
fn release(text: &str) -> Option<(Release, usize)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut numbers = [0; 3];
    let mut count = 0;
    for part in text[..end].trim_end_matches('.').split('.') {
        *numbers.get_mut(count)? = part.parse().ok()?;
        count += 1;
    }
    Some(((numbers[0], numbers[1], numbers[2]), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_hold_as_pep_440_says() {
        for (text, version, expected) in [
            ("", (3, 8, 0), Some(true)),
            (">=3.8", (3, 8, 0), Some(true)),
            (">=3.8", (3, 7, 17), Some(false)),
            (">= 3.9, <3.13", (3, 12, 9), Some(true)),
            (">=3.9,<3.13", (3, 13, 0), Some(false)),
            ("==3.12.*", (3, 12, 1), Some(true)),
            ("==3.12.*", (3, 13, 1), Some(false)),
            ("==3.12", (3, 12, 1), Some(false)),
            ("!=3.9.*,>=3.8", (3, 9, 1), Some(false)),
            ("!=3.12.1", (3, 12, 1), Some(false)),
            ("~=3.8", (3, 13, 0), Some(true)),
            ("~=3.8", (4, 0, 0), Some(false)),
            ("~=3.8.2", (3, 8, 18), Some(true)),
            ("~=3.8.2", (3, 9, 0), Some(false)),
            (">3.12", (3, 12, 1), Some(true)),
            ("<=3", (3, 0, 0), Some(true)),
            (">=3.13.0rc1", (3, 13, 0), Some(true)),
            ("3.8", (3, 8, 0), None),
            (">=", (3, 8, 0), None),
            (">=3.x", (3, 8, 0), Some(true)),
            (">=3.*", (3, 8, 0), None),
            ("=>3", (3, 8, 0), None),
            ("~=3", (3, 8, 0), None),
            (">=1.2.3.4", (3, 8, 0), None),
        ] {
            assert_eq!(expected, satisfies(text, version), "{text} {version:?}");
        }
    }
}
