//! Calls made at the same time from Rust: where another program starts a goroutine for each call
//! and waits behind one interpreter's lock, these run on as many pythons as the pool has workers.
//!
//! ```console
//! $ clutch serve --config examples/clutch.toml &
//! $ cargo run -p clutch-tests --example concurrent_calls
//! ```

#![expect(clippy::print_stdout, reason = "it is a program to be watched at the terminal")]

use std::error::Error;

use clutch_client::Client;
use tokio::task::JoinSet;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect_default().await?;

    // One task for each call; a clone of the client shares its connection.
    let mut calls = JoinSet::new();
    for x in [1, 2, 3, 4] {
        let client = client.clone();
        calls.spawn(async move { client.call::<i64>("squares:worker", (x,)).await });
    }
    // Results come in the order in which they are done.
    let mut squares = Vec::new();
    while let Some(square) = calls.join_next().await {
        squares.push(square??);
    }
    squares.sort_unstable();
    println!("squares: {squares:?}");

    // A hundred tasks, none of which waits for another: Rust orchestrates, Python computes.
    let mut tasks = JoinSet::new();
    for task in 0..100_u32 {
        let client = client.clone();
        tasks.spawn(async move {
            let answer: serde_json::Value = client.call("analytics:process_task", (task,)).await?;
            Ok::<_, clutch_client::Failure>(answer["task"] == task && answer["result"].is_u64())
        });
    }
    let mut right = 0;
    while let Some(is_right) = tasks.join_next().await {
        right += u32::from(is_right??);
    }
    println!("tasks: {right} of 100");
    Ok(())
}
