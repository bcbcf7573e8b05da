//! A script's own metadata (PEP 723): a block of TOML in comments.

use serde::Deserialize;

/// What opens the block.
const OPENING: &str = "# /// script";

/// What closes it.
const CLOSING: &str = "# ///";

/// What a script says it needs.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Requirements.
    #[serde(default)]
    pub(super) dependencies: Vec<String>,
    /// Versions of Python.
    #[serde(default, rename = "requires-python")]
    pub(super) requires_python: Option<String>,
}

/// The metadata of a script, if it has any.
///
/// # Errors
///
/// What is wrong with it, in words.
pub(super) fn metadata(text: &str) -> Result<Option<Metadata>, String> {
    let lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches('\r')).collect();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let block = if lines[at] == OPENING { block(&lines[at + 1..]) } else { None };
        at += 1 + block.as_ref().map_or(0, |(_, length)| *length);
        blocks.extend(block.map(|(toml, _)| toml));
    }
    match blocks.as_slice() {
        [] => Ok(None),
        [toml] => match toml::from_str(toml) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) => Err(error.message().to_owned()),
        },
        _ => Err("there is more than one block `# /// script`".to_owned()),
    }
}

/// The TOML of a block, and its lines. It goes as far as comments go, to the last closing line
/// among them; one that is not closed is no block.
fn block(lines: &[&str]) -> Option<(String, usize)> {
    let is_comment = |line: &&&str| **line == "#" || line.starts_with("# ");
    let comments: Vec<_> = lines.iter().take_while(is_comment).collect();
    let end = comments.iter().rposition(|line| **line == CLOSING)?;
    let toml = comments[..end].iter().fold(String::new(), |text, line| {
        text + line.strip_prefix("# ").unwrap_or_default() + "\n"
    });
    Some((toml, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_is_found_and_read() {
        let text = "#!/usr/bin/env python3\r\n# /// script\r\n# requires-python = \">=3.11\"\r\n#\n\
                    # dependencies = [\n#   \"rich\", # a comment\n# ]\n# ///\nimport rich\n";
        let metadata = metadata(text).unwrap().unwrap();
        assert_eq!(Some(">=3.11"), metadata.requires_python.as_deref());
        assert_eq!(vec!["rich"], metadata.dependencies);
    }

    #[test]
    fn the_last_closing_line_counts() {
        let text = "# /// script\n# x = '''\n# ///\n# '''\n# ///\n";
        assert_eq!(Ok(Some(Metadata::default())), metadata(text));
    }

    #[test]
    fn what_is_no_block_is_none() {
        for text in [
            "",
            "print(1)\n",
            "# /// script\n# dependencies = []\nprint(1)\n",
            "# /// pyproject\n# dependencies = 1\n# ///\n",
            "    # /// script\n    # ///\n",
            "#/// script\n#///\n",
        ] {
            assert_eq!(Ok(None), metadata(text), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_block_is_said() {
        let twice = "# /// script\n# ///\n\n# /// script\n# ///\n";
        assert!(metadata(twice).unwrap_err().contains("more than one"));
        assert!(metadata("# /// script\n# dependencies = 1\n# ///\n").is_err());
        assert!(metadata("# /// script\n# dependencies =\n# ///\n").is_err());
    }
}
