"""Rewrites llama.cpp's vocabulary files (`models/ggml-vocab-*.gguf` of its source) as models that coexec reads.

usage: vocabularies.py MODELS OUT

MODELS is llama.cpp's folder `models` (in the source archive of llama-cpp-python: vendor/llama.cpp/models). OUT gets, for every byte-level
and SentencePiece vocabulary with texts beside it, a GGUF without tensors and a JSON list of `[text, ids]`, which
`cargo test -p coexec-runtime --test text_registry` encodes again (COEXEC_VOCABULARIES=OUT).
"""

import json
import sys
from pathlib import Path

import gguf

SEPARATOR = "\n__ggml_vocab_test__\n"


def main():
    models, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(models.glob("ggml-vocab-*.gguf")):
        texts, ids = Path(f"{path}.inp"), Path(f"{path}.out")
        reader = gguf.GGUFReader(path)
        kind = reader.fields["tokenizer.ggml.model"].contents()
        if kind not in ("gpt2", "llama") or not texts.exists():
            continue
        if (out / f"{path.stem}.json").exists():
            continue
        writer = gguf.GGUFWriter(out / path.name, "llama")
        tokens = reader.fields["tokenizer.ggml.tokens"].contents()
        writer.add_block_count(1)
        writer.add_context_length(128)
        writer.add_embedding_length(32)
        writer.add_feed_forward_length(32)
        writer.add_head_count(4)
        writer.add_head_count_kv(4)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(len(tokens))
        for key, field in reader.fields.items():
            if key.startswith("tokenizer."):
                value = field.contents()
                element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(key, value, field.types[0], element)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        # A text file's last line break is not the last text's.
        inputs = texts.read_bytes().decode("utf-8").split(SEPARATOR)
        lines = ids.read_text(encoding="utf-8").split("\n")[: len(inputs)]
        cases = [[text, [int(i) for i in line.split()]] for text, line in zip(inputs, lines)]
        (out / f"{path.stem}.json").write_text(json.dumps(cases, ensure_ascii=False), encoding="utf-8")
        print(path.stem, kind, len(tokens), "tokens,", len(cases), "texts")


if __name__ == "__main__":
    main()
