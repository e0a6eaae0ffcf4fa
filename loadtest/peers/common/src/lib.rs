//! What the Rust peers share, so that they differ by their libraries only: the allocator, the arguments, the
//! listeners, a thread for each CPU, and an echo that answers all that has come in one write.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// The allocator that ringecho has, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The largest message that a peer has to take.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The arguments of every peer: `PORT THREADS`.
#[derive(Clone, Copy)]
pub struct Arguments {
    pub port: u16,
    pub threads: usize,
}

impl Arguments {
    /// Ends the process with a line of usage if they are wrong.
    pub fn parse() -> Self {
        let mut given = std::env::args().skip(1);
        let mut parsed = || Some(Self { port: given.next()?.parse().ok()?, threads: given.next()?.parse().ok()? });
        parsed().unwrap_or_else(|| {
            eprintln!("usage: PROGRAM PORT THREADS");
            std::process::exit(2)
        })
    }
}

/// A listener on loopback. Several may have the same port: the kernel spreads the connections over them. What is
/// accepted inherits `TCP_NODELAY` and has to be made non-blocking by the runtime.
pub fn listen(port: u16) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.set_reuse_port(true).expect("SO_REUSEPORT");
    socket.set_tcp_nodelay(true).expect("TCP_NODELAY");
    socket.set_nonblocking(true).expect("O_NONBLOCK");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("the port is free");
    socket.listen(4096).expect("listen");
    socket.into()
}

/// Runs `work` on so many threads, each with a listener of its own, for good.
pub fn on_threads(arguments: Arguments, work: impl Fn(TcpListener) + Send + Sync) {
    // All listen before any accepts: the first connections are spread like those that follow.
    let listeners: Vec<_> = (0..arguments.threads).map(|_| listen(arguments.port)).collect();
    std::thread::scope(|scope| {
        for listener in listeners {
            let work = &work;
            scope.spawn(move || work(listener));
        }
    });
}

#[cfg(feature = "tokio")]
pub use with_tokio::*;

#[cfg(feature = "tokio")]
mod with_tokio {
    use super::{Arguments, on_threads};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::Builder;

    /// Runs `serve` on so many threads, each with a single-threaded runtime and a listener of its own: no task ever moves
    /// to another thread, which is how fastwebsockets and tokio-websockets run their benchmarks.
    pub fn run<F: Future>(arguments: Arguments, serve: impl Fn(TcpListener) -> F + Send + Sync) {
        on_threads(arguments, |listener| {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                serve(TcpListener::from_std(listener).expect("the runtime takes the listener")).await;
            });
        });
    }

    /// Serves each connection by a task.
    pub fn serve<F>(arguments: Arguments, handle: impl Fn(TcpStream) -> F + Copy + Send + Sync)
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        run(arguments, async |listener| {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(handle(stream))),
                    Err(error) => {
                        eprintln!("accept: {error}");
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }
}

#[cfg(feature = "stream")]
pub use batching::echo;

#[cfg(feature = "stream")]
mod batching {
    use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};

    /// Messages to answer in one write at most; yawc's own benchmark has this number.
    const BATCH: usize = 32;

    /// Echoes the messages that `is_data` until the connection ends. Those that have come together are answered together:
    /// they are fed to the sink, and it is flushed when no message is left that could be had without waiting. The flush
    /// also sends what the library answers by itself (Pong, Close).
    pub async fn echo<S, M, E>(mut socket: S, is_data: impl Fn(&M) -> bool) -> Result<(), E>
    where
        S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    {
        while let Some(first) = socket.next().await {
            let mut next = Some(first);
            let mut count = 0;
            while let Some(message) = next {
                let message = message?;
                if is_data(&message) {
                    socket.feed(message).await?;
                }
                count += 1;
                next = if count < BATCH { socket.next().now_or_never().flatten() } else { None };
            }
            socket.flush().await?;
        }
        Ok(())
    }
}
