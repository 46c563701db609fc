//! Under a memory budget weights are decompressed at use: each tile once in every pass over the weights.

mod support;

use coexec::{
    CancelToken, Engine, EngineOptions, NpuChoice, ScheduleChoice,
    model::{LinearKind, TensorName, TokenId, WeightFormat},
    runtime::{
        prefill::PrefillOptions,
        weights::{Weight, WeightState},
    },
};
use std::collections::HashSet;
use support::{Packed, calibration_text, demo_dir};

/// An engine that keeps no decompressed weights in memory.
fn engine(packed: &Packed, options: EngineOptions) -> Engine {
    packed.engine(EngineOptions { memory_budget_bytes: Some(0), ..options })
}

/// Tiles of a tensor that are decompressed when it is read; none where it is mapped.
fn tiles(engine: &Engine, weight: &Weight) -> u64 {
    let entry = engine.model().file().tensor(weight.name()).expect("an open tensor");
    if weight.state() == WeightState::Compressed { entry.tiles as u64 } else { 0 }
}

/// Tiles of all linears.
fn linear_tiles(engine: &Engine) -> u64 {
    let layers = engine.model().config().num_hidden_layers as usize;
    let linears = (0..layers).flat_map(|l| LinearKind::ALL.map(|kind| engine.model().linear(l, kind)));
    linears.map(|weight| tiles(engine, weight)).sum()
}

/// Tiles that embedding these tokens reads.
fn embed_tiles(engine: &Engine, ids: &[TokenId]) -> u64 {
    let embed = engine.model().embed();
    if embed.state() != WeightState::Compressed {
        return 0;
    }
    ids.iter().map(|id| id.0 as usize / embed.rows_per_tile()).collect::<HashSet<_>>().len() as u64
}

#[test]
fn a_pass_decompresses_each_tile_once() {
    for format in [WeightFormat::F32, WeightFormat::Q8] {
        let packed = Packed::import(&demo_dir(), format, None);
        for threads in [1, 2, 3] {
            let engine = engine(&packed, EngineOptions { npu: NpuChoice::None, threads, ..EngineOptions::default() });
            let (model, weights) = (engine.model(), linear_tiles(&engine) + tiles(&engine, engine.model().head()));
            let of = |kind| tiles(&engine, model.linear(0, kind));
            assert!(of(LinearKind::GateUp) > 1 && tiles(&engine, model.head()) > 1, "one tile would show little");
            let mut session = engine.session();
            let ids: Vec<TokenId> = (0..40).map(|i| TokenId(i * 97 % 4096)).collect();
            let before = model.decompressed();
            session.prefill(&ids, &PrefillOptions::default()).expect("prefill");
            let prefill = model.decompressed() - before;
            assert_eq!(prefill.tiles, weights + embed_tiles(&engine, &ids), "{format}, prefill, {threads} threads");
            // One row, and the few rows of a draft.
            for rows in [1, 4, 8] {
                let before = model.decompressed();
                session.decode_rows(&ids[..rows]).expect("a step");
                let step = model.decompressed() - before;
                let expected = weights + embed_tiles(&engine, &ids[..rows]);
                assert_eq!(step.tiles, expected, "{format}, {rows} rows, {threads} threads");
                assert!(step.bytes > 0);
            }
        }
    }
}

#[test]
fn shadow_and_join_decompress_each_tile_once() {
    let packed = Packed::import(&demo_dir(), WeightFormat::F32, Some(calibration_text()[..6000].to_owned()));
    let options = |schedule| EngineOptions {
        npu: NpuChoice::Sim,
        threads: 2,
        chunk_lens: vec![64],
        schedule,
        ..EngineOptions::default()
    };
    let run = |schedule| {
        let engine = engine(&packed, options(schedule));
        engine.prepare_npu(&CancelToken::new()).expect("static graphs");
        let ids: Vec<TokenId> = (0..64).map(|i| TokenId(i * 131 % 4096)).collect();
        let before = engine.model().decompressed();
        let output = engine.session().prefill(&ids, &PrefillOptions::default()).expect("prefill");
        let other = tiles(&engine, engine.model().head()) + embed_tiles(&engine, &ids);
        ((engine.model().decompressed() - before).tiles - other, linear_tiles(&engine), output)
    };
    let (plain, _, _) = run(ScheduleChoice::Plain);
    assert_eq!(plain, 0, "nothing is corrected, so the CPU needs no weights of linears");
    let (shadow, all, output) = run(ScheduleChoice::Shadow { pruning_rate: 0.0 });
    assert!(output.shadow.channels > 64 * 4, "{:?}: too few channels for several batches", output.shadow);
    // A shadow reads a linear's tiles once, and so does the join where outputs have saturated.
    assert!((1..=2 * all).contains(&shadow), "{shadow} tiles, the linears have {all}");
}

#[test]
fn weights_in_memory_are_not_decompressed() {
    let packed = Packed::import(&demo_dir(), WeightFormat::Q8, None);
    let engine = packed.engine(EngineOptions { npu: NpuChoice::None, threads: 2, ..EngineOptions::default() });
    engine.session().decode(TokenId(5)).expect("a step");
    assert_eq!(engine.model().decompressed().tiles, 0);
    assert!(engine.model().file().has(TensorName::Embed));
}
