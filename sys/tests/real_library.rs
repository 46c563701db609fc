//! Qualcomm's x86-64 library 2.51, where COEXEC_QNN_LIB_DIR names its folder (`cargo xtask qnn` gets it).

mod support;

use qnn_sys::{
    HtpLibrary, QnnDevice_Config_t, QnnDevice_ConfigOption_t, QnnLog_Level_t, SocOption, SystemLibrary, describe,
    entry, find, format_log,
};
use std::{
    ffi::{c_char, c_void},
    io::Write as _,
    path::PathBuf,
    process::Command,
    ptr::null_mut,
    sync::Mutex,
};

fn folder(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(find::LIB_DIR_VARIABLE).map(PathBuf::from);
    if folder.is_none() {
        support::skip(test, "COEXEC_QNN_LIB_DIR names no folder of Qualcomm's libraries");
    }
    folder
}

#[test]
fn versions() {
    let Some(folder) = folder("versions") else { return };
    let htp = HtpLibrary::open(folder.join(HtpLibrary::FILE_NAME)).expect("libQnnHtp.so");
    assert_eq!((htp.provider_name(), htp.backend_id()), ("HTP_QTI_AISW", 6));
    assert_eq!(
        (htp.core_api_version().to_string(), htp.backend_api_version().to_string()),
        ("2.40.0".into(), "5.51.0".into())
    );
    assert!(entry!(htp, contextFreeBinarySectionUpdate).is_ok(), "the last entry of our table");
    let system = SystemLibrary::search(None).expect("libQnnSystem.so");
    assert_eq!(system.info().api.to_string(), "1.15.0");
    assert!(entry!(system, systemContextGetMetaData).is_ok());
    // A second time: the same library again.
    assert_eq!(HtpLibrary::search(None).expect("again").info(), htp.info());
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

unsafe extern "C" fn keep_line(format: *const c_char, _level: QnnLog_Level_t, _time: u64, args: *mut c_void) {
    // SAFETY: the arguments of this very call, read once.
    let line = unsafe { format_log(format, args) };
    LINES.lock().expect("no panic holds it").push(line);
}

/// Log lines come formatted, the chip is taken from the option, and a wrong chip is a known code.
#[test]
fn log_and_device() {
    let Some(folder) = folder("log_and_device") else { return };
    let htp = HtpLibrary::open(folder.join(HtpLibrary::FILE_NAME)).expect("libQnnHtp.so");
    let (mut log, mut backend, mut device) = (null_mut(), null_mut(), null_mut());
    let option = |soc| {
        let soc = Box::leak(Box::new(SocOption::new(soc)));
        let mut config = QnnDevice_Config_t {
            option: QnnDevice_ConfigOption_t::QNN_DEVICE_CONFIG_OPTION_CUSTOM,
            ..Default::default()
        };
        config.__bindgen_anon_1.customConfig = soc.as_custom_config();
        config
    };
    let (right, wrong) = (option(57), option(9999));
    // SAFETY: every pointer is to a local that lives through the calls; handles are used in the order of their making.
    unsafe {
        let level = QnnLog_Level_t::QNN_LOG_LEVEL_DEBUG;
        assert_eq!(entry!(htp, logCreate).expect("entry")(Some(keep_line), level, &raw mut log), 0);
        assert_eq!(entry!(htp, backendCreate).expect("entry")(log, null_mut(), &raw mut backend), 0);
        let mut configs = [&raw const wrong, std::ptr::null()];
        let refused = entry!(htp, deviceCreate).expect("entry")(log, configs.as_mut_ptr(), &raw mut device);
        assert_eq!(describe(refused).name, "QNN_DEVICE_ERROR_INVALID_CONFIG");
        configs[0] = &raw const right;
        assert_eq!(entry!(htp, deviceCreate).expect("entry")(log, configs.as_mut_ptr(), &raw mut device), 0);
        assert_eq!(entry!(htp, deviceFree).expect("entry")(device), 0);
        assert_eq!(entry!(htp, backendFree).expect("entry")(backend), 0);
        assert_eq!(entry!(htp, logFree).expect("entry")(log), 0);
    }
    let lines = LINES.lock().expect("no panic holds it");
    assert!(lines.iter().any(|l| l.contains("57")), "no line names chip 57: {lines:#?}");
    assert!(lines.iter().all(|l| !l.contains("%s") && !l.contains("%d")), "unformatted: {lines:#?}");
}

/// The child of `standard_output_stays_clean`; does nothing when it is run with the other tests.
#[test]
fn child_that_opens_the_library() {
    if std::env::var_os("QNN_SYS_CHILD").is_none() {
        return;
    }
    println!("<<<");
    HtpLibrary::search(None).expect("libQnnHtp.so");
    println!(">>>");
    std::io::stdout().flush().expect("a pipe");
    // Runs C's exit, which writes out what C's streams still hold.
    std::process::exit(0);
}

#[test]
fn standard_output_stays_clean() {
    if folder("standard_output_stays_clean").is_none() {
        return;
    }
    let child = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "child_that_opens_the_library", "--nocapture"])
        .env("QNN_SYS_CHILD", "1")
        .output()
        .expect("the test runs itself");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    let text = String::from_utf8_lossy(&child.stdout);
    let (_, after) = text.split_once("<<<").expect("the first mark");
    assert_eq!(after, "\n>>>\n");
}
