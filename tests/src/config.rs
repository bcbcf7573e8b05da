//! A configuration in the making: pools and their keys, written as TOML.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::process::TOKEN_VARIABLE;
use crate::python::Python;

/// A value in a configuration file.
#[derive(Clone, Debug)]
pub struct Value(pub(crate) String);

impl Value {
    /// An inline table.
    pub fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
        let entries = entries.into_iter().map(|(key, value)| (key.to_owned(), value));
        table(&entries.collect())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        // A JSON string is a TOML basic string.
        Value(serde_json::to_string(text).expect("a text is JSON"))
    }
}

impl From<&Path> for Value {
    fn from(path: &Path) -> Value {
        Value::from(path.to_str().expect("test paths are text"))
    }
}

impl From<&[&str]> for Value {
    fn from(texts: &[&str]) -> Value {
        Value::from(texts.iter().map(|text| Value::from(*text)).collect::<Vec<_>>())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value(number.to_string())
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Value {
        Value(is.to_string())
    }
}

impl From<Vec<Value>> for Value {
    fn from(all: Vec<Value>) -> Value {
        let all: Vec<_> = all.into_iter().map(|value| value.0).collect();
        Value(format!("[{}]", all.join(", ")))
    }
}

/// One pool of a configuration in the making.
#[derive(Clone, Debug)]
pub struct Pool {
    keys: BTreeMap<String, Value>,
    path: Vec<Value>,
    limits: BTreeMap<String, Value>,
    tables: BTreeMap<&'static str, BTreeMap<String, Value>>,
    env: BTreeMap<String, Value>,
    inherit: Option<Value>,
    pub(crate) restricted: bool,
}

impl Pool {
    pub(crate) fn new() -> Pool {
        let mut keys = BTreeMap::new();
        keys.insert("python".to_owned(), Value::from(Python::any().path.as_path()));
        keys.insert("workers".to_owned(), Value::from(1));
        Pool {
            keys,
            path: vec![Value::from(crate::workers_dir().as_path())],
            limits: BTreeMap::new(),
            tables: BTreeMap::new(),
            env: BTreeMap::new(),
            inherit: None,
            restricted: false,
        }
    }

    /// How many workers; one without this.
    #[must_use]
    pub fn workers(self, count: u32) -> Pool {
        self.key("workers", count)
    }

    /// Another interpreter than the newest of this machine.
    #[must_use]
    pub fn python(self, python: &Python) -> Pool {
        self.key("python", python.path.as_path())
    }

    /// One more directory on `sys.path`; `tests/workers` is there already.
    #[must_use]
    pub fn path(mut self, dir: impl AsRef<Path>) -> Pool {
        self.path.push(Value::from(dir.as_ref()));
        self
    }

    /// The script that becomes `__main__`.
    #[must_use]
    pub fn main(self, script: impl AsRef<Path>) -> Pool {
        self.key("main", script.as_ref())
    }

    /// The working directory.
    #[must_use]
    pub fn cwd(self, dir: impl AsRef<Path>) -> Pool {
        self.key("cwd", dir.as_ref())
    }

    /// What may be called, as patterns.
    #[must_use]
    pub fn allow(mut self, patterns: &[&str]) -> Pool {
        self.restricted = true;
        let patterns: Vec<_> = patterns.iter().map(|pattern| Value::from(*pattern)).collect();
        self.key("allow", patterns)
    }

    /// Modules that are imported before the first call.
    #[must_use]
    pub fn preload(self, modules: &[&str]) -> Pool {
        let modules: Vec<_> = modules.iter().map(|module| Value::from(*module)).collect();
        self.key("preload", modules)
    }

    /// One key of the pool's `limits`: `.limit("queue", 16)`, `.limit("call_timeout", "5s")`.
    #[must_use]
    pub fn limit(mut self, key: &str, value: impl Into<Value>) -> Pool {
        self.limits.insert(key.to_owned(), value.into());
        self
    }

    /// One key of the pool's `process`: `.process("nice", 5)`.
    #[must_use]
    pub fn process(self, key: &str, value: impl Into<Value>) -> Pool {
        self.entry("process", key, value)
    }

    /// One key of the pool's `memory`: `.memory("kill_above", "64MiB")`.
    #[must_use]
    pub fn memory(self, key: &str, value: impl Into<Value>) -> Pool {
        self.entry("memory", key, value)
    }

    /// One key of the pool's `liveness`: `.liveness("after", "1s")`.
    #[must_use]
    pub fn liveness(self, key: &str, value: impl Into<Value>) -> Pool {
        self.entry("liveness", key, value)
    }

    /// One key of the pool's `build`: `.build("tool", "pip")`.
    #[must_use]
    pub fn build(self, key: &str, value: impl Into<Value>) -> Pool {
        self.entry("build", key, value)
    }

    fn entry(mut self, table: &'static str, key: &str, value: impl Into<Value>) -> Pool {
        self.tables.entry(table).or_default().insert(key.to_owned(), value.into());
        self
    }

    /// A variable of the workers' environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Pool {
        self.env.insert(name.to_owned(), Value::from(value));
        self
    }

    /// What workers inherit from the daemon's environment: `"all"`, `"minimal"`, or names. What
    /// marks the processes of this test is passed on in any case.
    #[must_use]
    pub fn inherit(mut self, what: impl Into<Value>) -> Pool {
        self.inherit = Some(what.into());
        self
    }

    /// Any other key of the pool.
    #[must_use]
    pub fn key(mut self, key: &str, value: impl Into<Value>) -> Pool {
        self.keys.insert(key.to_owned(), value.into());
        self
    }

    /// A table of the pool: `.table("workers", [("min", 0.into()), ("max", 4.into())])`.
    #[must_use]
    pub fn table<const N: usize>(self, key: &str, entries: [(&str, Value); N]) -> Pool {
        let entries = entries.map(|(key, value)| (key.to_owned(), value));
        let entries = table(&BTreeMap::from(entries));
        self.key(key, entries)
    }

    pub(crate) fn write(&self, name: &str, token: &str, text: &mut String) {
        let mut keys = self.keys.clone();
        keys.insert("path".to_owned(), Value::from(self.path.clone()));
        if !self.limits.is_empty() {
            keys.insert("limits".to_owned(), table(&self.limits));
        }
        for (name, entries) in &self.tables {
            keys.insert((*name).to_owned(), table(entries));
        }
        let (mut set, mut env) = (self.env.clone(), BTreeMap::new());
        if let Some(inherit) = &self.inherit {
            env.insert("inherit".to_owned(), inherit.clone());
            set.insert(TOKEN_VARIABLE.to_owned(), Value::from(token));
        }
        if !set.is_empty() {
            env.insert("set".to_owned(), table(&set));
            keys.insert("env".to_owned(), table(&env));
        }
        let _ = writeln!(text, "[pools.{name}]");
        for (key, value) in keys {
            let _ = writeln!(text, "{key} = {}", value.0);
        }
    }
}

/// An inline table.
fn table(entries: &BTreeMap<String, Value>) -> Value {
    let entries = entries.iter().map(|(key, value)| format!("{key} = {}", value.0));
    Value(format!("{{ {} }}", entries.collect::<Vec<_>>().join(", ")))
}
