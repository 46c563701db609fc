//! Does an estimate of importance rank linears as their effect on unseen text does?

use crate::{
    RuntimeError, ScheduleChoice,
    eval::{Reference, Windows},
    schedule::Bench,
};
use coexec_model::{Calibration, SplitMix64, Treatment};
use serde::Serialize;

/// Resamples of a confidence interval.
const RESAMPLES: usize = 2000;

/// What leaving one linear's shadow out does while all others have theirs: the increase of the divergence from the reference,
/// by linear in program order.
///
/// # Errors
/// When the file cannot be opened or a prefill fails.
pub fn leave_one_out(
    bench: &Bench<'_>,
    layers: usize,
    windows: &Windows,
    reference: &Reference,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<f64>, RuntimeError> {
    let all = vec![[Treatment::Shadow; 4]; layers];
    let kl = |schedule| {
        let quality = bench.quality(ScheduleChoice::Given(schedule), windows, reference)?;
        Ok::<_, RuntimeError>(quality.reference.map_or(0.0, |r| r.kl))
    };
    let base = kl(all.clone())?;
    (0..4 * layers)
        .map(|i| {
            progress(i, 4 * layers);
            let mut schedule = all.clone();
            schedule[i / 4][i % 4] = Treatment::Plain;
            Ok(kl(schedule)? - base)
        })
        .collect()
}

/// llm.npu's importance: the largest activation over what the codes with shadow cover, by linear in program order.
#[must_use]
pub fn max_over_scale(calibration: &Calibration) -> Vec<f64> {
    let of = |l: &coexec_model::LinearCalibration| {
        let largest = l.wide.as_ref().map_or(l.input_scale, |w| w.input / crate::calibrate::WIDE_MARGIN);
        f64::from(largest / l.input_scale)
    };
    calibration.layers.iter().flatten().map(of).collect()
}

/// A rank correlation and its 95 % confidence interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RankCorrelation {
    /// Spearman's.
    pub value: f64,
    /// 2.5 % quantile of the resamples.
    pub low: f64,
    /// 97.5 % quantile.
    pub high: f64,
}

/// Spearman's correlation of `a` and `b`, with a bootstrap interval over their entries (the same numbers on every machine).
#[must_use]
pub fn rank_correlation(a: &[f64], b: &[f64]) -> RankCorrelation {
    let mut random = SplitMix64::new(0);
    let n = a.len().min(b.len());
    let mut resamples: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let (a, b): (Vec<f64>, Vec<f64>) = (0..n).map(|_| random.below(n)).map(|i| (a[i], b[i])).unzip();
            spearman(&a, &b)
        })
        .collect();
    resamples.sort_by(f64::total_cmp);
    let at = |share: f64| resamples[((RESAMPLES - 1) as f64 * share) as usize];
    RankCorrelation { value: spearman(&a[..n], &b[..n]), low: at(0.025), high: at(0.975) }
}

/// Pearson's correlation of the ranks; equal values share their mean rank. 0 where all are equal.
fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let norm = (product(&a, &a) * product(&b, &b)).sqrt();
    if norm > 0.0 { product(&a, &b) / norm } else { 0.0 }
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for group in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = first as f64 + (group.len() as f64 + 1.0) / 2.0;
        group.iter().for_each(|i| ranks[*i] = rank);
        first += group.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_ties() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
    }

    #[test]
    fn correlations_of_known_orders() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert!((spearman(&a, &[10.0, 20.0, 30.0, 40.0, 1000.0]) - 1.0).abs() < 1e-12);
        assert!((spearman(&a, &[5.0, 4.0, 3.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
        // Two neighbours exchanged: 1 − 6·2/(5·24).
        assert!((spearman(&a, &[2.0, 1.0, 3.0, 4.0, 5.0]) - 0.9).abs() < 1e-12);
        assert_eq!(spearman(&a, &[7.0; 5]), 0.0);
        let c = rank_correlation(&a, &[2.0, 1.0, 3.0, 4.0, 5.0]);
        assert!(c.low <= c.value && c.value <= c.high && c.high <= 1.0, "{c:?}");
    }
}
