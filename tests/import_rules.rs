//! Who may import whom: the crates of the workspace against the table of ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};

/// Every workspace crate and the workspace crates that it may name; what it may name transitively is in its own row.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("coexec-model", &[]),
    ("coexec-scheduler", &[]),
    ("qnn-sys", &[]),
    ("coexec-cpu", &["coexec-model"]),
    ("coexec-npu", &["coexec-cpu", "coexec-model", "qnn-sys"]),
    ("coexec-runtime", &["coexec-cpu", "coexec-model", "coexec-npu", "coexec-scheduler"]),
    ("coexec", &["coexec-cpu", "coexec-model", "coexec-npu", "coexec-runtime", "coexec-scheduler"]),
    ("coexec-capi", &["coexec-runtime"]),
    ("xtask", &[]),
];

#[test]
fn crates_import_downwards_only() {
    let out = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).expect("json");
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().expect("name")).collect();
    let rules: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    assert_eq!(names, rules.keys().copied().collect(), "every crate has a row, every row a crate");
    for package in packages {
        let name = package["name"].as_str().expect("name");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("name");
            if names.contains(to) {
                assert!(rules[name].contains(&to), "{name} imports {to}: not downwards (see ARCHITECTURE.md)");
            }
        }
    }
}
