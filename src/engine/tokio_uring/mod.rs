//! tokio-uring
use super::sockets::arrivals::Arrivals;
use crate::worker::{Control, Plan};
use std::io;
pub(super) fn probe() -> io::Result<()> {
    Ok(())
}
pub(super) fn run(
    _plan: &Plan,
    _control: &Control,
    _arrivals: Arrivals,
    _started: &dyn Fn(io::Result<()>),
) -> io::Result<()> {
    todo!()
}
