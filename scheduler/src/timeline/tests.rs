use super::*;
use crate::report::Clock;
use crate::task::TaskId;

#[test]
fn times_have_units() {
    for (ns, text) in [
        (0, "0"),
        (7, "7 ns"),
        (1_500, "1.5 µs"),
        (12_340_000, "12.3 ms"),
        (100_000_000, "100 ms"),
        (2_000_000_000, "2 s"),
    ] {
        assert_eq!(time(ns), text);
    }
}

#[test]
fn text_is_escaped() {
    assert_eq!(escape("a<b & \"c\"\u{1}"), "a&lt;b &amp; &quot;c&quot; ");
}

#[test]
fn packing_never_overlaps_and_uses_all_granted_lanes() {
    let event = |task, lanes, start_ns, end_ns| Event {
        task: TaskId(task),
        processor: Processor::Cpu,
        worker: 0,
        lanes,
        start_ns,
        end_ns,
    };
    // The last one has to be split round the second.
    let events = vec![event(0, 1, 0, 10), event(1, 1, 0, 30), event(2, 1, 0, 10), event(3, 2, 10, 20)];
    let report = RunReport::new(events, "test", 3, Clock::Virtual);
    let slots = pack(&report, Processor::Cpu, 3);
    assert_eq!(slots.iter().map(|s| s.lanes).sum::<usize>(), 5);
    for (i, a) in slots.iter().enumerate() {
        for b in &slots[i + 1..] {
            let lanes_meet = a.lane < b.lane + b.lanes && b.lane < a.lane + a.lanes;
            let times_meet = a.event.start_ns < b.event.end_ns && b.event.start_ns < a.event.end_ns;
            assert!(!(lanes_meet && times_meet));
        }
    }
}
