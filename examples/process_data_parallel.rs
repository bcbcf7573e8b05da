//! A list processed in parallel, with the results in the order of the items: what another program
//! needs a channel, a wait group and an index for is one line here.
//!
//! ```console
//! $ clutch serve --config examples/clutch.toml &
//! $ cargo run -p clutch-tests --example process_data_parallel
//! ```

#![expect(clippy::print_stdout, reason = "it is a program to be watched at the terminal")]

use std::error::Error;

use clutch_client::{Client, ItemError};

/// The number of primes below each number, computed by every worker of the pool at once.
async fn process_data_parallel(client: &Client, data: &[u32]) -> Result<Vec<u32>, ItemError> {
    client.map("analytics:complex_calculation", data).collect().await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect_default().await?;
    let data = [1_000_000, 10, 100_000, 100, 10_000, 1_000];
    println!("{:?}", process_data_parallel(&client, &data).await?);
    Ok(())
}
