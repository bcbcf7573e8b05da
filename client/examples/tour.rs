//! Everything the client can do, once. It needs a running daemon with a pool named `default`, and
//! finds its socket as the `clutch` command does:
//!
//! ```console
//! $ clutch serve --config clutch.toml &
//! $ CLUTCH_SOCKET=/path/to/clutch.sock cargo run --example tour
//! ```
//!
//! Only functions of Python's standard library are called, so any pool will do. Every answer is
//! checked: the program ends with code 0 only if all of them are right.

#![expect(clippy::print_stdout, reason = "it is a program to be watched at the terminal")]

use std::error::Error;
use std::time::{Duration, Instant};

use clutch_client::{Client, Reason, Value, blocking};
use serde::{Deserialize, Serialize};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // One connection carries any number of calls at a time; clones of a client share it.
    let client = Client::connect_default().await?;
    let welcome = client.welcome();
    println!("connected to {} (pid {})", welcome.program, welcome.pid);

    values(&client).await?;
    keywords(&client).await?;
    at_the_same_time(&client).await?;
    maps(&client).await?;
    exceptions(&client).await?;
    timeouts(&client).await?;
    cancelling(&client).await?;
    watching(&client).await?;
    drop(client);

    // A program without a runtime uses the blocking client: the same verbs. Here it gets a thread
    // of its own, since this program has a runtime.
    let thread = std::thread::spawn(|| without_a_runtime().map_err(|error| error.to_string()));
    thread.join().expect("the thread ends")?;
    println!("that was all");
    Ok(())
}

/// Arguments are a tuple of whatever serde can serialize; the result is whatever type is asked for.
async fn values(client: &Client) -> Result<(), Box<dyn Error>> {
    let root: f64 = client.call("math:sqrt", (2,)).await?;
    assert_eq!(std::f64::consts::SQRT_2, root);

    let words = vec!["to", "be", "or", "not", "to", "be"];
    let counts: std::collections::BTreeMap<String, u32> =
        client.call("collections:Counter", (words,)).await?;
    assert_eq!(Some(&2), counts.get("be"));

    // A result whose shape is not known is a `Value`: anything that can travel, sets and integers
    // of any size included.
    let letters: Value = client.call("builtins:set", ("aaa",)).await?;
    assert_eq!(Value::Set(vec![Value::Str("a".into())]), letters);
    println!("math.sqrt(2) = {root}; words: {counts:?}; set('aaa') = {letters}");
    Ok(())
}

/// Keyword arguments are a struct or a map.
async fn keywords(client: &Client) -> Result<(), Box<dyn Error>> {
    #[derive(Serialize)]
    struct Style {
        indent: u8,
        sort_keys: bool,
    }
    #[derive(Serialize)]
    struct Point {
        y: f64,
        x: f64,
    }
    let text: String = client
        .request("json:dumps")
        .args((Point { y: 2.5, x: 1.0 },))
        .kwargs(Style { indent: 1, sort_keys: true })
        .timeout(Duration::from_secs(10))
        .send()
        .await?;
    assert_eq!("{\n \"x\": 1.0,\n \"y\": 2.5\n}", text);
    println!("json.dumps(point, indent=1, sort_keys=True) = {text:?}");
    Ok(())
}

/// Calls are futures: they run at the same time, on as many workers as the pool has.
async fn at_the_same_time(client: &Client) -> Result<(), Box<dyn Error>> {
    let (a, b, c) = tokio::join!(
        client.call::<i64>("math:gcd", (12, 18)),
        client.call::<String>("string:capwords", ("a clutch of eggs",)),
        client.call::<(f64, i32)>("math:frexp", (8.0,)),
    );
    assert_eq!((6, "A Clutch Of Eggs", (0.5, 4)), (a?, b?.as_str(), c?));
    Ok(())
}

/// One function over many items: lazily, a few at a time, in order or as they are done.
async fn maps(client: &Client) -> Result<(), Box<dyn Error>> {
    let roots: Vec<f64> = client.map("math:sqrt", (0..1000).map(|n| n * n)).collect().await?;
    assert!(roots.iter().zip(0..1000).all(|(root, n)| *root == f64::from(n)));

    // The source may be endless. An item that fails says which one it is, and loses no other.
    let mut results = client.map::<_, f64>("math:sqrt", (-2..).map(f64::from)).ordered();
    let mut failed = Vec::new();
    for _ in 0..10 {
        match results.next().await.expect("an endless source has more") {
            Ok(root) => assert!(root >= 0.0),
            Err(error) => failed.push(error.index),
        }
    }
    assert_eq!(vec![0, 1], failed, "-2 and -1 have no roots");

    // As they are done, each with the index of its item.
    let mut results = client.map::<_, String>("textwrap:dedent", ["  a", "  b"]).unordered();
    while let Some((index, result)) = results.next().await {
        println!("item {index}: {:?}", result?);
    }
    Ok(())
}

/// What a Python function raises arrives as data, with its traceback.
async fn exceptions(client: &Client) -> Result<(), Box<dyn Error>> {
    let failure = client.call::<Value>("json:loads", ("{broken",)).await.unwrap_err();
    match &failure.reason {
        Reason::Raised(exception) => {
            assert_eq!("json.decoder.JSONDecodeError", exception.type_name);
            println!("it raised {exception}; Python's traceback:\n{}", exception.traceback);
        }
        other => panic!("not an exception: {other:?}"),
    }

    // Every other way to fail is a reason too, each with what there is to know about it.
    let failure = client.call::<Value>("mth:sqrt", (2,)).await.unwrap_err();
    assert!(matches!(failure.reason, Reason::NotFound(_)));
    println!("{failure}");

    // Whether user code can have begun says whether it is safe to call again.
    assert!(!failure.started);
    Ok(())
}

/// A timeout covers everything, queueing included. What still runs then is ended.
async fn timeouts(client: &Client) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let sleep = client.request("time:sleep").args((60,)).timeout(Duration::from_millis(200));
    let failure = sleep.send::<()>().await.unwrap_err();
    assert!(matches!(failure.reason, Reason::TimedOut { timeout_ms: 200, .. }), "{failure}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    println!("{failure}");
    Ok(())
}

/// Dropping a call cancels it, as with any future.
async fn cancelling(client: &Client) -> Result<(), Box<dyn Error>> {
    tokio::select! {
        never = client.call::<()>("time:sleep", (60,)) => never?,
        root = client.call::<f64>("math:sqrt", (9,)) => assert_eq!(3.0, root?),
    }
    // The worker that slept is free again, or replaced, long before its minute is over.
    let request = client.request("math:sqrt").args((16,)).timeout(Duration::from_secs(30));
    assert_eq!(4.0, request.send::<f64>().await?);
    Ok(())
}

/// What the daemon is doing.
async fn watching(client: &Client) -> Result<(), Box<dyn Error>> {
    println!("the daemon answers in {:?}", client.ping().await?);
    for pool in client.status().await?.pools {
        println!("pool {} is {}, {} workers", pool.name, pool.state, pool.workers.len());
    }
    Ok(())
}

fn without_a_runtime() -> Result<(), Box<dyn Error>> {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Split(String, String);

    let client = blocking::Client::connect_default()?;
    let split: Split = client.call("os.path:split", ("/tmp/egg.txt",))?;
    assert_eq!(Split("/tmp".into(), "egg.txt".into()), split);
    let lengths: Vec<usize> =
        client.map("builtins:len", ["a", "bc", "def"]).collect().map_err(|error| error.failure)?;
    assert_eq!(vec![1, 2, 3], lengths);
    Ok(())
}
