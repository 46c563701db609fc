//! Attention and K/V pages: right, and the same bits for every chunking and number of threads.

mod common;

use coexec_cpu::*;
use common::{Numbers, Pages, bits, ctx};

struct Case {
    shape: AttnShape,
    tokens: usize,
    half: bool,
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
    pages: Pages,
}

fn data(case: &Case) -> Data {
    let mut numbers = Numbers::new(case.tokens as u64);
    let kv = KvShape { kv_heads: case.shape.kv_heads, head_dim: case.shape.head_dim };
    let kv_width = kv.kv_heads * kv.head_dim;
    let q: Vec<f32> = numbers.floats(case.tokens * case.width()).iter().map(|v| v * 4.0).collect();
    let (k, v) = (numbers.floats(case.tokens * kv_width), numbers.floats(case.tokens * kv_width));
    let mut pages = Pages::new(kv, case.tokens.div_ceil(PAGE_TOKENS), case.half);
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

fn exact(case: &Case, data: &Data, position: usize, head: usize) -> Vec<f64> {
    let (hd, kv_heads) = (case.shape.head_dim, case.shape.kv_heads);
    let kv_head = head / (case.shape.heads / kv_heads);
    let round = |v: f32| f64::from(if case.half { half::f16::from_f32(v).to_f32() } else { v });
    let at = |t: usize, d: usize| t * kv_heads * hd + kv_head * hd + d;
    let first = (position + 1).saturating_sub(case.shape.window.unwrap_or(usize::MAX));
    let scores: Vec<f64> = (first..=position)
        .map(|t| {
            let dot: f64 = (0..hd)
                .map(|d| f64::from(data.q[position * case.width() + head * hd + d]) * round(data.k[at(t, d)]))
                .sum();
            dot * f64::from(case.shape.scale)
        })
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    (0..hd)
        .map(|d| {
            let weighted = scores.iter().enumerate().map(|(i, s)| (s - max).exp() * round(data.v[at(first + i, d)]));
            weighted.sum::<f64>() / sum
        })
        .collect()
}

fn cases() -> Vec<Case> {
    let shape = |heads, kv_heads, head_dim, window| AttnShape {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window,
    };
    vec![
        Case { shape: shape(4, 2, 64, None), tokens: 100, half: true },
        Case { shape: shape(6, 1, 24, None), tokens: 70, half: false },
        Case { shape: shape(3, 3, 80, Some(40)), tokens: 150, half: false },
        Case { shape: shape(2, 1, 16, Some(1)), tokens: 40, half: true },
        // Several segments of 512.
        Case { shape: shape(4, 1, 32, None), tokens: 1100, half: true },
        Case { shape: shape(2, 2, 16, Some(600)), tokens: 1700, half: false },
    ]
}

#[test]
fn attention_is_softmax_over_what_is_visible() {
    let pool = Pool::new(2);
    for case in cases() {
        let data = data(&case);
        let mut out = vec![0.0; data.q.len()];
        attend(&ctx(&pool, 2), &case.shape, &data.q, 0, &data.pages, &mut out).expect("fits");
        for position in (0..case.tokens).step_by(17).chain([case.tokens - 1]) {
            for head in 0..case.shape.heads {
                let exact = exact(&case, &data, position, head);
                let got = &out[position * case.width() + head * case.shape.head_dim..][..case.shape.head_dim];
                for (got, exact) in got.iter().zip(exact) {
                    assert!((f64::from(*got) - exact).abs() < 3e-6, "{:?} {position}: {got} {exact}", case.shape);
                }
            }
        }
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
            for chunk in [1, 7, 32, 33, 256] {
                // Every row alone takes long: the last 40 are enough for chunks of one.
                let start = if chunk == 1 { case.tokens - 40 } else { 0 };
                for first in (start..case.tokens).step_by(chunk) {
                    let range = first * width..case.tokens.min(first + chunk) * width;
                    let mut out = vec![0.0; range.len()];
                    let ctx = ctx(&pool, lanes);
                    attend(&ctx, &case.shape, &data.q[range.clone()], first, &data.pages, &mut out).expect("fits");
                    assert_eq!(bits(&out), bits(&expected[range]), "{:?} {lanes} {chunk} {first}", case.shape);
                }
            }
        }
        if case.tokens < 200 {
            for kernels in Kernels::available() {
                let mut out = vec![0.0; data.q.len()];
                let ctx = Ctx { kernels, pool: &pool, lanes: 2 };
                attend(&ctx, &case.shape, &data.q, 0, &data.pages, &mut out).expect("fits");
                assert_eq!(bits(&out), bits(&expected), "{:?} {}", case.shape, kernels.name());
            }
        }
    }
}

#[test]
fn stored_rows_lie_by_head_and_slot() {
    let shape = KvShape { kv_heads: 2, head_dim: 3 };
    let mut pages = Pages::new(shape, 3, false);
    let k: Vec<f32> = (0..40 * 6).map(|i| i as f32).collect();
    let v: Vec<f32> = k.iter().map(|v| -v).collect();
    store_kv(&shape, 30, &k, &v, &mut pages).expect("fits");
    for row in 0..40 {
        let (page, slot) = ((30 + row) / 32, (30 + row) % 32);
        for head in 0..2 {
            for d in 0..3 {
                let value = (row * 6 + head * 3 + d) as f32;
                assert_eq!(pages.k[page][(head * 32 + slot) * 3 + d], value);
                assert_eq!(pages.v[page][(head * 32 + slot) * 3 + d], -value);
            }
        }
    }
    assert!(pages.k[0][..30 * 3].iter().all(|v| v.is_nan()), "no slot but its own is written");
    assert!(pages.k[2][6 * 3..32 * 3].iter().all(|v| v.is_nan()));
    assert!(store_kv(&shape, 0, &k[1..], &v[1..], &mut pages).is_err());
    assert!(store_kv(&shape, 0, &k, &v[6..], &mut pages).is_err());
}

#[test]
fn bad_shapes_are_errors() {
    let pool = Pool::new(1);
    let ctx = ctx(&pool, 1);
    let shape = AttnShape { heads: 4, kv_heads: 2, head_dim: 8, scale: 1.0, window: None };
    let pages = Pages::new(KvShape { kv_heads: 1, head_dim: 8 }, 1, false);
    let (q, mut out) = (vec![0.0; 32], vec![0.0; 32]);
    assert!(matches!(attend(&ctx, &shape, &q, 0, &pages, &mut out), Err(CpuError::Shape { .. })), "page of one head");
    for shape in
        [AttnShape { kv_heads: 3, ..shape }, AttnShape { kv_heads: 0, ..shape }, AttnShape { window: Some(0), ..shape }]
    {
        assert!(matches!(attend(&ctx, &shape, &q, 0, &pages, &mut out), Err(CpuError::Argument { .. })));
    }
    assert!(attend(&ctx, &shape, &q[1..], 0, &pages, &mut out).is_err());
    assert!(attend(&ctx, &shape, &q, usize::MAX, &pages, &mut out).is_err());
}
