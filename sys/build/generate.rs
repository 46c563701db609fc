//! How C headers become Rust bindings. One recipe for both users: `cargo xtask bindgen` (our header) and the build
//! script with feature `sdk-headers` (the headers of the user's SDK).

/// Bindings of `header`, with layout asserts, read by clang with `clang_args` (include folders, target).
///
/// Enums become newtypes over an integer: C may hand out a number that no constant names.
pub(crate) fn generate(header: &str, clang_args: &[&str]) -> Result<String, bindgen::BindgenError> {
    let builder = bindgen::builder()
        .header(header)
        .clang_args(clang_args)
        .allowlist_file(".*[qQ]nn.*")
        .default_enum_style(bindgen::EnumVariation::NewType { is_bitfield: false, is_global: false })
        .prepend_enum_name(false)
        .derive_default(true)
        .generate_cstr(true)
        .generate_comments(false)
        .layout_tests(true)
        .sort_semantically(false)
        .use_core()
        .ignore_functions()
        .formatter(bindgen::Formatter::Prettyplease)
        // A va_list arrives as a pointer on x86-64 SysV and on AArch64; headers spell it differently per target.
        .blocklist_type("QnnLog_Callback_t|va_list|__va_list|__va_list_tag|__builtin_va_list|__gnuc_va_list")
        .raw_line(
            "pub type QnnLog_Callback_t = ::core::option::Option<\n    unsafe extern \"C\" fn(\n        fmt: *const \
             ::core::ffi::c_char,\n        level: QnnLog_Level_t,\n        timestamp: u64,\n        args: *mut \
             ::core::ffi::c_void,\n    ),\n>;",
        );
    // Whoever includes the bindings allows what they do, once and with a reason.
    let mut text =
        builder.generate()?.to_string().replace("#[allow(clippy::unnecessary_operation, clippy::identity_op)]\n", "");
    text.push_str(&tables(&text));
    Ok(text)
}

/// Names without a version for the newest function tables that the headers have, and those versions' minor numbers.
fn tables(bindings: &str) -> String {
    let mut out = String::new();
    for (prefix, alias) in
        [("QnnInterface_ImplementationV2_", "InterfaceTable"), ("QnnSystemInterface_ImplementationV1_", "SystemTable")]
    {
        let start = format!("pub struct {prefix}");
        let minors = bindings.match_indices(&start).filter_map(|(at, found)| {
            let digits: String = bindings[at + found.len()..].chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u32>().ok()
        });
        if let Some(minor) = minors.max() {
            out += &format!("pub type {alias} = {prefix}{minor}_t;\n");
            out += &format!(
                "pub const {}_MINOR: u32 = {minor};\n",
                if alias == "InterfaceTable" { "TABLE" } else { "SYSTEM_TABLE" }
            );
        }
    }
    out
}
