//! Tests of the quantisers.

use super::*;

fn noise_percent(row: &[f32], back: impl Fn(usize) -> f32) -> f64 {
    let power: f64 = row.iter().map(|v| f64::from(v * v)).sum();
    let noise: f64 = row.iter().enumerate().map(|(i, v)| f64::from((v - back(i)).powi(2))).sum();
    100.0 * noise / power
}

#[test]
fn four_bit_noise_is_what_the_formats_promise() {
    // A Gaussian row (sum of 12 uniforms); published noise-to-signal: Q4_0 0.74 %, LPBQ groups of 32 0.78 %.
    let mut state = 12345u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f32 / (1u64 << 31) as f32
    };
    let row: Vec<f32> = (0..4096).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
    let q4 = q4_row(&row);
    let q4 = noise_percent(&row, |i| q4.scale * f32::from(q4.group_scales[i / 32]) * f32::from(q4.codes[i]));
    let groups: Vec<_> = row.chunks(32).map(q4s_group).collect();
    let q4s = noise_percent(&row, |i| groups[i / 32].scale.to_f32() * f32::from(groups[i / 32].codes[i % 32]));
    let q8 = q8_row(&row);
    let q8 = noise_percent(&row, |i| q8.scale * f32::from(q8.codes[i]));
    assert!((0.70..0.90).contains(&q4), "q4 {q4}");
    assert!((0.68..0.80).contains(&q4s), "q4s {q4s}");
    assert!(q8 < 0.01, "q8 {q8}");
}

#[test]
fn nearest_is_round_ties_even() {
    for i in -600..600 {
        let v = i as f32 / 4.0;
        assert_eq!(nearest(v, -127.0, 127.0), v.round_ties_even().clamp(-127.0, 127.0), "{v}");
    }
}

#[test]
fn degenerate_rows_give_zero() {
    for row in [vec![], vec![0.0; 33], vec![f32::NAN; 5], vec![f32::INFINITY, 1.0], vec![1e-42; 40]] {
        assert!(q8_row(&row).codes.iter().all(|c| *c == 0));
        assert!(q4_row(&row).codes.iter().all(|c| *c == 0));
        for group in row.chunks(32) {
            assert!(q4s_group(group).codes.iter().all(|c| *c == 0));
        }
    }
}

/// A generator of Gaussian numbers (sum of 12 uniforms).
fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f32 / (1u64 << 31) as f32
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

/// Heavy tails: cubes of Gaussian numbers.
fn heavy(n: usize, seed: u64) -> Vec<f32> {
    gaussian(n, seed).iter().map(|v| v * v * v).collect()
}

const FORMATS: [WeightFormat; 3] = [WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4s];

fn error(format: WeightFormat, quantizer: Quantizer, row: &[f32], h: &[f32]) -> f64 {
    let q = QuantRow::new(format, quantizer, row, Some(h)).unwrap();
    assert!(q.fits(row.len()) && q.format() == format);
    let mut back = vec![0.0; row.len()];
    q.dequantize(&mut back);
    row.iter().zip(&back).zip(h).map(|((a, b), h)| f64::from(*h) * f64::from(a - b).powi(2)).sum()
}

#[test]
fn the_search_beats_absmax_on_gaussian_and_heavy_tailed_rows() {
    // Several rows: by how much a single one gains is chance.
    const N: usize = 16;
    const K: usize = 2048;
    for (name, rows) in [("gaussian", gaussian(N * K, 3)), ("heavy", heavy(N * K, 4))] {
        let h = [1.0; K];
        for (format, most) in FORMATS.into_iter().zip([1.0, 0.995, 0.95]) {
            let all = |quantizer| rows.chunks(K).map(|row| error(format, quantizer, row, &h)).sum::<f64>();
            let (plain, searched) = (all(Quantizer::Absmax), all(Quantizer::Mse));
            assert!(searched <= most * plain, "{name} {format}: {searched} of {plain}");
        }
    }
    // INT8 clips an outlier on an input that hardly matters.
    let mut row = gaussian(512, 5);
    row[100] = 40.0;
    let h: Vec<f32> = (0..512).map(|i| if i == 100 { 1e-4 } else { 1.0 }).collect();
    let [plain, searched] = [Quantizer::Absmax, Quantizer::Mse].map(|q| error(WeightFormat::Q8, q, &row, &h));
    assert!(searched < 0.5 * plain, "{searched} of {plain}");
}

#[test]
fn inputs_that_matter_are_met_more_closely() {
    let row = gaussian(1024, 6);
    let h: Vec<f32> = (0..row.len()).map(|i| if i % 8 == 3 { 100.0 } else { 1.0 }).collect();
    for format in [WeightFormat::Q4, WeightFormat::Q4s] {
        let blind = QuantRow::new(format, Quantizer::Mse, &row, None).unwrap();
        let mut back = vec![0.0; row.len()];
        blind.dequantize(&mut back);
        let blind: f64 =
            row.iter().zip(&back).zip(&h).map(|((a, b), h)| f64::from(*h) * f64::from(a - b).powi(2)).sum();
        let aware = error(format, Quantizer::Mse, &row, &h);
        assert!(aware < 0.8 * blind, "{format}: {aware} of {blind}");
    }
}

#[test]
fn representable_rows_are_met_exactly() {
    let codes = |seed: u64| gaussian(256, seed).iter().map(|v| (v * 2.5).round().clamp(-8.0, 7.0)).collect::<Vec<_>>();
    for (seed, extreme) in [(1, -8.0), (2, 7.0), (3, -7.0), (4, 5.0), (5, 3.0), (6, -1.0)] {
        let mut q4s = codes(seed);
        let mut q4 = codes(seed + 100);
        let mut q8: Vec<f32> = gaussian(256, seed).iter().map(|v| (v * 40.0).round().clamp(-126.0, 126.0)).collect();
        q8[17] = 127.0;
        for (g, group) in q4s.chunks_mut(32).enumerate() {
            group.iter_mut().for_each(|v| *v = v.clamp(-f32::abs(extreme), f32::abs(extreme)));
            group[g] = extreme;
            group.iter_mut().for_each(|v| *v *= 0.125 * (g + 1) as f32);
        }
        for (g, group) in q4.chunks_mut(32).enumerate() {
            // The widest group uses the widest scale, and every group an outer code.
            let outer = if extreme < 0.0 { 8.0 } else { 7.0 };
            group.iter_mut().for_each(|v| *v = v.clamp(-outer, 7.0));
            group[3] = outer * extreme.signum();
            group.iter_mut().for_each(|v| *v *= 0.25 * (15 - g) as f32);
        }
        let h = vec![1.0; 256];
        for (format, row) in FORMATS.into_iter().zip([&q8, &q4, &q4s]) {
            let e = error(format, Quantizer::Mse, row, &h);
            let power: f64 = row.iter().map(|v| f64::from(v * v)).sum();
            assert!(e <= 1e-10 * power, "{format}, extreme {extreme}: {e} of {power}");
        }
    }
}

#[test]
fn degenerate_rows_are_zero_for_every_quantiser() {
    for row in [vec![], vec![0.0; 33], vec![f32::NAN; 5], vec![f32::INFINITY, 1.0], vec![1e-42; 40]] {
        for format in FORMATS {
            for h in [None, Some(vec![0.0; row.len()])] {
                let q = QuantRow::new(format, Quantizer::Mse, &row, h.as_deref()).unwrap();
                assert!(q.fits(row.len()), "{format} {row:?}");
                let mut back = vec![1.0; row.len()];
                q.dequantize(&mut back);
                assert!(back.iter().all(|v| *v == 0.0), "{format} {row:?}: {back:?}");
            }
        }
    }
    assert!(QuantRow::new(WeightFormat::F16, Quantizer::Mse, &[1.0], None).is_none());
    assert_eq!("gptq".parse(), Ok(Quantizer::Gptq));
    assert!("awq".parse::<Quantizer>().unwrap_err().to_string().contains("absmax"));
}

fn serial(data: &mut [f64], width: usize, f: &(dyn Fn(usize, &mut [f64]) + Sync)) {
    data.chunks_exact_mut(width).enumerate().for_each(|(i, row)| f(i, row));
}

/// Inputs `[tokens, k]` with strong correlations, and `XᵀX`.
fn correlated(tokens: usize, k: usize) -> (Vec<f32>, Vec<f32>) {
    let (noise, common) = (gaussian(tokens * k, 8), gaussian(tokens * 4, 9));
    let mixing = gaussian(4 * k, 10);
    let x: Vec<f32> = (0..tokens * k)
        .map(|i| 0.3 * noise[i] + (0..4).map(|c| common[i / k * 4 + c] * mixing[c * k + i % k]).sum::<f32>())
        .collect();
    let mut h = vec![0.0f32; k * k];
    for row in x.chunks_exact(k) {
        for (i, a) in row.iter().enumerate() {
            h[i * k..(i + 1) * k].iter_mut().zip(row).for_each(|(h, b)| *h += a * b);
        }
    }
    (x, h)
}

#[test]
fn the_factor_gives_the_matrix_back() {
    let k = 75;
    let (_, h) = correlated(200, k);
    let feedback = Feedback::new(&h, k, 0.0, &serial).unwrap();
    // R_ij = ratio · R_jj; H_ij = Σ_{l ≥ max(i, j)} R_il R_jl.
    let r = |i: usize, j: usize| {
        let (ratio, squared) = feedback.factor(i, j);
        f64::from(ratio) * f64::from(squared).sqrt()
    };
    for i in 0..k {
        for j in i..k {
            let sum: f64 = (j..k).map(|l| r(i, l) * r(j, l)).sum();
            assert!((sum - f64::from(h[i * k + j])).abs() < 1e-4 * f64::from(h[i * k + i]).max(1.0), "{i} {j}");
        }
    }
}

#[test]
fn feedback_lowers_the_error_of_outputs() {
    let (k, n, tokens) = (200, 24, 400);
    let (x, h) = correlated(tokens, k);
    let feedback = Feedback::new(&h, k, 0.01, &serial).unwrap();
    let importance: Vec<f32> = (0..k).map(|i| h[i * k + i] / tokens as f32).collect();
    let weights = gaussian(n * k, 11);
    let output_error = |back: &[f32]| -> f64 {
        let mut sum = 0.0;
        for (row, back) in weights.chunks_exact(k).zip(back.chunks_exact(k)) {
            for x in x.chunks_exact(k) {
                let e: f32 = row.iter().zip(back).zip(x).map(|((a, b), x)| (a - b) * x).sum();
                sum += f64::from(e * e);
            }
        }
        sum
    };
    for format in FORMATS {
        let mut searched = vec![0.0; n * k];
        for (row, back) in weights.chunks_exact(k).zip(searched.chunks_exact_mut(k)) {
            QuantRow::new(format, Quantizer::Mse, row, Some(&importance)).unwrap().dequantize(back);
        }
        let mut fed = weights.clone();
        let rows = feedback.quantize(format, &mut fed);
        assert_eq!(rows.len(), n);
        let mut back = vec![0.0; k];
        for (row, fed) in rows.iter().zip(fed.chunks_exact(k)) {
            assert!(row.fits(k), "{format}");
            row.dequantize(&mut back);
            assert_eq!(back, fed, "{format}: the rows hold what the codes stand for");
        }
        let (a, b) = (output_error(&searched), output_error(&fed));
        assert!(b < 0.5 * a, "{format}: {b} of {a}");
        // Rows do not depend on each other.
        let mut alone = weights[5 * k..6 * k].to_vec();
        assert_eq!(feedback.quantize(format, &mut alone)[0], rows[5], "{format}");
    }
    assert!(feedback.quantize(WeightFormat::F32, &mut weights.clone()).is_empty());
}

#[test]
fn feedback_of_odd_inputs() {
    // Silent inputs, one silent input, no inputs, NaN.
    let mut row = gaussian(40, 12);
    let silent = Feedback::new(&[0.0; 1600], 40, 0.01, &serial).unwrap();
    assert!(silent.quantize(WeightFormat::Q4s, &mut row)[0].fits(40));
    let (_, mut h) = correlated(100, 40);
    (0..40).for_each(|i| (h[7 * 40 + i], h[i * 40 + 7]) = (0.0, 0.0));
    let one = Feedback::new(&h, 40, 0.01, &serial).unwrap();
    for format in FORMATS {
        assert!(one.quantize(format, &mut row.clone())[0].fits(40));
        assert!(one.quantize(format, &mut [0.0; 40])[0].fits(40));
    }
    assert!(Feedback::new(&[], 0, 0.01, &serial).is_none());
    assert!(Feedback::new(&[1.0; 5], 2, 0.01, &serial).is_none());
    assert!(Feedback::new(&[f32::NAN; 4], 2, 0.01, &serial).is_none());
    assert!(Feedback::new(&[1.0, 2.0, 2.0, 1.0], 2, 0.0, &serial).is_none(), "not positive definite");
}
