//! A device in a child process: the same results, and every way in which the child can fail. That it keeps the contract is
//! in `conformance`.

mod support;

use coexec_npu::{
    Dtype, NpuDevice, NpuError, QnnOptions, RemoteDevice, RemoteOptions, WeightEncoding,
    remote::{open_qnn, serve},
};
use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::Command,
    sync::mpsc,
    time::{Duration, Instant},
};
use support::{
    Case, Rng, bindings, execute,
    remote::{CompiledHere, binary, open_sim, sim_over_streams},
    run,
};

const CHILD: &str = "COEXEC_TEST_NPU_CHILD";
/// Far more than a loss takes to be noticed, far less than any deadline.
const SOON: Duration = Duration::from_secs(5);

/// What [`child_command`] starts. As a test of its own: a child whose parent is gone ends.
#[test]
fn child_process() {
    let Ok(kind) = std::env::var(CHILD) else {
        let status =
            child_command("sim").stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).status();
        assert!(status.expect("starts").success(), "it was told to end before it opened a device");
        return;
    };
    // The harness prints to standard output, which is elsewhere in this process.
    let output = File::options().write(true).open("/dev/fd/3").expect("given by the parent");
    let open = if kind == "qnn" { open_qnn } else { open_sim };
    serve(open, std::io::stdin(), output).expect("the parent's stream is sound");
}

/// This test program as a child with that device.
fn child_command(kind: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" --exact child_process 3>&1 1>&2"]);
    command.arg(std::env::current_exe().expect("a path")).env(CHILD, kind).stderr(std::process::Stdio::null());
    command
}

fn child(open: &str) -> RemoteDevice {
    RemoteDevice::start(child_command("sim"), &RemoteOptions::new(open)).expect("starts")
}

fn case(seed: u64) -> Case {
    Case::random(&mut Rng::new(seed), (4, 64, 16), Dtype::U8, WeightEncoding::PerChannelI8)
}

fn kill(device: &RemoteDevice, signal: &str) {
    let id = device.child_id().expect("a child").to_string();
    assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
}

fn is_alive(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether a process ends soon.
fn ends(id: u32) -> bool {
    let started = Instant::now();
    while is_alive(id) && started.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(5));
    }
    !is_alive(id)
}

#[test]
fn a_thousand_executes_on_two_contexts_and_four_threads() {
    let device = CompiledHere::new("sm8650", child("sm8650"));
    let id = device.there.child_id().expect("a child");
    let mut rng = Rng::new(8);
    let cases = [case(1), Case::random(&mut rng, (3, 32, 7), Dtype::U16, WeightEncoding::BlockExpansion32)];
    let contexts: Vec<_> = cases.iter().map(|c| c.prepare(&device).expect("loads")).collect();
    let wanted: Vec<_> = cases.iter().map(|c| support::encode(c.dtype, &c.run(&device.here))).collect();
    assert_eq!(wanted[0], support::encode(Dtype::U8, &cases[0].measured_rule()));
    let device = &device;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (context, case, wanted) = (&contexts[thread % 2], &cases[thread % 2], &wanted[thread % 2]);
            scope.spawn(move || {
                let bound = bindings(device, &**context, "linear", &[case.x_bytes()]).expect("allocates");
                for _ in 0..250 {
                    bound.outputs[0].write().expect("free").fill(0);
                    execute(&**context, "linear", &bound).expect("runs");
                    assert_eq!(&*bound.outputs[0].read().expect("free"), &wanted[..]);
                }
            });
        }
    });
    let here = cases[0].prepare(&device.here).expect("prepares");
    assert_eq!(contexts[0].memory_bytes(), here.memory_bytes());
    assert_eq!(contexts[0].serialize().expect("writes"), here.serialize().expect("writes"));
    assert!(is_alive(id));
    drop(contexts);
    assert_eq!(device.there.library(), None);
}

#[test]
fn the_child_ends_with_its_device() {
    let device = CompiledHere::new("sm8650", child("sm8650"));
    let id = device.there.child_id().expect("a child");
    let context = case(1).prepare(&device).expect("loads");
    drop(device);
    assert!(is_alive(id), "a context holds it");
    drop(context);
    assert!(!is_alive(id), "dropping waits for its end");
}

#[test]
fn a_killed_child_is_a_lost_device_at_once() {
    for (signal, name) in [("-KILL", "SIGKILL"), ("-ABRT", "SIGABRT")] {
        let device = CompiledHere::new("sm8650", child("sm8650 hang:1"));
        let case = case(2);
        let (a, b) = (case.prepare(&device).expect("loads"), case.prepare(&device).expect("loads"));
        run(&device, &*b, "linear", &[case.x_bytes()]).expect("runs");
        let sets: Vec<_> =
            (0..2).map(|_| bindings(&device, &*a, "linear", &[case.x_bytes()]).expect("allocates")).collect();
        let id = a.graph("linear").expect("is there");
        let tickets: Vec<_> = sets.iter().map(|set| a.submit(id, set).expect("queues")).collect();
        std::thread::sleep(Duration::from_millis(50));
        let started = Instant::now();
        kill(&device.there, signal);
        for ticket in tickets {
            let error = a.wait(ticket, None).expect_err("the child is dead");
            assert!(matches!(&error, NpuError::DeviceLost { reason, .. } if reason.contains(name)), "{error}");
        }
        for context in [&a, &b] {
            let error = execute(&**context, "linear", &sets[0]).expect_err("dead for good");
            assert!(matches!(&error, NpuError::DeviceLost { device, .. } if device == "sim:sm8650"), "{error}");
        }
        assert!(matches!(case.prepare(&device).map(|_| ()), Err(NpuError::DeviceLost { .. })));
        assert!(matches!(a.serialize(), Err(NpuError::DeviceLost { .. })));
        assert!(sets.iter().all(|s| s.outputs[0].write().is_ok()), "buffers are free again");
        drop((a, b, device));
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        let fresh = CompiledHere::new("sm8650", child("sm8650"));
        assert_eq!(case.run(&fresh), case.measured_rule(), "another device works");
    }
}

#[test]
fn a_child_that_dies_idle_is_noticed_by_the_next_submit() {
    let device = CompiledHere::new("sm8650", child("sm8650"));
    let case = case(3);
    let context = case.prepare(&device).expect("loads");
    let bound = bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
    kill(&device.there, "-KILL");
    let error = execute(&*context, "linear", &bound).expect_err("lost");
    assert!(matches!(&error, NpuError::DeviceLost { reason, .. } if reason.contains("SIGKILL")), "{error}");
}

#[test]
fn a_hung_child_is_ended_by_a_deadline_or_by_dropping_its_context() {
    let case = case(4);
    let device = CompiledHere::new("sm8650", child("sm8650 hang:0"));
    let id = device.there.child_id().expect("a child");
    let context = case.prepare(&device).expect("loads");
    let bound = bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
    let ticket = context.submit(context.graph("linear").expect("is there"), &bound).expect("queues");
    let error = context.wait(ticket, Some(Duration::from_millis(100))).expect_err("hangs");
    assert!(matches!(&error, NpuError::Timeout { graph, .. } if graph == "linear"));
    assert!(ends(id));
    let error = execute(&*context, "linear", &bound).expect_err("dead");
    assert!(matches!(error, NpuError::DeviceLost { .. }), "{error}");
    drop((context, device));

    let options = RemoteOptions { drop_patience: Duration::from_millis(200), ..RemoteOptions::new("sm8650 hang:0") };
    let device = CompiledHere::new("sm8650", RemoteDevice::start(child_command("sim"), &options).expect("starts"));
    let id = device.there.child_id().expect("a child");
    let context = case.prepare(&device).expect("loads");
    context.submit(context.graph("linear").expect("is there"), &bound).expect("queues");
    std::thread::sleep(Duration::from_millis(50));
    let started = Instant::now();
    drop((context, device));
    assert!(started.elapsed() < SOON && ends(id));
    assert!(bound.outputs[0].write().is_ok());
}

#[test]
fn a_stopped_child_does_not_stop_us() {
    let options = RemoteOptions { load_deadline: Duration::from_millis(300), ..RemoteOptions::new("sm8650") };
    let device = CompiledHere::new("sm8650", RemoteDevice::start(child_command("sim"), &options).expect("starts"));
    kill(&device.there, "-STOP");
    // Larger than any buffer between the processes.
    let large = Case::random(&mut Rng::new(5), (1, 2048, 1024), Dtype::U8, WeightEncoding::PerChannelI8);
    let error = large.prepare(&device).map(|_| ()).expect_err("nobody reads");
    assert!(matches!(&error, NpuError::DeviceLost { reason, .. } if reason.contains("300ms")), "{error}");
    let id = device.there.child_id().expect("a child");
    assert!(ends(id));
}

#[test]
fn errors_of_the_device_arrive_as_what_they_are() {
    let case = case(6);
    let device = CompiledHere::new("sm8650", sim_over_streams("sm8650 code:0 lost:2"));
    let error = device.there.prepare(&case.spec(), &case.source()).map(|_| ()).expect_err("weights do not travel");
    assert!(matches!(error, NpuError::Process { .. }) && error.to_string().contains("`load`"), "{error}");
    let context = case.prepare(&device).expect("loads");
    let bound = bindings(&device, &*context, "linear", &[case.x_bytes()]).expect("allocates");
    let error = execute(&*context, "linear", &bound).expect_err("planned");
    assert!(matches!(&error, NpuError::Code { code: 6031, operation: "execute", what, .. } if what == "linear"));
    execute(&*context, "linear", &bound).expect("the context lives");
    let error = execute(&*context, "linear", &bound).expect_err("planned");
    assert!(matches!(&error, NpuError::DeviceLost { reason, .. } if reason.contains("restarted")), "{error}");
    assert!(matches!(execute(&*context, "linear", &bound), Err(NpuError::DeviceLost { .. })), "dead for good");
    assert_eq!(case.run(&device), case.measured_rule(), "the process lives, so a fresh context works");

    let start = |open: &str| RemoteDevice::start(child_command("sim"), &RemoteOptions::new(open));
    let error = start("sm9999").expect_err("no such chip");
    assert!(matches!(&error, NpuError::Process { reason, .. } if reason.contains("sm9999")), "{error}");
    let error = RemoteDevice::start(Command::new("/nowhere/npu"), &RemoteOptions::new("")).expect_err("no such file");
    assert!(matches!(&error, NpuError::Process { process, .. } if process == "/nowhere/npu"), "{error}");
}

#[test]
fn children_that_talk_nonsense() {
    let start = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let options = RemoteOptions { start_deadline: Duration::from_millis(500), ..RemoteOptions::new("sm8650") };
        let started = Instant::now();
        let error = RemoteDevice::start(command, &options).expect_err("no server");
        assert!(started.elapsed() < SOON, "{script}: {:?}", started.elapsed());
        match error {
            NpuError::DeviceLost { reason, .. } => reason,
            other => panic!("{script}: {other}"),
        }
    };
    for (script, part) in [
        ("exit 3", "exit status: 3"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("echo Hello, I am no server; sleep 60", "not a frame"),
        ("cat", "header that cannot be read"),
        ("exec sleep 60", "500ms"),
        ("printf 'cxn1'", "exit status: 0"),
        (
            "printf 'cxn1\\377\\377\\377\\377\\000\\000\\000\\000\\000\\000\\000\\000'; exec sleep 60",
            "4294967295 bytes",
        ),
        ("printf 'cxn1\\002\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000{}'; exec sleep 60", "missing field"),
        (
            "printf 'cxn1\\041\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000{\"id\":9999,\"answer\":\"serialized\"}   '; \
             exec sleep 60",
            "9999",
        ),
    ] {
        let reason = start(script);
        assert!(reason.contains(part), "{script}: {reason}");
    }
}

/// A server behind a stream that ends, or has a wrong byte, after so many bytes of its replies.
fn bad_line(after: usize, flip: bool) -> Result<Vec<Vec<u8>>, NpuError> {
    let (ours, front) = UnixStream::pair().expect("sockets");
    let (back, theirs) = UnixStream::pair().expect("sockets");
    let clone = |s: &UnixStream| s.try_clone().expect("a handle");
    let (input, output) = (clone(&theirs), theirs);
    std::thread::spawn(move || serve(open_sim, input, output));
    let (mut requests, mut to_server) = (clone(&front), clone(&back));
    std::thread::spawn(move || {
        std::io::copy(&mut requests, &mut to_server).ok();
        to_server.shutdown(Shutdown::Both).ok();
    });
    let (mut replies, mut to_client) = (back, front);
    std::thread::spawn(move || {
        let mut bytes = [0; 1];
        for at in 0.. {
            if !matches!(replies.read(&mut bytes), Ok(1)) || at == after && !flip {
                break;
            }
            if at == after {
                bytes[0] ^= 0x15;
            }
            if to_client.write_all(&bytes).is_err() {
                break;
            }
        }
        to_client.shutdown(Shutdown::Both).ok();
        replies.shutdown(Shutdown::Both).ok();
    });
    let (input, output) = (clone(&ours), clone(&ours));
    let options = RemoteOptions {
        start_deadline: Duration::from_secs(2),
        load_deadline: Duration::from_secs(2),
        ..RemoteOptions::new("sm8650")
    };
    let end = move || drop(ours.shutdown(Shutdown::Both));
    let device = CompiledHere::new("sm8650", RemoteDevice::connect(input, output, end, &options)?);
    let case = case(7);
    let context = case.prepare(&device)?;
    let bound = bindings(&device, &*context, "linear", &[case.x_bytes()])?;
    let ticket = context.submit(context.graph("linear").expect("is there"), &bound)?;
    context.wait(ticket, Some(Duration::from_secs(2)))?;
    Ok(vec![bound.outputs[0].read()?.to_vec()])
}

#[test]
fn replies_that_break_off_or_are_damaged_never_hang() {
    let wanted = vec![support::encode(Dtype::U8, &case(7).measured_rule())];
    let whole = bad_line(usize::MAX, false).expect("an undamaged line works");
    assert_eq!(whole, wanted);
    // The greeting has some 2000 bytes, a load and an execution some 100 each.
    let places = (0..3000).step_by(83).chain([1, 3, 4, 7, 8, 15, 16, 17]);
    let (done, results) = mpsc::channel();
    let tester = std::thread::spawn(move || {
        for after in places {
            for flip in [false, true] {
                done.send((after, flip, bad_line(after, flip))).expect("somebody listens");
            }
        }
    });
    let (mut cut, mut good) = (0, 0);
    for (after, flip, result) in results.iter() {
        match result {
            Ok(_) => good += 1,
            Err(NpuError::DeviceLost { .. } | NpuError::Timeout { .. }) if !flip => cut += 1,
            // A wrong byte can be a wrong device name, a refusal by the server, …
            Err(_) if flip => {}
            Err(other) => panic!("cut after {after}: {other}"),
        }
    }
    tester.join().expect("no panic");
    assert!(cut > 20 && good > 5, "{cut} {good}");
}

#[test]
fn qualcomms_library_in_a_child_gives_the_same() {
    let Some(here) = support::qnn::device("remote", "sm8650") else { return };
    let case = case(9);
    let compiled = case.prepare(&here).expect("compiles");
    let (blob, manifest) = binary(&*compiled, here.profile()).expect("writes");
    let open = |options: &QnnOptions| {
        let json = serde_json::to_string(options).expect("JSON");
        RemoteDevice::start(child_command("qnn"), &RemoteOptions::new(json))
    };
    let there = open(&QnnOptions::chip("sm8650")).expect("opens");
    assert_eq!((there.library(), there.target()), (Some(&here.library()), Some(here.target())));
    assert_eq!(there.profile(), here.profile());
    let loaded = there.load(&blob, &manifest).expect("loads");
    assert_eq!(loaded.qnn_versions(), compiled.qnn_versions());
    assert!(loaded.memory_bytes() > 0);
    let wanted = run(&here, &*compiled, "linear", &[case.x_bytes()]).expect("runs");
    assert_eq!(wanted[0], support::encode(Dtype::U8, &case.measured_rule()));
    for _ in 0..3 {
        assert_eq!(run(&there, &*loaded, "linear", &[case.x_bytes()]).expect("runs"), wanted);
    }
    let mut other = manifest.clone();
    other.spec.graphs[0].name = "other".to_owned();
    let error = there.load(&blob, &other).map(|_| ()).expect_err("a graph of another name");
    assert!(matches!(&error, NpuError::Graph { graph, .. } if graph == "other"), "{error}");
    kill(&there, "-KILL");
    let error = run(&there, &*loaded, "linear", &[case.x_bytes()]).expect_err("lost");
    assert!(matches!(&error, NpuError::DeviceLost { reason, .. } if reason.contains("SIGKILL")), "{error}");
    let none = QnnOptions { lib_dir: Some("/nowhere".into()), ..QnnOptions::chip("sm8650") };
    let error = open(&none).expect_err("no library there");
    assert!(error.to_string().contains("/nowhere"), "{error}");
}
