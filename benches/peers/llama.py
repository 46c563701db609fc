"""llama.cpp through its C interface, as llama-bench uses it: timed prefill and decode, greedy tokens, load time."""

import ctypes
import time

import llama_cpp as lib
import numpy as np

# Warnings of the loader (no vocabulary, ...) are not results.
_SILENT = lib.llama_log_callback(lambda level, text, data: None)
lib.llama_log_set(_SILENT, ctypes.c_void_p(0))

FLASH_ATTENTION_ON = 1


def version():
    return lib.llama_print_system_info().decode().strip()


def token(i, vocab):
    """The same pseudo-random tokens as `coexec bench` uses."""
    return (i * 2_654_435_761 % (1 << 32)) % vocab


class Llama:
    """A model and one context with room for `n_ctx` tokens."""

    def __init__(self, path, n_ctx, threads):
        start = time.perf_counter()
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        context = lib.llama_context_default_params()
        context.n_ctx = n_ctx
        context.n_batch = 2048
        context.n_ubatch = 512
        context.n_threads = context.n_threads_batch = threads
        context.flash_attn_type = FLASH_ATTENTION_ON
        context.no_perf = True
        self.ctx = lib.llama_init_from_model(self.model, context)
        if not self.ctx:
            raise RuntimeError(f"llama.cpp cannot make a context of {n_ctx} tokens for {path}")
        self.memory = lib.llama_get_memory(self.ctx)
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.vocab_size = lib.llama_vocab_n_tokens(self.vocab)
        self.load_s = time.perf_counter() - start

    def close(self):
        lib.llama_free(self.ctx)
        lib.llama_model_free(self.model)

    def decode(self, tokens):
        """Runs tokens after those in the context; only the last one's logits are computed."""
        for first in range(0, len(tokens), 2048):
            part = tokens[first : first + 2048]
            array = (lib.llama_token * len(part))(*part)
            if lib.llama_decode(self.ctx, lib.llama_batch_get_one(array, len(part))) != 0:
                raise RuntimeError("llama_decode failed")
        lib.llama_synchronize(self.ctx)

    def logits(self):
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(self.ctx, -1), shape=(self.vocab_size,))

    def truncate(self, length):
        lib.llama_memory_seq_rm(self.memory, 0, length, -1)

    def fill(self, depth):
        self.truncate(0)
        self.decode([token(i, self.vocab_size) for i in range(depth)])

    def sample(self, prompt, gen, depth):
        """Nanoseconds of a prefill of `prompt` tokens, or of `gen` decode steps, after `depth` tokens (see fill)."""
        self.truncate(depth)
        tokens = [token(i, self.vocab_size) for i in range(max(prompt, gen))]
        start = time.perf_counter_ns()
        if prompt:
            self.decode(tokens)
        else:
            for t in tokens:
                self.decode([t])
        return time.perf_counter_ns() - start

    def tokenize(self, text):
        raw = text.encode()
        out = (lib.llama_token * (len(raw) + 8))()
        n = lib.llama_tokenize(self.vocab, raw, len(raw), out, len(out), True, False)
        return list(out[:n])


def load_to_first_token(path, threads):
    """Seconds from nothing to the logits of a first token, and the peak resident set (MB) of a process that did so."""
    import resource

    start = time.perf_counter()
    model = Llama(path, 512, threads)
    model.decode([1])
    model.logits()[0]
    seconds = time.perf_counter() - start
    model.sample(0, 16, 0)
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
