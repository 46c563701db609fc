//! coexec: decoder-only language models on a phone's NPU and CPU together.
