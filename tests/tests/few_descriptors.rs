//! A client whose program has few files left to open: what it has no room for fails, and nothing
//! else does. In a program of its own with a single test, since the limit is the whole process's.

use std::num::NonZeroU32;
use std::path::Path;

use clutch_client::{Failure, Reason, Tensor};
use clutch_tests::Daemon;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process open so many files more.
fn leave(free: usize) {
    let is_free = |number: &u64| !Path::new(&format!("/proc/self/fd/{number}")).exists();
    let last = (0_u64..).filter(is_free).nth(free).expect("numbers do not end");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("it has a limit");
    setrlimit(Resource::RLIMIT_NOFILE, last, hard).expect("it may be lowered");
}

#[test]
fn a_stream_of_more_memory_than_a_client_can_take_fails_and_the_connection_goes_on() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(1)).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let first: u64 = client.call("builtins:len", (vec![1, 2],)).expect("a call before");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("it has a limit");
    leave(6);
    let window = NonZeroU32::new(20).expect("it is more than zero");
    let mut kept = Vec::new();
    let mut failure: Option<Failure> = None;
    for item in client.stream::<Tensor>("job_streams:arrays", (20,)).window(window) {
        match item {
            Ok(item) => kept.push(item),
            Err(error) => failure = Some(error),
        }
    }
    let second: Result<u64, Failure> = client.call("builtins:len", (vec![1, 2, 3],));
    let third: Result<Vec<f64>, Failure> = {
        let one = kept.pop();
        drop(one);
        let mut one = client.stream::<Tensor>("job_streams:arrays", (1,));
        one.next().expect("it has an item").map(|item| item.to_vec().expect("it has numbers"))
    };
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("it may be what it was");

    assert!((1..7).contains(&(kept.len() + 1)), "{} were taken", kept.len() + 1);
    for (item, number) in kept.iter().zip(0_u32..) {
        assert_eq!(vec![f64::from(number); 20_000], item.to_vec::<f64>().expect("numbers"));
    }
    let failure = failure.expect("there was no room for all");
    let Reason::Unserializable { path, message, .. } = &failure.reason else { panic!("{failure}") };
    assert!(path == "item" && message.contains("ulimit -n"), "{failure}");
    assert_eq!(2, first);
    assert_eq!(3, second.expect("the connection goes on"));
    assert_eq!(vec![0.0; 20_000], third.expect("what was let go made room"));
    drop((kept, client));
    oracle.judge(daemon);
}
