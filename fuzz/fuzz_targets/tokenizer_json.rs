//! Fuzzes tokenizer.json and what it does to text: an error or a value, never an uncaught panic, a hang or an absurd
//! allocation. The tokenizers library panics on some damaged files; ours catches that and makes it an error, so the
//! fuzzer's own hook, which aborts on every panic, is replaced. Uncaught panics still end the fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| {
        coexec_runtime::text::fuzz_tokenizer(data);
    }
);
