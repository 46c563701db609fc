//! An SVG picture of a run: one lane for the NPU and one per CPU lane, a time axis, the bubble rate, a legend.
//!
//! Draws its own background, light or dark as the viewer prefers, so it can stand on any page. Boxes narrower than half a
//! pixel are merged with their neighbours; labels that do not fit are left out (every box also has a
//! tooltip). Pure: the same run gives the same bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use crate::graph::TaskGraph;
use crate::report::{Event, RunReport};
use crate::task::{Label, Processor};
use crate::trace::{SimulatedProfile, simulated_label};

/// What a box's colour says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColourBy {
    /// The chunk: shows how chunks interleave.
    #[default]
    Chunk,
    /// The stage: shows what the time goes into.
    Stage,
}

/// How to draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineOptions {
    /// Title: model, prompt, chip.
    pub title: String,
    /// What colours say.
    pub colour_by: ColourBy,
    /// Width in px, at least 480.
    pub width_px: u32,
    /// The profile, when times are simulated. A report of the virtual clock is labelled simulated in any case.
    pub simulated: Option<SimulatedProfile>,
}

impl Default for TimelineOptions {
    fn default() -> Self {
        Self { title: "Task timeline".to_owned(), colour_by: ColourBy::default(), width_px: 1600, simulated: None }
    }
}

const LEFT_PX: f64 = 92.0;
const RIGHT_PX: f64 = 28.0;
const TOP_PX: f64 = 96.0;
const NPU_PX: f64 = 56.0;
const LANE_PX: f64 = 28.0;
const IDLE_PX: f64 = 10.0;
const GROUP_GAP_PX: f64 = IDLE_PX + 20.0;
const LEGEND_ROW_PX: f64 = 22.0;

/// Told apart by hue and by lightness, on white and on near-black.
const PALETTE: [&str; 12] = [
    "#3b7dd8", "#f0913a", "#2fa67a", "#d6517d", "#8a63d2", "#c9a227", "#25a5b8", "#b5623c", "#6b8e23", "#a34fb0",
    "#5f7d95", "#e0685a",
];

const STYLE: &str = "\
.bg{fill:#ffffff;stroke:#d5dae1}.lane{fill:#f1f3f6}.t{fill:#1d2530}.s{fill:#5a6675}.g{stroke:#d5dae1}\
.gap{fill:#c8323d}.b{stroke:#ffffff;stroke-width:.5}.l{fill:#ffffff;pointer-events:none}\
.sim{fill:#b25e09}.pill{fill:#fdeed8;stroke:#e8a552}\
text{font-family:Inter,'Segoe UI','Helvetica Neue',Arial,sans-serif}\
@media (prefers-color-scheme:dark){.bg{fill:#12161c;stroke:#333c48}.lane{fill:#1b2129}.t{fill:#e8ecf1}.s{fill:#9ba7b5}\
.g{stroke:#333c48}.gap{fill:#ff6b74}.b{stroke:#12161c}.sim{fill:#f2b566}.pill{fill:#3a2a12;stroke:#8a6224}}";

/// One box: a task on the lanes it held.
struct Slot<'a> {
    event: &'a Event,
    /// First lane, 0 for the NPU.
    lane: usize,
    lanes: usize,
}

/// Draws `report`, a run of `graph`, as a stand-alone SVG.
///
/// # Errors
/// Those of `out`.
///
/// # Panics
/// When `report` names tasks that are not of `graph`.
pub fn write_timeline_svg(
    graph: &TaskGraph,
    report: &RunReport,
    mut out: impl Write,
    options: &TimelineOptions,
) -> io::Result<()> {
    let picture = Picture::new(graph, report, options);
    out.write_all(picture.draw().as_bytes())?;
    out.flush()
}

struct Picture<'a> {
    graph: &'a TaskGraph,
    report: &'a RunReport,
    options: &'a TimelineOptions,
    width_px: f64,
    px_per_ns: f64,
    /// Legend entries in order of first appearance in the graph, with their colours.
    colours: BTreeMap<String, &'static str>,
    legend: Vec<String>,
}

impl<'a> Picture<'a> {
    fn new(graph: &'a TaskGraph, report: &'a RunReport, options: &'a TimelineOptions) -> Self {
        let width_px = f64::from(options.width_px.max(480));
        let mut colours = BTreeMap::new();
        let mut legend = Vec::new();
        for task in graph.tasks() {
            let key = colour_key(&task.label, options.colour_by);
            if !colours.contains_key(&key) {
                colours.insert(key.clone(), PALETTE[legend.len() % PALETTE.len()]);
                legend.push(key);
            }
        }
        Self {
            graph,
            report,
            options,
            width_px,
            px_per_ns: (width_px - LEFT_PX - RIGHT_PX) / report.makespan_ns.max(1) as f64,
            colours,
            legend,
        }
    }

    fn x(&self, ns: u64) -> f64 {
        LEFT_PX + ns as f64 * self.px_per_ns
    }

    fn colour(&self, event: &Event) -> &'static str {
        let key = colour_key(&self.graph.task(event.task).label, self.options.colour_by);
        self.colours.get(&key).copied().unwrap_or(PALETTE[0])
    }

    fn draw(&self) -> String {
        let lanes = usize::from(self.report.cpu_workers);
        let cpu_top_px = TOP_PX + NPU_PX + GROUP_GAP_PX;
        let axis_px = cpu_top_px + lanes as f64 * LANE_PX + 10.0;
        let legend_px = axis_px + 44.0;
        let mut legend = String::new();
        let legend_rows = self.legend(&mut legend, legend_px);
        let height_px = legend_px + legend_rows as f64 * LEGEND_ROW_PX + 12.0;
        let (w, h) = (self.width_px, height_px);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\">\n\
             <title>{}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"bg\" x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"10\"/>\n",
            escape(&self.options.title),
            w - 1.0,
            h - 1.0,
        );
        self.heading(&mut svg);
        self.axis(&mut svg, axis_px);
        self.track(&mut svg, "NPU", None, TOP_PX, NPU_PX);
        self.idle(&mut svg);
        for lane in 0..lanes {
            let name = if lane == 0 { "CPU" } else { "" };
            self.track(&mut svg, name, Some(lane), cpu_top_px + lane as f64 * LANE_PX, LANE_PX - 3.0);
        }
        self.boxes(&mut svg, &pack(self.report, Processor::Npu, 1), TOP_PX, NPU_PX, NPU_PX);
        self.boxes(&mut svg, &pack(self.report, Processor::Cpu, lanes), cpu_top_px, LANE_PX, LANE_PX - 3.0);
        svg.push_str(&legend);
        svg.push_str("</svg>\n");
        svg
    }

    fn heading(&self, svg: &mut String) {
        let r = self.report;
        let title = fit(&self.options.title, (self.width_px - 48.0) / 10.5);
        let _ = writeln!(
            svg,
            "<text class=\"t\" x=\"24\" y=\"36\" font-size=\"19\" font-weight=\"600\">{}</text>",
            escape(&title)
        );
        let busiest = r.busiest();
        let summary = format!(
            "policy {} · makespan {} · bubble rate {:.1} % ({busiest}) · NPU busy {} · CPU busy {} · {} tasks",
            r.policy,
            time(r.makespan_ns),
            100.0 * r.bubble_rate(),
            time(r.busy_ns(Processor::Npu)),
            time(r.busy_ns(Processor::Cpu)),
            r.events.len(),
        );
        let _ = writeln!(svg, "<text class=\"s\" x=\"24\" y=\"60\" font-size=\"13.5\">{}</text>", escape(&summary));
        if let Some(label) = simulated_label(r.clock, self.options.simulated.as_ref()) {
            let label = fit(&label, (self.width_px - 64.0) / 6.4);
            let _ = writeln!(
                svg,
                "<text class=\"sim\" x=\"24\" y=\"80\" font-size=\"12.5\" font-weight=\"600\">{}</text>",
                escape(&label)
            );
        }
    }

    /// Below the NPU's lane, how much of each stretch of time it was idle: bubbles stay visible however narrow the boxes.
    fn idle(&self, svg: &mut String) {
        const BIN_PX: f64 = 4.0;
        let mut idle_px = vec![0.0f64; ((self.width_px - LEFT_PX - RIGHT_PX) / BIN_PX).ceil() as usize];
        for gap in self.report.idle_gaps(Processor::Npu) {
            let (mut from, to) = (self.x(gap.start_ns) - LEFT_PX, self.x(gap.end_ns) - LEFT_PX);
            while from < to {
                let bin = (from / BIN_PX) as usize;
                let end = to.min((bin + 1) as f64 * BIN_PX);
                match idle_px.get_mut(bin) {
                    Some(px) if end > from => *px += end - from,
                    _ => break,
                }
                from = end;
            }
        }
        let y = TOP_PX + NPU_PX + 4.0;
        let track_px = self.width_px - LEFT_PX - RIGHT_PX;
        let _ = writeln!(
            svg,
            "<rect class=\"lane\" x=\"{LEFT_PX}\" y=\"{y}\" width=\"{track_px:.2}\" height=\"{IDLE_PX}\"/>\
             <text class=\"s\" x=\"24\" y=\"{}\" font-size=\"11\">NPU idle</text>",
            y + IDLE_PX - 1.0
        );
        for (bin, px) in idle_px.iter().enumerate() {
            let share = (px / BIN_PX).min(1.0);
            if share >= 0.02 {
                let x = LEFT_PX + bin as f64 * BIN_PX;
                let width = BIN_PX.min(track_px - bin as f64 * BIN_PX);
                let _ = writeln!(
                    svg,
                    "<rect class=\"gap\" x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{IDLE_PX}\" fill-opacity=\"{share:.2}\"/>"
                );
            }
        }
    }

    fn track(&self, svg: &mut String, name: &str, lane: Option<usize>, y: f64, height: f64) {
        let mid = y + height / 2.0 + 4.5;
        let _ = writeln!(
            svg,
            "<rect class=\"lane\" x=\"{LEFT_PX}\" y=\"{y}\" width=\"{:.2}\" height=\"{height}\"/>",
            self.width_px - LEFT_PX - RIGHT_PX
        );
        let _ =
            writeln!(svg, "<text class=\"t\" x=\"24\" y=\"{mid}\" font-size=\"14\" font-weight=\"600\">{name}</text>");
        if let Some(lane) = lane {
            let x = LEFT_PX - 10.0;
            let _ = writeln!(
                svg,
                "<text class=\"s\" x=\"{x}\" y=\"{mid}\" font-size=\"11\" text-anchor=\"end\">{lane}</text>"
            );
        }
    }

    /// Ticks at 1, 2 or 5 times a power of ten ns, about one per 110 px.
    fn axis(&self, svg: &mut String, y: f64) {
        let wanted_ns = 110.0 / self.px_per_ns;
        let mut step_ns = 1u64;
        while (step_ns as f64) < wanted_ns {
            step_ns = match step_ns / 10u64.pow(step_ns.ilog10()) {
                1 => step_ns.saturating_mul(2),
                2 => step_ns / 2 * 5,
                _ => step_ns.saturating_mul(2),
            };
            if step_ns > u64::MAX / 8 {
                break;
            }
        }
        let mut at_ns = 0u64;
        while at_ns <= self.report.makespan_ns {
            let x = self.x(at_ns);
            let _ = writeln!(
                svg,
                "<line class=\"g\" x1=\"{x:.2}\" y1=\"{}\" x2=\"{x:.2}\" y2=\"{y}\"/><text class=\"s\" x=\"{x:.2}\" y=\"{}\" \
                 font-size=\"11.5\" text-anchor=\"middle\">{}</text>",
                TOP_PX - 4.0,
                y + 16.0,
                time(at_ns)
            );
            let Some(next_ns) = at_ns.checked_add(step_ns) else { break };
            at_ns = next_ns;
        }
    }

    fn boxes(&self, svg: &mut String, slots: &[Slot<'_>], top: f64, pitch: f64, height: f64) {
        let mut i = 0;
        while i < slots.len() {
            let slot = &slots[i];
            let (start_ns, mut end_ns) = (slot.event.start_ns, slot.event.end_ns);
            let mut longest = slot.event;
            let mut merged = 1;
            // Boxes that share half a pixel become one, in the colour of the longest.
            while let Some(next) = slots.get(i + merged) {
                if (next.lane, next.lanes) != (slot.lane, slot.lanes)
                    || (next.event.end_ns - start_ns) as f64 * self.px_per_ns >= 0.5
                {
                    break;
                }
                if next.event.end_ns - next.event.start_ns > longest.end_ns - longest.start_ns {
                    longest = next.event;
                }
                end_ns = next.event.end_ns;
                merged += 1;
            }
            let colour = self.colour(longest);
            let width = (end_ns - start_ns) as f64 * self.px_per_ns;
            let x = self.x(start_ns);
            let y = top + slot.lane as f64 * pitch;
            let h = (slot.lanes - 1) as f64 * pitch + height;
            let label = self.graph.task(slot.event.task).label.to_string();
            let tip = match merged {
                1 => format!("{label}: {} at {}", time(end_ns - start_ns), time(start_ns)),
                _ => format!("{label} and {} more: {} at {}", merged - 1, time(end_ns - start_ns), time(start_ns)),
            };
            let border = if width > 5.0 { "class=\"b\" " } else { "" };
            let _ = writeln!(
                svg,
                "<rect {border}x=\"{x:.2}\" y=\"{y}\" width=\"{:.2}\" height=\"{h}\" fill=\"{colour}\"><title>{}</title></rect>",
                width.max(0.3),
                escape(&tip)
            );
            if merged == 1 && width > 6.1 * label.chars().count() as f64 + 6.0 {
                let _ = writeln!(
                    svg,
                    "<text class=\"l\" x=\"{:.2}\" y=\"{:.2}\" font-size=\"11\" text-anchor=\"middle\">{}</text>",
                    x + width / 2.0,
                    y + h / 2.0 + 4.0,
                    escape(&label)
                );
            }
            i += merged;
        }
    }

    /// Returns the number of rows it took.
    fn legend(&self, svg: &mut String, top: f64) -> usize {
        let mut entries: Vec<(&str, String)> = self.legend.iter().map(|k| (self.colours[k], k.clone())).collect();
        entries.push(("", "NPU idle".to_owned()));
        let (mut x, mut row) = (LEFT_PX, 0usize);
        for (colour, name) in entries {
            let width = 26.0 + 7.2 * name.chars().count() as f64 + 16.0;
            if x + width > self.width_px - RIGHT_PX && x > LEFT_PX {
                (x, row) = (LEFT_PX, row + 1);
            }
            let y = top + row as f64 * LEGEND_ROW_PX;
            let fill = if colour.is_empty() { "class=\"gap\"".to_owned() } else { format!("fill=\"{colour}\"") };
            let _ = writeln!(
                svg,
                "<rect {fill} x=\"{x:.2}\" y=\"{}\" width=\"14\" height=\"14\" rx=\"3\"/><text class=\"s\" x=\"{:.2}\" y=\"{}\" \
                 font-size=\"12.5\">{}</text>",
                y - 11.0,
                x + 20.0,
                y + 0.5,
                escape(&name)
            );
            x += width;
        }
        row + 1
    }
}

fn colour_key(label: &Label, by: ColourBy) -> String {
    match (by, label.chunk) {
        (ColourBy::Chunk, Some(chunk)) => format!("chunk {chunk}"),
        (ColourBy::Chunk, None) => "no chunk".to_owned(),
        (ColourBy::Stage, _) => label.stage.to_string(),
    }
}

/// Gives every event neighbouring lanes: the lowest run that is free, split when no run is long enough.
fn pack<'a>(report: &'a RunReport, processor: Processor, lanes: usize) -> Vec<Slot<'a>> {
    let mut free_at_ns = vec![0u64; lanes.max(1)];
    let mut slots = Vec::new();
    for event in report.events_on(processor) {
        let mut wanted = usize::from(event.lanes).min(free_at_ns.len());
        let mut lane = 0;
        while lane < free_at_ns.len() && wanted > 0 {
            let run = free_at_ns[lane..].iter().take_while(|&&at| at <= event.start_ns).count().min(wanted);
            if run > 0 {
                free_at_ns[lane..lane + run].fill(event.end_ns);
                slots.push(Slot { event, lane, lanes: run });
                wanted -= run;
            }
            lane += run.max(1);
        }
    }
    slots.sort_by_key(|s| (s.lane, s.event.start_ns));
    slots
}

/// `1.25 ms`, at most four digits.
fn time(ns: u64) -> String {
    let (value, unit) = match ns {
        0 => return "0".to_owned(),
        1..1_000 => (ns as f64, "ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

fn fit(text: &str, most_chars: f64) -> String {
    let most = most_chars as usize;
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Escapes what XML does not take as text, and drops what it cannot hold at all.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\u{FFFE}' | '\u{FFFF}' => escaped.push('\u{FFFD}'),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
