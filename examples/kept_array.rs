//! A value that many calls need: put with the daemon once, then used by name in each of them, by
//! every worker, without another copy; freed when the last `Ref` goes.
//!
//! ```console
//! $ clutch serve --config examples/clutch.toml &
//! $ cargo run -p clutch-tests --example kept_array
//! ```

#![expect(clippy::print_stdout, reason = "it is a program to be watched at the terminal")]

use std::error::Error;

use clutch_client::{Tensor, blocking};

fn main() -> Result<(), Box<dyn Error>> {
    let client = blocking::Client::connect_default()?;

    // The numbers are written where they will stay: 8 MB that nobody copies any more.
    let halves = Tensor::build::<f64>(&[1_000_000], |numbers| numbers.fill(0.5))?;
    let kept = client.put(&halves)?;
    println!("{} MB are kept", kept.bytes() / 1_000_000);

    // One call, and a map whose items all have it.
    let sum: f64 = client.call("arrays:weighted", (&kept, 1))?;
    println!("their sum is {sum}");
    let items = (1..=4).map(|factor| (kept.clone(), factor));
    let sums: Vec<f64> = client.starmap("arrays:weighted", items).collect()?;
    println!("and with other factors {sums:?}");

    // With the last `Ref`, the daemon gives it up.
    drop(kept);
    println!("the daemon keeps {} values", client.status()?.daemon.handles);
    Ok(())
}
