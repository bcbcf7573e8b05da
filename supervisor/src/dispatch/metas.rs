//! The metas of the call path, written field by field: a call crosses here twice, and a general
//! encoder would allocate each time. A test pins them to their structs.

use std::time::Duration;

use clutch_protocol::message::{Answer, Each};
use clutch_protocol::wire;

/// Writes a `message::Run`.
pub(super) fn push_run(head: &mut Vec<u8>, timeout: Duration, function: &str, each: EachBytes<'_>) {
    head.extend_from_slice(&(micros(timeout) / 1000).max(1).to_le_bytes());
    head.extend_from_slice(&(function.len() as u64).to_le_bytes());
    head.extend_from_slice(function.as_bytes());
    match each {
        None => head.push(0),
        Some(each) => head.extend_from_slice(each),
    }
}

/// Bytes of a `message::Run` for a function with a name of that length.
pub(super) fn run_bytes(function: &str, each: EachBytes<'_>) -> usize {
    16 + function.len() + each.map_or(1, <[u8]>::len)
}

/// What a call does with its items, as it travels; none for nothing special.
pub(super) type EachBytes<'a> = Option<&'a [u8]>;

/// Encodes it, once for all attempts.
pub(super) fn encode_each(each: Option<Each>) -> Option<Box<[u8]>> {
    let bytes = wire::encode(&Some(each?)).expect("a checked name is short");
    Some(bytes.into())
}

/// Bytes of a `message::Answer`.
pub(super) const ANSWER_BYTES: u32 = 48;

/// Writes a `message::Answer`.
pub(super) fn push_answer(head: &mut Vec<u8>, answer: &Answer) {
    head.extend_from_slice(&answer.phases.queue_us.to_le_bytes());
    head.extend_from_slice(&answer.phases.run_us.to_le_bytes());
    head.extend_from_slice(&answer.phases.start_us.to_le_bytes());
    head.extend_from_slice(&answer.worker.slot.to_le_bytes());
    head.extend_from_slice(&answer.worker.generation.to_le_bytes());
    head.extend_from_slice(&answer.call.to_le_bytes());
    head.extend_from_slice(&answer.attempt.to_le_bytes());
    head.extend_from_slice(&answer.pid.to_le_bytes());
}

/// Whole microseconds.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clutch_protocol::message::{Apply, Phases, Run, WorkerId};

    use super::*;

    #[test]
    fn the_metas_of_the_call_path_are_the_structs_bytes() {
        let each = Each { apply: Apply::Star, fold: "operator:add".into() };
        for each in [None, Some(each)] {
            let mut run = Vec::new();
            let bytes = encode_each(each.clone());
            push_run(&mut run, Duration::from_millis(1500), "math:sqrt", bytes.as_deref());
            assert_eq!(run_bytes("math:sqrt", bytes.as_deref()), run.len());
            let wanted = Run { timeout_ms: 1500, function: "math:sqrt".into(), each };
            assert_eq!(wire::encode(&wanted).unwrap(), run);
        }

        let answer = Answer {
            phases: Phases { queue_us: 1, run_us: 2, start_us: 6 },
            worker: WorkerId { slot: 3, generation: 4 },
            call: 5,
            attempt: 6,
            pid: 7,
        };
        let mut bytes = Vec::new();
        push_answer(&mut bytes, &answer);
        assert_eq!(wire::encode(&answer).unwrap(), bytes);
        assert_eq!(ANSWER_BYTES as usize, bytes.len());
    }
}
