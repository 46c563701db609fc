//! Nothing to build, unless feature `sdk-headers` asks for bindings of the SDK that QNN_SDK_ROOT names.

#[cfg(feature = "sdk-headers")]
mod generate;

#[cfg(not(feature = "sdk-headers"))]
fn main() {
    println!("cargo::rerun-if-changed=build/main.rs");
}

#[cfg(feature = "sdk-headers")]
fn main() {
    use std::{env, fs, path::PathBuf};
    const VARIABLES: [&str; 2] = ["QNN_SDK_ROOT", "QAIRT_SDK_ROOT"];
    for variable in VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let Some(root) = VARIABLES.iter().find_map(env::var_os) else {
        println!(
            "cargo::error=feature `sdk-headers` of qnn-sys makes bindings from your own SDK: set QNN_SDK_ROOT (or \
             QAIRT_SDK_ROOT) to its folder, or build without the feature, which needs no SDK"
        );
        return;
    };
    let include = PathBuf::from(root).join("include/QNN");
    // What a newer or older SDK lacks is left out; the crate itself needs the first three.
    let wanted = [
        "QnnInterface.h",
        "System/QnnSystemInterface.h",
        "HTP/QnnHtpDevice.h",
        "HTP/QnnHtpGraph.h",
        "HTP/QnnHtpContext.h",
        "HTP/QnnHtpMem.h",
        "HTP/QnnHtpPerfInfrastructure.h",
        "HTP/QnnHtpProfile.h",
        "HTP/QnnHtpCommon.h",
        "HTP/QnnHtpSystemContext.h",
    ];
    for name in &wanted[..3] {
        if !include.join(name).is_file() {
            println!(
                "cargo::error={} is missing; QNN_SDK_ROOT must be the folder that holds include/QNN",
                include.join(name).display()
            );
            return;
        }
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let wrapper = out.join("wrapper.h");
    let lines: String =
        wanted.iter().filter(|n| include.join(n).is_file()).map(|n| format!("#include \"{n}\"\n")).collect();
    fs::write(&wrapper, lines).expect("OUT_DIR can be written");
    println!("cargo::rerun-if-changed={}", include.display());
    let paths = [
        include.to_string_lossy(),
        include.join("HTP").to_string_lossy().into_owned().into(),
        include.join("System").to_string_lossy().into_owned().into(),
    ];
    let args: Vec<String> = paths
        .iter()
        .map(|p| format!("-I{p}"))
        .chain([format!("--target={}", env::var("TARGET").expect("cargo sets TARGET"))])
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match generate::generate(&wrapper.to_string_lossy(), &args) {
        Ok(text) => fs::write(out.join("bindings.rs"), text).expect("OUT_DIR can be written"),
        Err(error) => {
            println!("cargo::error=bindgen on {}: {}", include.display(), error.to_string().replace('\n', " "))
        }
    }
}
