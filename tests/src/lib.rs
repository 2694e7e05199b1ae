//! What the tests of the whole project share: random patterns, and targets held against the oracle.

#![deny(unsafe_code)]

pub mod compare;
pub mod generate;
pub mod shelf;
