//! Devices in other processes, for tests.

use coexec_npu::{
    ContextSpec, DeviceProfile, FaultPlan, Manifest, NpuBuffer, NpuContext, NpuDevice, NpuError, Placement,
    RemoteDevice, RemoteOptions, SimDevice, SimOptions, SubmitFault, WeightSource,
    manifest::ManifestArgs,
    remote::{Served, serve},
};
use std::{net::Shutdown, os::unix::net::UnixStream};

/// A simulated device from a text: a profile's name, then faults such as `hang:3` (at the third submit, from 0).
pub fn open_sim(text: &str) -> Result<Served, NpuError> {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap_or_default();
    let wrong = |value: &str| NpuError::Option { name: "open", value: value.to_owned(), reason: "unknown".to_owned() };
    let mut options = SimOptions::named(name).ok_or_else(|| wrong(name))?;
    let submit = words.map(|word| {
        let (kind, nth) = word.split_once(':').and_then(|(k, n)| Some((k, n.parse().ok()?)))?;
        Some((
            nth,
            match kind {
                "hang" => SubmitFault::Hang,
                "lost" => SubmitFault::Lost,
                "code" => SubmitFault::Code(6031),
                _ => return None,
            },
        ))
    });
    let submit = submit.collect::<Option<Vec<_>>>().ok_or_else(|| wrong(text))?;
    options.faults = FaultPlan { submit, ..FaultPlan::default() };
    Ok(Served::new(Box::new(SimDevice::new(options))))
}

/// A simulated device on a thread of this process, behind a pair of sockets.
pub fn sim_over_streams(open: &str) -> RemoteDevice {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let clone = |s: &UnixStream| s.try_clone().expect("a handle");
    let (input, output) = (clone(&theirs), theirs);
    std::thread::spawn(move || serve(open_sim, input, output));
    let (input, output) = (clone(&ours), clone(&ours));
    let end = move || ours.shutdown(Shutdown::Both).expect("connected");
    RemoteDevice::connect(input, output, end, &RemoteOptions::new(open)).expect("opens")
}

/// Compiles on a simulated device here and loads the binary there.
pub struct CompiledHere {
    pub here: SimDevice,
    pub there: RemoteDevice,
}

impl CompiledHere {
    pub fn new(profile: &str, there: RemoteDevice) -> Self {
        Self { here: SimDevice::new(SimOptions::named(profile).expect("known")), there }
    }
}

/// A context's binary and its manifest.
pub fn binary(context: &dyn NpuContext, profile: &DeviceProfile) -> Result<(Vec<u8>, Manifest), NpuError> {
    let blob = context.serialize()?;
    let manifest = Manifest::new(ManifestArgs {
        model_hash: "abc",
        chunk_lens: &[7],
        placement: Placement::Split,
        profile,
        spec: context.spec(),
        qnn: context.qnn_versions(),
        blob: &blob,
    });
    Ok((blob, manifest))
}

impl NpuDevice for CompiledHere {
    fn profile(&self) -> &DeviceProfile {
        self.there.profile()
    }

    fn prepare(&self, spec: &ContextSpec, weights: &dyn WeightSource) -> Result<Box<dyn NpuContext>, NpuError> {
        let (blob, manifest) = binary(&*self.here.prepare(spec, weights)?, self.here.profile())?;
        self.there.load(&blob, &manifest)
    }

    fn load(&self, bytes: &[u8], manifest: &Manifest) -> Result<Box<dyn NpuContext>, NpuError> {
        self.there.load(bytes, manifest)
    }

    fn alloc(&self, len_bytes: usize) -> Result<NpuBuffer, NpuError> {
        self.there.alloc(len_bytes)
    }
}
