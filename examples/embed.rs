//! A ringecho within another program: it serves for a second, tells what it has done, and drains.
//!
//! `cargo run --example embed`

use std::error::Error;
use std::thread;
use std::time::Duration;

use ringecho::{Config, Options, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options { listen: vec!["127.0.0.1:0".into()], workers: Some(1), ..Options::default() };
    let server = Server::bind(Config::new(&options)?)?;
    println!("echoing at ws://{}", server.addresses()[0]);

    let handle = server.handle();
    let running = thread::spawn(move || server.run());
    thread::sleep(Duration::from_secs(1));
    println!("{:?}", handle.stats());
    handle.stop();
    running.join().expect("a server that does not panic")?;
    Ok(())
}
