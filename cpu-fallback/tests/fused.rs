//! Steps of a layer that are done in one pass give what they give one after the other.

mod common;

use coexec_cpu::*;
use coexec_model::WeightFormat;
use common::{Numbers, pack};

/// Inputs made on the way, and gate, up and SwiGLU in one, are the separate steps bit for bit.
#[test]
fn fused_steps_equal_separate_ones() {
    let pool = Pool::new(2);
    for kernels in Kernels::available() {
        for lanes in [1, 2] {
            let ctx = Ctx { kernels, pool: &pool, lanes };
            for (m, hidden, ffn) in [(1, 96, 64), (9, 96, 128), (13, 100, 192), (40, 64, 72), (150, 32, 64)] {
                for (format, next) in [
                    (WeightFormat::Q8, WeightFormat::Q8),
                    (WeightFormat::Q4, WeightFormat::F16),
                    (WeightFormat::F32, WeightFormat::Q4s),
                ] {
                    let mut numbers = Numbers::new((m * hidden) as u64);
                    let (x, y, gain) = (numbers.floats(m * hidden), numbers.floats(m * hidden), numbers.floats(hidden));
                    let rows: Vec<Vec<f32>> = (0..2 * ffn).map(|_| numbers.floats(hidden)).collect();
                    let packed = pack(format, hidden, &rows);
                    let tiles = SliceTiles::new(format, hidden, &packed);
                    let w = PanelTensor { format, n: 2 * ffn, k: hidden, tiles: &tiles };
                    let down_rows: Vec<Vec<f32>> = (0..hidden).map(|_| numbers.floats(ffn)).collect();
                    let down_packed = pack(next, ffn, &down_rows);
                    let down_tiles = SliceTiles::new(next, ffn, &down_packed);
                    let down = PanelTensor { format: next, n: hidden, k: ffn, tiles: &down_tiles };
                    let scratch = &mut LinearScratch::new();

                    // One by one.
                    let sum: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
                    let mut normed = vec![0.0; m * hidden];
                    rms_norm(&ctx, &sum, &gain, 1e-6, &mut normed).expect("fits");
                    let mut gate_up = vec![0.0; m * 2 * ffn];
                    linear(&ctx, &w, &normed, m, &mut gate_up, scratch).expect("fits");
                    let mut act = vec![0.0; m * ffn];
                    silu_mul_rows(&ctx, &gate_up, ffn, &mut act).expect("fits");
                    let mut expected = vec![0.0; m * hidden];
                    linear(&ctx, &down, &act, m, &mut expected, scratch).expect("fits");

                    // At once.
                    let (mut input, mut activated, mut x) = (LinearInput::new(), LinearInput::new(), x);
                    input.add_norm(&ctx, format, &mut x, &y, &gain, 1e-6).expect("fits");
                    assert_eq!(x, sum);
                    linear_swiglu(&ctx, &w, &input, next, &mut activated, scratch).expect("fits");
                    let mut got = vec![0.0; m * hidden];
                    linear_input(&ctx, &down, &activated, &mut got, scratch).expect("fits");
                    let same = got.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{kernels:?} {format} {next} {m} {hidden} {ffn}");

                    // Made for something else.
                    assert!(linear_input(&ctx, &w, &activated, &mut gate_up, scratch).is_err());
                    assert!(input.norm(&ctx, format, &x[1..], &gain, 1e-6).is_err());
                    assert!(input.add_norm(&ctx, format, &mut x, &y[1..], &gain, 1e-6).is_err());
                }
            }
        }
    }
}
