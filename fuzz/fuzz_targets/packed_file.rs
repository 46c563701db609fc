//! Fuzzes the packed `.coexec` file: an error or a value, never a panic, a hang or an absurd allocation.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    coexec_model::packed::fuzz_open(data);
});
