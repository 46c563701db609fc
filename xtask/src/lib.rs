//! Project automation: cargo xtask test, check, fuzz.
