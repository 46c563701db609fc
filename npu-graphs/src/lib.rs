//! Static graph specs, decoder-layer builders, the NpuDevice trait and its devices.
