//! Cutting a prompt into chunks of the lengths that there are static graphs for: the ladder.

/// A piece of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Index of its first token in the prompt.
    pub offset: usize,
    /// Its tokens.
    pub tokens: usize,
    /// Position of its first token.
    pub start_pos: usize,
    /// Tokens of the static graphs that it runs on: rows past `tokens` are padding. On the CPU the same as `tokens`.
    pub chunk_len: usize,
}

/// A chunk length and what a chunk of it takes, however many of its rows are padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Tokens of its static graphs, at least 1.
    pub chunk_len: usize,
    /// Expected time in ns.
    pub cost_ns: u64,
}

/// What makes one way to cut better than another, in this order: time, chunks, rows in all. The last rung is how to go on.
type Best = (u64, u32, u64, usize);

/// Cuts a prompt of `prompt_len` tokens that begins at position `start_pos` into chunks of the ladder `rungs` so that the
/// sum of their times is least; on ties into fewer chunks, then with less padding. Longer chunks come first, so only the
/// last is padded. Without rungs there are no chunks.
#[must_use]
pub fn cut(prompt_len: usize, start_pos: usize, rungs: &[Rung]) -> Vec<Chunk> {
    let rungs: Vec<Rung> = rungs.iter().copied().filter(|r| r.chunk_len > 0).collect();
    if rungs.is_empty() {
        return Vec::new();
    }
    // best[n]: how to cover n tokens.
    let mut best: Vec<Best> = vec![(0, 0, 0, 0)];
    for n in 1..=prompt_len {
        let by = |(i, rung): (usize, &Rung)| {
            let (cost, chunks, rows, _) = best[n.saturating_sub(rung.chunk_len)];
            (cost.saturating_add(rung.cost_ns), chunks + 1, rows + rung.chunk_len as u64, i)
        };
        best.extend(rungs.iter().enumerate().map(by).min());
    }
    let mut lens = Vec::new();
    let mut left = prompt_len;
    while left > 0 {
        let chunk_len = rungs[best[left].3].chunk_len;
        lens.push(chunk_len);
        left = left.saturating_sub(chunk_len);
    }
    lens.sort_unstable_by_key(|len| std::cmp::Reverse(*len));
    let mut offset = 0;
    lens.into_iter()
        .map(|chunk_len| {
            let tokens = chunk_len.min(prompt_len - offset);
            let chunk = Chunk { offset, tokens, start_pos: start_pos + offset, chunk_len };
            offset += tokens;
            chunk
        })
        .collect()
}

/// Cuts a prompt into chunks of at most `longest` tokens without padding, as the CPU takes them.
#[must_use]
pub fn cut_evenly(prompt_len: usize, start_pos: usize, longest: usize) -> Vec<Chunk> {
    (0..prompt_len)
        .step_by(longest.max(1))
        .map(|offset| {
            let tokens = longest.max(1).min(prompt_len - offset);
            Chunk { offset, tokens, start_pos: start_pos + offset, chunk_len: tokens }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The best over every multiset of rungs, by trying all.
    fn exhaustive(n: usize, rungs: &[Rung]) -> (u64, usize, usize) {
        let Some((first, rest)) = rungs.split_first() else {
            return if n == 0 { (0, 0, 0) } else { (u64::MAX / 2, 0, 0) };
        };
        (0..=n.div_ceil(first.chunk_len))
            .map(|times| {
                let (cost, chunks, rows) = exhaustive(n.saturating_sub(times * first.chunk_len), rest);
                (cost + times as u64 * first.cost_ns, chunks + times, rows + times * first.chunk_len)
            })
            .min()
            .expect("at least zero times")
    }

    fn key(chunks: &[Chunk], rungs: &[Rung]) -> (u64, usize, usize) {
        let cost = |c: &Chunk| rungs.iter().filter(|r| r.chunk_len == c.chunk_len).map(|r| r.cost_ns).min();
        (chunks.iter().map(|c| cost(c).expect("a rung")).sum(), chunks.len(), chunks.iter().map(|c| c.chunk_len).sum())
    }

    fn assert_covers(chunks: &[Chunk], prompt_len: usize, start_pos: usize) {
        let mut at = 0;
        for (i, c) in chunks.iter().enumerate() {
            assert_eq!((c.offset, c.start_pos), (at, start_pos + at));
            assert!(c.tokens > 0 && c.tokens <= c.chunk_len);
            assert!(c.tokens == c.chunk_len || i + 1 == chunks.len(), "only the last chunk is padded: {chunks:?}");
            at += c.tokens;
        }
        assert_eq!(at, prompt_len);
    }

    proptest! {
        #[test]
        fn no_other_cut_is_better(
            lens in proptest::collection::vec((1usize..12, 0u64..30), 1..4),
            prompt_len in 0usize..40,
            start_pos in 0usize..100,
        ) {
            let rungs: Vec<Rung> = lens.iter().map(|(chunk_len, cost_ns)| Rung { chunk_len: *chunk_len, cost_ns: *cost_ns }).collect();
            let chunks = cut(prompt_len, start_pos, &rungs);
            assert_covers(&chunks, prompt_len, start_pos);
            prop_assert_eq!(key(&chunks, &rungs), exhaustive(prompt_len, &rungs));
            prop_assert_eq!(cut(prompt_len, start_pos, &rungs), chunks, "the same every time");
        }

        #[test]
        fn even_cuts_cover_without_padding(prompt_len in 0usize..300, start_pos in 0usize..9, longest in 1usize..70) {
            let chunks = cut_evenly(prompt_len, start_pos, longest);
            assert_covers(&chunks, prompt_len, start_pos);
            prop_assert!(chunks.iter().all(|c| c.tokens == c.chunk_len && c.chunk_len <= longest));
        }
    }

    #[test]
    fn a_short_turn_takes_a_short_graph() {
        let lens = |prompt_len, rungs: &[Rung]| -> Vec<usize> {
            cut(prompt_len, 0, rungs).iter().map(|c| c.chunk_len).collect()
        };
        let rungs =
            [(32, 100), (64, 110), (128, 180), (256, 300)].map(|(chunk_len, cost_ns)| Rung { chunk_len, cost_ns });
        assert_eq!(lens(4, &rungs), [32]);
        assert_eq!(lens(33, &rungs), [64]);
        assert_eq!(lens(300, &rungs), [256, 64]);
        assert_eq!(lens(512, &rungs), [256, 256]);
        assert_eq!(lens(0, &rungs), [0usize; 0]);
        assert_eq!(lens(9, &[]), [0usize; 0]);
        // Ties: fewer chunks, then less padding.
        let flat = [(32, 50), (64, 100), (96, 100)].map(|(chunk_len, cost_ns)| Rung { chunk_len, cost_ns });
        assert_eq!(lens(64, &flat), [64]);
        // A ladder whose long graphs are dear is not forced on anybody.
        let dear = [(32, 10), (256, 1000)].map(|(chunk_len, cost_ns)| Rung { chunk_len, cost_ns });
        assert_eq!(lens(250, &dear), [32; 8]);
    }
}
