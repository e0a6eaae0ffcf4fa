//! The state machine of ringload's TCP, with a server that does what the fuzzer says (`src/conversation.rs`).
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringecho_fuzz::conversation;

fuzz_target!(|bytes: &[u8]| conversation::run(bytes));
