//! What a run did: when each task ran, where, on how many lanes; and what follows from that.

use serde::Serialize;

use crate::task::{Processor, TaskId};

/// Which clock the times of a report come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Clock {
    /// Measured on the wall clock by the driver.
    Wall,
    /// Computed by the simulator: every number that follows is `simulated` and must be labelled so.
    Virtual,
}

/// One task's execution. Times count from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Which task.
    pub task: TaskId,
    /// Where it ran.
    pub processor: Processor,
    /// Thread that led it: 0 for the NPU, `0..cpu_workers` for the CPU.
    pub worker: u16,
    /// CPU lanes it held; 1 for an NPU task.
    pub lanes: u16,
    /// Start.
    pub start_ns: u64,
    /// End.
    pub end_ns: u64,
}

/// A time in which a processor ran nothing, between two of its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IdleGap {
    /// End of the task before.
    pub start_ns: u64,
    /// Start of the task after.
    pub end_ns: u64,
    /// The task that ended the wait.
    pub next: TaskId,
}

/// A finished run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunReport {
    /// One per task, by start time, then task.
    pub events: Vec<Event>,
    /// From the start of the run to the end of its last task.
    pub makespan_ns: u64,
    /// Name of the policy that picked.
    pub policy: &'static str,
    /// CPU lanes there were.
    pub cpu_workers: u16,
    /// Where the times come from.
    pub clock: Clock,
}

impl RunReport {
    pub(crate) fn new(mut events: Vec<Event>, policy: &'static str, cpu_workers: u16, clock: Clock) -> Self {
        events.sort_by_key(|e| (e.start_ns, e.task));
        let makespan_ns = events.iter().map(|e| e.end_ns).max().unwrap_or(0);
        Self { events, makespan_ns, policy, cpu_workers, clock }
    }

    /// The events of one processor, by start time.
    pub fn events_on(&self, processor: Processor) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |e| e.processor == processor)
    }

    /// Wall time in which at least one task ran on `processor`. For the CPU overlapping tasks count once and lanes do not
    /// count: one busy lane is a busy CPU. See [`cpu_lane_ns`](Self::cpu_lane_ns) for the work done.
    pub fn busy_ns(&self, processor: Processor) -> u64 {
        let mut busy_ns = 0;
        let mut covered_to_ns = 0;
        for event in self.events_on(processor) {
            let from_ns = event.start_ns.max(covered_to_ns);
            busy_ns += event.end_ns.saturating_sub(from_ns);
            covered_to_ns = covered_to_ns.max(event.end_ns);
        }
        busy_ns
    }

    /// Lane time held by CPU tasks: Σ lanes · duration.
    pub fn cpu_lane_ns(&self) -> u64 {
        self.events_on(Processor::Cpu)
            .map(|e| (e.end_ns - e.start_ns).saturating_mul(u64::from(e.lanes)))
            .fold(0, u64::saturating_add)
    }

    /// Start of the first and end of the last task on `processor`; `None` when it ran nothing.
    pub fn span_ns(&self, processor: Processor) -> Option<(u64, u64)> {
        let first = self.events_on(processor).map(|e| e.start_ns).min()?;
        let last = self.events_on(processor).map(|e| e.end_ns).max()?;
        Some((first, last))
    }

    /// The processor with the larger [`busy_ns`](Self::busy_ns); the NPU when equal.
    pub fn busiest(&self) -> Processor {
        if self.busy_ns(Processor::Cpu) > self.busy_ns(Processor::Npu) { Processor::Cpu } else { Processor::Npu }
    }

    /// Bubble rate of `processor`: `1 − busy / (end of its last task − start of its first)`; 0 when that span is 0.
    pub fn bubble_rate_of(&self, processor: Processor) -> f64 {
        match self.span_ns(processor) {
            Some((first, last)) if last > first => 1.0 - self.busy_ns(processor) as f64 / (last - first) as f64,
            _ => 0.0,
        }
    }

    /// The run's bubble rate: [`bubble_rate_of`](Self::bubble_rate_of) the [`busiest`](Self::busiest) processor.
    pub fn bubble_rate(&self) -> f64 {
        self.bubble_rate_of(self.busiest())
    }

    /// Times in which `processor` ran nothing between its first and its last task.
    pub fn idle_gaps(&self, processor: Processor) -> Vec<IdleGap> {
        let mut gaps = Vec::new();
        let mut busy_to_ns = None;
        for event in self.events_on(processor) {
            if let Some(to_ns) = busy_to_ns
                && event.start_ns > to_ns
            {
                gaps.push(IdleGap { start_ns: to_ns, end_ns: event.start_ns, next: event.task });
            }
            busy_to_ns = Some(busy_to_ns.unwrap_or(0).max(event.end_ns));
        }
        gaps
    }

    /// Sum of the NPU's [`idle_gaps`](Self::idle_gaps).
    pub fn npu_idle_ns(&self) -> u64 {
        let gaps = self.idle_gaps(Processor::Npu);
        gaps.iter().map(|g| g.end_ns - g.start_ns).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(task: u32, processor: Processor, lanes: u16, start_ns: u64, end_ns: u64) -> Event {
        Event { task: TaskId(task), processor, worker: 0, lanes, start_ns, end_ns }
    }

    #[test]
    fn cpu_overlap_counts_once_and_gaps_are_between_tasks() {
        use Processor::{Cpu, Npu};
        let report = RunReport::new(
            vec![
                event(0, Cpu, 2, 0, 40),
                event(1, Cpu, 1, 10, 20),
                event(2, Cpu, 1, 50, 60),
                event(3, Npu, 1, 10, 40),
                event(4, Npu, 1, 60, 100),
            ],
            "test",
            4,
            Clock::Virtual,
        );
        assert_eq!(report.makespan_ns, 100);
        assert_eq!(report.busy_ns(Cpu), 50);
        assert_eq!(report.busy_ns(Npu), 70);
        assert_eq!(report.cpu_lane_ns(), 100);
        assert_eq!(report.busiest(), Npu);
        // Span 10..100, busy 70: the wait before the first task does not count.
        assert!((report.bubble_rate() - 20.0 / 90.0).abs() < 1e-12);
        assert_eq!(report.npu_idle_ns(), 20);
        let gap = IdleGap { start_ns: 40, end_ns: 50, next: TaskId(2) };
        assert_eq!(report.idle_gaps(Cpu), [gap]);
    }

    #[test]
    fn an_empty_run_has_no_bubbles() {
        let report = RunReport::new(Vec::new(), "test", 1, Clock::Wall);
        assert_eq!(report.makespan_ns, 0);
        assert_eq!(report.bubble_rate(), 0.0);
    }
}
