use crate::{HtpLibrary, LoadError, SystemLibrary, fake, fake::Provider};
use std::path::Path;

fn with(core: (u32, u32, u32), backend: (u32, u32, u32)) -> Option<Provider> {
    Some(Provider { core, backend, ..Provider::default() })
}

fn refused(providers: &[Option<Provider>]) -> String {
    let error = fake::open_providers(providers).expect_err("the gate refuses it");
    assert!(matches!(error, LoadError::Version { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn known_versions_pass() {
    let library = fake::open(fake::table()).expect("known versions");
    assert_eq!(library.provider_name(), "HTP_QTI_AISW");
    assert_eq!(library.backend_id(), 6);
    assert_eq!(library.core_api_version().to_string(), "2.40.0");
    assert_eq!(library.backend_api_version().to_string(), "5.51.0");
    assert_eq!(library.path(), Path::new("(in-process table)"));
    assert!(library.table().graphExecute.is_some());
    fake::open_providers(&[with((2, 32, 0), (5, 43, 0))]).expect("the header's version");
}

#[test]
fn other_versions_are_refused_with_what_was_found_and_what_is_accepted() {
    let newer = refused(&[with((3, 0, 0), (5, 51, 0))]);
    assert!(newer.contains("API 3.0.0") && newer.contains("core API 2.32") && newer.contains("newer"), "{newer}");
    let older = refused(&[with((2, 10, 0), (5, 51, 0))]);
    assert!(older.contains("API 2.10.0") && older.contains("use a newer library"), "{older}");
    let older = refused(&[with((2, 31, 9), (5, 42, 0))]);
    assert!(older.contains("API 2.31.9"), "{older}");
    let backend = refused(&[with((2, 40, 0), (4, 9, 1))]);
    assert!(backend.contains("backend API 4.9.1") && backend.contains("backend API 5.x"), "{backend}");
    let backend = refused(&[with((2, 40, 0), (6, 0, 0))]);
    assert!(backend.contains("newer than coexec knows"), "{backend}");
}

#[test]
fn other_backends_are_refused() {
    let gpu = Provider { name: Some(c"GPU_QTI_AISW"), backend_id: 4, ..Provider::default() };
    let message = refused(&[Some(gpu)]);
    assert!(message.contains("GPU_QTI_AISW (backend id 4") && message.contains("backend id 6 (HTP)"), "{message}");
}

#[test]
fn the_first_provider_that_fits_is_taken_and_all_are_named_when_none_does() {
    let named = Provider { name: Some(c"second"), ..Provider::default() };
    let list = [with((3, 0, 0), (5, 51, 0)), None, Some(named), Some(Provider::default())];
    assert_eq!(fake::open_providers(&list).expect("the third fits").provider_name(), "second");
    let message = refused(&[with((3, 1, 0), (5, 51, 0)), None, with((2, 2, 0), (5, 1, 0))]);
    assert!(message.contains("API 3.1.0") && message.contains("API 2.2.0"), "{message}");
}

#[test]
fn nothing_to_choose_from() {
    assert!(refused(&[]).contains("no function table"));
    assert!(refused(&[None]).contains("no function table"));
    for (handle, count) in [(1004, 1), (0, 1), (0, 0)] {
        let error = fake::open_without_list(handle, count).expect_err("no list");
        assert!(matches!(error, LoadError::Providers { code, .. } if u64::from(code) == handle), "{error:?}");
    }
}

#[test]
fn a_provider_without_a_name_is_no_reason_to_crash() {
    let library = fake::open_providers(&[Some(Provider { name: None, ..Provider::default() })]).expect("fits");
    assert_eq!(library.provider_name(), "(no name)");
}

#[test]
fn missing_entries_are_errors() {
    let mut table = fake::table();
    table.graphExecute = None;
    let library = fake::open(table).expect("known versions");
    assert!(entry!(library, graphFinalize).is_ok());
    let error = entry!(library, graphExecute).expect_err("taken out").to_string();
    assert!(error.contains("`graphExecute`") && error.contains("2.40.0"), "{error}");
}

#[test]
fn system_library_gate() {
    let library = fake::open_system((1, 15, 0), fake::system_table()).expect("known version");
    assert_eq!((library.info().name.as_str(), library.info().api.minor), ("SYSTEM_QTI_AISW", 15));
    assert!(entry!(library, systemContextCreate).is_ok());
    for version in [(2, 0, 0), (1, 6, 0), (0, 9, 0)] {
        let error = fake::open_system(version, fake::system_table()).expect_err("refused").to_string();
        assert!(error.contains("system API 1.7"), "{error}");
    }
}

#[test]
fn no_such_file() {
    for error in [
        HtpLibrary::open("/no/such/libQnnHtp.so").expect_err("not there"),
        SystemLibrary::open("/no/such/libQnnSystem.so").expect_err("not there"),
    ] {
        let message = error.to_string();
        assert!(message.contains("/no/such/libQnn") && message.contains("no such file: give the folder"), "{message}");
    }
}

#[test]
fn not_a_library() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for bytes in [&b""[..], b"this is a text", b"\x7fELF\x02\x01\x01 cut short"] {
        let file = dir.path().join("libQnnHtp.so");
        std::fs::write(&file, bytes).expect("file");
        let error = HtpLibrary::open(&file).expect_err("no library");
        assert!(matches!(error, LoadError::Open { .. }), "{error:?}");
        assert!(error.to_string().contains("must be a library for this machine"), "{error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_of_something_else() {
    // The C library is there wherever this test runs.
    let error = HtpLibrary::open("libc.so.6").expect_err("no QNN");
    assert!(matches!(error, LoadError::Symbol { symbol: "QnnInterface_getProviders", .. }), "{error:?}");
    let error = SystemLibrary::open("libc.so.6").expect_err("no QNN").to_string();
    assert!(error.contains("libc.so.6") && error.contains("it is not libQnnSystem.so"), "{error}");
}

#[test]
fn search_in_an_empty_folder_names_it() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let error = HtpLibrary::search(Some(dir.path())).expect_err("nothing there").to_string();
    assert!(error.contains(dir.path().to_str().expect("UTF-8")) && error.contains("COEXEC_QNN_LIB_DIR"), "{error}");
}
