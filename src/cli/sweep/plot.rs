//! Plots of a sweep.

use super::table::Pruned;
use plotters::prelude::*;

/// What a plot shows to the right.
pub(super) type Axis = fn(&Pruned) -> f64;

/// Divergence against `x`, one line per model, as SVG; `None` where there is nothing to draw.
pub(super) fn plot(axis: &str, points: &[Pruned], x: Axis) -> anyhow::Result<Option<String>> {
    let y = |p: &Pruned| p.quality.reference.as_ref().map_or(f64::NAN, |a| a.kl).max(1e-6);
    let range = |f: &dyn Fn(&Pruned) -> f64| {
        let values = || points.iter().map(f).filter(|v| v.is_finite());
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
    };
    let ((x0, x1), (y0, y1)) = (range(&x), range(&y));
    if points.is_empty() || !(x0.is_finite() && y0.is_finite()) {
        return Ok(None);
    }
    let margin = (0.04 * (x1 - x0)).max(1e-9);
    let broken = |e: &dyn std::fmt::Display| anyhow::anyhow!("cannot draw a plot: {e}");
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (760, 480)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| broken(&e))?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(x0 - margin..x1 + margin, (y0 * 0.7..y1 * 1.4).log_scale())
        .map_err(|e| broken(&e))?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .y_desc("divergence from float, nats")
        .y_label_formatter(&|v| format!("{v:.0e}"))
        .draw()
        .map_err(|e| broken(&e))?;
    for (i, line) in points.chunk_by(|a, b| a.model == b.model).enumerate() {
        let colour = Palette99::pick(i).to_rgba();
        let at = || line.iter().map(|p| (x(p), y(p)));
        chart
            .draw_series(LineSeries::new(at(), colour.stroke_width(2)))
            .map_err(|e| broken(&e))?
            .label(&line[0].model)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        chart.draw_series(at().map(|at| Circle::new(at, 3, colour.filled()))).map_err(|e| broken(&e))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|e| broken(&e))?;
    root.present().map_err(|e| broken(&e))?;
    drop((chart, root));
    Ok(Some(svg))
}
