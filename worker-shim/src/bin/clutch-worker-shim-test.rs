//! The guardian alone, for this crate's tests. Users get it as a hidden verb of `clutch`.

fn main() -> std::process::ExitCode {
    clutch_worker_shim::main()
}
