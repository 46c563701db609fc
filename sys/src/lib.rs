//! Raw QNN API: types, run-time loading, version gates; no policy.
