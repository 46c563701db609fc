//! The whole of src/bindings.rs against the ABI as data, where that file lies beside the project.
//!
//! The layout asserts of the bindings are checked by the compiler; so their text may stand for the layout.
#![cfg(not(feature = "sdk-headers"))]

mod support;

use serde_json::Value;
use std::{collections::HashMap, path::Path};

fn data(test: &str) -> Option<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/facts/qnn-abi.json");
    match std::fs::read_to_string(&file) {
        Ok(text) => Some(serde_json::from_str(&text).expect("JSON")),
        Err(_) => {
            support::skip(test, "no ../shared/facts/qnn-abi.json beside the project");
            None
        }
    }
}

/// Number of each layout assert, by its words, e.g. `Size of Qnn_Tensor_t`.
fn asserts() -> HashMap<String, u64> {
    let flat = include_str!("../src/bindings.rs").split_whitespace().collect::<Vec<_>>().join(" ");
    let mut all = HashMap::new();
    // ["Size of X"][::core::mem::size_of::<X>() - 8usize]; with line breaks and a comma where it is long
    for part in flat.split("[ \"").chain(flat.split("[\"")).skip(1) {
        let Some((words, rest)) = part.split_once('"') else { continue };
        if !["Size of ", "Alignment of ", "Offset of field: "].iter().any(|w| words.starts_with(w)) {
            continue;
        }
        let (_, number) = rest.split_once(" - ").expect("an assert subtracts");
        let number = number.split_once("usize").expect("a usize").0;
        all.insert(words.to_owned(), number.parse().expect("a number"));
    }
    all
}

/// Types for writing op packages and the macros about them, which the header leaves out.
fn left_out(name: &str) -> bool {
    name.contains("OpPackage") && name != "QnnBackend_RegisterOpPackageFn_t"
}

#[test]
fn layouts_are_those_of_the_data() {
    let Some(data) = data("layouts_are_those_of_the_data") else { return };
    let asserts = asserts();
    let mut compared = 0;
    for (name, layout) in data["structs"].as_object().expect("structs") {
        if left_out(name) {
            continue;
        }
        let mut check = |words: String, number: &Value| {
            assert_eq!(asserts.get(&words).copied(), number.as_u64(), "{words}");
            compared += 1;
        };
        check(format!("Size of {name}"), &layout["size"]);
        check(format!("Alignment of {name}"), &layout["align"]);
        let mut anonymous = 0;
        for field in layout["fields"].as_array().expect("fields") {
            // Anonymous unions have no assert of their offset; tests/layout.rs has those that matter.
            let Some(field_name) = field["name"].as_str() else {
                anonymous += 1;
                let union = format!("Size of {name}__bindgen_ty_{anonymous}");
                check(union, &field["size"]);
                continue;
            };
            let field_name = if field_name == "type" { "type_" } else { field_name };
            check(format!("Offset of field: {name}::{field_name}"), &field["offset"]);
        }
    }
    assert!(compared > 500, "only {compared} numbers compared");
}

#[test]
fn enum_constants_are_those_of_the_data() {
    let Some(data) = data("enum_constants_are_those_of_the_data") else { return };
    let text = include_str!("../src/bindings.rs").split_whitespace().collect::<Vec<_>>().join(" ");
    let mut compared = 0;
    for (name, of) in data["enums"].as_object().expect("enums") {
        if left_out(name) {
            continue;
        }
        for (constant, value) in of["values"].as_object().expect("values") {
            let line = format!("pub const {constant}: {name} = {name}({value});");
            let broken = format!("pub const {constant}: {name} = {name}( {value}, );");
            assert!(text.contains(&line) || text.contains(&broken), "{line}");
            compared += 1;
        }
    }
    assert!(compared > 500, "only {compared} constants compared");
}

#[test]
fn tables_have_every_entry_at_its_index() {
    let Some(data) = data("tables_have_every_entry_at_its_index") else { return };
    let asserts = asserts();
    let tables = data["tables"].as_object().expect("tables");
    let names = [
        "QnnInterface_ImplementationV2_32_t",
        "QnnSystemInterface_ImplementationV1_7_t",
        "QnnHtpDevice_PerfInfrastructure_t",
    ];
    assert_eq!(tables.len(), names.len());
    for (name, table) in names.iter().zip(tables.values()) {
        for entry in table.as_array().expect("entries") {
            let words = format!("Offset of field: {name}::{}", entry["name"].as_str().expect("a name"));
            assert_eq!(asserts.get(&words).copied(), entry["offset"].as_u64(), "{words}");
        }
    }
}

#[test]
fn every_error_code_of_the_data_has_an_explanation() {
    let Some(data) = data("every_error_code_of_the_data_has_an_explanation") else { return };
    let codes = data["error_codes"].as_object().expect("codes");
    for (code, names) in codes {
        let info = qnn_sys::describe(code.parse().expect("a number"));
        assert!(names.as_array().expect("names").iter().any(|n| n == info.name), "{code}: {}", info.name);
    }
    for (range, ends) in data["error_ranges"].as_object().expect("ranges") {
        let of = |end: &str| qnn_sys::describe(ends[end].as_u64().expect("a code")).component;
        // The general system range holds those of its parts.
        assert!(of("min") == of("max") || range == "SYSTEM", "{range}: {} and {}", of("min"), of("max"));
        assert_ne!(of("min"), "(no component of API 2.32)", "{range}");
    }
}
