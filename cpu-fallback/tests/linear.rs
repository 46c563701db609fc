//! Linears, embeddings and row operations through the public API: any source, any cut, any number of threads, same bits.

mod common;

use coexec_cpu::*;
use coexec_model::{
    DecoderConfig, GenerationDefaults, RopeScaling, WeightFormat,
    layout::{Panel, panel_layout},
};
use common::{Copied, Numbers, bits, ctx, pack};

#[test]
fn sources_lanes_chunks_and_ranges_give_the_same_bits() {
    let pool = Pool::new(3);
    // 700 inputs of f32 are 5 panels to a tile: 300 rows are 4 tiles.
    let (n, k, m) = (300, 700, 7);
    let mut numbers = Numbers::new(1);
    let rows: Vec<Vec<f32>> = (0..n).map(|_| numbers.floats(k)).collect();
    let x = numbers.floats(m * k);
    for format in WeightFormat::ALL {
        let bytes = pack(format, k, &rows);
        let (in_place, copied) = (SliceTiles::new(format, k, &bytes), Copied::new(format, k, &bytes));
        let mut scratch = LinearScratch::new();
        let mut expected = vec![0.0; m * n];
        let w = PanelTensor { format, n, k, tiles: &in_place };
        linear(&ctx(&pool, 1), &w, &x, m, &mut expected, &mut scratch).expect("fits");
        let sources: [&dyn TileSource; 2] = [&in_place, &copied];
        for tiles in sources {
            let w = PanelTensor { format, n, k, tiles };
            for lanes in [1, 2, 3] {
                let ctx = ctx(&pool, lanes);
                let mut y = vec![0.0; m * n];
                linear(&ctx, &w, &x, m, &mut y, &mut scratch).expect("fits");
                assert_eq!(bits(&y), bits(&expected), "{format} {lanes}");
                for r in 0..m {
                    linear(&ctx, &w, &x[r * k..(r + 1) * k], 1, &mut y[..n], &mut scratch).expect("fits");
                    assert_eq!(bits(&y[..n]), bits(&expected[r * n..(r + 1) * n]), "{format} {lanes} row {r}");
                }
                for range in [0..n, 16..48, 96..n, 288..n, 80..160, 32..32] {
                    let mut y = vec![0.0; m * range.len()];
                    linear_rows(&ctx, &w, range.clone(), &x, m, &mut y, &mut scratch).expect("fits");
                    for r in 0..m {
                        let part = &expected[r * n + range.start..r * n + range.end];
                        assert_eq!(bits(&y[r * range.len()..][..range.len()]), bits(part), "{format} {range:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn many_rows_take_panels_over_the_borders_of_tiles() {
    let pool = Pool::new(3);
    // An odd number of panels to a tile: 7 of q8, 15 of q4, 13 of q4s.
    let (n, k, m) = (16 * 17 + 5, 2080, 200);
    let mut numbers = Numbers::new(4);
    let rows: Vec<Vec<f32>> = (0..n).map(|_| numbers.floats(k)).collect();
    let x = numbers.floats(m * k);
    for format in [WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4s] {
        let bytes = pack(format, k, &rows);
        let (in_place, copied) = (SliceTiles::new(format, k, &bytes), Copied::new(format, k, &bytes));
        let (w, apart) = (PanelTensor { format, n, k, tiles: &in_place }, PanelTensor { format, n, k, tiles: &copied });
        assert!(w.num_tiles() > 1 && w.panels_per_tile() % 2 == 1, "{format}: {} panels", w.panels_per_tile());
        let (mut scratch, mut expected, mut y) = (LinearScratch::new(), vec![0.0; m * n], vec![0.0; m * n]);
        linear(&ctx(&pool, 1), &apart, &x, m, &mut expected, &mut scratch).expect("fits");
        for (lanes, m) in [(1, m), (3, m), (3, 13)] {
            linear(&ctx(&pool, lanes), &w, &x[..m * k], m, &mut y[..m * n], &mut scratch).expect("fits");
            assert_eq!(bits(&y[..m * n]), bits(&expected[..m * n]), "{format} {lanes} {m}");
        }
    }
}

#[test]
fn f32_linear_is_the_product() {
    let pool = Pool::new(2);
    let (n, k, m) = (33, 50, 3);
    let mut numbers = Numbers::new(2);
    let rows: Vec<Vec<f32>> = (0..n).map(|_| numbers.floats(k)).collect();
    let x = numbers.floats(m * k);
    let bytes = pack(WeightFormat::F32, k, &rows);
    let tiles = SliceTiles::new(WeightFormat::F32, k, &bytes);
    let mut y = vec![0.0; m * n];
    let w = PanelTensor { format: WeightFormat::F32, n, k, tiles: &tiles };
    linear(&ctx(&pool, 2), &w, &x, m, &mut y, &mut LinearScratch::new()).expect("fits");
    for (i, y) in y.iter().enumerate() {
        let exact = rows[i % n].iter().zip(&x[i / n * k..]).fold(0.0f32, |acc, (w, x)| x.mul_add(*w, acc));
        assert_eq!(y.to_bits(), exact.to_bits());
    }
}

#[test]
fn bad_calls_are_errors() {
    let pool = Pool::new(2);
    let ctx = ctx(&pool, 2);
    let (n, k) = (2000, 300);
    let format = WeightFormat::Q8;
    let bytes = pack(format, k, &vec![vec![1.0; k]; n]);
    let mut tiles = Copied::new(format, k, &bytes);
    tiles.broken = Some(1);
    let mut scratch = LinearScratch::new();
    let (x, mut y) = (vec![1.0; k], vec![0.0; n]);
    let w = PanelTensor { format, n, k, tiles: &tiles };
    let error = linear(&ctx, &w, &x, 1, &mut y, &mut scratch).expect_err("tile 1 is broken");
    assert_eq!(error, CpuError::Tile(TileError::new("tile 1 is broken")));
    assert!(matches!(linear(&ctx, &w, &x[1..], 1, &mut y, &mut scratch), Err(CpuError::Shape { .. })));
    assert!(matches!(linear(&ctx, &w, &x, 2, &mut y, &mut scratch), Err(CpuError::Shape { .. })));
    assert!(matches!(linear_rows(&ctx, &w, 3..16, &x, 1, &mut y, &mut scratch), Err(CpuError::Argument { .. })));
    assert!(matches!(linear_rows(&ctx, &w, 0..4000, &x, 1, &mut y, &mut scratch), Err(CpuError::Argument { .. })));
    let short = SliceTiles::new(format, k, &bytes[..bytes.len() - 64]);
    let w = PanelTensor { format, n, k, tiles: &short };
    assert!(matches!(linear(&ctx, &w, &x, 1, &mut y, &mut scratch), Err(CpuError::TileSize { .. })));
    assert!(matches!(embed_rows(&w, &[2000], &mut y[..k]), Err(CpuError::Token { id: 2000, rows: 2000 })));
}

#[test]
fn a_nan_makes_the_row_nan_and_no_other() {
    let pool = Pool::new(1);
    for format in WeightFormat::ALL {
        let bytes = pack(format, 64, &vec![vec![0.5; 64]; 20]);
        let tiles = SliceTiles::new(format, 64, &bytes);
        let w = PanelTensor { format, n: 20, k: 64, tiles: &tiles };
        let mut x = vec![1.0; 3 * 64];
        x[64 + 40] = f32::NAN;
        let mut y = vec![0.0; 60];
        linear(&ctx(&pool, 1), &w, &x, 3, &mut y, &mut LinearScratch::new()).expect("fits");
        assert!(y[20..40].iter().all(|v| v.is_nan()), "{format}");
        assert!(y[..20].iter().chain(&y[40..]).all(|v| v.is_finite()), "{format}");
    }
}

#[test]
fn embeddings_are_rows_and_tiles_are_read_once() {
    let (n, k) = (3000, 128);
    let mut numbers = Numbers::new(3);
    let rows: Vec<Vec<f32>> = (0..n).map(|_| numbers.floats(k)).collect();
    for format in WeightFormat::ALL {
        let bytes = pack(format, k, &rows);
        let tiles = Copied::new(format, k, &bytes);
        let w = PanelTensor { format, n, k, tiles: &tiles };
        let ids: Vec<u32> = (0..500).map(|_| (numbers.next() % n as u64) as u32).chain([0, 2999, 0]).collect();
        let mut out = vec![0.0; ids.len() * k];
        embed_rows(&w, &ids, &mut out).expect("fits");
        assert!(tiles.reads.load(std::sync::atomic::Ordering::Relaxed) <= w.num_tiles());
        let size = panel_layout(format, k).bytes;
        for (id, row) in ids.iter().zip(out.chunks(k)) {
            let panel = Panel::new(format, k, &bytes[*id as usize / 16 * size..][..size]);
            let mut expected = vec![0.0; k];
            panel.read_row(*id as usize % 16, &mut expected);
            assert_eq!(row, expected);
        }
    }
}

#[test]
fn i8_panels_of_a_tensor_give_the_linear_of_its_codes() {
    let pool = Pool::new(2);
    let (n, k, m) = (70, 100, 5);
    let mut numbers = Numbers::new(4);
    let rows: Vec<Vec<f32>> = (0..n).map(|_| numbers.floats(k)).collect();
    for format in WeightFormat::ALL {
        let bytes = pack(format, k, &rows);
        let tiles = SliceTiles::new(format, k, &bytes);
        let (w, scales) = I8Panels::from_tensor(&PanelTensor { format, n, k, tiles: &tiles }).expect("fits");
        let x: Vec<u8> = (0..m * k).map(|_| numbers.next() as u8).collect();
        let mut acc = vec![0; m * n];
        gemm_u8s8(&ctx(&pool, 2), &x, m, &w, &mut acc).expect("fits");
        for (i, acc) in acc.iter().enumerate() {
            let exact: f64 = (0..k).map(|j| f64::from(rows[i % n][j]) * (f64::from(x[i / n * k + j]) - 128.0)).sum();
            let got = f64::from(*acc) * f64::from(scales[i % n]);
            let tolerance = if matches!(format, WeightFormat::Q4 | WeightFormat::Q4s) { 250.0 } else { 20.0 };
            assert!((got - exact).abs() < tolerance, "{format}: {got} {exact}");
        }
    }
}

#[test]
fn norms_and_activations_are_what_they_say() {
    let pool = Pool::new(2);
    let ctx = ctx(&pool, 2);
    let mut numbers = Numbers::new(5);
    let (m, h) = (70, 576);
    let (x, gain) = (numbers.floats(m * h), numbers.floats(h));
    let mut out = vec![0.0; m * h];
    rms_norm(&ctx, &x, &gain, 1e-5, &mut out).expect("fits");
    let mut heads = x.clone();
    rms_norm_heads(&ctx, &mut heads, &gain[..64], 1e-5).expect("fits");
    let norm = |x: &[f32], gain: &[f32], i: usize| {
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64;
        f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(gain[i])
    };
    for i in (0..m * h).step_by(7) {
        let row = norm(&x[i / h * h..][..h], &gain, i % h);
        let head = norm(&x[i / 64 * 64..][..64], &gain[..64], i % 64);
        assert!((f64::from(out[i]) - row).abs() < 1e-6 * (1.0 + row.abs()));
        assert!((f64::from(heads[i]) - head).abs() < 1e-6 * (1.0 + head.abs()));
    }
    let gate: Vec<f32> = x.iter().map(|v| v * 30.0).collect();
    silu_mul(&ctx, &gate, &heads, &mut out).expect("fits");
    for i in 0..m * h {
        let g = f64::from(gate[i]);
        let exact = g / (1.0 + (-g).exp()) * f64::from(heads[i]);
        assert!((f64::from(out[i]) - exact).abs() <= 1e-6 * exact.abs() + 1e-30, "{} {exact}", out[i]);
    }
    assert!(rms_norm(&ctx, &x[1..], &gain, 1e-5, &mut out[1..]).is_err());
    assert!(silu_mul(&ctx, &gate[1..], &heads, &mut out).is_err());
}

fn config(head_dim: u32, rope_scaling: RopeScaling) -> DecoderConfig {
    DecoderConfig {
        architecture: "llama".into(),
        hidden_size: 64,
        intermediate_size: 64,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim,
        vocab_size: 10,
        max_position_embeddings: 100,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        rope_scaling,
        qkv_bias: false,
        qk_norm: false,
        tie_word_embeddings: true,
        sliding_window: None,
        bos_token_id: None,
        eos_token_ids: vec![],
        generation: GenerationDefaults::default(),
    }
}

#[test]
fn rotation_turns_half_split_pairs() {
    let pool = Pool::new(2);
    let ctx = ctx(&pool, 2);
    let (heads, hd, m, start) = (3, 16, 20, 5);
    let mut table = RopeTable::new(&config(hd as u32, RopeScaling::None), 10).expect("sound");
    let original = Numbers::new(6).floats(m * heads * hd);
    let mut x = original.clone();
    assert!(table.apply(&ctx, &mut x, heads, start).is_err(), "beyond the table");
    table.grow(30).expect("small");
    assert_eq!(table.positions(), 30);
    table.apply(&ctx, &mut x, heads, start).expect("fits");
    for r in 0..m {
        for h in 0..heads {
            for i in 0..hd / 2 {
                let at = (r * heads + h) * hd + i;
                let angle = (start + r) as f64 * 10000f64.powf(-(2.0 * i as f64) / hd as f64);
                let (a, b) = (f64::from(original[at]), f64::from(original[at + hd / 2]));
                assert!((f64::from(x[at]) - (a * angle.cos() - b * angle.sin())).abs() < 1e-6);
                assert!((f64::from(x[at + hd / 2]) - (b * angle.cos() + a * angle.sin())).abs() < 1e-6);
            }
        }
    }
    // One row alone is the same row.
    let mut one = original[7 * heads * hd..8 * heads * hd].to_vec();
    table.apply(&ctx, &mut one, heads, start + 7).expect("fits");
    assert_eq!(bits(&one), bits(&x[7 * heads * hd..8 * heads * hd]));
}

#[test]
fn rope_scalings() {
    let pool = Pool::new(1);
    let ctx = ctx(&pool, 1);
    let turn = |scaling: RopeScaling, pair: usize, position: usize| {
        let table = RopeTable::new(&config(8, scaling), 64).expect("sound");
        let mut x = [0.0; 8];
        x[pair] = 1.0;
        table.apply(&ctx, &mut x, 1, position).expect("fits");
        f64::from(x[pair + 4]).atan2(f64::from(x[pair]))
    };
    let plain = |pair: usize| 10000f64.powf(-(pair as f64) / 4.0);
    let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
    assert!(near(turn(RopeScaling::Linear { factor: 4.0 }, 1, 8), plain(1) * 2.0));
    assert!(near(turn(RopeScaling::Factors { factors: vec![1.0, 2.0, 4.0, 8.0] }, 2, 40), plain(2) * 10.0));
    // 128 positions: pair 0 turns 20 times (kept), pair 3 0.02 times (divided), pair 1 2.04 times (between 1 and 4).
    let llama = || RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 128,
    };
    assert!(near(turn(llama(), 0, 1), plain(0)));
    assert!(near(turn(llama(), 3, 16), plain(3) * 2.0));
    let wavelength = std::f64::consts::TAU / plain(1);
    let smooth = (128.0 / wavelength - 1.0) / 3.0;
    assert!(near(turn(llama(), 1, 4), 4.0 * ((1.0 - smooth) * plain(1) / 8.0 + smooth * plain(1))));
    for bad in [
        RopeScaling::Linear { factor: 0.0 },
        RopeScaling::Factors { factors: vec![1.0] },
        RopeScaling::Factors { factors: vec![1.0, f32::NAN, 1.0, 1.0] },
    ] {
        assert!(RopeTable::new(&config(8, bad), 1).is_err());
    }
    assert!(RopeTable::new(&config(7, RopeScaling::None), 1).is_err());
    assert!(RopeTable::new(&config(8, RopeScaling::None), usize::MAX).is_err());
}
