//! Pages of keys and values: as `neon`.

pub(in crate::kernels) use super::super::neon::{attn_page, widen};
