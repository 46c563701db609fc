#![no_main]
//! Index and recordings of a compiled model, compiler's estimates: whatever the bytes, an answer and no panic.

use coexec_runtime::compile::{CompiledModel, EstimateReport, Recording};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(compiled) = CompiledModel::parse(data) {
        for context in &compiled.contexts {
            // Whatever was parsed can be checked.
            let _ = context.manifest.spec.validate();
        }
    }
    let _ = Recording::from_bytes(data);
    let _ = EstimateReport::parse(data).map(|report| report.linears());
});
