//! The simulated device's own features: injected faults, memory limits, times.

mod support;

use coexec_npu::{
    Dtype, FaultPlan, NpuDevice, NpuError, PrepareFault, SimDevice, SimOptions, SimTiming, SubmitFault, TimingModel,
    WeightEncoding,
};
use std::time::{Duration, Instant};
use support::{Case, Rng, bindings, execute, run};

fn device(faults: FaultPlan) -> SimDevice {
    SimDevice::new(SimOptions { faults, ..SimOptions::named("sm8650").expect("known") })
}

fn case() -> Case {
    Case::random(&mut Rng::new(1), (4, 32, 8), Dtype::U8, WeightEncoding::PerChannelI8)
}

#[test]
fn prepare_fails_with_the_planned_code_once() {
    for code in [1002, 4000, 5000, 14001] {
        let device = device(FaultPlan { prepare: vec![PrepareFault { nth: 1, code }], submit: vec![] });
        let case = case();
        assert!(case.prepare(&device).is_ok(), "the first is not planned to fail");
        let error = case.prepare(&device).map(|_| ()).expect_err("the second is");
        assert!(matches!(&error, NpuError::Code { code: c, operation: "prepare", .. } if *c == code));
        assert!(error.is_device_failure() && error.to_string().contains(&code.to_string()), "{error}");
        assert_eq!(case.run(&device), case.measured_rule(), "a retry works");
    }
}

#[test]
fn a_restart_kills_every_context_and_a_fresh_one_works() {
    let device = device(FaultPlan { submit: vec![(2, SubmitFault::Lost)], ..FaultPlan::default() });
    let case = case();
    let (a, b) = (case.prepare(&device).expect("prepares"), case.prepare(&device).expect("prepares"));
    let wanted = support::encode(case.dtype, &case.measured_rule());
    for context in [&a, &b] {
        assert_eq!(run(&device, &**context, "linear", &[case.x_bytes()]).expect("runs")[0], wanted);
    }
    let bound = bindings(&device, &*a, "linear", &[case.x_bytes()]).expect("allocates");
    let id = a.graph("linear").expect("is there");
    let lost = a.submit(id, &bound).expect("the queue still takes it");
    let queued = bindings(&device, &*a, "linear", &[case.x_bytes()]).expect("allocates");
    let after = a.submit(id, &queued);
    assert!(matches!(a.wait(lost, None), Err(NpuError::DeviceLost { .. })));
    if let Ok(ticket) = after {
        assert!(matches!(a.wait(ticket, None), Err(NpuError::DeviceLost { .. })), "queued work is lost too");
    }
    for context in [&a, &b] {
        let error = execute(&**context, "linear", &bound).expect_err("dead for good");
        assert!(matches!(error, NpuError::DeviceLost { .. }) && error.is_device_failure());
    }
    assert!(bound.outputs[0].write().is_ok(), "buffers are free again");
    let fresh = case.prepare(&device).expect("prepares");
    execute(&*fresh, "linear", &bound).expect("a fresh context works with the same buffers");
    assert_eq!(&*bound.outputs[0].read().expect("free"), &wanted[..]);
}

#[test]
fn an_error_code_leaves_the_context_alive() {
    let device = device(FaultPlan { submit: vec![(0, SubmitFault::Code(6031))], ..FaultPlan::default() });
    let case = case();
    let context = case.prepare(&device).expect("prepares");
    let bound = bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
    let error = execute(&*context, "linear", &bound).expect_err("planned");
    assert!(matches!(&error, NpuError::Code { code: 6031, operation: "execute", what, .. } if what == "linear"));
    execute(&*context, "linear", &bound).expect("the next one runs");
}

#[test]
fn a_hang_times_out_and_the_context_can_be_dropped() {
    let device = device(FaultPlan { submit: vec![(1, SubmitFault::Hang)], ..FaultPlan::default() });
    let case = case();
    let context = case.prepare(&device).expect("prepares");
    let sets: Vec<_> =
        (0..3).map(|_| bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates")).collect();
    let id = context.graph("linear").expect("is there");
    let tickets: Vec<_> = sets.iter().map(|b| context.submit(id, b).expect("queues")).collect();
    context.wait(tickets[0], Some(Duration::from_secs(60))).expect("ends before the hang");
    let error = context.wait(tickets[1], Some(Duration::from_millis(20))).expect_err("hangs");
    assert!(matches!(&error, NpuError::Timeout { graph, .. } if graph == "linear"));
    assert!(sets[1].outputs[0].write().is_err(), "buffers of a hung graph stay busy");
    assert!(matches!(context.wait(tickets[2], None), Err(NpuError::DeviceLost { .. })), "behind the hang");
    assert!(matches!(context.submit(id, &sets[0]), Err(NpuError::DeviceLost { .. })));
    let fresh = case.prepare(&device).expect("another context of the same device works");
    assert!(execute(&*fresh, "linear", &sets[0]).is_ok());
    drop(context);
    assert!(sets.iter().all(|s| s.outputs[0].write().is_ok()), "dropping the context frees them");
}

#[test]
fn run_is_a_submit_and_a_wait() {
    let case = case();
    let wanted = support::encode(case.dtype, &case.measured_rule());
    let faults = vec![(2, SubmitFault::Code(6031)), (4, SubmitFault::Lost)];
    let device = device(FaultPlan { submit: faults, ..FaultPlan::default() });
    let context = case.prepare(&device).expect("prepares");
    let sets = [(); 2].map(|()| bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates"));
    let id = context.graph("linear").expect("is there");
    let forever = Some(Duration::from_secs(60));
    // Behind one that is in flight, and with nothing in flight.
    let first = context.submit(id, &sets[0]).expect("queues");
    context.run(id, &sets[1], forever).expect("runs");
    context.wait(first, forever).expect("its result is kept");
    for set in &sets {
        assert_eq!(&*set.outputs[0].read().expect("free"), &wanted[..]);
    }
    assert!(matches!(context.run(id, &sets[0], forever), Err(NpuError::Code { code: 6031, .. })));
    context.run(id, &sets[0], None).expect("the next one runs");
    let busy = sets[0].inputs[0].write().expect("free");
    assert!(matches!(context.run(id, &sets[0], forever), Err(NpuError::BufferBusy { .. })), "was never submitted");
    drop(busy);
    assert!(matches!(context.run(id, &sets[0], forever), Err(NpuError::DeviceLost { .. })));
    assert!(matches!(context.submit(id, &sets[0]), Err(NpuError::DeviceLost { .. })), "dead for good");
}

#[test]
fn a_run_that_is_late_or_hangs_kills_its_context() {
    let case = case();
    for (fault, deadline) in [(SubmitFault::Hang, Duration::from_millis(20)), (SubmitFault::Code(6031), Duration::ZERO)]
    {
        let device = device(FaultPlan { submit: vec![(1, fault)], ..FaultPlan::default() });
        let context = case.prepare(&device).expect("prepares");
        let set = bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
        let id = context.graph("linear").expect("is there");
        context.run(id, &set, Some(Duration::from_secs(60))).expect("in time");
        assert!(
            matches!(context.run(id, &set, Some(deadline)), Err(NpuError::Timeout { graph, .. }) if graph == "linear")
        );
        assert!(matches!(context.run(id, &set, None), Err(NpuError::DeviceLost { .. })));
    }
}

#[test]
fn waiters_on_other_threads_are_woken_by_a_loss() {
    let device = device(FaultPlan { submit: vec![(0, SubmitFault::Hang)], ..FaultPlan::default() });
    let case = case();
    let context = case.prepare(&device).expect("prepares");
    let sets: Vec<_> =
        (0..2).map(|_| bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates")).collect();
    let id = context.graph("linear").expect("is there");
    let tickets: Vec<_> = sets.iter().map(|b| context.submit(id, b).expect("queues")).collect();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| context.wait(tickets[1], None));
        assert!(matches!(context.wait(tickets[0], Some(Duration::from_millis(10))), Err(NpuError::Timeout { .. })));
        assert!(matches!(waiter.join().expect("no panic"), Err(NpuError::DeviceLost { .. })));
    });
}

#[test]
fn memory_is_limited_per_context_and_per_device() {
    let mut options = SimOptions::named("sm8650").expect("known");
    let case = case();
    let needed = case.spec().device_bytes(options.profile.graph_overhead_bytes);
    options.profile.max_context_bytes = needed;
    options.profile.max_device_bytes = 2 * needed;
    let device = SimDevice::new(options.clone());
    let first = case.prepare(&device).expect("fits");
    let _second = case.prepare(&device).expect("fits");
    let error = case.prepare(&device).map(|_| ()).expect_err("the device is full");
    assert!(
        matches!(&error, NpuError::ContextTooLarge { needed_bytes, limit_bytes: 0, .. } if *needed_bytes == needed)
    );
    drop(first);
    case.prepare(&device).expect("memory of a dropped context is free again");
    options.profile.max_context_bytes = needed - 1;
    let small = SimDevice::new(options);
    assert!(matches!(case.prepare(&small).map(|_| ()), Err(NpuError::ContextTooLarge { .. })));
}

#[test]
fn times_are_reported_only_when_asked() {
    let case = case();
    for (timing, model) in
        [(SimTiming::Off, None), (SimTiming::Report, Some(350)), (SimTiming::Pace, Some(350)), (SimTiming::Pace, None)]
    {
        let mut options = SimOptions { timing, ..SimOptions::named("sm8650").expect("known") };
        if timing != SimTiming::Off && model.is_none() {
            options.profile.timing = None;
        }
        let device = SimDevice::new(options);
        assert_eq!(device.profile().timed, model.is_some());
        let context = case.prepare(&device).expect("prepares");
        let bound = bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
        let started = Instant::now();
        let done = execute(&*context, "linear", &bound).expect("runs");
        // 350 us fixed and 0.08 us per thousand weights (Table 3's line).
        assert_eq!(done.device_ns.map(|ns| ns / 1000), model);
        if let (SimTiming::Pace, Some(us)) = (timing, model) {
            assert!(started.elapsed() >= Duration::from_micros(us), "a paced graph takes its modelled time");
        }
    }
    assert!(TimingModel::ALL.iter().all(|m| TimingModel::named(m.name()) == Some(*m) && !m.source().is_empty()));
}
