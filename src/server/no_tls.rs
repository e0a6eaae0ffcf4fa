//! Replaces `tls.rs` in builds without the cargo feature `tls`.

use std::sync::Arc;

use thiserror::Error;

use super::Address;
use crate::config::TlsFiles;
use crate::transport::Acceptor;

/// There can be no TLS.
#[derive(Debug, Error)]
#[error("this build is without the cargo feature tls")]
pub struct TlsError;

pub(super) struct Certificates {
    pub(super) acceptor: Arc<Acceptor>,
}

impl Certificates {
    #[allow(clippy::needless_pass_by_value)] // as where there is TLS
    pub(super) fn new(_: TlsFiles, _: &[Address]) -> Result<Self, TlsError> {
        Err(TlsError)
    }

    #[allow(clippy::unused_self)]
    pub(super) fn reload(&self) -> Result<(), TlsError> {
        Err(TlsError)
    }
}
