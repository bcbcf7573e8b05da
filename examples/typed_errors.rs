//! A Python exception in the caller's own types: what was raised is data, not a string to be
//! searched.
//!
//! ```console
//! $ clutch serve --config examples/clutch.toml &
//! $ cargo run -p clutch-tests --example typed_errors
//! ```

#![expect(clippy::print_stdout, reason = "it is a program to be watched at the terminal")]

use std::error::Error;

use clutch_client::{Failure, Reason, blocking};

/// How a reservation can end.
enum Reservation {
    Made { left: u32 },
    OutOfStock(String),
    UnknownItem { cause: String },
}

fn reserve(client: &blocking::Client, item: &str, count: u32) -> Result<Reservation, Box<Failure>> {
    let failure = match client.call("stock:reserve", (item, count)) {
        Ok(left) => return Ok(Reservation::Made { left }),
        Err(failure) => Box::new(failure),
    };
    match &failure.reason {
        Reason::Raised(exception) if exception.type_name == "stock.OutOfStock" => {
            Ok(Reservation::OutOfStock(exception.message.clone()))
        }
        Reason::Raised(exception) if exception.type_name == "stock.UnknownItem" => {
            let cause = exception.chain.first();
            let cause = cause.map(|link| format!("{}: {}", link.type_name, link.message));
            let cause = cause.unwrap_or_default();
            Ok(Reservation::UnknownItem { cause })
        }
        _ => Err(failure),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let client = blocking::Client::connect_default()?;
    for (item, count) in [("egg", 2), ("egg", 12), ("dragon", 1)] {
        match reserve(&client, item, count)? {
            Reservation::Made { left } => println!("{item}: reserved, {left} left"),
            Reservation::OutOfStock(message) => println!("{item}: out of stock: {message}"),
            Reservation::UnknownItem { cause } => println!("{item}: never heard of ({cause})"),
        }
    }

    // What was not foreseen keeps its traceback.
    match client.call::<u32>("stock:reserve", ("egg", "two")).map_err(|failure| failure.reason) {
        Err(Reason::Raised(exception)) => {
            let frame = exception.frames.last().ok_or("a traceback has frames")?;
            println!("{exception}, in {}: {}", frame.function, frame.source);
        }
        other => return Err(format!("not an exception: {other:?}").into()),
    }
    Ok(())
}
