//! `cargo bench -p coexec-cpu`: GEMV in bytes of weights per second beside a plain read, GEMM in operations per second
//! beside the int8 peak.

#![allow(missing_docs, reason = "criterion's macros make public items")]

#[path = "../tests/common/mod.rs"]
mod common;

use coexec_cpu::*;
use coexec_model::{
    WeightFormat,
    align::AlignedBytes,
    layout::{panel_layout, panels},
};
use common::Numbers;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Random bytes as weights: any byte is a sound code, and scales are set to one value each.
fn weights(format: WeightFormat, n: usize, k: usize) -> AlignedBytes {
    let row = Numbers::new(1).floats(k);
    let layout = panel_layout(format, k);
    let mut panel = vec![0u8; layout.bytes];
    coexec_model::layout::pack_panel(format, k, &vec![row.as_slice(); 16], &mut panel);
    let mut out = AlignedBytes::zeroed(panels(n) * layout.bytes);
    out.as_mut_slice().chunks_exact_mut(layout.bytes).for_each(|p| p.copy_from_slice(&panel));
    out
}

fn gemv(c: &mut Criterion) {
    let pool = Pool::new(threads());
    let (n, k) = (4096, 4096);
    let x = Numbers::new(2).floats(k);
    let mut group = c.benchmark_group("gemv 4096x4096");
    for format in WeightFormat::ALL {
        // Several copies, used in turn, so that weights come from memory as they do in decode.
        let bytes = weights(format, n, k);
        let copies: Vec<AlignedBytes> = (0..(256 << 20) / bytes.len()).map(|_| bytes.clone()).collect();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        for lanes in [1, threads()] {
            let mut turn = 0;
            group.bench_function(BenchmarkId::new(format!("read, as {format}"), lanes), |b| {
                b.iter(|| {
                    turn = (turn + 1) % copies.len();
                    let step = copies[turn].len().div_ceil(64 * 16) * 64;
                    pool.run(lanes, 16, &|part, _| {
                        let (start, end) = (part * step, copies[turn].len().min((part + 1) * step));
                        let words: &[u64] = bytemuck::cast_slice(&copies[turn][start..end]);
                        let mut sums = [0u64; 16];
                        for words in words.chunks_exact(16) {
                            for (sum, word) in sums.iter_mut().zip(words) {
                                *sum = sum.wrapping_add(*word);
                            }
                        }
                        black_box(sums);
                    });
                });
            });
            for kernels in Kernels::available().into_iter().filter(|k| k.name() != "reference") {
                let ctx = Ctx { kernels, pool: &pool, lanes };
                let (mut y, mut scratch) = (vec![0.0; n], LinearScratch::new());
                group.bench_function(BenchmarkId::new(format!("{format} {}", kernels.name()), lanes), |b| {
                    b.iter(|| {
                        turn = (turn + 1) % copies.len();
                        let tiles = SliceTiles::new(format, k, &copies[turn]);
                        let w = PanelTensor { format, n, k, tiles: &tiles };
                        linear(&ctx, &w, black_box(&x), 1, &mut y, &mut scratch).expect("fits");
                    });
                });
            }
        }
    }
}

/// Operations (two per multiply-add) of integer products of many rows, beside the int8 peak of the same kernel set, for shapes
/// of a 0.5B and a 1.8B model.
fn gemm(c: &mut Criterion) {
    let pool = Pool::new(threads());
    let m = 256;
    for (n, k) in [(896, 896), (9728, 896), (896, 4864), (2048, 2048), (11008, 2048)] {
        let mut group = c.benchmark_group(format!("gemm {m}x{n}x{k}"));
        let x = Numbers::new(3).floats(m * k);
        for kernels in Kernels::available().into_iter().filter(|k| k.name() != "generic" && k.name() != "reference") {
            let peak = limits::peak_int8(kernels, &pool);
            for lanes in [1, threads()] {
                let ctx = Ctx { kernels, pool: &pool, lanes };
                let peak_gops = if lanes == 1 { peak.one } else { peak.all } / 1e9;
                let name =
                    |what: &str| BenchmarkId::new(format!("{what} {}, peak {peak_gops:.0} G/s", kernels.name()), lanes);
                group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
                let mut input = LinearInput::new();
                for format in [WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4s] {
                    let bytes = weights(format, n, k);
                    let tiles = SliceTiles::new(format, k, &bytes);
                    let w = PanelTensor { format, n, k, tiles: &tiles };
                    // Wide outputs on huge pages, as the scratch of a SwiGLU that is not fused: the engine writes no others of that width.
                    let (mut y, mut scratch) = (AlignedBytes::zeroed(m * n * 4), LinearScratch::new());
                    let y: &mut [f32] = bytemuck::cast_slice_mut(y.as_mut_slice());
                    input.copy(&ctx, format, &x, k).expect("fits");
                    group.bench_function(name(format.name()), |b| {
                        b.iter(|| linear_input(&ctx, &w, black_box(&input), y, &mut scratch).expect("fits"));
                    });
                    if n > 4 * k {
                        let mut out = LinearInput::new();
                        group.bench_function(name(&format!("{format} swiglu")), |b| {
                            b.iter(|| {
                                let input = black_box(&input);
                                linear_swiglu(&ctx, &w, input, format, &mut out, &mut scratch).expect("fits");
                            });
                        });
                    }
                }
                let codes: Vec<i8> = (0..k).map(|i| (i * 7) as i8).collect();
                let w = I8Panels::pack(n, k, std::iter::repeat_n(codes.as_slice(), n)).expect("fits");
                let bytes: Vec<u8> = (0..m * k).map(|i| (i * 13) as u8).collect();
                let channel = requantize::Channel { offset: 0, mantissa: 3000, shift: -9 };
                let how = Requantize::new(k, 128, std::iter::repeat_n(channel, n)).expect("fits");
                let mut out = vec![0; m * n];
                group.bench_function(name("u8s8 to u8"), |b| {
                    b.iter(|| gemm_u8s8_requantized(&ctx, black_box(&bytes), m, &w, &how, &mut out).expect("fits"));
                });
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(800));
    targets = gemv, gemm
}
criterion_main!(benches);
