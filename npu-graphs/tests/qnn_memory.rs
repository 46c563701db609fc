//! A thousand executions of Qualcomm's library do not grow the process. Alone in its process: resident memory is of all.

mod support;

use coexec_npu::{Dtype, QnnOptions, WeightEncoding};
use support::{Case, Rng, bindings, execute, qnn, run as run_once};

#[test]
fn executions_and_reloads_keep_memory_flat() {
    let Some(device) = qnn::device("executions_and_reloads_keep_memory_flat", "sm8650") else { return };
    let case = Case::random(&mut Rng::new(1), (32, 64, 32), Dtype::U8, WeightEncoding::PerChannelI8);
    let wanted = support::encode(case.dtype, &case.measured_rule());
    let context = case.prepare(&device).expect("prepares");
    let bound: Vec<_> =
        (0..3).map(|_| bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates")).collect();
    let run = |times: usize| {
        std::thread::scope(|scope| {
            for bound in &bound {
                let (context, wanted) = (&context, &wanted);
                scope.spawn(move || {
                    for _ in 0..times {
                        execute(&**context, "linear", bound).expect("runs");
                        assert_eq!(&*bound.outputs[0].read().expect("free"), &wanted[..]);
                    }
                });
            }
        });
    };
    run(50);
    let Some(before) = qnn::resident_bytes() else {
        return qnn::skip("executions_and_reloads_keep_memory_flat", "this system does not tell resident memory");
    };
    run(334);
    let after = qnn::resident_bytes().expect("told before");
    assert!(after < before + (4 << 20), "1000 executions: {before} bytes resident before, {after} after");

    // Whole lives of contexts too, after the first few.
    let cycle = || {
        let context = case.prepare(&device).expect("prepares");
        execute(&*context, "linear", &bound[0]).expect("runs");
    };
    (0..5).for_each(|_| cycle());
    let before = qnn::resident_bytes().expect("told before");
    (0..20).for_each(|_| cycle());
    let after = qnn::resident_bytes().expect("told before");
    assert!(after < before + (8 << 20), "20 contexts: {before} bytes resident before, {after} after");
    // Less VTCM than the default, which the emulation takes only while nothing else executes.
    let options = QnnOptions { vtcm_mb: Some(2), ..QnnOptions::chip("sm8650") };
    let small = qnn::device_with("executions_and_reloads_keep_memory_flat", options).expect("the library is here");
    let tight = case.prepare(&small).expect("prepares");
    let y = run_once(&small, &*tight, "linear", &[case.x_bytes()]).expect("runs");
    assert_eq!(y[0], wanted);
    drop(device);
    assert_eq!(context.graph("linear").map(|id| id.0), Some(0), "a context outlives its device's handle");
}
