//! Reading a configuration: which file may be trusted, and the order of the checks.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use miette::NamedSource;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, Deserializer};

use super::bounds::{FILE_BYTES_MAX, PROBLEMS_MAX};
use super::check::check_config;
use super::error::{ConfigError, FileReason, Key, Problem};
use super::model::Config;
use super::raw::{RawConfig, schema};
use super::reason::Reason;
use super::shape::check_table;

/// The permission bit that lets anybody write.
const OTHERS_WRITE: u32 = 0o002;

/// The commented sample configuration, every key with its default.
#[must_use]
pub fn default_text() -> &'static str {
    include_str!("../../../config/clutch.toml")
}

/// Reads and checks a file.
///
/// # Errors
///
/// When the file cannot be read or trusted, or says something that cannot be used.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let refuse = |reason| ConfigError::File { path: path.to_owned(), reason };
    let text = read(path).map_err(refuse)?;
    let absolute =
        std::path::absolute(path).map_err(|error| refuse(FileReason::from_io(error, path)))?;
    let base_dir = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    let mut config = parse(&text, Some(path), &base_dir)?;
    config.source = Some(absolute);
    Ok(config)
}

/// Checks a text. Relative paths in it start at `base_dir`, which is absolute.
///
/// # Errors
///
/// With all that is wrong, as far as it can be found at once.
pub fn parse(text: &str, source: Option<&Path>, base_dir: &Path) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let config = parse_into(text, base_dir, &mut problems);
    match config {
        Some(config) if problems.is_empty() => {
            Ok(Config { source: source.map(Path::to_owned), ..config })
        }
        _ => {
            problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
            problems.truncate(PROBLEMS_MAX);
            let name = source
                .map_or_else(|| "the configuration".to_owned(), |path| path.display().to_string());
            Err(ConfigError::Invalid {
                text: Some(Box::new(NamedSource::new(name, text.to_owned()))),
                problems,
            })
        }
    }
}

/// The stages, each of which may report several problems. A text that is no TOML is not looked at
/// further; what has the wrong name or type is taken out, and the rest is still checked.
fn parse_into(text: &str, base_dir: &Path, problems: &mut Vec<Problem>) -> Option<Config> {
    let (mut table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What follows the first syntax error is often only its echo.
        problems.extend(errors.iter().take(1).map(|error| syntax(error, Key::default())));
        return None;
    }
    let places = table.clone();
    check_table(table.get_mut(), &schema(), &Key::default(), problems);
    match read_keys(table) {
        Ok(raw) => Some(check_config(&raw, places.get_ref(), base_dir, problems)),
        Err(problem) => {
            problems.push(*problem);
            None
        }
    }
}

/// From the table to the raw keys. After [`check_table`] only numbers that do not fit can fail.
fn read_keys(table: Spanned<DeTable<'_>>) -> Result<RawConfig, Box<Problem>> {
    let mut track = serde_path_to_error::Track::new();
    let deserializer = Deserializer::from(table);
    let deserializer = serde_path_to_error::Deserializer::new(deserializer, &mut track);
    RawConfig::deserialize(deserializer).map_err(|error| {
        let path = track.path().to_string();
        Box::new(syntax(&error, Key::new(&path.split('.').collect::<Vec<_>>())))
    })
}

fn syntax(error: &toml::de::Error, key: Key) -> Problem {
    Problem {
        key,
        reason: Reason::Syntax { message: error.message().to_owned() },
        span: error.span(),
    }
}

/// Reads a file that may be trusted. All questions are asked of the open file, so that it cannot
/// be exchanged between the question and the reading.
fn read(path: &Path) -> Result<String, FileReason> {
    // Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(|error| FileReason::from_io(error, path))?;
    check_trust(&file, path)?;
    let mut bytes = Vec::new();
    Read::by_ref(&mut file)
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(FileReason::Unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileReason::TooLarge { limit: FILE_BYTES_MAX });
    }
    String::from_utf8(bytes).map_err(|error| FileReason::NotUtf8(error.utf8_error().valid_up_to()))
}

/// The file says which programs run, so whoever can write to it can run programs as this user.
fn check_trust(file: &File, path: &Path) -> Result<(), FileReason> {
    let metadata = file.metadata().map_err(FileReason::Unreadable)?;
    if metadata.is_dir() {
        return Err(FileReason::Directory(path.to_owned()));
    }
    if !metadata.is_file() {
        return Err(FileReason::NotRegular);
    }
    if metadata.mode() & OTHERS_WRITE != 0 {
        return Err(FileReason::WorldWritable { mode: metadata.mode() & 0o7777 });
    }
    if geteuid().is_root() && metadata.uid() != 0 {
        return Err(FileReason::ForeignOwner { owner: metadata.uid() });
    }
    Ok(())
}
