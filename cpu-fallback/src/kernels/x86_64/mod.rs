//! x86-64: AVX2 (with FMA and F16C) and AVX-512 with VNNI. Both folders have the same files and functions.

pub(super) mod avx2;
pub(super) mod avx512vnni;
