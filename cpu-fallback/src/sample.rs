//! Choosing among logits.

/// The index of the largest logit, the lowest one on ties; `None` when there is no logit or one is NaN.
#[must_use]
pub fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best = None;
    for (i, v) in logits.iter().enumerate() {
        if v.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, b)| *v > b) {
            best = Some((i, *v));
        }
    }
    best.map(|(i, _)| i)
}

/// The `k` largest logits with their indices, largest first, lower index first on ties; fewer when there are fewer.
/// `None` when a logit is NaN.
#[must_use]
pub fn top_k(logits: &[f32], k: usize) -> Option<Vec<(usize, f32)>> {
    if logits.iter().any(|v| v.is_nan()) {
        return None;
    }
    let order = |a: &(usize, f32), b: &(usize, f32)| {
        b.1.partial_cmp(&a.1).unwrap_or(std::cmp::Ordering::Equal).then(a.0.cmp(&b.0))
    };
    let mut all: Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
    if k < all.len() {
        if k > 0 {
            all.select_nth_unstable_by(k - 1, order);
        }
        all.truncate(k);
    }
    all.sort_unstable_by(order);
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_and_nan() {
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[f32::NEG_INFINITY]), Some(0));
        assert_eq!(argmax(&[1.0, 3.0, 3.0, -2.0]), Some(1));
        assert_eq!(argmax(&[1.0, f32::NAN, 3.0]), None);
        assert_eq!(top_k(&[1.0, f32::NAN], 1), None);
        let logits = [0.5, 2.0, -1.0, 2.0, 7.0];
        assert_eq!(top_k(&logits, 3), Some(vec![(4, 7.0), (1, 2.0), (3, 2.0)]));
        assert_eq!(top_k(&logits, 2), Some(vec![(4, 7.0), (1, 2.0)]));
        assert_eq!(top_k(&logits, 0), Some(vec![]));
        assert_eq!(top_k(&logits, 99).map(|t| t.len()), Some(5));
    }
}
