//! Files made to end the process that reads them: by a stack that overflows, by memory, by work without end. Each is given to
//! the command as a user would, and must end in an error of one line, by itself, within 500 MB.

mod support;

use coexec::model::packed;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::{fs::symlink, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use support::root;

/// Most memory that a command may take for any of them.
const MAX_RSS_KIB: u64 = 500_000;
/// What the system lets it reserve, so that a bomb that goes off takes the command with it and not the machine.
const MAX_ADDRESSES_KIB: u64 = 4_000_000;
/// When a command counts as hanging. No test asserts how long it took.
const KILL_AFTER: Duration = Duration::from_secs(300);

/// What makes the file, in a directory of its own.
type Make = Box<dyn Fn(&Path)>;

struct Bomb {
    name: String,
    make: Make,
    /// The command, with `@` for the directory.
    args: &'static [&'static str],
    /// One of these must be in the error.
    words: &'static [&'static str],
}

struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
    stderr: String,
    peak_kib: u64,
    took: Duration,
}

/// Runs the command and watches its memory; kills it when it hangs.
fn run(args: &[&str], dir: &Path) -> Ended {
    let args: Vec<String> = args.iter().map(|arg| arg.replace('@', dir.to_str().expect("UTF-8"))).collect();
    let out = fs::File::create(dir.join("stderr")).expect("a file");
    let started = Instant::now();
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -c 0; ulimit -v {MAX_ADDRESSES_KIB}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_coexec"))
        .args(&args)
        .env_remove("COEXEC_LOG")
        // An arena for each thread would count as much as a bomb.
        .env("MALLOC_ARENA_MAX", "2")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(out)
        .spawn()
        .expect("sh starts");
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak_kib = 0;
    let code = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak_kib = peak.and_then(|p| p.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0).max(peak_kib);
        if let Some(code) = child.try_wait().expect("waits") {
            break code;
        }
        if started.elapsed() > KILL_AFTER {
            child.kill().expect("kills");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let stderr = String::from_utf8_lossy(&fs::read(dir.join("stderr")).expect("its output")).into_owned();
    Ended { code: code.code(), signal: code.signal(), stderr, peak_kib, took: started.elapsed() }
}

/// Every bomb of a list; what went wrong with which.
fn defuse(bombs: Vec<Bomb>) {
    let mut wrong = Vec::new();
    for Bomb { name, make, args, words } in bombs {
        let dir = tempfile::tempdir().expect("a directory");
        make(dir.path());
        let ended = run(args, dir.path());
        let stderr = ended.stderr.trim_end();
        // For whoever wants the numbers: `--nocapture`.
        eprintln!(
            "{:6} ms {:4} MB  {name}: {}",
            ended.took.as_millis(),
            ended.peak_kib / 1000,
            stderr.lines().last().unwrap_or("")
        );
        let fits = stderr.starts_with("error: ") && stderr.lines().count() == 1 && stderr.len() < 2000;
        let said = words.iter().any(|word| stderr.contains(word));
        if ended.code != Some(1) || ended.signal.is_some() || !fits || !said || ended.peak_kib > MAX_RSS_KIB {
            let shown: String = stderr.chars().take(400).collect();
            wrong.push(format!("{name}: {:?}, signal {:?}, {} KiB: {shown}", ended.code, ended.signal, ended.peak_kib));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A model of a few layers in the parts that [`packed::fuzz_file`] takes.
struct Parts {
    index: Value,
    table: Vec<u8>,
    tiles: Vec<u8>,
}

/// Size of a tile's record, and where in it is what.
const RECORD_BYTES: usize = 32;

impl Parts {
    fn new() -> Self {
        let seed = fs::read(root().join("fuzz/seeds/packed_model/llama-q8.seed")).expect("the fuzzer's seed");
        let length = |at: usize| u32::from_le_bytes(seed[at..at + 4].try_into().expect("four bytes")) as usize;
        let (json, rest) = seed[8..].split_at(length(0));
        let (table, tiles) = rest.split_at(length(4));
        Self { index: serde_json::from_slice(json).expect("JSON"), table: table.to_vec(), tiles: tiles.to_vec() }
    }

    fn write(&self, dir: &Path) {
        let json = serde_json::to_vec(&self.index).expect("JSON");
        self.write_with(dir, &json);
    }

    fn write_with(&self, dir: &Path, json: &[u8]) {
        let lengths = [json.len() as u32, self.table.len() as u32].map(u32::to_le_bytes).concat();
        let bytes = packed::fuzz_file(&[&lengths[..], json, &self.table, &self.tiles].concat());
        fs::write(dir.join("m.coexec"), &*bytes).expect("writes");
    }

    fn tokenizer(&self) -> Value {
        serde_json::from_str(self.index["tokenizer"]["tokenizer_json"].as_str().expect("a text")).expect("JSON")
    }
}

const RUN: &[&str] = &["run", "a b", "-m", "@/m.coexec", "-n", "2", "--npu", "none", "-t", "1"];
const CHAT: &[&str] = &["run", "a b", "--chat", "-m", "@/m.coexec", "-n", "2", "--npu", "none", "-t", "1"];
const INSPECT: &[&str] = &["inspect", "@/m.coexec", "--verify"];
const IMPORT: &[&str] = &["import", "@/hf", "@/out.coexec", "-t", "1"];
const IMPORT_GGUF: &[&str] = &["import", "@/m.gguf", "@/out.coexec", "-t", "1"];

fn packed(
    name: &str,
    args: &'static [&'static str],
    words: &'static [&'static str],
    change: impl Fn(&mut Parts) + 'static,
) -> Bomb {
    let make: Make = Box::new(move |dir| {
        let mut parts = Parts::new();
        change(&mut parts);
        parts.write(dir);
    });
    Bomb { name: name.to_owned(), make, args, words }
}

/// With this in the place of the chat template, when it is used.
fn template(name: &str, words: &'static [&'static str], source: String) -> Bomb {
    packed(&format!("template: {name}"), CHAT, words, move |parts| {
        parts.index["tokenizer"]["chat_templates"] = json!({ "default": source });
    })
}

/// With a changed `tokenizer.json`.
fn tokenizer(name: &str, words: &'static [&'static str], change: impl Fn(&mut Value) + 'static) -> Bomb {
    packed(&format!("tokenizer: {name}"), RUN, words, move |parts| {
        let mut json = parts.tokenizer();
        change(&mut json);
        parts.index["tokenizer"]["tokenizer_json"] = json.to_string().into();
    })
}

/// With a changed Hugging Face directory.
fn import(name: &str, words: &'static [&'static str], change: impl Fn(&Path) + 'static) -> Bomb {
    let make: Make = Box::new(move |dir| {
        let hf = dir.join("hf");
        fs::create_dir(&hf).expect("a directory");
        for file in
            ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
        {
            fs::copy(root().join("tests/data/tiny/llama").join(file), hf.join(file)).expect("copies");
        }
        change(&hf);
    });
    Bomb { name: format!("import: {name}"), make, args: IMPORT, words }
}

/// A field of one of the directory's JSON files.
fn field(name: &str, words: &'static [&'static str], file: &'static str, key: &'static str, value: Value) -> Bomb {
    import(name, words, move |hf| {
        let mut json: Value = serde_json::from_slice(&fs::read(hf.join(file)).expect("there")).expect("JSON");
        json[key] = value.clone();
        fs::write(hf.join(file), json.to_string()).expect("writes");
    })
}

fn gguf(name: &str, words: &'static [&'static str], bytes: impl Fn() -> Vec<u8> + 'static) -> Bomb {
    let make: Make = Box::new(move |dir| fs::write(dir.join("m.gguf"), bytes()).expect("writes"));
    Bomb { name: format!("gguf: {name}"), make, args: IMPORT_GGUF, words }
}

/// A GGUF file: metadata that are given as bytes, and tensors.
fn gguf_bytes(pairs: &[(&str, u32, Vec<u8>)], tensors: &[(&str, Vec<u64>, u32, u64)]) -> Vec<u8> {
    let text = |t: &str| [&(t.len() as u64).to_le_bytes()[..], t.as_bytes()].concat();
    let mut out =
        [&b"GGUF\x03\0\0\0"[..], &(tensors.len() as u64).to_le_bytes(), &(pairs.len() as u64).to_le_bytes()].concat();
    for (key, kind, value) in pairs {
        out.extend([text(key), kind.to_le_bytes().to_vec(), value.clone()].concat());
    }
    for (name, dims, kind, offset) in tensors {
        out.extend(text(name));
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out.resize(out.len().div_ceil(32) * 32 + 64, 0);
    out
}

const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

#[test]
fn templates() {
    let deep: &[&str] = &["nested too deeply", "words and signs", "recursion"];
    let chain =
        |begin: &str, link: &str, end: &str| format!("{{{{ {begin}{}{end} }}}}", link.repeat(20_000 / link.len()));
    let long = |begin: &str, link: &str, end: &str| format!("{{{{ {begin}{}{end} }}}}", link.repeat(5000));
    let mut bombs = vec![
        template("not not …", deep, chain("", "not ", "a")),
        template("- - …", deep, chain("", "-", "1")),
        template("1+1 …", deep, chain("1", "+1", "")),
        template("a~a …", deep, chain("a", "~a", "")),
        template("a and a …", deep, long("a", " and a", "")),
        template("a if b else …", deep, long("", "a if b else ", "c")),
        template("x()() …", deep, chain("x", "()", "")),
        template("a[0][0] …", deep, chain("a", "[0]", "")),
        template("a.b.b …", deep, chain("a", ".b", "")),
        template("a|a|a …", deep, chain("a", "|a", "")),
        template("((( …", deep, chain("", "(", "")),
        template("[[[ …", deep, chain("", "[", "")),
        template("{1:{1: …", deep, chain("", "{1:", "")),
        template("1 < (1 < ( … twice over", deep, format!("{{{{ {}1{} }}}}", "1 < (".repeat(19), ") < 1".repeat(19))),
        template("{% if %}{% if %} …", deep, "{% if a %}".repeat(2000)),
        template("{% elif %} …", &["branches by elif"], format!("{{% if a %}}{}", "{% elif a %}".repeat(5000))),
        template("larger than any", &["more than the"], " ".repeat(300_000)),
    ];
    // The longest translation: each level of a comparison writes its operand twice.
    bombs.retain(|bomb| !bomb.name.contains("twice over"));
    let steps: &[&str] =
        &["steps", "too much text", "too large", "recursion", "too deeply", "cannot keep", "Range too big"];
    for (name, source) in [
        ("a macro of itself", "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}"),
        ("range(10**9)", "{% for i in range(10**9) %}{% endfor %}"),
        (
            "loops for days",
            "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        ),
        ("a terabyte", "{{ 'a' * 10**12 }}"),
        (
            "doubled text",
            "{% set n = namespace(a='ab') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
        ),
        ("a characters' list", "{{ ('a' * 10000 * 3000)|first }}"),
        ("unique of many", "{{ range(100000)|unique|list|length }}"),
        (
            "the first of many",
            "{% set r = range(100000)|list %}{% for i in r %}{% for j in range(50) %}{% set x = r|first %}{% endfor %}{% endfor %}",
        ),
        (
            "batches of batches",
            "{% set n = namespace(a=[1]) %}{% for i in range(100000) %}{% set n.a = n.a|batch(1)|list %}{% endfor %}",
        ),
        (
            "namespaces of namespaces",
            "{% set n = namespace(a=1) %}{% for i in range(100000) %}{% set m = namespace() %}{% set m.a = n.a %}{% set n.a = m %}{% endfor %}",
        ),
        (
            "macros of macros",
            "{% set n = namespace() %}{% for i in range(100000) %}{% set p = n.m %}{% macro f() %}{{ p }}{% endmacro %}{% set n.m = f %}{% endfor %}",
        ),
        (
            "endless output",
            "{% for i in range(100000) %}{% for j in range(100) %}{{ 'a' * 1000 }}{% endfor %}{% endfor %}",
        ),
    ] {
        bombs.push(template(name, steps, source.to_owned()));
    }
    for (name, source) in [
        ("not not …", chain("", "not ", "a")),
        ("x()() …", chain("x", "()", "")),
        ("a if b else …", long("", "a if b else ", "c")),
    ] {
        bombs.push(field(&format!("template {name}"), deep, "tokenizer_config.json", "chat_template", source.into()));
    }
    defuse(bombs);
}

#[test]
fn packed_files() {
    defuse(vec![
        packed("packed: tiles that share a frame", INSPECT, &["shares stored bytes"], |parts| {
            // All zstd tiles of the first tile's frame, of an embedding of hundreds of megabytes.
            let config = &mut parts.index["config"];
            config["vocab_size"] = 2_000_000.into();
            let k = config["hidden_size"].as_u64().expect("a size");
            let mut record = parts.table[..RECORD_BYTES].to_vec();
            let embed = &mut parts.index["tensors"][0];
            embed["n"] = 2_000_000.into();
            // A frame of zeros for as many rows as a tile has.
            let panel = (16 * k + 64) as usize;
            let tile = (256 << 10) / panel * panel;
            let count = (2_000_000usize.div_ceil(16) * panel).div_ceil(tile);
            (embed["first_tile"], embed["tiles"]) = ((parts.table.len() / RECORD_BYTES).into(), count.into());
            record[12..16].copy_from_slice(&(tile as u32).to_le_bytes());
            record[24..28].copy_from_slice(&1u32.to_le_bytes());
            let all = record.repeat(count);
            let last = (125_000 - (count - 1) * (tile / panel)) * panel;
            parts.table.extend(&all);
            let at = parts.table.len() - RECORD_BYTES + 12;
            parts.table[at..at + 4].copy_from_slice(&(last as u32).to_le_bytes());
        }),
        packed("packed: the same tile twice", INSPECT, &["shares stored bytes"], |parts| {
            let first = parts.table[..8].to_vec();
            parts.table[RECORD_BYTES..RECORD_BYTES + 8].copy_from_slice(&first);
        }),
        packed("packed: tiles outside the file", INSPECT, &["lies outside"], |parts| parts.table[..8].fill(0xFF)),
        packed("packed: tiles that claim gigabytes", INSPECT, &["raw bytes"], |parts| parts.table[12..16].fill(0xFF)),
        packed("packed: a thousand million layers", RUN, &["num_hidden_layers"], |parts| {
            parts.index["config"]["num_hidden_layers"] = 1_000_000_000.into();
        }),
        packed("packed: a vocabulary of 2^32 - 1", RUN, &["vocab_size"], |parts| {
            parts.index["config"]["vocab_size"] = u32::MAX.into();
        }),
        packed("packed: hidden_size 2^31", RUN, &["hidden_size"], |parts| {
            parts.index["config"]["hidden_size"] = (1u32 << 31).into();
        }),
        packed("packed: head_dim 0", RUN, &["head_dim"], |parts| parts.index["config"]["head_dim"] = 0.into()),
        packed("packed: ten million rope factors", RUN, &["rope_scaling"], |parts| {
            parts.index["config"]["rope_scaling"] = json!({ "type": "factors", "factors": vec![1.0; 10_000_000] });
        }),
        packed("packed: a million end tokens", RUN, &["eos_token_ids"], |parts| {
            parts.index["config"]["eos_token_ids"] = vec![70_000; 1_000_000].into();
        }),
        packed("packed: a field of ten million values in a tensor", RUN, &["unknown kind"], |parts| {
            parts.index["tensors"][0]["x"] = vec![0; 10_000_000].into();
            parts.index["tensors"][0]["kind"] = "y".repeat(1 << 20).into();
        }),
        Bomb {
            name: "packed: an index nested a million deep".to_owned(),
            make: Box::new(|dir| Parts::new().write_with(dir, "[".repeat(1_000_000).as_bytes())),
            args: INSPECT,
            words: &["index"],
        },
        Bomb {
            name: "packed: a link to itself".to_owned(),
            make: Box::new(|dir| symlink(dir.join("m.coexec"), dir.join("m.coexec")).expect("a link")),
            args: INSPECT,
            words: &["symbolic link"],
        },
    ]);
}

fn sequence(kind: &str, steps: &Value, count: usize) -> Value {
    json!({ "type": "Sequence", kind: vec![steps; count] })
}

fn nested(kind: &str, depth: usize, inner: Value) -> Value {
    (0..depth).fold(inner, |inner, _| json!({ "type": "Sequence", kind: [inner] }))
}

#[test]
fn tokenizers() {
    let replace = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "a".repeat(16) });
    let regex = json!({ "type": "Replace", "pattern": { "Regex": "a|b" }, "content": "a".repeat(16) });
    let prepend = json!({ "type": "Prepend", "prepend": "a".repeat(1 << 20) });
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let growth: &[&str] = &["times as long"];
    let set = |key: &'static str, value: Value| move |json: &mut Value| json[key] = value.clone();
    defuse(vec![
        tokenizer("twelve times sixteen", growth, set("normalizer", sequence("normalizers", &replace, 12))),
        tokenizer("twelve times sixteen by expression", growth, set("normalizer", sequence("normalizers", &regex, 7))),
        tokenizer("a megabyte before every text", growth, set("normalizer", sequence("normalizers", &prepend, 3))),
        tokenizer(
            "byte levels of byte levels",
            growth,
            set("normalizer", sequence("normalizers", &json!({"type": "ByteLevel"}), 30)),
        ),
        tokenizer(
            "a hundred normalizers",
            &["steps"],
            set("normalizer", sequence("normalizers", &json!({"type": "NFC"}), 100)),
        ),
        tokenizer(
            "normalizers in normalizers",
            &["recursion", "deeply"],
            set("normalizer", nested("normalizers", 60, json!({"type": "NFC"}))),
        ),
        tokenizer(
            "byte levels that cut",
            &["steps"],
            set(
                "pre_tokenizer",
                sequence(
                    "pretokenizers",
                    &json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
                    30,
                ),
            ),
        ),
        tokenizer("decoders that grow", growth, set("decoder", sequence("decoders", &replace, 12))),
        tokenizer(
            "decoders in decoders",
            &["decoder", "recursion"],
            set("decoder", nested("decoders", 60, json!({"type": "Fuse"}))),
        ),
        tokenizer(
            "an expression of a megabyte",
            &["regular expression"],
            set("pre_tokenizer", split(&"(?=".repeat(300_000))),
        ),
        tokenizer(
            "an expression as large as memory",
            &["expression"],
            set("pre_tokenizer", split("((((\\p{L}{1000}){1000}){1000}){1000})")),
        ),
        tokenizer(
            "an expression nested deeply",
            &["expression"],
            set("pre_tokenizer", split(&format!("{}a{}", "(?=".repeat(1000), ")".repeat(999)))),
        ),
        tokenizer("ids around every text", &["tokens around a text"], |json| {
            let piece = json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
            json["post_processor"] = json!({ "type": "TemplateProcessing", "single": vec![piece; 10_000], "pair": [],
                "special_tokens": { "<s>": { "id": "<s>", "ids": vec![1; 10_000], "tokens": vec!["<s>"; 10_000] } } });
        }),
        tokenizer("half a million added tokens", &["added_tokens"], |json| {
            let one = |i: usize| {
                json!({ "id": i, "content": format!("<{i}>"), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": true, "special": true })
            };
            json["added_tokens"] = (0..150_000).map(one).collect();
        }),
        tokenizer(
            "a long list in a step",
            &["values"],
            set("normalizer", json!({ "type": "NFC", "x": vec![0; 2_000_000] })),
        ),
        tokenizer("a long list in the model", &["values"], |json| json["model"]["x"] = vec![0; 8_000_000].into()),
        packed("tokenizer: nested a million deep", RUN, &["tokenizer.json"], |parts| {
            parts.index["tokenizer"]["tokenizer_json"] = format!("{{\"normalizer\":{}", "[".repeat(1_000_000)).into();
        }),
        packed("tokenizer: 70 MB of spaces", RUN, &["more than the"], |parts| {
            parts.index["tokenizer"]["tokenizer_json"] = format!("{{{}}}", " ".repeat(70 << 20)).into();
        }),
    ]);
}

#[test]
fn checkpoints() {
    let header = |length: u64, json: String| {
        move |hf: &Path| {
            let bytes = [&length.to_le_bytes()[..], json.as_bytes(), &[0; 64]].concat();
            fs::write(hf.join("model.safetensors"), bytes).expect("writes");
        }
    };
    let exact = |json: String| header(json.len() as u64, json);
    let tensor = |shape: &str, range: &str| {
        exact(format!(
            "{{\"model.embed_tokens.weight\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{range}}}}}"
        ))
    };
    let file = |name: &'static str, text: String| move |hf: &Path| fs::write(hf.join(name), &text).expect("writes");
    let any: &[&str] = &["config.json"];
    defuse(vec![
        field(
            "a thousand million layers",
            &["num_hidden_layers"],
            "config.json",
            "num_hidden_layers",
            1_000_000_000.into(),
        ),
        field("a vocabulary of 2^40", &["vocab_size"], "config.json", "vocab_size", (1u64 << 40).into()),
        field("hidden_size 2^31", &["hidden_size"], "config.json", "hidden_size", (1u64 << 31).into()),
        field("head_dim 0", &["head_dim"], "config.json", "head_dim", 0.into()),
        field("no heads", &["num_attention_heads"], "config.json", "num_attention_heads", 0.into()),
        field(
            "two million rope factors",
            &["values", "rope"],
            "config.json",
            "rope_scaling",
            json!({ "rope_type": "longrope", "long_factor": vec![1.5; 2_000_000], "short_factor": [1.5] }),
        ),
        field("a list of 16 million values", &["values"], "config.json", "x", vec![0; 15_000_000].into()),
        import("a configuration nested deeply", any, file("config.json", format!("{{\"a\":{}", "[".repeat(1_000_000)))),
        import("a configuration of 100 MB", any, file("config.json", " ".repeat(100 << 20))),
        import("a million shards", &["values", "shard"], |hf| {
            fs::remove_file(hf.join("model.safetensors")).expect("removes");
            let map: serde_json::Map<String, Value> =
                (0..1_000_000).map(|i| (format!("t{i}"), format!("m-{i}.safetensors").into())).collect();
            fs::write(hf.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string())
                .expect("writes");
        }),
        import("shards that are links to themselves", &["no model.safetensors"], |hf| {
            fs::remove_file(hf.join("model.safetensors")).expect("removes");
            symlink(hf.join("model.safetensors"), hf.join("model.safetensors")).expect("a link");
        }),
        import("a header of 2^63 bytes", &["model.safetensors"], header(1 << 63, "{}".to_owned())),
        import("a header nested deeply", &["model.safetensors"], exact("{\"a\":".repeat(100_000))),
        import(
            "a header of ten million values",
            &["model.safetensors"],
            exact(format!("{{\"a\":[{}0]}}", "0,".repeat(10_000_000))),
        ),
        import("a tensor of 2^64 elements", &["model.safetensors"], tensor("[4294967296,4294967296]", "[0,64]")),
        import(
            "a tensor of as many dimensions as fit",
            &["model.safetensors"],
            tensor(&format!("[{}1]", "1,".repeat(1_000_000)), "[0,4]"),
        ),
        import("offsets backwards", &["model.safetensors"], tensor("[16]", "[64,0]")),
        import("offsets past the end", &["model.safetensors"], tensor("[16]", "[0,18446744073709551615]")),
        import("a template of ten megabytes", &["chat_template"], file("chat_template.jinja", "a".repeat(10 << 20))),
        import("a tokenizer of eight million values", &["tokenizer.json"], |hf| {
            fs::write(hf.join("tokenizer.json"), json!({ "x": vec![0; 8_000_000] }).to_string()).expect("writes");
        }),
        field(
            "a million added tokens beside it",
            &["values", "added_tokens"],
            "tokenizer_config.json",
            "added_tokens_decoder",
            (0..300_000)
                .map(|i| (i.to_string(), json!({ "content": i.to_string(), "special": true })))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        ),
    ]);
}

#[test]
fn gguf_files() {
    let word = |v: u32| v.to_le_bytes().to_vec();
    let long = |v: u64| v.to_le_bytes().to_vec();
    let architecture = ("general.architecture", STRING, [5u64.to_le_bytes().to_vec(), b"llama".to_vec()].concat());
    let with = move |pair: (&'static str, u32, Vec<u8>), tensors: Vec<(&'static str, Vec<u64>, u32, u64)>| {
        let pairs = [architecture.clone(), pair];
        move || gguf_bytes(&pairs, &tensors)
    };
    let plain = ("a", U32, word(0));
    let tensor =
        |dims: Vec<u64>, kind: u32, offset: u64| with(plain.clone(), vec![("token_embd.weight", dims, kind, offset)]);
    let any: &[&str] = &["m.gguf"];
    defuse(vec![
        gguf("2^63 tensors", any, || [&b"GGUF\x03\0\0\0"[..], &(1u64 << 63).to_le_bytes(), &[0; 100]].concat()),
        gguf("2^63 pairs", any, || [&b"GGUF\x03\0\0\0"[..], &[0; 8], &(1u64 << 63).to_le_bytes(), &[0; 100]].concat()),
        gguf("a text of 2^63 bytes", any, with(("a", STRING, long(1 << 63)), Vec::new())),
        gguf("an array of 2^62 words", any, with(("a", ARRAY, [word(U32), long(1 << 62)].concat()), Vec::new())),
        gguf("an array of 2^62 texts", any, with(("a", ARRAY, [word(STRING), long(1 << 62)].concat()), Vec::new())),
        gguf("arrays in arrays", any, with(("a", ARRAY, [word(ARRAY), long(1)].concat().repeat(100_000)), Vec::new())),
        gguf(
            "an array of two million empty arrays",
            any,
            with(
                (
                    "a",
                    ARRAY,
                    [[word(ARRAY), long(2_000_000)].concat(), [word(U32), long(0)].concat().repeat(2_000_000)].concat(),
                ),
                Vec::new(),
            ),
        ),
        gguf("alignment 0", &["alignment"], with(("general.alignment", U32, word(0)), Vec::new())),
        gguf("alignment 2^31", &["alignment"], with(("general.alignment", U32, word(1 << 31)), Vec::new())),
        gguf("a tensor of 2^80 elements", any, tensor(vec![1 << 40, 1 << 40], 0, 0)),
        gguf("a tensor of no elements", any, tensor(vec![0, 0], 0, 0)),
        gguf("a tensor of 2^63 bytes", any, tensor(vec![1 << 61], 0, 0)),
        gguf("an offset past the end", any, tensor(vec![16], 0, 1 << 40)),
        gguf("an offset that overflows", any, tensor(vec![16], 0, u64::MAX - 31)),
        gguf("an unknown type", any, tensor(vec![16], 9999, 0)),
        gguf("four thousand million dimensions", any, tensor(vec![1; 1000], 0, 0)),
        gguf("a thousand million layers", any, with(("llama.block_count", U32, word(1_000_000_000)), Vec::new())),
        gguf("a million tensors of one name", any, with(plain.clone(), vec![("a", vec![1], 0, 0); 500_000])),
    ]);
}

/// A model whose template no one should compile, carried from format to format.
#[test]
fn a_template_in_a_gguf_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut parts = Parts::new();
    let source = format!("{{{{ {}a }}}}", "not ".repeat(5000));
    parts.index["tokenizer"]["chat_templates"] = json!({ "default": source });
    parts.write(dir.path());
    let exported = run(&["export-gguf", "@/m.coexec", "@/m.gguf", "--type", "q8_0"], dir.path());
    assert_eq!(exported.code, Some(0), "{}", exported.stderr);
    let ended = run(IMPORT_GGUF, dir.path());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("words and signs") || ended.stderr.contains("too deeply"), "{}", ended.stderr);
}

/// Settings that are only odd: they are left out, without a line for each.
#[test]
fn half_a_million_end_tokens_are_told_of_once() {
    let make = field("", &[], "config.json", "eos_token_id", (0..500_000).collect()).make;
    let dir = tempfile::tempdir().expect("a directory");
    make(dir.path());
    let ended = run(IMPORT, dir.path());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("500000 values") && ended.stderr.lines().count() < 20, "{}", ended.stderr);
    assert!(ended.peak_kib < MAX_RSS_KIB);
}

/// A model that is cut short while it is in use ends the command with a sentence, not by a signal.
#[test]
fn a_file_cut_short_in_use() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("m.coexec");
    // Not compressed: read in place for every token.
    let source = support::demo_dir();
    let source = source.to_str().expect("UTF-8");
    let made = run(&["import", source, "@/m.coexec", "--raw", "--weights", "f32"], dir.path());
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let args =
        ["run", "The", "-m", path.to_str().expect("UTF-8"), "-n", "100000", "--ignore-eos", "--npu", "none", "-t", "1"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_coexec"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    // Once it writes, it computes.
    let mut first = [0];
    std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut first).expect("a text");
    fs::OpenOptions::new().write(true).open(&path).expect("opens").set_len(0).expect("cuts");
    let out = child.wait_with_output().expect("ends");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!((out.status.code(), out.status.signal()), (Some(1), None), "{stderr}");
    assert!(stderr.ends_with("run again\n") && stderr.contains("cut short"), "{stderr}");
}
