"""The text of a config.json: order of keys, spellings of numbers, and what Python reads although JSON has no such thing."""

import json
import re

_SPELLINGS = {
    "1e-06": ("1e-06", "1E-6", "0.000001", "1.0e-6"),
    "1e-05": ("1e-05", "1e-5", "0.00001"),
    "10000.0": ("10000.0", "1e4", "1.0E+4"),
    "1000000.0": ("1000000.0", "1e6", "1000000.00"),
}


def text(config, odd):
    keys = list(config)
    if odd.maybe(0.3):
        odd.rng.shuffle(keys)
    ordered = {key: config[key] for key in keys}
    out = json.dumps(ordered, indent=odd.pick(2, 2, None, 4), ensure_ascii=odd.maybe(0.5))
    out = re.sub(r"(?<=: )[0-9.e-]+(?=[,\n}])", lambda m: odd.pick(*_SPELLINGS.get(m[0], (m[0],))), out)
    if odd.maybe(0.03, "json:key-twice"):
        # The last one counts, in Python as in most parsers.
        stale = odd.pick('"hidden_size": 999', '"rope_theta": 3.0', '"tie_word_embeddings": true', '"vocab_size": 7')
        if stale.split(":")[0].strip('"') in config:
            out = out.replace("{", "{" + stale + ", ", 1)
    if odd.maybe(0.01, "json:bom"):
        out = "\ufeff" + out
    return out + odd.pick("\n", "", "\r\n\n")


def generation(odd):
    """The text of a generation_config.json, or `None`; nothing in it bears on logits."""
    style = odd.weighted("generation", none=60, usual=20, empty=5, old=5, odd=5, broken=3, list=2)
    return {
        "none": None, "usual": '{"bos_token_id": 1, "eos_token_id": [2, 3], "do_sample": true, "temperature": 0.6, "top_p": 0.9}',
        "empty": "{}", "old": '{"_from_model_config": true, "transformers_version": "4.37.0"}',
        "odd": odd.pick('{"top_k": -1}', '{"temperature": null, "top_p": 1.5}', '{"eos_token_id": 99999}', '{"top_k": 50.0}',
                        '{"do_sample": "yes"}', '{"temperature": -1.0}', '{"repetition_penalty": 0}', '{"eos_token_id": []}'),
        "broken": odd.pick('{"top_k": 50,}', '{"temperature": NaN}', "", "{"), "list": "[]",
    }[style]
