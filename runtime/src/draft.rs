//! Drafts for speculative decoding from the text itself (prompt lookup: Saxena 2023; Leviathan et al. 2023 for the scheme).
//!
//! Where the last tokens occurred before, what followed them then is a guess at what follows now. A guess costs little to check:
//! the rows of a few tokens read the weights once. Checking is exact, for greedy and for random sampling alike: every row's
//! logits are bit for bit those of decoding one by one, and a token is drawn from them by the same sampler in the same
//! order; a guess only decides how many rows are computed at once.

use coexec_model::TokenId;

/// Tokens that must have occurred before, most and least.
const NGRAM: std::ops::RangeInclusive<usize> = 2..=4;

/// Proposes tokens, fewer after wrong proposals.
#[derive(Clone, Debug)]
pub struct PromptLookup {
    most: usize,
    limit: usize,
    draft: Vec<TokenId>,
}

impl PromptLookup {
    /// Proposes at most `most` tokens at a time; 0 proposes none.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, limit: most, draft: Vec::with_capacity(most) }
    }

    /// What may follow `tokens` and then `next`: at most `room` tokens.
    pub fn propose_after(&mut self, tokens: &[TokenId], next: TokenId, room: usize) -> &[TokenId] {
        self.draft.clear();
        let count = self.limit.min(room);
        if count == 0 {
            return &self.draft;
        }
        for n in NGRAM.rev() {
            // `next` and the `n − 1` tokens before it, whose latest earlier place is looked for.
            let Some(start) = tokens.len().checked_sub(n - 1) else { continue };
            let before = &tokens[start..];
            let place = tokens.windows(n).rposition(|w| w[n - 1] == next && w[..n - 1] == *before);
            if let Some(at) = place {
                let follows = tokens[at + n..].iter().chain(std::iter::once(&next)).copied();
                self.draft.extend(follows.take(count));
                break;
            }
        }
        &self.draft
    }

    /// Tells how many of the last proposal's tokens were right.
    pub fn accepted(&mut self, proposed: usize, right: usize) {
        if proposed > 0 {
            self.limit = if right == proposed { self.limit * 2 } else { right + 1 }.clamp(1, self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn propose(lookup: &mut PromptLookup, tokens: &[TokenId], room: usize) -> Vec<TokenId> {
        let (next, tokens) = tokens.split_last().expect("a token");
        lookup.propose_after(tokens, *next, room).to_vec()
    }

    fn ids(s: &str) -> Vec<TokenId> {
        s.bytes().map(|b| TokenId(u32::from(b))).collect()
    }

    #[test]
    fn the_latest_longest_match_is_continued() {
        let mut lookup = PromptLookup::new(4);
        assert_eq!(propose(&mut lookup, &ids("abcdXabcdYabcd"), 9), ids("Yabc"));
        assert_eq!(propose(&mut lookup, &ids("xyzQ..abxyz"), 2), ids("Q."));
        assert_eq!(
            propose(&mut lookup, &ids("abab"), 9),
            ids("ab"),
            "the continuation may reach into the n-gram itself"
        );
        assert_eq!(propose(&mut lookup, &ids("abcdef"), 9), []);
        assert_eq!(propose(&mut lookup, &ids("a"), 9), []);
        assert_eq!(propose(&mut lookup, &ids("abab"), 0), []);
        assert_eq!(propose(&mut PromptLookup::new(0), &ids("abab"), 9), []);
    }

    #[test]
    fn wrong_proposals_make_shorter_ones() {
        let mut lookup = PromptLookup::new(6);
        let text = ids("abcdefghabc");
        assert_eq!(propose(&mut lookup, &text, 9).len(), 6);
        lookup.accepted(6, 1);
        assert_eq!(propose(&mut lookup, &text, 9).len(), 2);
        lookup.accepted(2, 0);
        assert_eq!(propose(&mut lookup, &text, 9).len(), 1);
        lookup.accepted(1, 1);
        lookup.accepted(2, 2);
        lookup.accepted(0, 0);
        assert_eq!(propose(&mut lookup, &text, 9).len(), 4);
    }
}
