//! What a run shows: lines while it goes on, a table and JSON at its end.

pub mod json;
pub mod progress;
pub mod report;
pub mod table;
