//! The TCP of `--stack user` against the kernel's: the stack on a TUN device, plain sockets as its servers, and a link between
//! the two that can hold packets back, lose them and do all else that networks do. Each test has a network namespace of its own.

mod bench;
mod closing;
mod data;
mod far;
mod link;
mod network;
mod offloads;
mod opening;
mod resets;
