use super::*;

/// A header of version 3 with these counts, then `body`.
fn file(version: u32, tensors: u64, keys: u64, body: &[u8]) -> Vec<u8> {
    [MAGIC, &version.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes(), body].concat()
}

fn string(s: &[u8]) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s].concat()
}

fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(name.as_bytes())[..], &kind.to_le_bytes(), value].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name.as_bytes());
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

fn error(bytes: &[u8]) -> String {
    parse(bytes).unwrap_err().to_string()
}

#[test]
fn values_of_every_type_are_read() {
    let mut body = Vec::new();
    body.extend(key("u8", 0, &[200]));
    body.extend(key("i8", 1, &[200]));
    body.extend(key("u16", 2, &[1, 2]));
    body.extend(key("i16", 3, &(-2i16).to_le_bytes()));
    body.extend(key("u32", 4, &7u32.to_le_bytes()));
    body.extend(key("i32", 5, &(-7i32).to_le_bytes()));
    body.extend(key("f32", 6, &0.5f32.to_le_bytes()));
    body.extend(key("bool", 7, &[1]));
    body.extend(key("str", 8, &string(b"hi\xff")));
    body.extend(key("u64", 10, &u64::MAX.to_le_bytes()));
    body.extend(key("i64", 11, &i64::MIN.to_le_bytes()));
    body.extend(key("f64", 12, &0.1f64.to_le_bytes()));
    let inner = |text: &[u8]| [&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &string(text)].concat();
    body.extend(key("arr", 9, &[&9u32.to_le_bytes()[..], &2u64.to_le_bytes(), &inner(b"a"), &inner(b"bc")].concat()));
    for version in [2, 3] {
        let bytes = file(version, 0, 13, &body);
        let parsed = parse(&bytes).unwrap();
        assert_eq!(parsed.version, version);
        let m = &parsed.metadata;
        assert_eq!((m["u8"], m["i8"], m["u16"]), (Value::Unsigned(200), Value::Signed(-56), Value::Unsigned(513)));
        assert_eq!((m["i16"], m["u32"], m["i32"]), (Value::Signed(-2), Value::Unsigned(7), Value::Signed(-7)));
        assert_eq!((m["f32"], m["bool"], m["str"]), (Value::Float(0.5), Value::Bool(true), Value::Str(b"hi\xff")));
        assert_eq!((m["u64"], m["i64"]), (Value::Unsigned(u64::MAX), Value::Signed(i64::MIN)));
        assert_eq!(m["f64"], Value::Float(0.1));
        let Value::Array(outer) = m["arr"] else { panic!("no array") };
        let texts: Vec<_> = outer
            .iter()
            .flat_map(|v| if let Value::Array(list) = v { list.iter().collect() } else { Vec::new() })
            .collect();
        assert_eq!((outer.len(), outer.is_empty()), (2, false));
        assert_eq!(texts, [Value::Str(b"a"), Value::Str(b"bc")]);
        // Every cut of the file is an error.
        for len in 0..bytes.len() {
            assert!(parse(&bytes[..len]).is_err(), "{len}");
        }
    }
}

#[test]
fn tensors_are_placed_after_the_aligned_header() {
    let mut body = key("general.alignment", 4, &64u32.to_le_bytes());
    body.extend(tensor("a", &[32, 3], 2, 0));
    body.extend(tensor("b", &[5], 0, 64));
    body.extend(tensor("c", &[5], 10, 7));
    let mut bytes = file(3, 3, 1, &body);
    let start = bytes.len().next_multiple_of(64);
    bytes.resize(start + 64 + 20, 0);
    let parsed = parse(&bytes).unwrap();
    assert_eq!(parsed.tensors[0].shape, [3, 32]);
    assert_eq!(parsed.tensors[0].bytes, start..start + 54);
    assert_eq!(parsed.tensors[1].bytes, start + 64..start + 84);
    assert_eq!((parsed.tensors[2].encoding.clone(), parsed.tensors[2].bytes.len()), (Err("Q2_K".to_owned()), 0));
    assert!(error(&bytes[..bytes.len() - 1]).contains("`b`: lies outside"));
}

#[test]
fn broken_rules_are_named() {
    assert!(error(b"GGML").contains("magic"));
    assert!(error(&file(1, 0, 0, &[])).contains("too old"));
    assert!(error(&file(4, 0, 0, &[])).contains("version 4"));
    assert!(error(&file(3u32.swap_bytes(), 0, 0, &[])).contains("big-endian"));
    assert!(error(&file(3, 0, u64::MAX, &[])).contains("metadata keys"));
    assert!(error(&file(3, u64::MAX, 0, &[])).contains("tensors"));
    let twice = [key("a", 7, &[1]), key("a", 7, &[0])].concat();
    assert!(error(&file(3, 0, 2, &twice)).contains("`a` occurs twice"));
    assert!(error(&file(3, 0, 1, &key("a", 7, &[2]))).contains("no boolean"));
    assert!(error(&file(3, 0, 1, &key("a", 13, &[2]))).contains("type 13"));
    assert!(error(&file(3, 0, 1, &key("a", 8, &u64::MAX.to_le_bytes()))).contains("past the end"));
    let array = |kind: u32, len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat();
    assert!(error(&file(3, 0, 1, &key("a", 9, &array(4, u64::MAX)))).contains("array elements"));
    assert!(error(&file(3, 0, 1, &key("a", 9, &array(99, 0)))).contains("type 99"));
    let deep = array(9, 1).repeat(50);
    assert!(error(&file(3, 0, 1, &key("a", 9, &deep))).contains("nested deeper"));
    for alignment in [0u32, 3, 1 << 30] {
        let body = key("general.alignment", 4, &alignment.to_le_bytes());
        assert!(error(&file(3, 0, 1, &body)).contains("general.alignment"), "{alignment}");
    }
    assert!(error(&file(3, 0, 1, &key("general.alignment", 7, &[1]))).contains("general.alignment"));
    let big = u64::MAX;
    for (dims, kind, offset, word) in [
        (&[][..], 0, 0, "0 dimensions"),
        (&[1; 5], 0, 0, "5 dimensions"),
        (&[0], 0, 0, "dimension is 0"),
        (&[33], 2, 0, "whole number of Q4_0 blocks"),
        (&[big / 2, big / 2], 0, 0, "blocks"),
        (&[32, big, big, big], 1, 0, "blocks"),
        (&[1], 0, 16, "not aligned"),
        (&[1], 0, big - 31, "outside"),
        (&[1 << 40], 0, 0, "outside"),
    ] {
        let body = tensor("t", dims, kind, offset);
        let message = error(&file(3, 1, 0, &[&body[..], &[0; 64]].concat()));
        assert!(message.contains("`t`") && message.contains(word), "{message}");
    }
    let twice = tensor("t", &[1], 0, 0).repeat(2);
    assert!(error(&file(3, 2, 0, &[&twice[..], &[0; 64]].concat())).contains("`t` occurs twice"));
    let key_not_text = [&string(b"\xff")[..], &[0; 5]].concat();
    assert!(error(&file(3, 0, 1, &key_not_text)).contains("UTF-8"));
}
