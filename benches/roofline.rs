//! Decode beside a plain read of the very same weights: `cargo bench --bench roofline -- FILE.coexec [ROUNDS [DEPTH]]`.
//!
//! A shared machine's bandwidth moves within seconds by a factor of two, so that a limit measured before or after says
//! little. Here every decoded token is followed by one pass of [`Kernels::read_sum`] over the tiles it read, in place, by as
//! many threads; shares are of the pairs. With DEPTH, a token at that depth (INT8 KV) follows, and a read of as many bytes as
//! the KV cache then has.

use coexec::{
    Engine, EngineOptions, NpuChoice, Session,
    model::{LinearKind, TokenId},
    runtime::{model::Model, prefill::PrefillOptions},
};
use coexec_cpu::{Kernels, KvDtype, Pool, TileSource};
use coexec_model::align::AlignedBytes;
use std::{hint::black_box, path::PathBuf, time::Instant};

/// Bytes that a thread takes at once.
const PART_BYTES: usize = 256 << 10;

/// Milliseconds that `f` takes.
fn time(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64() * 1e3
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The weights that a decoded token reads, where they are.
fn weights(model: &Model) -> Vec<&[u64]> {
    let layers = 0..model.config().num_hidden_layers as usize;
    let linears = layers.flat_map(|layer| LinearKind::ALL.map(|kind| model.linear(layer, kind)));
    let mut parts = Vec::new();
    for weight in linears.chain([model.head()]) {
        let panels = weight.panels();
        assert!(panels.tiles.whole().is_some(), "`{}` is compressed: give more memory", weight.name());
        for tile in 0..panels.num_tiles() {
            // In place: the scratch stays empty and the bytes live as long as the model.
            let bytes = weight.tile(tile, Box::leak(Box::default())).expect("a tile");
            parts.extend(bytes.chunks(PART_BYTES).map(bytemuck::cast_slice::<u8, u64>));
        }
    }
    parts
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let (path, rounds, depth) = (args.next(), args.next(), args.next());
    let number = |arg: Option<String>, default: usize| arg.map_or(default, |n| n.parse().expect("a number"));
    let (rounds, depth) = (number(rounds, 40), number(depth, 0));
    let options = EngineOptions {
        npu: NpuChoice::None,
        kv: if depth > 0 { KvDtype::I8 } else { KvDtype::F16 },
        ..EngineOptions::default()
    };
    let engine = match path {
        Some(path) => Engine::open(&PathBuf::from(path), options).expect("the file opens"),
        None => Engine::new(coexec::demo::packed().expect("the embedded model"), options).expect("it runs"),
    };
    let (kernels, pool) = (Kernels::detect(), Pool::new(engine.options().worker_threads()));
    let read = |parts: &[&[u64]]| {
        time(|| {
            pool.run(pool.threads(), parts.len(), &|part, _| {
                black_box(kernels.read_sum(parts[part]));
            });
        })
    };
    let filled = |tokens: usize| {
        let mut session = engine.session();
        let ids: Vec<TokenId> = (0..tokens).map(|i| TokenId(i as u32 % 256)).collect();
        session.prefill(&ids, &PrefillOptions::default()).expect("prefill");
        session
    };
    let decode = |session: &mut Session, tokens: usize| {
        session.truncate(tokens);
        time(|| {
            black_box(session.decode(TokenId(7)).expect("decode")[0]);
        })
    };

    let weights = weights(engine.model());
    let bytes = weights.iter().map(|part| part.len() * 8).sum::<usize>() as f64;
    let (mut short, mut long) = (filled(1), filled(depth.max(1)));
    let mut kv = AlignedBytes::zeroed(if depth > 0 { long.kv_bytes() as usize / 64 * 64 } else { 0 });
    kv.as_mut_slice().fill(1);
    let kv_parts: Vec<&[u64]> = kv.chunks(PART_BYTES).map(bytemuck::cast_slice::<u8, u64>).collect();

    // Milliseconds of a token at depth 0 and a read of its weights, of a token at `depth` and a read of its KV cache.
    let all: Vec<[f64; 4]> = (0..rounds + 2)
        .map(|_| {
            let first = [decode(&mut short, 1), read(&weights)];
            let second = if depth > 0 { [decode(&mut long, depth), read(&kv_parts)] } else { [0.0; 2] };
            [first[0], first[1], second[0], second[1]]
        })
        .skip(2)
        .collect();
    let line = |name: &str, bytes: f64, ms: f64| {
        println!("{name:<24} {:7.1} MB {ms:8.3} ms {:6.1} GB/s", bytes / 1e6, bytes / ms / 1e6);
    };
    let column = |i: usize| median(all.iter().map(|row| row[i]));
    println!("{} threads, medians of {rounds} rounds", pool.threads());
    line("decode", bytes, column(0));
    line("plain read of weights", bytes, column(1));
    println!("read / decode {:.1} %", 100.0 * median(all.iter().map(|row| row[1] / row[0])));
    if depth > 0 {
        let added = median(all.iter().map(|row| row[2] - row[0]));
        line(&format!("added at {depth}"), kv.len() as f64, added);
        line("plain read of KV", kv.len() as f64, column(3));
        println!("added / read {:.2}", median(all.iter().map(|row| (row[2] - row[0]) / row[3])));
    }
}
