//! Fuzzes chat templates: an error or a value, never a panic, a hang or an absurd allocation.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    coexec_runtime::text::fuzz_chat_template(data);
});
