//! `cargo bench -p coexec-cpu --bench attention`: decode in bytes of K and V per second beside a plain read of as many
//! bytes, prefill in multiply-adds per second (2 FLOP each; the limit is printed by `coexec bench --limits`).

#![allow(missing_docs, reason = "criterion's macros make public items")]

#[path = "../tests/common/mod.rs"]
mod common;

use coexec_cpu::*;
use common::{Numbers, Segments, read_all};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Heads, KV heads and head width of Qwen2.5 0.5B and of Qwen1.5 1.8B.
const SHAPES: [(&str, usize, usize, usize); 2] = [("0.5b", 14, 2, 64), ("1.8b", 16, 16, 128)];

fn shapes() -> impl Iterator<Item = (&'static str, AttnShape, KvShape)> {
    SHAPES.into_iter().map(|(name, heads, kv_heads, head_dim)| {
        let shape = AttnShape { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), window: None };
        (name, shape, KvShape { kv_heads, head_dim })
    })
}

fn filled(kv: KvShape, tokens: usize, dtype: KvDtype, layers: usize) -> Segments {
    let mut segments = Segments::with_layers(kv, tokens, dtype, layers);
    let rows = Numbers::new(4).floats(tokens * kv.kv_heads * kv.head_dim);
    for layer in (0..layers).rev() {
        segments.layer = layer;
        store_kv(&kv, 0, &rows, &rows, &mut segments).expect("fits");
    }
    segments
}

fn decode(c: &mut Criterion) {
    let pool = Pool::new(threads());
    let context = 4096;
    for ((name, shape, kv), from) in shapes().flat_map(|shape| [(shape, "memory"), (shape, "caches")]) {
        let mut group = c.benchmark_group(format!("decode at {context} from {from}, {name}"));
        for dtype in KvDtype::ALL {
            let bytes = kv.page_bytes(dtype) * (context / PAGE_TOKENS);
            // Several layers in turn, so that K and V come from memory, or one.
            let mut segments = filled(kv, context, dtype, if from == "memory" { (192 << 20) / bytes } else { 1 });
            let layers = segments.layers();
            group.throughput(Throughput::Bytes(bytes as u64));
            let (q, mut out) =
                (Numbers::new(5).floats(shape.heads * shape.head_dim), vec![0.0; shape.heads * shape.head_dim]);
            for lanes in [1, threads()] {
                group.bench_function(BenchmarkId::new(format!("read, as {}", dtype.name()), lanes), |b| {
                    b.iter(|| {
                        segments.layer = (segments.layer + 1) % layers;
                        read_all(&pool, lanes, segments.bytes())
                    });
                });
                for kernels in
                    Kernels::available().into_iter().filter(|k| k.name() != "reference" && k.name() != "generic")
                {
                    let ctx = Ctx { kernels, pool: &pool, lanes };
                    group.bench_function(
                        BenchmarkId::new(format!("{} {}", dtype.name(), kernels.name()), lanes),
                        |b| {
                            b.iter(|| {
                                segments.layer = (segments.layer + 1) % layers;
                                attend(&ctx, &shape, black_box(&q), context - 1, &segments, &mut out).expect("fits");
                            });
                        },
                    );
                }
            }
        }
    }
}

fn prefill(c: &mut Criterion) {
    let pool = Pool::new(threads());
    for (name, shape, kv) in shapes() {
        for (m, start) in [(1024, 0), (256, 768), (8, 1016)] {
            let mut group = c.benchmark_group(format!("{m} tokens at {start}, {name}"));
            let width = shape.heads * shape.head_dim;
            let (q, mut out) = (Numbers::new(5).floats(m * width), vec![0.0; m * width]);
            // Scores and weighted values: each a multiply-add per visible token, head and dimension.
            group.throughput(Throughput::Elements((m * (2 * start + m + 1) * width) as u64));
            for dtype in KvDtype::ALL {
                let segments = filled(kv, start + m, dtype, 1);
                for lanes in [1, threads()] {
                    for kernels in
                        Kernels::available().into_iter().filter(|k| k.name() != "reference" && k.name() != "generic")
                    {
                        let ctx = Ctx { kernels, pool: &pool, lanes };
                        group.bench_function(
                            BenchmarkId::new(format!("{} {}", dtype.name(), kernels.name()), lanes),
                            |b| {
                                b.iter(|| {
                                    attend(&ctx, &shape, black_box(&q), start, &segments, &mut out).expect("fits")
                                });
                            },
                        );
                    }
                }
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(100))
        .measurement_time(std::time::Duration::from_millis(400));
    targets = decode, prefill
}
criterion_main!(benches);
