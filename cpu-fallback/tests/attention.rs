//! Attention and K/V pages: right, and the same bits for every chunking and number of threads.

mod common;

use coexec_cpu::*;
use common::{Numbers, Segments, bits, ctx};

struct Case {
    shape: AttnShape,
    tokens: usize,
    dtype: KvDtype,
}

impl Case {
    fn width(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }
}

struct Data {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    pages: Segments,
}

fn data(case: &Case) -> Data {
    let mut numbers = Numbers::new(case.tokens as u64);
    let kv = KvShape { kv_heads: case.shape.kv_heads, head_dim: case.shape.head_dim };
    let kv_width = kv.kv_heads * kv.head_dim;
    let q: Vec<f32> = numbers.floats(case.tokens * case.width()).iter().map(|v| v * 4.0).collect();
    let (k, v) = (numbers.floats(case.tokens * kv_width), numbers.floats(case.tokens * kv_width));
    let mut pages = Segments::new(kv, case.tokens, case.dtype);
    // Written in uneven pieces.
    let mut at = 0;
    for piece in [1, 30, 5, 64, 100].into_iter().cycle() {
        let end = case.tokens.min(at + piece);
        let range = at * kv_width..end * kv_width;
        store_kv(&kv, at, &k[range.clone()], &v[range], &mut pages).expect("fits");
        at = end;
        if at == case.tokens {
            break;
        }
    }
    Data { q, k, v, pages }
}

/// One head's row as it is after rounding to `dtype`.
fn rounded(dtype: KvDtype, row: &[f32]) -> Vec<f64> {
    let scale = row.iter().fold(0.0f32, |max, v| max.max(v.abs())) / 127.0;
    row.iter()
        .map(|v| match dtype {
            KvDtype::F32 => f64::from(*v),
            KvDtype::F16 => half::f16::from_f32(*v).to_f64(),
            KvDtype::I8 => f64::from((v / scale).round_ties_even() * scale),
        })
        .collect()
}

fn exact(case: &Case, data: &Data, position: usize, head: usize) -> Vec<f64> {
    let (hd, kv_heads) = (case.shape.head_dim, case.shape.kv_heads);
    let kv_head = head / (case.shape.heads / kv_heads);
    let row = |from: &[f32], t: usize| rounded(case.dtype, &from[t * kv_heads * hd + kv_head * hd..][..hd]);
    let first = (position + 1).saturating_sub(case.shape.window.unwrap_or(usize::MAX));
    let q = &data.q[position * case.width() + head * hd..][..hd];
    let scores: Vec<f64> = (first..=position)
        .map(|t| q.iter().zip(row(&data.k, t)).map(|(q, k)| f64::from(*q) * k).sum::<f64>())
        .map(|dot| dot * f64::from(case.shape.scale))
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    let mut out = vec![0.0; hd];
    for (i, s) in scores.iter().enumerate() {
        let p = (s - max).exp() / sum;
        row(&data.v, first + i).iter().zip(&mut out).for_each(|(v, out)| *out += p * v);
    }
    out
}

fn cases() -> Vec<Case> {
    let case = |(heads, kv_heads, head_dim), window, tokens| {
        let shape = AttnShape { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), window };
        KvDtype::ALL.map(|dtype| Case { shape, tokens, dtype })
    };
    [
        case((4, 2, 64), None, 100),
        case((6, 1, 24), None, 70),
        case((3, 3, 80), Some(40), 150),
        case((2, 1, 16), Some(1), 40),
        case((8, 1, 7), None, 60),
        // Several segments of 256.
        case((4, 1, 32), None, 1100),
        case((14, 2, 8), None, 600),
        case((2, 2, 16), Some(600), 1700),
        case((5, 1, 2), Some(256), 530),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn attention_is_softmax_over_what_is_visible() {
    let pool = Pool::new(2);
    for case in cases() {
        let data = data(&case);
        let mut out = vec![0.0; data.q.len()];
        attend(&ctx(&pool, 2), &case.shape, &data.q, 0, &data.pages, &mut out).expect("fits");
        // Queries (|q| ≤ 4 per element) and probabilities are rounded to 8 bits too.
        let bound = if case.dtype == KvDtype::I8 { 0.06 } else { 4e-6 };
        let (mut errors, mut count) = (0.0f64, 0);
        for position in (0..case.tokens).step_by(17).chain([case.tokens - 1]) {
            for head in 0..case.shape.heads {
                let exact = exact(&case, &data, position, head);
                let got = &out[position * case.width() + head * case.shape.head_dim..][..case.shape.head_dim];
                for (got, exact) in got.iter().zip(exact) {
                    let error = (f64::from(*got) - exact).abs();
                    assert!(error < bound, "{:?} {:?} {position}: {got} {exact}", case.shape, case.dtype);
                    (errors, count) = (errors + error * error, count + 1);
                }
            }
        }
        let rms = (errors / f64::from(count)).sqrt();
        assert!(rms < bound / 8.0, "{:?} {:?}: {rms}", case.shape, case.dtype);
    }
}

#[test]
fn chunks_threads_and_kernels_give_the_same_bits() {
    let pool = Pool::new(4);
    for case in cases() {
        let data = data(&case);
        let width = case.width();
        let mut expected = vec![0.0; data.q.len()];
        attend(&ctx(&pool, 1), &case.shape, &data.q, 0, &data.pages, &mut expected).expect("fits");
        // `cargo xtask arm` sets it: an emulated CPU takes many times as long.
        let emulated = std::env::var_os("COEXEC_EMULATED").is_some();
        for lanes in if emulated { vec![2] } else { vec![1, 2, 4] } {
            for chunk in [1, 2, 7, 32, 33, 256] {
                // Every row alone takes long: the last 40 are enough for the smallest chunks.
                let start = if chunk <= 2 { case.tokens - 40 } else { 0 };
                for first in (start..case.tokens).step_by(chunk) {
                    let range = first * width..case.tokens.min(first + chunk) * width;
                    let mut out = vec![0.0; range.len()];
                    let ctx = ctx(&pool, lanes);
                    attend(&ctx, &case.shape, &data.q[range.clone()], first, &data.pages, &mut out).expect("fits");
                    let what = (case.shape, case.dtype);
                    assert_eq!(bits(&out), bits(&expected[range]), "{what:?} {lanes} {chunk} {first}");
                }
            }
        }
        for kernels in Kernels::available() {
            // The reference takes its time.
            let first = if case.tokens < 200 { 0 } else { case.tokens - 30 };
            let mut out = vec![0.0; (case.tokens - first) * width];
            let ctx = Ctx { kernels, pool: &pool, lanes: 2 };
            attend(&ctx, &case.shape, &data.q[first * width..], first, &data.pages, &mut out).expect("fits");
            let what = (case.shape, case.dtype, kernels.name());
            assert_eq!(bits(&out), bits(&expected[first * width..]), "{what:?}");
        }
    }
}

#[test]
fn what_is_not_visible_changes_nothing() {
    // NaN and infinite keys and values of tokens that a row does not see, but its neighbours in the same call do.
    let pool = Pool::new(1);
    let shape = AttnShape { heads: 3, kv_heads: 1, head_dim: 16, scale: 0.25, window: None };
    for dtype in KvDtype::ALL {
        let clean = data(&Case { shape, tokens: 90, dtype });
        let (mut k, mut v) = (clean.k.clone(), clean.v.clone());
        k[80 * 16..].fill(f32::NAN);
        v[80 * 16..].fill(f32::INFINITY);
        let mut pages = Segments::new(KvShape { kv_heads: 1, head_dim: 16 }, 90, dtype);
        store_kv(&pages.shape.clone(), 0, &k, &v, &mut pages).expect("fits");
        let (mut expected, mut out) = (vec![0.0; 90 * 48], vec![0.0; 90 * 48]);
        for kernels in Kernels::available() {
            let ctx = Ctx { kernels, pool: &pool, lanes: 1 };
            attend(&ctx, &shape, &clean.q, 0, &clean.pages, &mut expected).expect("fits");
            attend(&ctx, &shape, &clean.q, 0, &pages, &mut out).expect("fits");
            assert_eq!(bits(&out[..80 * 48]), bits(&expected[..80 * 48]), "{dtype:?} {}", kernels.name());
            assert!(out[80 * 48..].iter().all(|v| !v.is_finite()), "{dtype:?} {}", kernels.name());
            // Rows alone, as in a decode step.
            for row in [0, 31, 63, 64, 71, 79] {
                let (q, at) = (&clean.q[row * 48..][..48], row * 48);
                attend(&ctx, &shape, q, row, &pages, &mut out[..48]).expect("fits");
                assert_eq!(bits(&out[..48]), bits(&expected[at..at + 48]), "{dtype:?} {} {row}", kernels.name());
            }
        }
    }
}

#[test]
fn stored_rows_lie_by_head_and_slot() {
    let shape = KvShape { kv_heads: 2, head_dim: 3 };
    let mut pages = Segments::new(shape, 512, KvDtype::F32);
    let k: Vec<f32> = (0..40 * 6).map(|i| i as f32).collect();
    let v: Vec<f32> = k.iter().map(|v| -v).collect();
    store_kv(&shape, 250, &k, &v, &mut pages).expect("fits");
    let mut written = 0;
    for row in 0..40 {
        let (segment, slot) = ((250 + row) / 256, (250 + row) % 256);
        let KvSegment { k: KvSlice::F32(keys), v: KvSlice::F32(values) } = pages.segment(segment) else {
            panic!("f32")
        };
        for head in 0..2 {
            for d in 0..3 {
                let value = (row * 6 + head * 3 + d) as f32;
                let page = (head * 8 + slot / 32) * 32 * 3;
                assert_eq!(keys[page + d * 32 + slot % 32], value, "keys lie by dimension");
                assert_eq!(values[page + slot % 32 * 3 + d], -value, "values lie by token");
                written += 1;
            }
        }
    }
    for segment in 0..2 {
        let KvSegment { k: KvSlice::F32(k), v: KvSlice::F32(v) } = pages.segment(segment) else { panic!("f32") };
        written -= k.iter().filter(|v| !v.is_nan()).count();
        assert_eq!(k.iter().filter(|v| !v.is_nan()).count(), v.iter().filter(|v| !v.is_nan()).count());
    }
    assert_eq!(written, 0, "no slot but its own is written");
    assert!(store_kv(&shape, 0, &k[1..], &v[1..], &mut pages).is_err());
    assert!(store_kv(&shape, 0, &k, &v[6..], &mut pages).is_err());
}

#[test]
fn i8_rows_are_within_half_a_step() {
    let shape = KvShape { kv_heads: 2, head_dim: 6 };
    let mut numbers = Numbers::new(3);
    let mut pages = Segments::new(shape, 64, KvDtype::I8);
    let (mut k, mut v) = (numbers.floats(64 * 12), numbers.floats(64 * 12));
    // Rows of zeros, of one value, huge, tiny, subnormal, and not finite.
    k[..12].fill(0.0);
    v[..12].fill(-3.5);
    k[12..24].iter_mut().for_each(|v| *v *= 1e30);
    v[12..24].iter_mut().for_each(|v| *v *= 1e-30);
    v[24..36].fill(1e-40);
    (k[36], v[36]) = (f32::NAN, f32::NAN);
    store_kv(&shape, 0, &k, &v, &mut pages).expect("fits");
    let segment = pages.segment(0);
    let KvSlice::I8 { codes: keys, scales: k_scales } = segment.k else { panic!("i8") };
    let KvSlice::I8 { codes: values, scales: v_scales } = segment.v else { panic!("i8") };
    for t in 0..64 {
        for head in 0..2 {
            let page = head * 8 + t / 32;
            for d in 0..6 {
                let key = keys[page * 32 * 8 + (d / 4 * 32 + t % 32) * 4 + d % 4];
                let value = values[page * 32 * 6 + (t % 32 / 4 * 6 + d) * 4 + t % 4];
                let rows = [(key, k_scales[head * 256 + t], &k), (value, v_scales[head * 256 + t], &v)];
                for (code, scale, from) in rows {
                    let row = &from[t * 12 + head * 6..][..6];
                    let max = row.iter().fold(0.0f32, |max, v| max.max(v.abs()));
                    assert!((-127..=127).contains(&code));
                    if row.iter().any(|v| v.is_nan()) {
                        assert!(code == 0 && scale.is_nan());
                    } else if max < 1e-36 {
                        assert_eq!((code, scale), (0, 0.0), "too small for a scale");
                    } else {
                        let error = (f64::from(scale) * f64::from(code) - f64::from(row[d])).abs();
                        assert!(error <= f64::from(max) / 254.0 * 1.00001, "{t} {head} {d}: {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn sizes_of_a_page() {
    let shape = KvShape { kv_heads: 2, head_dim: 64 };
    assert_eq!(KvDtype::ALL.map(|dtype| shape.page_bytes(dtype)), [32 * 1024, 16 * 1024, 32 * 2 * (64 + 64 + 8)]);
    assert_eq!(KvShape { kv_heads: 1, head_dim: 6 }.page_bytes(KvDtype::I8), 32 * (8 + 6 + 8));
}

#[test]
fn bad_shapes_are_errors() {
    let pool = Pool::new(1);
    let ctx = ctx(&pool, 1);
    let shape = AttnShape { heads: 4, kv_heads: 2, head_dim: 8, scale: 1.0, window: None };
    let pages = Segments::new(KvShape { kv_heads: 1, head_dim: 8 }, 32, KvDtype::F32);
    let (q, mut out) = (vec![0.0; 32], vec![0.0; 32]);
    assert!(
        matches!(attend(&ctx, &shape, &q, 0, &pages, &mut out), Err(CpuError::Shape { .. })),
        "segment of one head"
    );
    for shape in
        [AttnShape { kv_heads: 3, ..shape }, AttnShape { kv_heads: 0, ..shape }, AttnShape { window: Some(0), ..shape }]
    {
        assert!(matches!(attend(&ctx, &shape, &q, 0, &pages, &mut out), Err(CpuError::Argument { .. })));
    }
    assert!(attend(&ctx, &shape, &q[1..], 0, &pages, &mut out).is_err());
    assert!(attend(&ctx, &shape, &q, usize::MAX, &pages, &mut out).is_err());
}
