//! Callers: calls of every kind, each with a number, and the books of what they were told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clutch_client::blocking::Client;
use clutch_client::{Failure, Reason};
use clutch_protocol::{Header, Kind};
use clutch_tests::RawClient;
use clutch_tests::raw::{self, Reply};

use crate::Storm;
use crate::dice::Dice;

/// No answer may come later than this: the calls' longest timeout, the ladder's budget, and what a
/// loaded machine adds.
const ANSWER_MAX: Duration = Duration::from_secs(9);

/// What a caller was told about its calls, by number.
#[derive(Default)]
pub(crate) struct Books {
    pub(crate) answers: BTreeMap<u64, Result<u64, Failure>>,
    /// Calls that end their own worker.
    pub(crate) suicides: u64,
    /// Calls that were asked for as parts of a map: they may fail together.
    pub(crate) mapped: Vec<u64>,
    /// Calls that were cancelled.
    pub(crate) cancelled: u64,
}

impl Books {
    pub(crate) fn merge(&mut self, other: Books) {
        self.answers.extend(other.answers);
        self.suicides += other.suicides;
        self.mapped.extend(other.mapped);
        self.cancelled += other.cancelled;
    }
}

/// Calls until the storm is over; every call is answered in time.
pub(crate) fn call_through(storm: &Storm<'_>, caller: u64) -> Books {
    let mut caller = Caller {
        storm,
        dice: Dice::new(storm.seed.wrapping_mul(1000) + caller),
        client: storm.daemon.blocking(),
        raw: storm.daemon.raw(),
        books: Books::default(),
    };
    while !storm.is_over() {
        let begun = Instant::now();
        let kind = caller.dice.roll(100);
        match kind {
            0..60 => caller.step(),
            60..68 => caller.echo(),
            68..73 => caller.map(),
            73..77 => caller.hoard(),
            77..81 => caller.exhaust_descriptors(),
            81..85 => caller.chatter(),
            85..88 => caller.die(),
            _ => caller.cancel(),
        }
        assert!(begun.elapsed() < ANSWER_MAX, "kind {kind} took {:?}", begun.elapsed());
    }
    caller.books
}

struct Caller<'a> {
    storm: &'a Storm<'a>,
    dice: Dice,
    client: Client,
    raw: RawClient,
    books: Books,
}

impl Caller<'_> {
    fn ledger(&self) -> String {
        self.storm.ledger.to_str().expect("a path of ours is text").to_owned()
    }

    fn keep(&mut self, number: u64, answer: Result<u64, Failure>) {
        let before = self.books.answers.insert(number, answer);
        assert!(before.is_none(), "call {number} was answered twice");
    }

    fn step(&mut self) {
        let number = self.storm.next_number();
        let ms = if self.dice.roll(10) == 0 { 200 } else { self.dice.roll(4) };
        // One in five gives up before its call can be done.
        let timeout = if self.dice.roll(5) == 0 { 100 } else { 4000 };
        let answer = self
            .client
            .request("chaos:step")
            .args((self.ledger(), number, ms))
            .timeout(Duration::from_millis(timeout))
            .send::<u64>();
        self.keep(number, answer);
    }

    fn echo(&mut self) {
        let number = self.storm.next_number();
        let length = self.dice.pick(&[0, 1, 60_000, 70_000, 1 << 20, 3 << 20]);
        let text = "e".repeat(length);
        let answer = self
            .client
            .request("chaos:echo")
            .args((self.ledger(), number, &text))
            .timeout(Duration::from_secs(4))
            .send::<(u64, String)>();
        self.keep(
            number,
            answer.map(|(number, back)| {
                assert!(back == text, "{length} bytes came back changed");
                number
            }),
        );
    }

    fn map(&mut self) {
        let numbers: Vec<u64> = (0..40).map(|_| self.storm.next_number()).collect();
        let ledger = self.ledger();
        let items: Vec<_> = numbers.iter().map(|number| (ledger.clone(), *number, 1)).collect();
        let answers: Vec<_> = self
            .client
            .map::<_, u64>("chaos:stepped", items)
            .timeout(Duration::from_secs(4))
            .ordered()
            .collect();
        assert_eq!(numbers.len(), answers.len(), "every item has its answer");
        for (number, answer) in numbers.iter().zip(answers) {
            self.books.mapped.push(*number);
            self.keep(*number, answer.map_err(|error| error.failure));
        }
    }

    fn hoard(&mut self) {
        let number = self.storm.next_number();
        let mib = 20 + self.dice.roll(100);
        let call = self.client.request("chaos:hoard").args((self.ledger(), number, mib));
        let answer = call.timeout(Duration::from_secs(4)).send::<u64>();
        self.keep(number, answer);
    }

    fn exhaust_descriptors(&mut self) {
        let number = self.storm.next_number();
        let call = self.client.request("chaos:exhaust_descriptors").args((self.ledger(), number));
        let answer = call.timeout(Duration::from_secs(4)).send::<u64>();
        self.keep(number, answer);
    }

    fn chatter(&mut self) {
        let number = self.storm.next_number();
        let lines = 1 + self.dice.roll(5000);
        let call = self.client.request("chaos:chatter").args((self.ledger(), number, lines));
        let answer = call.timeout(Duration::from_secs(4)).send::<u64>();
        self.keep(number, answer);
    }

    fn die(&mut self) {
        let number = self.storm.next_number();
        let how = self.dice.pick(&["9", "11", "15", "6", "exit", "orphans"]);
        self.books.suicides += 1;
        let call = self.client.request("chaos:die").args((self.ledger(), number, how));
        let answer = call.timeout(Duration::from_secs(4)).send::<u64>();
        assert!(answer.is_err(), "call {number} survived its own death by {how}");
        self.keep(number, answer);
    }

    /// Starts a call and cancels it at any moment: it has one answer all the same.
    fn cancel(&mut self) {
        let number = self.storm.next_number();
        let id = self.raw.next_id();
        let ms = self.dice.roll(30);
        let arguments = serde_json::json!([self.ledger(), number, ms]).to_string();
        let call = raw::call_within(id, "default", "chaos:step", &arguments, 4000);
        self.raw.send(&call).expect("the daemon reads");
        clutch_tests::park(Duration::from_millis(self.dice.roll(20)));
        self.raw.send(&Header::new(Kind::Cancel, id).encode()).expect("the daemon reads");
        let answer = match self.raw.finish(id) {
            Reply::Value(value) => Ok(value.as_u64().expect("a number comes back")),
            Reply::Failed(failure) => Err(*failure),
        };
        if matches!(&answer, Err(failure) if matches!(failure.reason, Reason::Cancelled)) {
            self.books.cancelled += 1;
        }
        self.keep(number, answer);
    }
}
