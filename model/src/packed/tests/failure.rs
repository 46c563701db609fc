//! Writers that are misused, and systems that refuse.

use super::*;
use crate::{
    output::{OutputError, OutputFile},
    quant::Q4sGroup,
};
use half::f16;

const Q8: WeightFormat = WeightFormat::Q8;

fn entries(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn nothing_stays_behind_a_dropped_or_failed_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.coexec");
    std::fs::write(&path, b"what was there").unwrap();
    let mut w = PackedWriter::create(&path, PackedOptions::default()).unwrap();
    assert_eq!(entries(dir.path()).len(), 2, "a temporary beside the file");
    w.begin(TensorName::Embed, Q8, 4, 4).unwrap();
    w.push_rows(&[0.5; 16]).unwrap();
    w.end().unwrap();
    // The configuration asks for more than one tensor.
    let error = w.finish(&odd_config(), &TokenizerData::default(), None).unwrap_err().to_string();
    assert!(error.contains("embed") && error.contains("[37, 20]"), "{error}");
    assert_eq!(entries(dir.path()), ["m.coexec"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"what was there");

    write_odd(&path, Q8, PackedOptions::default());
    assert_eq!(entries(dir.path()), ["m.coexec"]);
    PackedFile::open(&path).unwrap().verify_all().unwrap();
}

#[test]
fn a_replaced_file_stays_readable_for_those_who_have_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.coexec");
    write_odd(&path, WeightFormat::F32, PackedOptions::default());
    let before = PackedFile::open(&path).unwrap();
    write_odd(&path, WeightFormat::Q4, PackedOptions::default());
    before.verify_all().unwrap();
    assert_ne!(before.content_hash(), PackedFile::open(&path).unwrap().content_hash());
}

#[cfg(unix)]
#[test]
fn links_are_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real.coexec"), dir.path().join("link.coexec"));
    std::fs::write(&real, b"old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    write_odd(&link, Q8, PackedOptions::default());
    assert!(link.is_symlink());
    PackedFile::open(&real).unwrap();
}

#[test]
fn places_that_cannot_be_written_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let create = |path: &Path| PackedWriter::create(path, PackedOptions::default()).unwrap_err().to_string();
    assert!(create(dir.path()).contains("directory"));
    assert!(create(&dir.path().join("no/such/m.coexec")).contains("directories are not created"));
    assert!(create(Path::new("/")).contains('/'));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let locked = dir.path().join("locked");
        std::fs::create_dir(&locked).unwrap();
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).unwrap();
        // Root may write anywhere; then there is nothing to refuse.
        if std::fs::write(locked.join("probe"), b"").is_err() {
            assert!(create(&locked.join("m.coexec")).contains("permissions"));
        }
        // A file as a directory fails for root too.
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(create(&file.join("m.coexec")).contains("file/m.coexec"));
    }
    for options in [
        PackedOptions { zstd_level: 99, ..PackedOptions::default() },
        PackedOptions { threads: 0, ..PackedOptions::default() },
    ] {
        assert!(PackedWriter::create(&dir.path().join("m"), options).is_err());
    }
    assert!(!entries(dir.path()).iter().any(|e| e.contains("partial")), "no temporary stays");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_an_error_with_advice() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let out = OutputFile::over(full, Path::new("model.coexec"));
    let mut w = PackedWriter::new(out, PackedOptions::default()).unwrap();
    let config = odd_config();
    // Buffered bytes hide the failure for a while; it must surface by `finish` at the latest.
    let result = shapes(&config, None, WeightFormat::F32).into_iter().try_for_each(|shape| write_tensor(&mut w, shape));
    let failed = result.and_then(|()| w.finish(&config, &TokenizerData::default(), None).map(drop));
    let error = failed.unwrap_err();
    assert!(
        matches!(&error, PackedError::Output(OutputError::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull)
    );
    assert!(error.to_string().contains("free some space") && error.to_string().contains("model.coexec"), "{error}");
}

#[test]
fn misuse_is_reported_and_ends_the_writer() {
    type Call = fn(&mut PackedWriter) -> Result<(), PackedError>;
    let begin: Call = |w| w.begin(TensorName::Embed, Q8, 3, 40);
    let cases: Vec<(&str, Call)> = vec![
        ("without begin", |w| w.push_rows(&[1.0])),
        ("without begin", |w| w.push_q4_0_rows(&[])),
        ("without begin", PackedWriter::end),
        ("n = 0", |w| w.vector(TensorName::Norm, &[])),
        ("k = 0", |w| w.begin(TensorName::Embed, Q8, 1, 0)),
        ("n = 1844", |w| w.begin(TensorName::Embed, Q8, usize::MAX, 1)),
        ("do not fit a tile", |w| w.begin(TensorName::Embed, WeightFormat::F32, 1, 1 << 22)),
        ("NaN", |w| w.vector(TensorName::Norm, &[0.0, f32::NAN])),
        ("inf", |w| w.vector(TensorName::Norm, &[f32::NEG_INFINITY])),
        ("row 1, column 0", |w| w.rows_f16("layers.0.o.hot".parse().unwrap(), 2, 1, &[1.0, 70_000.0])),
        ("whole number of rows", |w| w.rows_f16("layers.0.o.hot".parse().unwrap(), 2, 2, &[1.0; 5])),
        ("after 1 of 2 rows", |w| w.rows_f16("layers.0.o.hot".parse().unwrap(), 2, 2, &[1.0; 2])),
    ];
    let open_cases: Vec<(&str, Call)> = vec![
        ("whole number of rows", |w| w.push_rows(&[1.0; 41])),
        ("4 more", |w| w.push_rows(&[1.0; 160])),
        ("row 1, column 39", |w| w.push_rows(&[[1.0; 79].as_slice(), &[f32::NAN]].concat())),
        ("after 2 of 3 rows", |w| w.push_rows(&[1.0; 80]).and_then(|()| w.end())),
        ("before the end of `embed`", |w| w.vector(TensorName::Norm, &[1.0])),
        ("q4s codes for `embed`, which is q8", |w| w.push_q4_0_rows(&[])),
        ("written twice", |w| {
            w.push_rows(&[1.0; 120]).and_then(|()| w.end()).and_then(|()| w.vector(TensorName::Embed, &[1.0]))
        }),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.coexec");
    for (opened, (word, call)) in cases.into_iter().map(|c| (false, c)).chain(open_cases.into_iter().map(|c| (true, c)))
    {
        let mut w = PackedWriter::create(&path, PackedOptions::default()).unwrap();
        if opened {
            begin(&mut w).unwrap();
        }
        let error = call(&mut w).expect_err(word).to_string();
        assert!(error.contains(word), "wanted `{word}`: {error}");
        assert!(w.vector(TensorName::Norm, &[1.0]).unwrap_err().to_string().contains("after an error"));
        assert!(w.finish(&odd_config(), &TokenizerData::default(), None).is_err());
    }
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn q4_0_rows_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let good = Q4sGroup { scale: f16::ONE, codes: vec![-8; 32] };
    let push = |row: Vec<Q4sGroup>| {
        let mut w = PackedWriter::create(&dir.path().join("m"), PackedOptions::default()).unwrap();
        w.begin(TensorName::Embed, WeightFormat::Q4s, 2, 64).unwrap();
        w.push_q4_0_rows(&[row])
    };
    push(vec![good.clone(); 2]).unwrap();
    for bad in [
        vec![good.clone()],
        vec![good.clone(); 3],
        vec![good.clone(), Q4sGroup { scale: f16::NAN, ..good.clone() }],
        vec![good.clone(), Q4sGroup { codes: vec![8; 32], ..good.clone() }],
        vec![good.clone(), Q4sGroup { codes: vec![0; 31], ..good.clone() }],
    ] {
        assert!(push(bad).unwrap_err().to_string().contains("row 0"));
    }
    // Not after float rows, and floats not after them.
    let mut w = PackedWriter::create(&dir.path().join("m"), PackedOptions::default()).unwrap();
    w.begin(TensorName::Embed, WeightFormat::Q4s, 2, 64).unwrap();
    w.push_rows(&[1.0; 64]).unwrap();
    assert!(w.push_q4_0_rows(&[vec![good.clone(); 2]]).is_err());
    let mut w = PackedWriter::create(&dir.path().join("m"), PackedOptions::default()).unwrap();
    w.begin(TensorName::Embed, WeightFormat::Q4s, 2, 64).unwrap();
    w.push_q4_0_rows(&[vec![good; 2]]).unwrap();
    assert!(w.push_rows(&[1.0; 64]).is_err());
}

#[test]
fn impossible_models_are_refused_before_they_get_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.coexec");
    let config = odd_config();
    let finish = |config: &DecoderConfig, calibration: Option<&Calibration>| {
        let mut w = PackedWriter::create(&path, PackedOptions::default()).unwrap();
        for shape in shapes(&odd_config(), None, Q8) {
            write_tensor(&mut w, shape).unwrap();
        }
        w.finish(config, &TokenizerData::default(), calibration)
    };
    finish(&config, None).unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = finish(&DecoderConfig { rope_theta: f32::NAN, ..config.clone() }, None).unwrap_err();
    assert!(error.to_string().contains("rope_theta"), "{error}");
    let error = finish(&DecoderConfig { bos_token_id: Some(TokenId(37)), ..config.clone() }, None).unwrap_err();
    assert!(error.to_string().contains("bos_token_id"), "{error}");
    let error = finish(&config, Some(&odd_calibration(&config))).unwrap_err();
    assert!(matches!(error, PackedError::MissingTensor { .. }), "hot rows: {error}");
    assert!(entries(dir.path()).is_empty());
}
