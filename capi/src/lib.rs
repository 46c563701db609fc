//! C interface of coexec.
