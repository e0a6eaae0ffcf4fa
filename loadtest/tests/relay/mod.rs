//! A slow network: it hands on what comes over TCP, with a delay in each direction.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Accepts connections as long as the test's process lives.
pub(crate) struct Relay {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What went up on all connections, as it went; in order if there is one connection only.
    up: Arc<Mutex<Vec<u8>>>,
    is_silent: Arc<AtomicBool>,
}

impl Relay {
    /// What comes here is at `target` after the delay `up`, and its answers are back after `down`.
    pub(crate) fn start(target: SocketAddr, up: Duration, down: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let relay = Self {
            address: listener.local_addr().expect("its address"),
            up: Arc::default(),
            is_silent: Arc::default(),
        };
        let (seen, is_silent) = (Arc::clone(&relay.up), Arc::clone(&relay.is_silent));
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.expect("a connection");
                // A target that is not there yet refuses: so does the relay.
                let Ok(far) = TcpStream::connect(target) else { continue };
                let twice = |it: &TcpStream| it.try_clone().expect("a descriptor");
                for it in [&near, &far] {
                    it.set_nodelay(true).expect("TCP");
                }
                pass(twice(&near), twice(&far), up, Some(Arc::clone(&seen)), Arc::clone(&is_silent));
                pass(far, near, down, None, Arc::clone(&is_silent));
            }
        });
        relay
    }

    /// From here on nothing arrives, and neither side hears that: its connections are half-open.
    pub(crate) fn fall_silent(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
    }

    /// What went up so far.
    pub(crate) fn up(&self) -> Vec<u8> {
        self.up.lock().expect("nothing panics with it").clone()
    }
}

/// Moves bytes in one direction: one thread notes when they came, another one lets them go when their time has come.
fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    delay: Duration,
    seen: Option<Arc<Mutex<Vec<u8>>>>,
    is_silent: Arc<AtomicBool>,
) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        // The end, too, takes its time: it is a piece without bytes.
        loop {
            let len = from.read(&mut buffer).unwrap_or(0);
            if let Some(seen) = &seen {
                seen.lock().expect("nothing panics with it").extend_from_slice(&buffer[..len]);
            }
            if sender.send((Instant::now() + delay, buffer[..len].to_vec())).is_err() || len == 0 {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            while is_silent.load(Ordering::SeqCst) {
                thread::park();
            }
            if bytes.is_empty() || to.write_all(&bytes).is_err() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    });
}
