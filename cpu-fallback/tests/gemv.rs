//! Linears of a few rows: the bits of `linear`, with every fused operation, source, number of threads, inside and outside a step.

mod common;

use coexec_cpu::*;
use coexec_model::WeightFormat;
use common::{Copied, Numbers, bits, ctx, pack};

const EPS: f32 = 1e-5;

#[test]
fn few_rows_give_the_bits_of_linear() {
    let pool = Pool::new(3);
    // 700 inputs: several panels to a tile, several tiles; 300 rows end inside a panel.
    let (n, k) = (300, 700);
    let mut numbers = Numbers::new(1);
    let rows: Vec<Vec<f32>> = (0..n).map(|_| numbers.floats(k)).collect();
    let gain = numbers.floats(k);
    for format in WeightFormat::ALL {
        let bytes = pack(format, k, &rows);
        let (in_place, copied) = (SliceTiles::new(format, k, &bytes), Copied::new(format, k, &bytes));
        let sources: [&dyn TileSource; 2] = [&in_place, &copied];
        for m in [1, 2, 5, 8] {
            let (x, residual) = (numbers.floats(m * k), numbers.floats(m * n));
            let mut normed = vec![0.0; m * k];
            rms_norm(&ctx(&pool, 1), &x, &gain, EPS, &mut normed).expect("fits");
            let w = PanelTensor { format, n, k, tiles: &in_place };
            let expected: Vec<Vec<f32>> = [&x, &normed]
                .map(|x| {
                    let mut y = vec![0.0; m * n];
                    linear(&ctx(&pool, 1), &w, x, m, &mut y, &mut LinearScratch::new()).expect("fits");
                    y
                })
                .into();
            let added: Vec<f32> = residual.iter().zip(&expected[0]).map(|(r, y)| r + y).collect();
            for tiles in sources {
                let w = PanelTensor { format, n, k, tiles };
                for lanes in [1, 2, 3] {
                    let ctx = ctx(&pool, lanes);
                    let (mut input, mut scratch) = (LinearInput::default(), TileScratch::default());
                    let mut check = || {
                        let mut y = vec![9.0; m * n];
                        input.copy(&ctx, format, &x, k).expect("fits");
                        few_rows(&ctx, &w, &input, &mut y, Output::Store, &mut scratch).expect("fits");
                        assert_eq!(bits(&y), bits(&expected[0]), "{format} {m} rows, {lanes} lanes");
                        y.copy_from_slice(&residual);
                        few_rows(&ctx, &w, &input, &mut y, Output::Add, &mut scratch).expect("fits");
                        assert_eq!(bits(&y), bits(&added), "{format} {m} rows, {lanes} lanes, added");
                        input.norm(&ctx, format, &x, &gain, EPS).expect("fits");
                        few_rows(&ctx, &w, &input, &mut y, Output::Store, &mut scratch).expect("fits");
                        assert_eq!(bits(&y), bits(&expected[1]), "{format} {m} rows, {lanes} lanes, normed");
                    };
                    check();
                    pool.step(lanes, check);
                }
            }
        }
    }
}

#[test]
fn swiglu_is_that_of_the_parts() {
    let pool = Pool::new(2);
    let (ffn, k) = (144, 320);
    let mut numbers = Numbers::new(2);
    let rows: Vec<Vec<f32>> = (0..2 * ffn).map(|_| numbers.floats(k)).collect();
    for format in WeightFormat::ALL {
        let bytes = pack(format, k, &rows);
        let (in_place, copied) = (SliceTiles::new(format, k, &bytes), Copied::new(format, k, &bytes));
        let sources: [&dyn TileSource; 2] = [&in_place, &copied];
        for (m, tiles) in [(1, sources[0]), (3, sources[0]), (8, sources[1]), (1, sources[1])] {
            let w = PanelTensor { format, n: 2 * ffn, k, tiles };
            let ctx = ctx(&pool, 2);
            let x = numbers.floats(m * k);
            let mut joined = vec![0.0; m * 2 * ffn];
            linear(&ctx, &w, &x, m, &mut joined, &mut LinearScratch::new()).expect("fits");
            let mut expected = vec![0.0; m * ffn];
            for (row, out) in joined.chunks(2 * ffn).zip(expected.chunks_mut(ffn)) {
                silu_mul(&ctx, &row[..ffn], &row[ffn..], out).expect("fits");
            }
            let (mut input, mut out) = (LinearInput::default(), vec![9.0; m * ffn]);
            input.copy(&ctx, format, &x, k).expect("fits");
            pool.step(2, || few_rows_swiglu(&ctx, &w, &input, &mut out, &mut TileScratch::default())).expect("fits");
            assert_eq!(bits(&out), bits(&expected), "{format} {m} rows");
        }
    }
}

#[test]
fn every_tile_is_read_once() {
    let pool = Pool::new(3);
    // Panels of many bytes: tiles of a few of them, so that (but for f32) gate ends inside a tile.
    let (ffn, k) = (144, 3000);
    let mut numbers = Numbers::new(3);
    let rows: Vec<Vec<f32>> = (0..2 * ffn).map(|_| numbers.floats(k)).collect();
    for format in WeightFormat::ALL {
        let tiles = Copied::new(format, k, &pack(format, k, &rows));
        let w = PanelTensor { format, n: 2 * ffn, k, tiles: &tiles };
        assert!(w.num_tiles() > 1, "{format}");
        let reads = || tiles.reads.swap(0, std::sync::atomic::Ordering::Relaxed);
        for (m, lanes) in [(1, 1), (1, 3), (5, 2), (8, 3)] {
            let (ctx, x) = (ctx(&pool, lanes), numbers.floats(m * k));
            let (mut input, mut scratch) = (LinearInput::default(), TileScratch::default());
            input.copy(&ctx, format, &x, k).expect("fits");
            let mut y = vec![0.0; m * 2 * ffn];
            for output in [Output::Store, Output::Add] {
                few_rows(&ctx, &w, &input, &mut y, output, &mut scratch).expect("fits");
                assert_eq!(reads(), w.num_tiles(), "{format} {m} rows, {lanes} lanes, {output:?}");
            }
            few_rows_swiglu(&ctx, &w, &input, &mut y[..m * ffn], &mut scratch).expect("fits");
            assert_eq!(reads(), w.num_tiles(), "{format} {m} rows, {lanes} lanes, SwiGLU");
            linear_input(&ctx, &w, &input, &mut y, &mut LinearScratch::new()).expect("fits");
            assert_eq!(reads(), w.num_tiles(), "{format} {m} rows, {lanes} lanes, linear");
        }
    }
}

#[test]
fn bad_calls_are_errors() {
    let pool = Pool::new(2);
    let ctx = ctx(&pool, 2);
    let (n, k, format) = (2000, 300, WeightFormat::Q8);
    let bytes = pack(format, k, &vec![vec![1.0; k]; n]);
    let mut tiles = Copied::new(format, k, &bytes);
    tiles.broken = Some(1);
    let w = PanelTensor { format, n, k, tiles: &tiles };
    let (mut input, mut scratch, mut y) = (LinearInput::default(), TileScratch::default(), vec![0.0; n]);
    let rows = |m: usize| vec![1.0; m * k];
    assert!(matches!(input.copy(&ctx, format, &rows(1)[1..], k), Err(CpuError::Shape { .. })));
    for m in [0, 9] {
        input.copy(&ctx, format, &rows(m), k).expect("whole rows");
        let result = few_rows(&ctx, &w, &input, &mut vec![0.0; m * n], Output::Store, &mut scratch);
        assert!(matches!(result, Err(CpuError::Argument { .. })), "{m} rows");
    }
    input.copy(&ctx, format, &rows(1), k).expect("one row");
    let error = few_rows(&ctx, &w, &input, &mut y, Output::Store, &mut scratch).expect_err("tile 1 is broken");
    assert_eq!(error, CpuError::Tile(TileError::new("tile 1 is broken")));
    let error = few_rows_swiglu(&ctx, &w, &input, &mut y[..1000], &mut scratch).expect_err("1000 is not whole panels");
    assert!(matches!(error, CpuError::Argument { .. }));
    assert!(few_rows(&ctx, &w, &input, &mut y[1..], Output::Store, &mut scratch).is_err());
    input.copy(&ctx, WeightFormat::F16, &rows(1), k).expect("one row");
    assert!(few_rows(&ctx, &w, &input, &mut y, Output::Store, &mut scratch).is_err(), "float input, integer weights");
    input.copy(&ctx, format, &rows(1)[..k - 1], k - 1).expect("one row");
    assert!(few_rows(&ctx, &w, &input, &mut y, Output::Store, &mut scratch).is_err(), "another k");
}
