//! Strings that end a generation: found across pieces, never shown. Special tokens, which are not shown either, take part.

/// What may be shown after a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct StopResult {
    /// Text that is certain not to belong to a stop string.
    pub emit: String,
    /// Whether a stop string was found: the text ends with `emit`.
    pub stopped: bool,
}

/// Watches a growing text for stop strings.
///
/// Everything shown, joined, is the text up to the earliest stop string, without it. Text is held back only while it
/// can be the beginning of a stop string: never more than the longest stop string less one byte.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    /// Where in `held` texts of special tokens are, ascending.
    hidden: Vec<std::ops::Range<usize>>,
    stopped: bool,
}

impl StopStrings {
    /// Watches for any of `stops`; empty strings are ignored.
    #[must_use]
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|s| !s.is_empty()).collect();
        Self { stops, ..Self::default() }
    }

    /// Takes the next piece of text. After a stop string nothing more is shown.
    pub fn push(&mut self, piece: &str) -> StopResult {
        if self.stopped {
            return StopResult { emit: String::new(), stopped: true };
        }
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            let emit = self.take(at);
            self.held.clear();
            self.hidden.clear();
            return StopResult { emit, stopped: true };
        }
        let certain = self.certain_bytes();
        StopResult { emit: self.take(certain), stopped: false }
    }

    /// Takes a special token's text: a stop string may be or contain it, but it is never shown.
    pub fn push_hidden(&mut self, text: &str) -> StopResult {
        let at = self.held.len();
        if !self.stopped && !self.stops.is_empty() {
            self.hidden.push(at..at + text.len());
            return self.push(text);
        }
        StopResult { emit: String::new(), stopped: self.stopped }
    }

    /// What was held back, when the text has ended by itself.
    pub fn flush(&mut self) -> String {
        self.take(self.held.len())
    }

    /// Removes the first `bytes` of the held text; what may be shown of them.
    fn take(&mut self, bytes: usize) -> String {
        let rest = self.held.split_off(bytes);
        let taken = std::mem::replace(&mut self.held, rest);
        if self.hidden.is_empty() {
            return taken;
        }
        let (mut shown, mut at) = (String::new(), 0);
        for range in &self.hidden {
            shown.push_str(&taken[at.min(bytes)..range.start.min(bytes)]);
            at = range.end;
        }
        shown.push_str(&taken[at.min(bytes)..]);
        self.hidden.retain(|range| range.end > bytes);
        for range in &mut self.hidden {
            *range = range.start.saturating_sub(bytes)..range.end - bytes;
        }
        shown
    }

    /// Bytes of the held text that no stop string can begin in.
    fn certain_bytes(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = self.held.len().saturating_sub(longest.saturating_sub(1));
        let may_begin = |at: &usize| {
            self.held.is_char_boundary(*at) && self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]))
        };
        (earliest..self.held.len()).find(may_begin).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(stops: &[&str]) -> StopStrings {
        StopStrings::new(stops.iter().map(|&s| s.to_owned()).collect())
    }

    #[test]
    fn holds_back_what_may_become_a_stop() {
        let mut stop = strings(&["</s>", "\n\nUser:"]);
        let emit = |r: StopResult| {
            assert!(!r.stopped);
            r.emit
        };
        assert_eq!(emit(stop.push("a<")), "a");
        assert_eq!(emit(stop.push("b\n")), "<b");
        assert_eq!(emit(stop.push("\n")), "");
        assert_eq!(emit(stop.push("\n")), "\n");
        assert_eq!(emit(stop.push("User")), "");
        assert_eq!(stop.clone().flush(), "\n\nUser");
        assert_eq!(stop.push(":x"), StopResult { emit: String::new(), stopped: true });
        assert_eq!(stop.push("more"), StopResult { emit: String::new(), stopped: true });
        assert_eq!(stop.flush(), "");
    }

    #[test]
    fn special_tokens_count_and_are_not_shown() {
        let mut stop = strings(&["<|x|>\n", "END"]);
        assert_eq!(stop.push("a").emit, "a");
        assert_eq!(stop.push_hidden("<|x|>"), StopResult::default());
        assert_eq!(stop.push("b"), StopResult { emit: "b".to_owned(), stopped: false });
        assert_eq!(stop.push_hidden("<|y|>"), StopResult::default());
        assert_eq!(stop.push("E").emit, "");
        assert_eq!(stop.push_hidden("<|x|>").emit, "E");
        assert_eq!(stop.clone().flush(), "");
        assert_eq!(stop.push("\nmore"), StopResult { emit: String::new(), stopped: true });
        let mut whole = strings(&["<|x|>"]);
        assert_eq!(whole.push_hidden("<|x|>"), StopResult { emit: String::new(), stopped: true });
        // Without stop strings nothing is kept.
        let mut none = strings(&[]);
        assert_eq!((none.push_hidden("<|x|>"), none.push("a").emit), (StopResult::default(), "a".to_owned()));
    }

    #[test]
    fn the_earliest_wins_and_empty_strings_never_stop() {
        let mut stop = strings(&["b", "ab", ""]);
        assert_eq!(stop.push("xab"), StopResult { emit: "x".to_owned(), stopped: true });
        let mut none = strings(&[""]);
        assert_eq!(none.push("abc"), StopResult { emit: "abc".to_owned(), stopped: false });
    }

    proptest! {
        #[test]
        fn shows_the_text_before_the_first_stop(
            pieces in prop::collection::vec("[abé🦊]{0,4}", 0..12),
            stops in prop::collection::vec("[abé🦊]{0,4}", 0..4),
        ) {
            let text = pieces.concat();
            let found = stops.iter().filter(|s| !s.is_empty()).filter_map(|s| {
                // A stop string counts when its last character arrives: of two, the one that is complete first.
                text.find(s.as_str()).map(|at| (at, at + s.len()))
            });
            let first_end = found.clone().map(|(_, end)| end).min();
            let mut stop = StopStrings::new(stops.clone());
            let longest = stops.iter().map(String::len).max().unwrap_or(0);
            let (mut shown, mut arrived, mut stopped) = (String::new(), 0, false);
            for piece in &pieces {
                let result = stop.push(piece);
                shown.push_str(&result.emit);
                if !stopped {
                    arrived += piece.len();
                }
                stopped = result.stopped;
                prop_assert_eq!(stopped, first_end.is_some_and(|end| end <= arrived));
                prop_assert!(stop.held.len() < longest.max(1));
            }
            if stopped {
                prop_assert!(text.starts_with(&shown));
                let expected = found.filter(|(_, end)| *end <= arrived).map(|(at, _)| at).min();
                prop_assert_eq!(Some(shown.len()), expected);
            } else {
                shown.push_str(&stop.flush());
                prop_assert_eq!(shown, text);
            }
        }
    }
}
