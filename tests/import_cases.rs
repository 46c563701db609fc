//! Odd configurations, and what is made of them: `tests/data/import/cases.json` holds what transformers computes or refuses
//! (`tools/goldens/make_import.py` wrote it), here the same changes are made to the tiny checkpoints and imported.

mod support;

use coexec::model::{TokenId, WeightFormat, source};
use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fs, path::Path};
use support::{Golden, Packed, all_logits, exact, root};

/// Largest difference of a logit that counts as equal.
const TOLERANCE: f32 = 1e-3;
/// Columns of the last position that the file holds.
const COLUMNS: [usize; 5] = [0, 31, 64, 90, 127];

#[derive(Deserialize)]
struct Case {
    /// The checkpoint that is changed.
    on: String,
    name: String,
    #[serde(default)]
    set: Map<String, Value>,
    #[serde(default)]
    tensors: Vec<Vec<Value>>,
    #[serde(default)]
    text: Vec<[String; 2]>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// What must come out, or what the refusal must say.
    logits: Option<Vec<f32>>,
    refused: Option<String>,
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn as_f32((dtype, shape, bytes): &(Dtype, Vec<usize>, Vec<u8>)) -> (Dtype, Vec<usize>, Vec<u8>) {
    let floats: Vec<f32> = match dtype {
        Dtype::F32 => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::F16 => bytes.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::BF16 => bytes.chunks(2).map(|b| f32::from_bits(u32::from(b[1]) << 24 | u32::from(b[0]) << 16)).collect(),
        other => panic!("{other:?}"),
    };
    (Dtype::F32, shape.clone(), floats.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn change(tensors: &mut Tensors, step: &[Value]) {
    let name = |i: usize| step[i].as_str().unwrap().to_owned();
    match &*name(0) {
        "bare" => {
            let bare = |n: String| n.strip_prefix("model.").map(str::to_owned).unwrap_or(n);
            *tensors = std::mem::take(tensors).into_iter().map(|(n, t)| (bare(n), t)).collect();
        }
        "drop" => drop(tensors.remove(&name(1))),
        "copy" => drop(tensors.insert(name(2), tensors[&name(1)].clone())),
        "reverse" => {
            let (dtype, shape, bytes) = &tensors[&name(1)];
            let rows = bytes.chunks(bytes.len() / shape[0]).rev().flatten().copied().collect();
            let reversed = (*dtype, shape.clone(), rows);
            tensors.insert(name(2), reversed);
        }
        "rename" => {
            let tensor = tensors.remove(&name(1)).unwrap();
            tensors.insert(name(2), tensor);
        }
        "f32" => drop(tensors.insert(name(1), as_f32(&tensors[&name(1)]))),
        "f16" => {
            let (_, shape, floats) = as_f32(&tensors[&name(1)]);
            let floats = floats.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            let bytes = floats.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect();
            tensors.insert(name(1), (Dtype::F16, shape, bytes));
        }
        fill @ ("zeros" | "ones") => {
            let len = step[2].as_u64().unwrap() as usize;
            let value = if fill == "ones" { 1.0f32 } else { 0.0 };
            tensors.insert(name(1), (Dtype::F32, vec![len], value.to_le_bytes().repeat(len)));
        }
        other => panic!("{other}"),
    }
}

/// The changed checkpoint.
fn write(dir: &Path, case: &Case) {
    let from = root().join("tests/data/tiny").join(&case.on);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(file), dir.join(file)).unwrap();
    }
    let mut config: Map<String, Value> = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    config.extend(case.set.clone());
    config.retain(|_, v| v != "<absent>");
    let mut text = Value::Object(config).to_string();
    for [old, new] in &case.text {
        text = match &**old {
            "{" => text.replacen('{', new, 1),
            _ => format!("{}{new}", text.strip_suffix(&**old).unwrap()),
        };
    }
    fs::write(dir.join("config.json"), text).unwrap();
    for (name, text) in &case.files {
        fs::write(dir.join(name), text).unwrap();
    }
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let old = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors =
        old.iter().map(|(n, v)| (n.to_owned(), (v.dtype(), v.shape().to_vec(), v.data().to_vec()))).collect();
    case.tensors.iter().for_each(|step| change(&mut tensors, step));
    let views =
        tensors.iter().map(|(n, (dtype, shape, bytes))| (n, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// What is wrong with what becomes of a case.
fn check(case: &Case, ids: &[TokenId]) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), case);
    let source = match (source::open(dir.path()), &case.refused) {
        (Ok(_), Some(words)) => return Err(format!("is not refused: {words}")),
        (Err(e), None) => return Err(format!("is refused: {e}")),
        (Err(e), Some(words)) => {
            let message = e.to_string();
            let named = message.contains(words) && message.contains(dir.path().to_str().unwrap());
            return if named { Ok(()) } else { Err(format!("`{words}` and the file are not in: {message}")) };
        }
        (Ok(source), None) => source,
    };
    let logits = all_logits(&Packed::of(&*source, WeightFormat::F32, None).engine(exact()), ids);
    let last = &logits[logits.len() - source.config().vocab_size as usize..];
    let expected = case.logits.as_ref().unwrap();
    let worst = COLUMNS.iter().zip(expected).map(|(c, e)| (last[*c] - e).abs()).fold(0.0, f32::max);
    if worst <= TOLERANCE { Ok(()) } else { Err(format!("a logit differs by {worst}")) }
}

#[test]
fn odd_configurations_are_what_transformers_makes_of_them_or_are_refused_by_name() {
    let cases: Vec<Case> =
        serde_json::from_slice(&fs::read(root().join("tests/data/import/cases.json")).unwrap()).unwrap();
    assert!(cases.len() > 400, "{} cases", cases.len());
    let mut ids: BTreeMap<String, Vec<TokenId>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in &cases {
        assert!(case.logits.is_some() != case.refused.is_some(), "{}", case.name);
        let ids = ids
            .entry(case.on.clone())
            .or_insert_with(|| Golden::read(&root().join("tests/data/tiny").join(&case.on).join("golden.npz")).ids);
        if let Err(problem) = check(case, ids) {
            wrong.push(format!("{}, {}: {problem}", case.on, case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Files rebuilt from public bug reports, where they are at hand. What is right of each is said beside them, and is tested
/// here; their twins that are always there are in `cases.json` and in the tests of `coexec-model`.
#[test]
fn public_bug_reports_give_what_is_right() {
    let dir = root().join("../shared/data/faults/import");
    if !dir.is_dir() {
        return support::skip("import_cases::public_bug_reports_give_what_is_right", "no ../shared/data/faults");
    }
    let logits = |name: &str, ids: &[TokenId]| {
        all_logits(&Packed::import(&dir.join(name), WeightFormat::F32, None).engine(exact()), ids)
    };
    for name in ["tied-but-different-head", "rope-scaling-and-parameters", "gptq-gidx-zero"] {
        let golden = Golden::read(&dir.join(format!("{name}.expected.npz")));
        let got = logits(name, &golden.ids);
        assert_eq!(got.len(), golden.logits.len(), "{name}");
        let worst = got.iter().zip(&golden.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= TOLERANCE, "{name}: a logit differs by {worst}");
    }
    // These two say the same where it matters, and import whole.
    let ids: Vec<TokenId> = [1, 5, 200, 40, 7].map(TokenId).to_vec();
    let open = |name: &str| source::open(&dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(open("config-infinity").config(), open("generation-config-trailing-comma").config());
    for name in ["config-infinity", "generation-config-trailing-comma", "scores-i32.gguf"] {
        assert!(logits(name, &ids).iter().all(|v| v.is_finite()), "{name}");
    }

    let Err(error) = source::open(&dir.join("context-2e28")) else { panic!("context-2e28 is not refused") };
    let error = error.to_string();
    assert!(error.contains("context-2e28/config.json") && error.contains("max_position_embeddings"), "{error}");
}
