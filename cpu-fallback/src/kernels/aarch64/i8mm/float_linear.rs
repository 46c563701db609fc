//! Float linears: as `neon`.

pub(in crate::kernels) use super::super::neon::float_linear;
