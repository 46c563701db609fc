//! In which process Qualcomm's library runs.

use coexec_npu::{DeviceProfile, NpuDevice, NpuError, QnnDevice, QnnOptions, RemoteDevice, RemoteOptions, qnn::Target};
use std::{ffi::OsString, path::PathBuf, process::Command, sync::Arc};

/// The process that has the NPU while an engine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NpuProcess {
    /// This one: fastest, and a crash of the driver or of Qualcomm's library is one of this process.
    #[default]
    InProcess,
    /// A child: its crash is a failure of the NPU, after which the prompt goes on with a fresh child or elsewhere.
    Child {
        /// A program that calls [`coexec_npu::remote::serve_stdio`] with [`coexec_npu::remote::open_qnn`]:
        /// `coexec npu-server`.
        program: PathBuf,
        /// Its arguments.
        args: Vec<OsString>,
    },
}

/// Qualcomm's NPU, open in one process or the other.
#[derive(Clone)]
pub(super) struct OpenQnn {
    pub(super) device: Arc<dyn NpuDevice>,
    /// Build of the library.
    pub(super) build_id: String,
    pub(super) target: Target,
}

impl OpenQnn {
    pub(super) fn profile(&self) -> &DeviceProfile {
        self.device.profile()
    }
}

impl NpuProcess {
    pub(super) fn open(&self, options: &QnnOptions) -> Result<OpenQnn, NpuError> {
        let Self::Child { program, args } = self else {
            let device = QnnDevice::open(options.clone())?;
            return Ok(OpenQnn { build_id: device.build_id(), target: device.target(), device: Arc::new(device) });
        };
        let process = program.display().to_string();
        let json = serde_json::to_string(options).map_err(|e| NpuError::Process {
            process: process.clone(),
            reason: format!("cannot be told its options: {e}"),
        })?;
        let mut command = Command::new(program);
        command.args(args);
        let device = RemoteDevice::start(command, &RemoteOptions::new(json))?;
        match (device.library(), device.target()) {
            (Some(library), Some(target)) => {
                Ok(OpenQnn { build_id: library.build_id.clone(), target, device: Arc::new(device) })
            }
            _ => Err(NpuError::Process { process, reason: "it has another device than Qualcomm's NPU".to_owned() }),
        }
    }
}
