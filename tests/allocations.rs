//! A decoded token allocates nothing: the buffers of a session have their size after the first token.

mod support;

use coexec::{
    EngineOptions, KvDtype, NpuChoice, model::TokenId, model::WeightFormat, runtime::prefill::PrefillOptions,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use support::{Packed, demo_dir};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test in this file: the counters are those of the whole process.
#[test]
fn decoding_allocates_nothing() {
    for format in [WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4s, WeightFormat::F16] {
        let packed = Packed::import(&demo_dir(), format, None);
        for (kv, threads, prompt) in
            [(KvDtype::F16, 2, 33), (KvDtype::F32, 1, 33), (KvDtype::I8, 2, 33), (KvDtype::F16, 2, 577)]
        {
            let options = EngineOptions { npu: NpuChoice::None, threads, kv, ..EngineOptions::default() };
            let engine = coexec::Engine::open(&packed.path, options).expect("opens");
            let mut session = engine.session();
            let ids: Vec<TokenId> = (0..prompt).map(|i| TokenId(i * 7 % 500)).collect();
            session.prefill(&ids, &PrefillOptions::default()).expect("prefills");
            // The first tokens give buffers their size; the rest stays inside a page of K and V, which is allocated whole.
            let mut allocated = || {
                session.truncate(prompt as usize);
                let mut run = |tokens: std::ops::Range<u32>| {
                    for i in tokens {
                        let logits = session.decode(TokenId(i)).expect("decodes");
                        assert!(logits.iter().all(|v| v.is_finite()));
                    }
                };
                run(0..6);
                let region = Region::new(ALLOCATOR);
                run(6..26);
                let change = region.change();
                (change.allocations, change.reallocations)
            };
            // On a busy machine a worker is given its first part late, and its buffers get their size then: that happens once
            // per worker and buffer. What tokens allocate would be there every time.
            let seen: Vec<_> = (0..20).map(|_| allocated()).take_while(|change| *change != (0, 0)).collect();
            assert!(seen.len() < 20, "{format} {kv:?} {threads} threads: {seen:?}");
        }
    }
}
