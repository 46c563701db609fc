//! Everything the CPU computes: kernels per ISA, float operations, attention, shadow matmul, thread pool.
