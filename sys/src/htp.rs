//! Device options of HTP, whose struct changed its layout without a new name.

use crate::{QnnDevice_CustomConfig_t, Version};
use std::ffi::c_void;

/// The option that names the chip, right for both known layouts: the number stands at byte 4 (HTP API 5.43) and at
/// byte 8 (5.51) of 16 bytes that are zero elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct SocOption {
    words: [u32; 4],
}

impl SocOption {
    /// Option 0 (SOC) with a chip's number, e.g. 57 for SM8650.
    #[must_use]
    pub fn new(soc: u32) -> Self {
        Self { words: [0, soc, soc, 0] }
    }

    /// For `customConfig` of a `QnnDevice_Config_t`; valid while `self` stays where it is. The library only reads it.
    #[must_use]
    pub fn as_custom_config(&self) -> QnnDevice_CustomConfig_t {
        (&raw const *self).cast::<c_void>().cast_mut()
    }
}

/// Where the union of `QnnHtpDevice_CustomConfig_t` begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceOptionLayout {
    /// At byte 4: `QnnHtpDevice_CustomConfig_t` of HTP API 5.43.
    At4,
    /// At byte 8: HTP API 5.51.
    At8,
}

impl DeviceOptionLayout {
    /// The layout of an HTP API version. `None` where it is not known: set no option but [`SocOption`] there.
    #[must_use]
    pub fn of(backend_api: Version) -> Option<Self> {
        match (backend_api.major, backend_api.minor) {
            (5, 43) => Some(Self::At4),
            (5, 51) => Some(Self::At8),
            _ => None,
        }
    }
}

/// The device option that asks for a signed (`true`) or unsigned process domain on the DSP, in the library's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct SignedDomainOption {
    words: [u32; 4],
}

impl SignedDomainOption {
    /// Option 2 for a device. `None` for an HTP API version whose layout is not known.
    #[must_use]
    pub fn new(backend_api: Version, device_id: u32, signed: bool) -> Option<Self> {
        let words = match DeviceOptionLayout::of(backend_api)? {
            DeviceOptionLayout::At4 => [2, device_id, u32::from(signed).to_le(), 0],
            DeviceOptionLayout::At8 => [2, 0, device_id, u32::from(signed).to_le()],
        };
        Some(Self { words })
    }

    /// For `customConfig` of a `QnnDevice_Config_t`; valid while `self` stays where it is. The library only reads it.
    #[must_use]
    pub fn as_custom_config(&self) -> QnnDevice_CustomConfig_t {
        (&raw const *self).cast::<c_void>().cast_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_of_known_versions_only() {
        let version = |minor| Version { major: 5, minor, patch: 0 };
        assert_eq!(DeviceOptionLayout::of(version(43)), Some(DeviceOptionLayout::At4));
        assert_eq!(DeviceOptionLayout::of(version(51)), Some(DeviceOptionLayout::At8));
        assert_eq!(DeviceOptionLayout::of(version(47)), None);
        assert_eq!(SignedDomainOption::new(version(47), 0, false), None);
    }

    #[cfg(not(feature = "sdk-headers"))]
    #[test]
    fn options_are_where_the_structs_have_them() {
        use crate::{QnnHtpDevice_CustomConfig_t, QnnHtpDevice_CustomConfigAt8_t};
        let soc = SocOption::new(57);
        // SAFETY: both structs are plain old data, no larger and no stricter aligned than the 16 bytes.
        let (at4, at8) = unsafe {
            (
                soc.as_custom_config().cast::<QnnHtpDevice_CustomConfig_t>().read(),
                soc.as_custom_config().cast::<QnnHtpDevice_CustomConfigAt8_t>().read(),
            )
        };
        // SAFETY: every bit pattern is a u32.
        assert_eq!(unsafe { (at4.__bindgen_anon_1.socModel, at8.__bindgen_anon_1.socModel) }, (57, 57));

        let version = |minor| Version { major: 5, minor, patch: 0 };
        let at4 = SignedDomainOption::new(version(43), 3, true).expect("known layout");
        let at8 = SignedDomainOption::new(version(51), 3, true).expect("known layout");
        // SAFETY: as above; the flag is the byte 1.
        let (at4, at8) = unsafe {
            (
                at4.as_custom_config()
                    .cast::<QnnHtpDevice_CustomConfig_t>()
                    .read()
                    .__bindgen_anon_1
                    .useSignedProcessDomain,
                at8.as_custom_config()
                    .cast::<QnnHtpDevice_CustomConfigAt8_t>()
                    .read()
                    .__bindgen_anon_1
                    .useSignedProcessDomain,
            )
        };
        assert_eq!((at4.deviceId, at4.useSignedProcessDomain), (3, true));
        assert_eq!((at8.deviceId, at8.useSignedProcessDomain), (3, true));
    }
}
