"""Small tokenizers in the shapes that real models ship: byte-level BPE (GPT-2, Llama 3, Qwen) and SentencePiece-like BPE."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

# How Llama 3 and Qwen 2 cut text into words: facts of these formats, which every implementation has to know.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_WORDS = _WORDS.replace("{DIGITS}", "{1,3}")
QWEN_WORDS = _WORDS.replace("{DIGITS}", "")


def ascii_alphabet():
    """Byte-level BPE's letters for newline and printable ASCII; everything else is dropped by such a tokenizer."""
    return [chr(c) for c in range(33, 127)] + ["\u0120", "\u010a"]


def byte_level(lines, vocab_size, first=(), last=(), words=None, ascii_only=False, bos=None, nfc=False):
    """Byte-level BPE with `first` as special tokens before the learnt ones and `last` after them."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=words is LLAMA3_WORDS))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    if words is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(words), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    tokenizer.decoder = decoders.ByteLevel()
    letters = ascii_alphabet() if ascii_only else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(last),
        special_tokens=list(first),
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in last])
    if bos:
        tokenizer.post_processor = bos_first(tokenizer, bos)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"{tokenizer.get_vocab_size()} tokens, {vocab_size} wanted: give more text")
    return tokenizer


def bos_first(tokenizer, bos):
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def sentencepiece_like(lines, vocab_size):
    """What a SentencePiece BPE model (Llama 2) looks like as tokenizer.json: byte fallback, no words, "▁" for space."""
    specials = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{b:02X}>" for b in range(256)]
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(specials) - len(fallback), show_progress=False)
    draft.train_from_iterator(lines, trainer)
    learnt = sorted(draft.get_vocab().items(), key=lambda item: item[1])
    pieces = [p for p, _ in learnt if len(p) > 1] + [p for p, _ in learnt if len(p) == 1]
    vocab = {t: i for i, t in enumerate(specials + fallback + pieces)}
    if len(vocab) != vocab_size:
        raise ValueError(f"{len(vocab)} tokens, {vocab_size} wanted")
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=all_merges(vocab, pieces), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    tokenizer.post_processor = bos_first(tokenizer, "<s>")
    return tokenizer


def all_merges(vocab, pieces):
    """SentencePiece joins any two neighbours whose join is a piece, best piece first: every such pair is a merge."""
    merges = []
    for piece in pieces:
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        pairs = [p for p in pairs if p[0] in vocab and p[1] in vocab]
        merges += sorted(pairs, key=lambda p: (vocab[p[0]], vocab[p[1]]))
    return merges
