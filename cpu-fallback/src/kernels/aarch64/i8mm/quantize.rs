//! Activations in groups of 32: as `neon`.

pub(in crate::kernels) use super::super::neon::quantize_groups;
