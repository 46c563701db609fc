//! The shadow's arithmetic: what was clipped comes back exactly.

mod common;

use coexec_cpu::*;
use common::{Numbers, bits, ctx};
use proptest::prelude::*;

/// Channel rows `W[k, :]` in memory; columns read are counted.
struct Rows {
    n: usize,
    w: Vec<f32>,
    reads: std::sync::atomic::AtomicUsize,
}

impl ChannelRows for Rows {
    fn read(
        &self,
        channels: &[u32],
        cols: std::ops::Range<usize>,
        _: &mut TileBuffer,
        out: &mut [f32],
    ) -> Result<(), TileError> {
        assert!(cols.start.is_multiple_of(16) && out.len() == channels.len() * cols.len());
        self.reads.fetch_add(out.len(), std::sync::atomic::Ordering::Relaxed);
        for (channel, out) in channels.iter().zip(out.chunks_exact_mut(cols.len())) {
            let at = *channel as usize * self.n;
            let row = self.w.get(at + cols.start..at + cols.end);
            out.copy_from_slice(row.ok_or_else(|| TileError::new(format!("no channel {channel}")))?);
        }
        Ok(())
    }
}

/// Mostly small values, some far outside.
fn activations(numbers: &mut Numbers, count: usize) -> Vec<f32> {
    let mut x = numbers.floats(count);
    for v in &mut x {
        if numbers.next().is_multiple_of(40) {
            *v *= 60.0;
        }
    }
    x
}

/// Channels that leave the codes are in the residuals as they were, clipped or not; the others are not touched.
#[test]
fn channels_taken_whole_are_residuals() {
    let pool = Pool::new(1);
    let k = 6;
    let x = [1.0, 500.0, -3.0, 4.0, -600.0, 6.0, 0.0, 1.0, 2.0, 300.0, 4.0, 5.0];
    let (mut codes, mut residuals) = (vec![0; x.len()], Residuals::default());
    quantize(&ctx(&pool, 1), &x, k, 1.0, CodeWidth::U8, &mut codes, &mut residuals).expect("sound");
    assert_eq!(residuals.row(0).collect::<Vec<_>>(), [(1, 373.0), (4, -472.0)]);
    assert!(residuals.clone().take_channels(&x, k, &[2, 6], &mut codes).is_err());
    assert!(residuals.clone().take_channels(&x, k, &[4, 2], &mut codes).is_err());
    assert!(residuals.clone().take_channels(&x, k, &[2], &mut codes[1..]).is_err());
    residuals.take_channels(&x, k, &[2, 4], &mut codes).expect("sound");
    assert_eq!(residuals.row(0).collect::<Vec<_>>(), [(1, 373.0), (2, -3.0), (4, -600.0)]);
    assert_eq!(residuals.row(1).collect::<Vec<_>>(), [(2, 2.0), (3, 173.0), (4, 4.0)]);
    assert_eq!(codes, [129, 255, 128, 132, 128, 134, 128, 129, 128, 255, 128, 133]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// In integers: `c·w + r·w = q·w`, where `q` is the code without clipping.
    #[test]
    fn clipped_and_residual_codes_add_up(m in 1usize..6, k in 1usize..90, n in 1usize..40, seed: u64) {
        let pool = Pool::new(2);
        let ctx = ctx(&pool, 2);
        let mut numbers = Numbers::new(seed);
        // Scale 1: activations are whole numbers, residuals too.
        let x: Vec<f32> = activations(&mut numbers, m * k).iter().map(|v| (v * 120.0).round()).collect();
        let w: Vec<i8> = (0..n * k).map(|_| numbers.next() as i8).collect();
        let (mut codes, mut residuals) = (vec![0; m * k], Residuals::default());
        quantize(&ctx, &x, k, 1.0, CodeWidth::U8, &mut codes, &mut residuals).expect("sound");
        let packed = I8Panels::pack(n, k, w.chunks(k)).expect("fits");
        let mut acc = vec![0; m * n];
        gemm_u8s8(&ctx, &codes, m, &packed, &mut acc).expect("fits");
        for (i, acc) in acc.iter().enumerate() {
            let row = &w[i % n * k..][..k];
            let shadow: i64 = residuals.row(i / n).map(|(c, r)| r as i64 * i64::from(row[c as usize])).sum();
            let exact: i64 = (0..k).map(|j| x[i / n * k + j] as i64 * i64::from(row[j])).sum();
            prop_assert_eq!(i64::from(*acc) + shadow, exact);
        }
        // Nothing is in the residuals that was not clipped.
        for r in 0..m {
            for (c, _) in residuals.row(r) {
                prop_assert!(!(-128.0..=127.0).contains(&x[r * k + c as usize]));
            }
        }
    }

    /// NPU output (rounded to its u8 grid) plus shadow is within half an output step of W8A8 without clipping.
    #[test]
    fn joined_output_is_within_half_a_step(m in 1usize..5, k in 1usize..90, n in 1usize..40, seed: u64) {
        let pool = Pool::new(2);
        let ctx = ctx(&pool, 2);
        let mut numbers = Numbers::new(seed);
        let x = activations(&mut numbers, m * k);
        let w: Vec<i8> = (0..n * k).map(|_| numbers.next() as i8).collect();
        let (s, s_w) = (1.0f32 / 127.0, 0.01f32);
        let (mut codes, mut residuals) = (vec![0; m * k], Residuals::default());
        quantize(&ctx, &x, k, s, CodeWidth::U8, &mut codes, &mut residuals).expect("sound");
        let mut acc = vec![0; m * n];
        gemm_u8s8(&ctx, &codes, m, &I8Panels::pack(n, k, w.chunks(k)).expect("fits"), &mut acc).expect("fits");
        // W[k, :] as floats.
        let float = (0..k * n).map(|i| s_w * f32::from(w[i % n * k + i / n])).collect();
        let rows = Rows { n, w: float, reads: 0.into() };
        let mut y2 = vec![f32::NAN; m * n];
        shadow(&ctx, &residuals, &rows, n, &mut y2).expect("sound");
        let largest = acc.iter().map(|a| a.abs()).max().unwrap_or(0) as f64 * f64::from(s * s_w);
        let s_y = (largest / 127.0).max(1e-6);
        for i in 0..m * n {
            let y1 = (f64::from(acc[i]) * f64::from(s) * f64::from(s_w) / s_y).round_ties_even().clamp(-128.0, 127.0) * s_y;
            // Without clipping: codes where they fit, the float value itself where they do not.
            let exact: f64 = (0..k).map(|j| {
                let (v, c) = (x[i / n * k + j], f64::from(codes[i / n * k + j]) - 128.0);
                let q = f64::from((v / s).round_ties_even());
                let v = if q == c { f64::from(s) * c } else { f64::from(v) };
                v * f64::from(s_w) * f64::from(w[i % n * k + j])
            }).sum();
            prop_assert!((y1 + f64::from(y2[i]) - exact).abs() <= 0.5 * s_y + 1e-4 * (1.0 + exact.abs()), "{} {} {}", y1, y2[i], exact);
        }
    }
}

#[test]
fn rows_that_are_made_give_the_same_as_rows_in_memory() {
    let pool = Pool::new(3);
    let (m, k) = (37, 200);
    let x = activations(&mut Numbers::new(4), m * k);
    let row = |r: usize, out: &mut [f32]| out.copy_from_slice(&x[r * k..(r + 1) * k]);
    for (width, lanes, scale) in [(CodeWidth::U8, 1, 4e-3), (CodeWidth::U8, 3, 4e-3), (CodeWidth::U16, 3, 2e-5)] {
        let ctx = ctx(&pool, lanes);
        let mut both = [(); 2].map(|()| (vec![7; m * k * width.bytes()], Residuals::default()));
        let [(codes, residuals), (made_codes, made_residuals)] = &mut both;
        quantize(&ctx, &x, k, scale, width, codes, residuals).expect("sound");
        quantize_rows(&ctx, m, k, &row, scale, width, made_codes, made_residuals).expect("sound");
        assert!(both[0] == both[1] && !both[0].1.is_empty());
    }
    let (mut codes, mut residuals) = (vec![0; m * k], Residuals::default());
    for m in [m - 1, usize::MAX] {
        let wrong = quantize_rows(&ctx(&pool, 1), m, k, &row, 1.0, CodeWidth::U8, &mut codes, &mut residuals);
        assert!(wrong.is_err(), "{m}");
    }
}

#[test]
fn codes_and_residuals_at_the_edges() {
    let pool = Pool::new(1);
    let ctx = ctx(&pool, 1);
    let x = [0.0, 127.4, 127.6, -128.4, -128.6, f32::NAN, f32::INFINITY, 1000.0, 0.5, 1.5, -0.5, 2.5];
    let (mut codes, mut residuals) = (vec![0; x.len()], Residuals::default());
    quantize(&ctx, &x, x.len(), 1.0, CodeWidth::U8, &mut codes, &mut residuals).expect("sound");
    assert_eq!(codes, [128, 255, 255, 0, 0, 128, 255, 255, 128, 130, 128, 130]);
    let row: Vec<(u32, f32)> = residuals.row(0).collect();
    assert_eq!(row.iter().map(|r| r.0).collect::<Vec<_>>(), [2, 4, 5, 6, 7]);
    assert!((row[0].1 - 0.6).abs() < 1e-4 && (row[1].1 + 0.6).abs() < 1e-4);
    assert!(row[2].1.is_nan() && row[3].1 == f32::INFINITY && row[4].1 == 873.0);
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(quantize(&ctx, &x, x.len(), scale, CodeWidth::U8, &mut codes, &mut residuals).is_err(), "{scale}");
    }
    assert!(quantize(&ctx, &x, 5, 1.0, CodeWidth::U8, &mut codes, &mut residuals).is_err());
}

#[test]
fn shadow_is_the_same_for_every_cut_and_reads_each_channel_once() {
    let pool = Pool::new(3);
    let (m, k, n) = (80, 300, 1100);
    let mut numbers = Numbers::new(9);
    let x = activations(&mut numbers, m * k);
    let rows = Rows { n, w: numbers.floats(k * n), reads: 0.into() };
    let (mut codes, mut residuals) = (vec![0; m * k], Residuals::default());
    quantize(&ctx(&pool, 3), &x, k, 0.02, CodeWidth::U8, &mut codes, &mut residuals).expect("sound");
    assert_eq!(residuals.rows(), m);
    let mut channels = residuals.channel.clone();
    channels.sort_unstable();
    channels.dedup();
    assert!(channels.len() > 100, "several batches");
    let mut expected = vec![0.0f32; m * n];
    for r in 0..m {
        for (c, value) in residuals.row(r) {
            for j in 0..n {
                expected[r * n + j] = value.mul_add(rows.w[c as usize * n + j], expected[r * n + j]);
            }
        }
    }
    for kernels in Kernels::available() {
        for lanes in [1, 3] {
            let before = rows.reads.load(std::sync::atomic::Ordering::Relaxed);
            let mut y2 = vec![f32::NAN; m * n];
            shadow(&Ctx { kernels, pool: &pool, lanes }, &residuals, &rows, n, &mut y2).expect("sound");
            assert_eq!(bits(&y2), bits(&expected), "{} {lanes}", kernels.name());
            assert_eq!(rows.reads.load(std::sync::atomic::Ordering::Relaxed) - before, channels.len() * n);
        }
    }
    // One row alone.
    let (mut codes, mut one) = (vec![0; k], Residuals::default());
    quantize(&ctx(&pool, 1), &x[5 * k..6 * k], k, 0.02, CodeWidth::U8, &mut codes, &mut one).expect("sound");
    let mut y2 = vec![0.0; n];
    shadow(&ctx(&pool, 2), &one, &rows, n, &mut y2).expect("sound");
    assert_eq!(bits(&y2), bits(&expected[5 * n..6 * n]));
}

#[test]
fn broken_residuals_and_rows_are_errors() {
    let pool = Pool::new(1);
    let ctx = ctx(&pool, 1);
    let rows = Rows { n: 4, w: vec![1.0; 8], reads: 0.into() };
    let make = |row_start: &[u32], channel: &[u32]| Residuals {
        row_start: row_start.to_vec(),
        channel: channel.to_vec(),
        value: vec![1.0; channel.len()],
    };
    let mut y2 = vec![0.0; 8];
    assert!(shadow(&ctx, &make(&[0, 1, 2], &[0, 1]), &rows, 4, &mut y2).is_ok());
    assert_eq!(y2, [1.0; 8]);
    for bad in [
        make(&[0, 1, 2], &[0, 7]),
        make(&[0, 2, 2], &[1, 0]),
        make(&[0, 2, 2], &[1, 1]),
        make(&[0, 2, 1], &[0, 1]),
        make(&[1, 1, 2], &[0, 1]),
        make(&[0, 1, 9], &[0, 1]),
        make(&[0, 1], &[0]),
    ] {
        assert!(shadow(&ctx, &bad, &rows, 4, &mut y2).is_err(), "{bad:?}");
    }
}
