//! Rotary position embedding (Su et al. 2021) on half-split pairs `(i, i + head_dim / 2)`.

use crate::{CpuError, Ctx, error::check_len, kernels::Grid, kernels::for_each_block};
use coexec_model::{DecoderConfig, RopeScaling};
use std::f64::consts::TAU;

/// Most positions a table holds.
const MAX_POSITIONS: usize = 1 << 24;

/// Cosines and sines by position and pair, computed in f64 and rounded once to f32.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Radians per position of each pair, `[head_dim / 2]`.
    frequencies: Vec<f64>,
    /// `[positions, head_dim / 2]`.
    cos: Vec<f32>,
    /// `[positions, head_dim / 2]`.
    sin: Vec<f32>,
}

impl RopeTable {
    /// A table of positions `0..positions` for a model.
    ///
    /// # Errors
    /// When the config's rotary settings make no sense (odd `head_dim`, other number of factors, a zero divisor).
    pub fn new(config: &DecoderConfig, positions: usize) -> Result<Self, CpuError> {
        let frequencies = frequencies(config)?;
        let mut table = Self { frequencies, cos: Vec::new(), sin: Vec::new() };
        table.grow(positions)?;
        Ok(table)
    }

    /// Positions in the table.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.cos.len() / self.frequencies.len()
    }

    /// Makes room for positions `0..positions`; what is there stays.
    ///
    /// # Errors
    /// Beyond 2²⁴ positions.
    pub fn grow(&mut self, positions: usize) -> Result<(), CpuError> {
        if positions > MAX_POSITIONS {
            return Err(CpuError::Argument {
                what: "RopeTable: positions",
                value: positions.to_string(),
                why: "at most 2^24 positions",
            });
        }
        for position in self.positions()..positions {
            for f in &self.frequencies {
                let (sin, cos) = (position as f64 * f).sin_cos();
                self.cos.push(cos as f32);
                self.sin.push(sin as f32);
            }
        }
        Ok(())
    }

    /// Rotates `x [m, heads · head_dim]` in place, row `r` by position `start_pos + r`.
    ///
    /// # Errors
    /// When `x` is not whole rows or a position is beyond the table ([`Self::grow`] it first).
    pub fn apply(&self, ctx: &Ctx<'_>, x: &mut [f32], heads: usize, start_pos: usize) -> Result<(), CpuError> {
        let half = self.frequencies.len();
        let width = heads * 2 * half;
        let m = x.len().checked_div(width).unwrap_or(0);
        check_len("rope: x [m, heads · head_dim]", m.checked_mul(width), x.len())?;
        if start_pos.checked_add(m).is_none_or(|end| end > self.positions()) {
            return Err(CpuError::Argument {
                what: "rope: last position",
                value: format!("{start_pos} + {m}"),
                why: "a position inside the table: grow it first",
            });
        }
        let grid = Grid { rows: m, cols: width, row_step: 8, col_step: width.max(1), col_lead: 0 };
        for_each_block(ctx.pool, ctx.lanes, x, grid, &|_, mut block| {
            for (i, r) in block.row_range().enumerate() {
                let at = (start_pos + r) * half..(start_pos + r + 1) * half;
                for head in block.row(i).chunks_exact_mut(2 * half) {
                    ctx.kernels.rope(head, &self.cos[at.clone()], &self.sin[at.clone()]);
                }
            }
        });
        Ok(())
    }
}

/// Radians per position of each pair.
fn frequencies(config: &DecoderConfig) -> Result<Vec<f64>, CpuError> {
    let bad = |what, value: String, why| Err(CpuError::Argument { what, value, why });
    let half = config.head_dim as usize / 2;
    if half == 0 || !config.head_dim.is_multiple_of(2) || half > 1 << 16 {
        return bad("rope: head_dim", config.head_dim.to_string(), "an even number from 2 to 131072");
    }
    let theta = f64::from(config.rope_theta);
    if !(theta.is_finite() && theta > 0.0) {
        return bad("rope: rope_theta", theta.to_string(), "a positive number");
    }
    let divisor = |v: f32| v.is_finite() && v > 0.0;
    let plain = (0..half).map(|i| theta.powf(-(i as f64) / half as f64));
    Ok(match &config.rope_scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } if divisor(*factor) => plain.map(|f| f / f64::from(*factor)).collect(),
        RopeScaling::Factors { factors } if factors.len() == half && factors.iter().all(|f| divisor(*f)) => {
            plain.zip(factors).map(|(f, factor)| f / f64::from(*factor)).collect()
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }
            if divisor(*factor) && divisor(*low_freq_factor) && high_freq_factor > low_freq_factor =>
        {
            let (factor, low, high) = (f64::from(*factor), f64::from(*low_freq_factor), f64::from(*high_freq_factor));
            let turns = |f: f64| f64::from(*original_max_position_embeddings) * f / TAU;
            // Pairs that turn often in the original context keep their frequency, slow ones are divided.
            plain
                .map(|f| {
                    let keep = ((turns(f) - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - keep) * f / factor + keep * f
                })
                .collect()
        }
        other => {
            return bad("rope: rope_scaling", format!("{other:?}"), "positive divisors, one per pair where listed");
        }
    })
}
