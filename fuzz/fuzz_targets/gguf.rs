//! Fuzzes GGUF: header, tensors, configuration, tokenizer: an error or a value, never a panic, a hang or an absurd allocation.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = coexec_model::source::gguf::parse_model(data);
});
