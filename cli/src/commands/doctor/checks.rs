//! What is asked of the workers of a pool, in the order in which a worker would come upon it.

use std::time::Duration;

use clutch_supervisor::config::{Concurrency, Main, Pool};
use clutch_supervisor::doctor::pool::{ENVIRONMENT, INTERPRETER, processors};
use clutch_supervisor::doctor::{Finding, Status};
use serde_json::{Value, json};

/// How long a check may take that loads nothing of the user's; children it waits for included.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(40);

/// The ways of `multiprocessing` to start a child.
const START_METHODS: [&str; 3] = ["fork", "spawn", "forkserver"];

/// The checks of what a pool itself loads and calls: what one of these needs, failed before it.
const IMPORT: &str = "import";
const MAIN: &str = "main";
const INITIALIZER: &str = "initializer";
const WARM: &str = "warm";

/// One check: a function of the worker's package, and what it is told.
pub(super) struct Check {
    pub(super) id: &'static str,
    pub(super) subject: Option<String>,
    pub(super) function: &'static str,
    pub(super) arguments: Value,
    pub(super) timeout: Duration,
}

/// What is asked, or why it is not.
pub(super) enum Next {
    Ask(Check),
    Skip(Finding),
}

/// All that is asked of a pool.
pub(super) struct Checks<'a> {
    pub(super) pool: &'a Pool,
    /// What was named on the command line.
    pub(super) modules: &'a [String],
    /// How long one piece of user code may take to load.
    pub(super) import_timeout: Duration,
}

impl Checks<'_> {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        (0..).take_while(|number| self.next(*number, &[]).is_some()).count()
    }

    /// The check of this number, when those before it have found this.
    pub(super) fn next(&self, number: usize, found: &[Finding]) -> Option<Next> {
        let plain = self.plain();
        let modules = self.modules();
        let starts = self.starts();
        let (behind_plain, behind_modules) = (plain.len(), plain.len() + modules.len());
        if number < behind_plain {
            return plain.into_iter().nth(number).map(Next::Ask);
        }
        if let Some(module) = modules.get(number - behind_plain) {
            let arguments = json!([module, self.script()]);
            let function = "clutch._doctor_loads:module";
            return Some(Next::Ask(self.loading(IMPORT, module, function, arguments)));
        }
        if let Some((id, subject)) = starts.get(number - behind_modules) {
            return Some(self.start(id, subject, found));
        }
        (number == behind_modules + starts.len()).then(|| Next::Ask(self.threads(found)))
    }

    /// What the pool loads itself, then what is asked for, each once.
    pub(super) fn modules(&self) -> Vec<String> {
        let mut modules = Vec::new();
        for module in self.pool.preload.iter().chain(self.modules) {
            if !modules.contains(module) {
                modules.push(module.clone());
            }
        }
        modules
    }

    /// What a worker does behind its imports, before it is ready: the script, then functions.
    pub(super) fn starts(&self) -> Vec<(&'static str, String)> {
        let warm_up = &self.pool.warm_up;
        let main = self.pool.main.iter().map(|main| (MAIN, main.argv0.clone()));
        let initializer = warm_up.initializer.iter().map(|name| (INITIALIZER, name.clone()));
        let warm = warm_up.warm.iter().map(|name| (WARM, name.clone()));
        main.chain(initializer).chain(warm).collect()
    }

    fn plain(&self) -> Vec<Check> {
        let plain = |id, function, arguments| Check {
            id,
            subject: None,
            function,
            arguments,
            timeout: CHECK_TIMEOUT,
        };
        let mut checks = vec![
            plain(INTERPRETER, "clutch._doctor:interpreter", json!([])),
            plain(ENVIRONMENT, "clutch._doctor:environment", json!([])),
            plain("shadowed", "clutch._doctor:shadowed", json!([self.script()])),
            plain("limits", "clutch._doctor:limits", json!([])),
            plain("temp", "clutch._doctor:temporary", json!([])),
            plain("shm", "clutch._doctor:shared_memory", json!([])),
            plain("subprocess", "clutch._doctor:subprocesses", json!([])),
        ];
        for method in START_METHODS {
            let function = "clutch._doctor:start_method";
            let check = plain("multiprocessing", function, json!([method]));
            checks.push(Check { subject: Some(method.to_owned()), ..check });
        }
        checks
    }

    fn loading(
        &self,
        id: &'static str,
        subject: &str,
        function: &'static str,
        arguments: Value,
    ) -> Check {
        let subject = Some(subject.to_owned());
        Check { id, subject, function, arguments, timeout: self.import_timeout }
    }

    /// The script, or a function that is called behind it, unless something fails that comes first
    /// in every worker.
    fn start(&self, id: &'static str, subject: &str, found: &[Finding]) -> Next {
        let fails = |it: &&Finding| it.status == Status::Fail;
        let is_before = |it: &&Finding| match it.check {
            IMPORT => it.subject.as_ref().is_some_and(|name| self.pool.preload.contains(name)),
            MAIN | INITIALIZER => true,
            _ => false,
        };
        if let Some(before) = found.iter().filter(fails).find(is_before) {
            let text = format!("not tried: {} fails, which comes before it", before.title());
            let finding = Finding::new(id, Status::Skipped, text, "");
            return Next::Skip(Finding { subject: Some(subject.to_owned()), ..finding });
        }
        let (script, argv) = (self.script(), self.argv());
        let preload = &self.pool.preload;
        if id == MAIN {
            let arguments = json!([script, argv, preload]);
            return Next::Ask(self.loading(id, subject, "clutch._doctor_loads:main", arguments));
        }
        let steps = self.steps(id, subject, found);
        let one_loop = matches!(self.pool.concurrency, Concurrency::Async(_));
        let arguments = json!([script, argv, preload, steps, one_loop]);
        Next::Ask(self.loading(id, subject, "clutch._doctor_loads:warm_up", arguments))
    }

    /// The function, behind those that come before it in a worker. One of `warm` that fails by
    /// itself is left out.
    fn steps(&self, id: &str, subject: &str, found: &[Finding]) -> Vec<Value> {
        let warm_up = &self.pool.warm_up;
        let initargs: Value = serde_json::from_str(&warm_up.initargs).unwrap_or_else(|_| json!([]));
        let mut steps: Vec<_> =
            warm_up.initializer.iter().map(|name| json!([name, initargs])).collect();
        if id == INITIALIZER {
            return steps;
        }
        let fails = |name: &str| {
            let is_it = |it: &&Finding| it.check == WARM && it.subject.as_deref() == Some(name);
            found.iter().find(is_it).is_some_and(|it| it.status == Status::Fail)
        };
        let before = warm_up.warm.iter().take_while(|name| *name != subject);
        let before = before.filter(|name| !fails(name)).map(String::as_str);
        steps.extend(before.chain([subject]).map(|name| json!([name, []])));
        steps
    }

    /// With everything loaded that can be: libraries tell by themselves what they will do.
    fn threads(&self, found: &[Finding]) -> Check {
        let loads = |it: &&Finding| it.check == IMPORT && it.status < Status::Warn;
        let loaded: Vec<_> =
            found.iter().filter(loads).filter_map(|it| it.subject.clone()).collect();
        let arguments = json!([self.pool.workers, processors(self.pool), loaded, self.script()]);
        let timeout = self.import_timeout.saturating_mul(2);
        let function = "clutch._doctor_loads:threads";
        Check { id: "threads", subject: None, function, arguments, timeout }
    }

    fn script(&self) -> String {
        let file = |main: &Main| main.file.to_string_lossy().into_owned();
        self.pool.main.as_ref().map_or_else(String::new, file)
    }

    fn argv(&self) -> Vec<&String> {
        let main = self.pool.main.as_ref().map(|main| &main.argv0);
        main.into_iter().chain(&self.pool.args).collect()
    }
}
