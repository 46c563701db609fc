//! Fuzzes a packed file behind right checksums, from opening to tokens, on a small stack: an error or a value, never an
//! uncaught panic, a hang, an overflow or an absurd allocation. Panics of libraries are caught and made errors, so the
//! fuzzer's own hook, which aborts on every panic, is replaced.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| {
        coexec_model::packed::fuzz_open(&coexec_model::packed::fuzz_file(data));
        coexec_runtime::text::fuzz_packed_model(data);
    }
);
