//! Every kernel set of this machine against `reference`, bit for bit, at the edges of tiles.

use super::{disjoint::Grid, *};
use crate::{
    Pool, SEGMENT_PAGES, SEGMENT_TOKENS,
    kv::{KvDtype, KvPart, KvSlice},
};
use coexec_model::{
    WeightFormat,
    align::AlignedBytes,
    layout::{GROUP, pack_panel},
};
use half::f16;
use lanes::Lanes as _;
use proptest::prelude::*;
use std::cell::RefCell;

/// xorshift: the same numbers on every machine.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// −1…1, two decimals of which matter.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// Everything but the last of `available()`, which is the reference itself.
fn others() -> Vec<&'static Kernels> {
    let all = Kernels::available();
    assert_eq!(all.last().map(|k| k.name()), Some("reference"));
    all[..all.len() - 1].to_vec()
}

fn reference() -> &'static Kernels {
    Kernels::named("reference").expect("always there")
}

fn bits(v: &[f32]) -> Vec<u32> {
    // NaNs may differ in their payload; that there is one is what counts.
    v.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect()
}

/// The panels of a random `[n, k]` matrix, not aligned: they start at byte `shift` of the buffer.
fn random_panels(format: WeightFormat, n: usize, k: usize, shift: usize, numbers: &mut Numbers) -> Vec<u8> {
    let size = panel_layout(format, k).bytes;
    let mut bytes = vec![0u8; shift + panels(n) * size];
    for p in 0..panels(n) {
        let rows: Vec<Vec<f32>> = (p * 16..n.min(p * 16 + 16)).map(|_| numbers.floats(k)).collect();
        let out = &mut bytes[shift + p * size..shift + (p + 1) * size];
        pack_panel(format, k, &rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), out);
    }
    bytes
}

fn with_block<T: Send + Clone>(m: usize, n: usize, init: T, f: impl Fn(&mut Block<'_, T>) + Sync) -> Vec<T> {
    let mut data = vec![init; m * n];
    let grid = Grid { rows: m, cols: n, row_step: m.max(1), col_step: n.max(1), col_lead: 0 };
    for_each_block(&Pool::new(1), 1, &mut data, grid, &|_, mut block| f(&mut block));
    data
}

fn linear_with(
    kernels: &Kernels,
    format: WeightFormat,
    (m, n, k): (usize, usize, usize),
    w: &[u8],
    x: &[f32],
) -> Vec<f32> {
    let (k_pad, groups) = (padded_k(k), padded_k(k) / GROUP);
    let (mut codes, mut scales, mut sums) = (vec![1; m * k_pad + 1], vec![9.0; m * groups], vec![9; m * groups]);
    for r in 0..m {
        kernels.quantize_groups(
            &x[r * k..(r + 1) * k],
            &mut codes[1 + r * k_pad..1 + (r + 1) * k_pad],
            &mut scales[r * groups..(r + 1) * groups],
            &mut sums[r * groups..(r + 1) * groups],
        );
    }
    with_block(m, n, 7.0f32, |block| {
        if format.is_integer() {
            let x = QuantView { codes: &codes[1..], scales: &scales, sums: &sums };
            kernels.int_linear(&IntLinearArgs { format, k, panels: w, x }, block);
        } else {
            kernels.float_linear(&FloatLinearArgs { format, k, panels: w, x }, block);
        }
    })
}

fn check_linear(format: WeightFormat, shape: (usize, usize, usize), seed: u64) {
    let (m, n, k) = shape;
    let mut numbers = Numbers::new(seed);
    let shift = (seed % 3) as usize;
    let w = random_panels(format, n, k, shift, &mut numbers);
    let mut x = numbers.floats(m * k);
    // Groups of zeros, huge and tiny values.
    for (i, v) in x.iter_mut().enumerate() {
        match (i / 7) % 5 {
            0 => *v = 0.0,
            1 => *v *= 1e4,
            2 => *v *= 1e-4,
            _ => {}
        }
    }
    let expected = linear_with(reference(), format, shape, &w[shift..], &x);
    for kernels in others() {
        let got = linear_with(kernels, format, shape, &w[shift..], &x);
        assert_eq!(bits(&got), bits(&expected), "{} {format} {shape:?}", kernels.name());
    }
}

#[test]
fn linears_equal_the_reference_at_tile_edges() {
    for format in WeightFormat::ALL {
        for m in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13] {
            for n in [1, 15, 16, 17, 31, 32, 33, 48, 65] {
                for k in [1, 31, 32, 33, 100] {
                    check_linear(format, (m, n, k), (m * n * k) as u64);
                }
            }
        }
        for k in 1..100 {
            check_linear(format, (3, 17, k), k as u64);
        }
        check_linear(format, (1, 33, 4096), 5);
        check_linear(format, (9, 16, 4096), 6);
        // Many rows: every height of the last tile, and every way that blocks of K can end.
        for m in 14..=21 {
            check_linear(format, (m, 33, 70), m as u64);
        }
        for k in [479, 480, 481, 511, 512, 513, 544, 1024, 1025, 1056, 1600] {
            check_linear(format, (13, 47, k), k as u64);
        }
        check_linear(format, (265, 32, 545), 7);
        check_linear(format, (531, 17, 33), 8);
    }
}

/// Small enough for Miri.
#[test]
fn tiles_of_every_height_equal_the_reference() {
    for format in WeightFormat::ALL {
        for m in 1..=if cfg!(miri) { 7 } else { 13 } {
            check_linear(format, (m, 18, 35), m as u64);
        }
    }
}

#[test]
fn extreme_codes_do_not_saturate() {
    // All activations ±1 (codes ±127), all weights at the ends of their range.
    for format in [WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4s] {
        for sign in [1.0f32, -1.0] {
            let (m, n, k) = (13, 16, if cfg!(miri) { 64 } else { 1024 });
            for weight in [1.0f32, -1.0] {
                let row = vec![weight; k];
                let mut w = vec![0; panel_layout(format, k).bytes];
                pack_panel(format, k, &vec![row.as_slice(); n], &mut w);
                let x = vec![sign * 3.0; m * k];
                let expected = linear_with(reference(), format, (m, n, k), &w, &x);
                // q4 keeps 7 or 8 of 7.5 steps.
                assert!(
                    (expected[0] / (sign * weight * 3.0 * k as f32) - 1.0).abs() < 0.07,
                    "{format} {}",
                    expected[0]
                );
                for kernels in others() {
                    assert_eq!(bits(&linear_with(kernels, format, (m, n, k), &w, &x)), bits(&expected), "{format}");
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    for kernels in Kernels::available() {
        for format in WeightFormat::ALL {
            // An interpreter needs a microsecond for a multiplication.
            let (m, n, k) = if cfg!(miri) { (13, 18, 70) } else { (23, 40, 600) };
            let mut numbers = Numbers::new(3);
            let w = random_panels(format, n, k, 0, &mut numbers);
            let x = numbers.floats(m * k);
            let all = linear_with(kernels, format, (m, n, k), &w, &x);
            for r in 0..m {
                let one = linear_with(kernels, format, (1, n, k), &w, &x[r * k..(r + 1) * k]);
                assert_eq!(bits(&one), bits(&all[r * n..(r + 1) * n]), "{} {format} row {r}", kernels.name());
            }
        }
    }
}

#[test]
fn integer_linears_are_near_the_float_product() {
    let (m, n, k) = (3, 20, 320);
    for format in [WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4s] {
        let mut numbers = Numbers::new(11);
        let w = random_panels(format, n, k, 0, &mut numbers);
        let x = numbers.floats(m * k);
        let got = linear_with(Kernels::detect(), format, (m, n, k), &w, &x);
        let size = panel_layout(format, k).bytes;
        for r in 0..m {
            for c in 0..n {
                let panel = coexec_model::layout::Panel::new(format, k, &w[c / 16 * size..][..size]);
                let exact: f64 = (0..k).map(|i| f64::from(x[r * k + i]) * f64::from(panel.weight(c % 16, i))).sum();
                // Activations carry at most half a step of 1/127: noise, not bias.
                assert!(
                    (f64::from(got[r * n + c]) - exact).abs() < 0.15,
                    "{format} {r} {c}: {} {exact}",
                    got[r * n + c]
                );
            }
        }
    }
}

#[test]
fn quantised_groups_equal_the_reference() {
    let mut numbers = Numbers::new(4);
    let specials = [0.0, -0.0, 1e-38, 1e-45, 3e38, f32::MAX, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0, 0.5, 2.5];
    let some = if cfg!(miri) { 9 } else { 1 };
    for k in (1..=100).chain([511, 512, 513, 545, 1024, 4096]).step_by(some) {
        for round in 0..4 {
            let mut x = numbers.floats(k);
            if round > 0 {
                for i in (0..k).step_by(round * 13) {
                    x[i] = specials[(numbers.next() % specials.len() as u64) as usize];
                }
            }
            let run = |kernels: &Kernels| {
                let (k_pad, groups) = (padded_k(k), padded_k(k) / GROUP);
                let (mut codes, mut scales, mut sums) = (vec![5; k_pad], vec![5.0; groups], vec![5; groups]);
                kernels.quantize_groups(&x, &mut codes, &mut scales, &mut sums);
                (codes, bits(&scales), sums)
            };
            let expected = run(reference());
            for kernels in others() {
                assert_eq!(run(kernels), expected, "{} {k}", kernels.name());
            }
        }
    }
}

#[test]
fn static_codes_equal_the_reference() {
    let mut numbers = Numbers::new(5);
    let mut x = numbers.floats(4000);
    x.extend([
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.0,
        -0.0,
        1e30,
        -1e30,
        0.5,
        1.5,
        -0.5,
        127.5,
        -128.5,
        127.4,
    ]);
    for scale in [0.004, 0.008, 1.0, 1e-20, 1e20] {
        for len in [0, 1, 15, 16, 17, 63, 100, x.len()] {
            let x = &x[x.len() - len..];
            let mut expected = vec![3; len];
            let clipped = reference().quantize_u8(x, scale, &mut expected);
            for kernels in others() {
                let mut got = vec![4; len];
                assert_eq!(kernels.quantize_u8(x, scale, &mut got), clipped, "{} {scale} {len}", kernels.name());
                assert_eq!(got, expected, "{} {scale} {len}", kernels.name());
            }
        }
    }
}

fn u8s8(kernels: &Kernels, (m, n, k): (usize, usize, usize), x: &[u8], w: &[i8]) -> Vec<i32> {
    let packed = crate::I8Panels::pack(n, k, w.chunks_exact(k.max(1))).expect("fits");
    let pool = Pool::new(1);
    let mut acc = vec![1; m * n];
    let kernels = Kernels::named(kernels.name()).expect("available");
    crate::gemm_u8s8(&crate::Ctx { kernels, pool: &pool, lanes: 1 }, x, m, &packed, &mut acc).expect("fits");
    acc
}

#[test]
fn u8s8_is_exact() {
    let mut numbers = Numbers::new(6);
    let shapes = [(1, 1), (3, 16), (4, 17), (5, 33), (6, 64), (8, 65), (9, 130), (11, 64)];
    for (m, n) in shapes {
        for k in (1..20).chain([31, 32, 33, 100, 447, 448, 449, 513, 1030]) {
            let x: Vec<u8> = (0..m * k).map(|_| numbers.next() as u8).collect();
            let w: Vec<i8> = (0..n * k).map(|_| numbers.next() as i8).collect();
            let exact: Vec<i32> = (0..m * n)
                .map(|i| (0..k).map(|j| (i32::from(x[i / n * k + j]) - 128) * i32::from(w[i % n * k + j])).sum())
                .collect();
            for kernels in Kernels::available() {
                assert_eq!(u8s8(kernels, (m, n, k), &x, &w), exact, "{} {m} {n} {k}", kernels.name());
            }
        }
    }
    for (x, w) in [(255, 127), (255, -128), (0, -128), (0, 127), (128, -128)] {
        let exact = (i32::from(x) - 128) * i32::from(w) * 4096;
        for kernels in Kernels::available() {
            let got = u8s8(kernels, (7, 16, 4096), &vec![x; 7 * 4096], &vec![w; 16 * 4096]);
            assert!(got.iter().all(|v| *v == exact), "{} {x} {w}", kernels.name());
        }
    }
}

#[test]
fn requantising_equals_the_reference() {
    let mut numbers = Numbers::new(8);
    for cols in [1, 15, 16, 17, 63, 64, 65, 127, 128, 130] {
        for shifts in [false, true] {
            let rows = 5;
            let mut some = |low: i32, high: i32| -> Vec<i32> {
                (0..cols).map(|_| low + (numbers.next() % (high - low + 1) as u64) as i32).collect()
            };
            let (offset, right, mantissa) = (some(-(1 << 24), 1 << 24), some(0, 31), some(1 << 11, 1 << 12));
            let left = some(0, if shifts { 12 } else { 0 });
            let right: Vec<i32> = right.iter().zip(&left).map(|(r, l)| if *l > 0 { 0 } else { *r }).collect();
            let mantissa: Vec<i32> =
                mantissa.iter().enumerate().map(|(i, m)| if i % 7 == 3 { 0 } else { *m }).collect();
            // Sums of all sizes, the largest ones too.
            let mut acc: Vec<i32> =
                (0..rows * cols).map(|_| (numbers.next() as i32) >> (numbers.next() % 31)).collect();
            acc.iter_mut().for_each(|sum| *sum = (*sum).clamp(i32::MIN + (1 << 24), i32::MAX - (1 << 24)));
            for zero_point in [0, 128, 255] {
                let args = RequantArgs { offset: &offset, right: &right, left: &left, mantissa: &mantissa, zero_point };
                let run = |kernels: &Kernels| {
                    // Columns 3… of a wider buffer, which must stay as it is elsewhere.
                    let mut out = vec![77u8; rows * (cols + 5)];
                    let mut whole = Block::over(&mut out, 0..rows, 0..cols + 5);
                    kernels.requantize_u8(&acc, &args, &mut whole.columns(3..cols + 3));
                    out
                };
                let expected = run(Kernels::named("reference").expect("always there"));
                for kernels in Kernels::available() {
                    assert_eq!(run(kernels), expected, "{} {cols} {zero_point}", kernels.name());
                }
            }
        }
    }
}

#[test]
fn row_operations_equal_the_reference() {
    let mut numbers = Numbers::new(7);
    for len in (1..70).chain([576, 4096]) {
        let (x, y, gain) = (numbers.floats(len + 1), numbers.floats(len), numbers.floats(len));
        let x = &x[1..];
        let wide: Vec<f32> = y.iter().map(|v| v * 100.0).collect();
        let run = |kernels: &Kernels| {
            let mut results = vec![vec![0.0; len]; 3];
            kernels.rms_norm(x, &gain, 1e-5, &mut results[0]);
            kernels.silu_mul(&wide, x, &mut results[1]);
            results[2].copy_from_slice(&y);
            kernels.axpy(0.37, x, &mut results[2]);
            if len % 2 == 0 {
                let mut head = x.to_vec();
                kernels.rope(&mut head, &y[..len / 2], &gain[..len / 2]);
                results.push(head);
            }
            results.iter().map(|r| bits(r)).collect::<Vec<_>>()
        };
        let expected = run(reference());
        for kernels in others() {
            assert_eq!(run(kernels), expected, "{} {len}", kernels.name());
        }
    }
}

#[test]
fn exp_is_within_one_ulp_and_one_function() {
    let mut worst = 0.0f64;
    for i in 0..4_000_000u32 {
        // Every 537th float of both signs, over the whole range.
        let x = f32::from_bits(i.wrapping_mul(1074));
        let (a, b) = (reference::exp(x), generic::exp(x));
        assert_eq!(bits(&[a]), bits(&[b]), "{x}");
        let exact = f64::from(x).exp();
        if x.is_nan() {
            assert!(a.is_nan());
        } else if exact > f64::from(f32::MAX) * 1.000_001 {
            assert_eq!(a, f32::INFINITY, "{x}");
        } else if exact < f64::from(f32::MIN_POSITIVE) {
            assert!(a == 0.0 || a == f32::MIN_POSITIVE, "{x}");
        } else if a.is_finite() {
            let ulp = f64::from(f32::from_bits(a.to_bits() + 1)) - f64::from(a);
            worst = worst.max((f64::from(a) - exact).abs() / ulp);
        }
    }
    assert!(worst < 1.0, "{worst} ULP");
    merges_weigh_by_exp2();
    for (x, y) in [(0.0, 1.0), (-0.0, 1.0), (f32::NEG_INFINITY, 0.0), (f32::INFINITY, f32::INFINITY), (-1e30, 0.0)] {
        assert_eq!(generic::exp(x), y);
    }
    assert!(generic::exp(88.722_83).is_finite());
}

/// f32, f16, codes, scales.
type RandomPart = (Vec<f32>, Vec<f16>, Vec<i8>, Vec<f32>);

/// Random keys or values of a segment in every dtype, NaN (−128, scale NaN) from slot `written` on.
fn random_part(part: KvPart, hd: usize, written: usize, numbers: &mut Numbers) -> RandomPart {
    let elems = |dtype| SEGMENT_PAGES * part.page_elems(dtype, hd);
    let (mut f32s, mut f16s) = (vec![f32::NAN; elems(KvDtype::F32)], vec![f16::NAN; elems(KvDtype::F16)]);
    let (mut codes, mut scales) = (vec![i8::MIN; elems(KvDtype::I8)], vec![f32::NAN; SEGMENT_TOKENS]);
    for t in 0..written {
        scales[t] = numbers.unit().abs() / 60.0;
        for d in 0..hd {
            let v = numbers.unit();
            f32s[part.index(KvDtype::F32, hd, t, d)] = v;
            f16s[part.index(KvDtype::F16, hd, t, d)] = f16::from_f32(v);
            codes[part.index(KvDtype::I8, hd, t, d)] = (v * 127.0) as i8;
        }
    }
    (f32s, f16s, codes, scales)
}

fn in_dtype(dtype: KvDtype, part: &RandomPart) -> KvSlice<'_> {
    match dtype {
        KvDtype::F32 => KvSlice::F32(&part.0),
        KvDtype::F16 => KvSlice::F16(&part.1),
        KvDtype::I8 => KvSlice::I8 { codes: &part.2, scales: &part.3 },
    }
}

/// Maximum, sum and weighted values of every vector, whatever the width of tiles.
fn by_vector(query: &AttnQuery, state: &[f32], vectors: usize) -> Vec<Vec<u32>> {
    let part = AttnPart::of(state, query.vectors);
    let (hd, width) = (query.head_dim, query.width);
    let row = |i: usize| (0..hd).map(move |d| part.acc[(i / width * hd + d) * width + i % width]);
    (0..vectors).map(|i| bits(&[part.max[i], part.sum[i]].into_iter().chain(row(i)).collect::<Vec<_>>())).collect()
}

#[test]
fn attention_segments_equal_the_reference() {
    let mut numbers = Numbers::new(8);
    // One for everything, as a thread has it: what an earlier segment left there changes nothing.
    let scratch = RefCell::new(SegmentScratch::default());
    for hd in [1, 2, 7, 8, 16, 24, 31, 32, 64, 80, 96, 128, 256] {
        for vectors in [1, 2, 7, 8, 9, 20, 50, 100] {
            let written = 100 + (numbers.next() % 157) as usize;
            let k = random_part(KvPart::Keys, hd, written, &mut numbers);
            let v = random_part(KvPart::Values, hd, written, &mut numbers);
            let q: Vec<f32> = numbers.floats(vectors * hd).iter().map(|v| v * 8.0).collect();
            // The same for all, a diagonal, windows, and some that see nothing.
            let kind = numbers.next() % 4;
            let mut ranges: Vec<(u16, u16)> = (0..vectors)
                .map(|i| match kind {
                    0 => (0, written as u16),
                    1 => (0, (written - (vectors - 1 - i).min(written - 1)) as u16),
                    2 => ((i / 2) as u16, (i / 2 + 40) as u16),
                    _ => (3, 3 + (numbers.next() % 90) as u16),
                })
                .collect();
            if kind == 3 {
                ranges[vectors / 2] = (5, 5);
            }
            for dtype in KvDtype::ALL {
                let run = |kernels: &'static Kernels, width: usize| {
                    let mut query = AttnQuery::default();
                    let rows = AttnVectors { q: &q, stride: hd, first: 0, group: 1, count: vectors };
                    query.prepare(kernels, (dtype, width), (hd, 0.3), &rows);
                    let mut ranges = ranges.clone();
                    ranges.resize(query.vectors, ranges[vectors - 1]);
                    let (mut state, mut total) = (vec![f32::NAN; query.state_len()], vec![0.0; query.state_len()]);
                    total[..query.vectors].fill(f32::NEG_INFINITY);
                    let mut states = Vec::new();
                    // Twice: the second segment meets a state, and sees less.
                    for step in 0..2 {
                        kernels.attn_segment(&mut AttnSegmentArgs {
                            query: &query,
                            k: in_dtype(dtype, &k),
                            v: in_dtype(dtype, &v),
                            ranges: &ranges,
                            out: AttnState::of(&mut state, query.vectors),
                            next: (std::ptr::null(), std::ptr::null()),
                            scratch: &mut scratch.borrow_mut(),
                        });
                        states.push(by_vector(&query, &state, vectors));
                        let mut sum = AttnState::of(&mut total, query.vectors);
                        kernels.attn_merge(&mut sum, &AttnPart::of(&state, query.vectors), width);
                        states.push(by_vector(&query, &total, vectors));
                        let result = with_block(vectors, hd, f32::NAN, |block| {
                            kernels.attn_finish(&AttnPart::of(&total, query.vectors), width, 1, block);
                        });
                        states.push(vec![bits(&result)]);
                        for (i, range) in ranges.iter_mut().enumerate() {
                            *range = if i % 3 == step { (0, 0) } else { (range.0, range.0 + 1) };
                        }
                    }
                    assert!(total.iter().all(|v| !v.is_nan()), "{} {hd} {dtype:?}", kernels.name());
                    states
                };
                let expected = run(reference(), 1);
                assert_eq!(run(reference(), 4), expected, "the reference does not know tiles");
                for kernels in others() {
                    for width in [1].into_iter().chain(kernels.attn_widths()) {
                        let what = (kernels.name(), hd, vectors, width, dtype, kind);
                        assert!(run(kernels, width) == expected, "{what:?}");
                    }
                }
            }
        }
    }
}

/// Every set's `exp2`, seen through a merge: a part with the maximum `x` and the sum 1 weighs `2^x` beside the maximum 0.
fn merges_weigh_by_exp2() {
    let around = |x: f32| (-3..=3).map(move |step| f32::from_bits((x.to_bits() as i32 + step) as u32));
    let edges = [-0.5, -1.5, -125.5, -126.0, -126.5, -127.0, -127.5, -128.0, -150.0].into_iter().flat_map(around);
    let every = (0..40_000u32).map(|i| -f32::from_bits(i.wrapping_mul(53_687)));
    let special = [0.0, -0.0, f32::NEG_INFINITY, f32::NAN, f32::MIN, -f32::MIN_POSITIVE];
    let x: Vec<f32> = special.into_iter().chain(edges).chain(every).collect();
    let part: Vec<f32> = x.iter().copied().chain(std::iter::repeat_n(1.0, x.len())).chain(vec![0.0; x.len()]).collect();
    for kernels in Kernels::available() {
        let mut total = vec![0.0; part.len()];
        kernels.attn_merge(&mut AttnState::of(&mut total, x.len()), &AttnPart::of(&part, x.len()), 1);
        for (x, weight) in x.iter().zip(&total[x.len()..]) {
            let expected = reference::exp2(*x);
            let same = weight.to_bits() == expected.to_bits() || weight.is_nan() && expected.is_nan();
            assert!(same, "{}: 2^{x} = {weight}, not {expected}", kernels.name());
        }
    }
}

#[test]
fn exp2_is_within_one_ulp_and_one_function() {
    let mut worst = 0.0f64;
    for i in 0..4_000_000u32 {
        // Every 268th float up to 0.
        let x = -f32::from_bits(i.wrapping_mul(537));
        let a = reference::exp2(x);
        let mut b = [0.0; 8];
        // SAFETY: 8 floats.
        unsafe { lanes::Portable::splat(x).exp2().store(b.as_mut_ptr()) };
        assert_eq!(bits(&[a]), bits(&b[..1]), "{x}");
        let exact = f64::from(x).exp2();
        if x.is_nan() {
            assert!(a.is_nan());
        } else if exact >= f64::from(f32::MIN_POSITIVE) {
            let ulp = f64::from(f32::from_bits(a.to_bits() + 1)) - f64::from(a);
            worst = worst.max((f64::from(a) - exact).abs() / ulp);
        } else {
            assert!(a <= f32::MIN_POSITIVE, "{x} {a}");
        }
    }
    assert!(worst < 1.0, "{worst} ULP");
    merges_weigh_by_exp2();
    for (x, y) in [(0.0, 1.0), (-0.0, 1.0), (-1.0, 0.5), (-126.0, f32::MIN_POSITIVE), (f32::NEG_INFINITY, 0.0)] {
        assert_eq!(reference::exp2(x), y, "{x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn linears_equal_the_reference(m in 1usize..12, n in 1usize..70, k in 1usize..200, format in 0usize..5, seed: u64) {
        check_linear(WeightFormat::ALL[format], (m, n, k), seed);
    }
}

/// `COEXEC_EXPECT_KERNELS` lists the sets that the (emulated) CPU must have, best first: `cargo xtask arm` sets it, so that
/// a test run says which instructions it tested.
#[test]
fn the_expected_sets_are_detected() {
    let found: Vec<&str> = Kernels::available().iter().map(|set| set.name()).collect();
    assert_eq!(found[found.len() - 2..], ["generic", "reference"]);
    if let Ok(expected) = std::env::var("COEXEC_EXPECT_KERNELS") {
        assert_eq!(found.join(","), expected);
    }
}

#[test]
fn sets_are_found_by_name() {
    for kernels in Kernels::available() {
        assert_eq!(Kernels::named(kernels.name()).map(Kernels::name), Ok(kernels.name()));
    }
    assert_eq!(Kernels::detect().name(), Kernels::available()[0].name());
    let error = Kernels::named("sse9").expect_err("no such set");
    assert!(error.to_string().contains("reference"), "{error}");
    // Buffers from the packed file are aligned; kernels do not rely on it (all tests above shift them).
    assert_eq!(AlignedBytes::zeroed(64).as_ptr() as usize % 64, 0);
}
