//! An array in memory that is shared with workers: made once, written by them in place, read where
//! it is; and an array that is passed on as a value.
//!
//! ```console
//! $ clutch serve --config examples/clutch.toml &
//! $ cargo run -p clutch-tests --example shared_array
//! ```

#![expect(clippy::print_stdout, reason = "it is a program to be watched at the terminal")]

use std::error::Error;

use clutch_client::{SharedTensor, Tensor, blocking};

fn main() -> Result<(), Box<dyn Error>> {
    let client = blocking::Client::connect_default()?;

    // Workers that are given it writable change it where it is: nothing is sent back.
    let shared = SharedTensor::from_slice(&[5], &[1_i64, 2, 3, 4, 5])?;
    client.call::<()>("arrays:double_in_place", (shared.writable()?,))?;
    println!("doubled in place: {:?}", shared.to_vec::<i64>()?);

    // Given for reading only, it cannot be changed: the kernel refuses it.
    let refused = client.call::<()>("arrays:double_in_place", (shared.read_only(),));
    println!("read-only: {}", refused.map_or_else(|failure| failure.reason.name(), |()| "changed"));

    // A value is copied once on its way, and what comes back is the worker's memory.
    let large = Tensor::build::<f64>(&[1_000_000], |numbers| numbers.fill(0.5))?;
    let back: Tensor = client.call("arrays:same", (&large,))?;
    println!("a million halves are {}", back.as_slice::<f64>()?.iter().sum::<f64>());
    Ok(())
}
