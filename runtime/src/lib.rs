//! Engine, sessions, prefill, decode, weight store, KV cache, tokenizer, chat template, sampler.
