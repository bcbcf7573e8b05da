use std::time::Instant;
use clutch_client::{Client, blocking};
fn stats(name: &str, mut v: Vec<u128>) { v.sort(); println!("{name}: p50 {} us p99 {} us", v[v.len()/2] as f64/1e3, v[v.len()*99/100] as f64/1e3); }
async fn lat(name: &str) {
    let c = Client::connect_default().await.unwrap();
    for _ in 0..500 { let _: i64 = c.call("operator:index", (1,)).await.unwrap(); }
    let mut v = vec![];
    for _ in 0..5000 { let t = Instant::now(); let _: i64 = c.call("operator:index", (1,)).await.unwrap(); v.push(t.elapsed().as_nanos()); }
    stats(name, v);
    let t = Instant::now(); let n = 200_000usize;
    let s = futures_util::StreamExt::buffer_unordered(futures_util::stream::iter((0..n).map(|i| { let c = c.clone(); async move { c.call::<i64>("operator:index", (i as i64,)).await.unwrap() } })), 256);
    let k = futures_util::StreamExt::fold(s, 0i64, |a, b| async move { a + b }).await;
    println!("{name} 256 in flight: {:.0} calls/s ({k})", n as f64 / t.elapsed().as_secs_f64());
    let t = Instant::now(); let n = 5_000_000i64;
    let mut s = c.map::<_, i64>("operator:index", 0..n).ordered(); let mut k = 0; while let Some(x) = s.next().await { k += x.unwrap(); }
    println!("{name} map: {:.2} M items/s ({k})", n as f64 / t.elapsed().as_secs_f64() / 1e6);
    println!("late {}", c.late_replies());
}
fn main() {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(lat("current_thread"));
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(lat("multi_thread"));
    let c = blocking::Client::connect_default().unwrap();
    for _ in 0..500 { let _: i64 = c.call("operator:index", (1,)).unwrap(); }
    let mut v = vec![];
    for _ in 0..5000 { let t = Instant::now(); let _: i64 = c.call("operator:index", (1,)).unwrap(); v.push(t.elapsed().as_nanos()); }
    stats("blocking", v);
    let t = Instant::now();
    std::thread::scope(|s| { for _ in 0..200 { s.spawn(|| for i in 0..500i64 { assert_eq!(i, c.call::<i64>("operator:index", (i,)).unwrap()); }); } });
    println!("blocking 200 threads: {:.0} calls/s", 100_000f64 / t.elapsed().as_secs_f64());
    let t = Instant::now(); let n = 5_000_000i64;
    let k: i64 = c.map::<_, i64>("operator:index", 0..n).ordered().map(|x| x.unwrap()).sum();
    println!("blocking map: {:.2} M items/s ({k})", n as f64 / t.elapsed().as_secs_f64() / 1e6);
}
