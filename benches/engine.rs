//! Prefill and decode of the embedded demo model: `cargo bench --bench engine`. Compare runs of one session only; machines
//! differ, and so does one machine under load.

use coexec::{Engine, EngineOptions, NpuChoice, model::TokenId, runtime::prefill::PrefillOptions};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn tokens(n: u32) -> Vec<TokenId> {
    (0..n).map(|i| TokenId(i.wrapping_mul(2_654_435_761) % 4096)).collect()
}

fn engine(npu: NpuChoice) -> Engine {
    let packed = coexec::demo::packed().expect("the embedded model");
    Engine::new(packed, EngineOptions { npu, ..EngineOptions::default() }).expect("the embedded model runs")
}

fn prefill(c: &mut Criterion) {
    let mut group = c.benchmark_group("prefill 512");
    group.throughput(Throughput::Elements(512));
    for (name, npu) in [("sim", NpuChoice::Sim), ("cpu", NpuChoice::None)] {
        let (engine, prompt) = (engine(npu), tokens(512));
        group.bench_function(name, |b| {
            b.iter(|| engine.session().prefill(&prompt, &PrefillOptions::default()).expect("prefill"));
        });
    }
    group.finish();
}

fn decode(c: &mut Criterion) {
    let engine = engine(NpuChoice::None);
    let mut session = engine.session();
    session.prefill(&tokens(64), &PrefillOptions::default()).expect("prefill");
    let mut group = c.benchmark_group("decode at 64");
    group.throughput(Throughput::Elements(1));
    group.bench_function("cpu", |b| {
        b.iter(|| {
            session.truncate(64);
            session.decode(TokenId(7)).expect("decode")[0]
        });
    });
    group.finish();
}

criterion_group!(benches, prefill, decode);
criterion_main!(benches);
