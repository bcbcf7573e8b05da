//! A call that is given up while Python holds a resource: the `with` block ends, the resource is
//! released, and the worker goes on with the next call.
//!
//! ```console
//! $ clutch serve --config examples/clutch.toml &
//! $ cargo run -p clutch-tests --example cancelled_resource
//! ```

#![expect(clippy::print_stdout, reason = "it is a program to be watched at the terminal")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use clutch_client::Client;

/// Waits until the directory is there, or is not.
async fn until(path: &Path, is_there: bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while path.exists() != is_there {
        looks.tick().await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect_default().await?;
    let workspace = std::env::temp_dir().join(format!("clutch-example-{}", std::process::id()));
    let call = client.call::<String>("resources:work", (&workspace, 3600));

    tokio::select! {
        answer = call => return Err(format!("it is to take an hour, and said {answer:?}").into()),
        () = until(&workspace, true) => println!("the resource is taken"),
    }
    // `select!` has dropped the call, which cancels it.
    tokio::time::timeout(Duration::from_secs(10), until(&workspace, false)).await?;
    println!("the call was dropped, and the resource released");

    let root: f64 = client.call("math:sqrt", (2,)).await?;
    println!("the next call gives {root}");
    Ok(())
}
