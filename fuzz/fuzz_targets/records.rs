//! Records of TLS 1.3 in any order, contents and cuts, good ones and others: ringecho hears what rustls hears, fails when
//! rustls fails, and what it answers can be read (`src/records.rs`).
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringecho_fuzz::records::{Input, check};

fuzz_target!(|input: Input| check(&input));
