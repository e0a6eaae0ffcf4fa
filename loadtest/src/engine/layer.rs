//! The layer between a transport's bytes and the driver: none, or TLS. Transports do not know which.

use std::ops::{Deref, DerefMut};

use super::Shared;
use super::sends::SendBuffer;
use super::tls::Tls;
use crate::driver::{Driver, Load, Route, Want};
use crate::scenario::Part;
use crate::stats::{Cause, EarlyEnd, Tally};

/// A driver, and TLS for all its connections if their targets speak it.
pub(super) struct Layer<'a, T> {
    driver: Driver<'a, T>,
    tls: Option<Tls<'a>>,
}

impl<'a, T> Deref for Layer<'a, T> {
    type Target = Driver<'a, T>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.driver
    }
}

impl<T> DerefMut for Layer<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.driver
    }
}

impl<'a, T: Default> Layer<'a, T> {
    pub(super) fn new(shared: &'a Shared, part: Part, now_ns: u64) -> Self {
        let live = std::sync::Arc::clone(shared.control.live_latencies(part.thread));
        let load = Load {
            scenario: &shared.scenario,
            messages: &shared.messages,
            routes: shared
                .endpoints
                .iter()
                .map(|endpoint| Route { request: &endpoint.request, addresses: endpoint.addresses.clone() })
                .collect(),
            part,
            threads: shared.threads,
            closing_progress_ns: &shared.closing_progress_ns,
        };
        let driver = Driver::new(load, Tally { live, ..Tally::default() }, now_ns);
        Self { driver, tls: shared.tls.as_ref().map(|config| Tls::new(config, shared, part)) }
    }

    /// The next thing that the transport is to do.
    #[inline]
    pub(super) fn next_want(&mut self) -> Option<Want> {
        match &mut self.tls {
            None => self.driver.next_want(),
            Some(tls) => tls.wants.pop_front().or_else(|| self.driver.next_want()),
        }
    }

    pub(super) fn connected(&mut self, key: u32) {
        self.driver.connected(key);
        if let Some(tls) = &mut self.tls {
            tls.connected(key, &mut self.driver);
        }
    }

    /// Bytes from the server. They may be changed on the way.
    #[inline]
    pub(super) fn received(&mut self, key: u32, bytes: &mut [u8], arrived_ns: u64) {
        match &mut self.tls {
            None => self.driver.received(key, bytes, arrived_ns),
            Some(tls) => tls.received(key, bytes, arrived_ns, &mut self.driver),
        }
    }

    /// Puts into the empty `buffer` what the connection is to send now, if anything. Returns whether there is more to be
    /// sent at once, for which there was no room.
    #[inline]
    pub(super) fn fill(&mut self, key: u32, buffer: &mut SendBuffer) -> bool {
        match &mut self.tls {
            None => self.driver.fill(key, buffer),
            Some(tls) => tls.fill(key, buffer, &mut self.driver),
        }
    }

    /// Whether a connection that is to be released has something to send before, without waiting.
    pub(super) fn has_last_words(&self, key: u32) -> bool {
        self.driver.has_last_words(key) || self.tls.as_ref().is_some_and(|tls| tls.has_last_words(key))
    }

    /// The TCP connection has ended, with this error if there was one.
    pub(super) fn ended(&mut self, key: u32, errno: Option<i32>) {
        if let Some(tls) = &mut self.tls {
            tls.ended(key, &mut self.driver);
        }
        self.driver.ended(key, errno.map_or(Cause::Reset, Cause::of_error), EarlyEnd::of_tcp(errno));
    }

    /// Whether the driver has given a connection up.
    pub(super) fn is_ending(&self, key: u32) -> bool {
        self.driver.is_ending(key)
    }

    /// The transport has let go of a connection.
    pub(super) fn released(&mut self, key: u32) {
        if let Some(tls) = &mut self.tls {
            tls.released(key);
        }
        self.driver.released(key);
    }

    pub(super) fn stop(self) -> Tally {
        self.driver.stop()
    }
}
