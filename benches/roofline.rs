//! Decode beside a plain read of the very same weights: `cargo bench --bench roofline -- FILE.coexec [ROUNDS]`.
//!
//! A shared machine's bandwidth moves within seconds by a factor of two, so that a limit measured before or after says
//! little. Here every decoded token is followed by one pass of [`Kernels::read_sum`] over the tiles it read, in place, by as
//! many threads; shares are of the pairs.

use coexec::{
    Engine, EngineOptions, NpuChoice,
    model::{LinearKind, TokenId},
    runtime::prefill::PrefillOptions,
};
use coexec_cpu::{Kernels, Pool};
use coexec_model::align::AlignedBytes;
use std::{hint::black_box, path::PathBuf, time::Instant};

/// Bytes that a thread takes at once.
const PART_BYTES: usize = 256 << 10;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let options = EngineOptions { npu: NpuChoice::None, ..EngineOptions::default() };
    let engine = match args.next() {
        Some(path) => Engine::open(&PathBuf::from(path), options).expect("the file opens"),
        None => Engine::new(coexec::demo::packed().expect("the embedded model"), options).expect("it runs"),
    };
    let rounds: usize = args.next().map_or(40, |n| n.parse().expect("a number of rounds"));

    let model = engine.model();
    let layers = 0..model.config().num_hidden_layers as usize;
    let linears = layers.flat_map(|layer| LinearKind::ALL.map(|kind| model.linear(layer, kind)));
    let mut parts = Vec::new();
    for weight in linears.chain([model.head()]) {
        let panels = weight.panels();
        assert!(panels.tiles.in_place(), "`{}` is compressed: give more memory", weight.name());
        for tile in 0..panels.num_tiles() {
            // In place: the scratch stays empty and the bytes live as long as the model.
            let bytes = panels.tiles.tile(tile, Box::leak(Box::new(AlignedBytes::default()))).expect("a tile");
            parts.extend(bytes.chunks(PART_BYTES).map(bytemuck::cast_slice::<u8, u64>));
        }
    }
    let bytes: usize = parts.iter().map(|part| part.len() * 8).sum();

    let (kernels, pool) = (Kernels::detect(), Pool::new(engine.options().worker_threads()));
    let mut session = engine.session();
    session.prefill(&[TokenId(1)], &PrefillOptions::default()).expect("prefill");
    let mut pairs: Vec<(f64, f64)> = (0..rounds + 2)
        .map(|_| {
            session.truncate(1);
            let start = Instant::now();
            black_box(session.decode(TokenId(7)).expect("decode")[0]);
            let decode = start.elapsed().as_secs_f64();
            let start = Instant::now();
            pool.run(pool.threads(), parts.len(), &|part, _| {
                black_box(kernels.read_sum(parts[part]));
            });
            (decode, start.elapsed().as_secs_f64())
        })
        .skip(2)
        .collect();

    let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
    let median = |pairs: &mut [(f64, f64)], key: fn(&(f64, f64)) -> f64| {
        pairs.sort_by(|a, b| key(a).total_cmp(&key(b)));
        key(&pairs[pairs.len() / 2])
    };
    let share = median(&mut pairs, |(decode, read)| read / decode);
    let (decode, read) = (median(&mut pairs, |p| p.0), median(&mut pairs, |p| p.1));
    println!("{:.1} MB per token, {} threads, {rounds} pairs", bytes as f64 / 1e6, pool.threads());
    println!("decode     {:8.3} ms in the median {:6.1} GB/s, {:.1} tok/s", decode * 1e3, rate(decode), 1.0 / decode);
    println!("plain read {:8.3} ms in the median {:6.1} GB/s", read * 1e3, rate(read));
    println!("share      {:8.1} % in the median of pairs", share * 100.0);
}
