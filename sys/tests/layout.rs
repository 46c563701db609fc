//! Sizes and offsets of the structs that cross the border to Qualcomm's library, against numbers of their own: the
//! asserts in src/bindings.rs are made from the same header as the structs, so they would follow a mistake in it.
#![cfg(not(feature = "sdk-headers"))]

use qnn_sys::*;
use std::mem::{align_of, offset_of, size_of};

macro_rules! layouts {
    ($($name:ident, $size:literal, $align:literal, { $($field:ident: $offset:literal),* };)*) => {
        [$(
            (stringify!($name), "size", size_of::<$name>(), $size),
            (stringify!($name), "alignment", align_of::<$name>(), $align),
            $( (stringify!($name), stringify!($field), offset_of!($name, $field), $offset), )*
        )*]
    };
}

#[test]
fn structs_have_the_sizes_and_offsets_of_the_abi() {
    let layouts = layouts! {
        Qnn_Version_t, 12, 4, { major: 0, minor: 4, patch: 8 };
        Qnn_ApiVersion_t, 24, 4, { coreApiVersion: 0, backendApiVersion: 12 };
        Qnn_Scalar_t, 16, 8, { dataType: 0, __bindgen_anon_1: 8 };
        Qnn_ScaleOffset_t, 8, 4, { scale: 0, offset: 4 };
        Qnn_AxisScaleOffset_t, 16, 8, { axis: 0, numScaleOffsets: 4, scaleOffset: 8 };
        Qnn_BwScaleOffset_t, 12, 4, { bitwidth: 0, scale: 4, offset: 8 };
        Qnn_BwAxisScaleOffset_t, 32, 8, { bitwidth: 0, axis: 4, numElements: 8, scales: 16, offsets: 24 };
        Qnn_BlockEncoding_t, 16, 8, { blockSize: 0, scaleOffset: 8 };
        Qnn_BlockwiseExpansion_t, 40, 8, { axis: 0, scaleOffsets: 8, numBlocksPerAxis: 16, blockScaleBitwidth:
            20, blockScaleStorageType: 24, __bindgen_anon_1: 32 };
        Qnn_QuantizeParams_t, 40, 8, { encodingDefinition: 0, quantizationEncoding: 4, __bindgen_anon_1: 8 };
        Qnn_ClientBuffer_t, 16, 8, { data: 0, dataSize: 8 };
        Qnn_TensorV1_t, 112, 8, { id: 0, name: 8, type_: 16, dataFormat: 20, dataType: 24, quantizeParams: 32,
            rank: 72, dimensions: 80, memType: 88, __bindgen_anon_1: 96 };
        Qnn_TensorV2_t, 136, 8, { id: 0, name: 8, type_: 16, dataFormat: 20, dataType: 24, quantizeParams: 32,
            rank: 72, dimensions: 80, memType: 88, __bindgen_anon_1: 96, isDynamicDimensions: 112, sparseParams:
            120, isProduced: 132 };
        Qnn_Tensor_t, 144, 8, { version: 0, __bindgen_anon_1: 8 };
        Qnn_Param_t, 160, 8, { paramType: 0, name: 8, __bindgen_anon_1: 16 };
        Qnn_OpConfigV1_t, 72, 8, { name: 0, packageName: 8, typeName: 16, numOfParams: 24, params: 32,
            numOfInputs: 40, inputTensors: 48, numOfOutputs: 56, outputTensors: 64 };
        Qnn_OpConfig_t, 80, 8, { version: 0, __bindgen_anon_1: 8 };
        QnnBackend_Config_t, 16, 8, { option: 0, __bindgen_anon_1: 8 };
        Qnn_MemShape_t, 24, 8, { numDim: 0, dimSize: 8, shapeConfig: 16 };
        Qnn_MemDescriptor_t, 48, 8, { memShape: 0, dataType: 24, memType: 28, __bindgen_anon_1: 32 };
        QnnContext_Config_t, 16, 8, { option: 0, __bindgen_anon_1: 8 };
        QnnDevice_Config_t, 16, 8, { option: 0, __bindgen_anon_1: 8 };
        QnnDevice_PlatformInfoV1_t, 16, 8, { numHwDevices: 0, hwDevices: 8 };
        QnnDevice_HardwareDeviceInfoV1_t, 32, 8, { deviceId: 0, deviceType: 4, numCores: 8, cores: 16,
            deviceInfoExtension: 24 };
        QnnGraph_Config_t, 16, 8, { option: 0, __bindgen_anon_1: 8 };
        QnnProfile_EventData_t, 24, 8, { type_: 0, unit: 4, value: 8, identifier: 16 };
        QnnProfile_ExtendedEventDataV1_t, 48, 8, { type_: 0, unit: 4, __bindgen_anon_1: 8, timestamp: 32,
            identifier: 40 };
        QnnProfile_ExtendedEventData_t, 56, 8, { version: 0, __bindgen_anon_1: 8 };
        QnnSignal_Config_t, 16, 8, { option: 0, __bindgen_anon_1: 8 };
        QnnInterface_t, 608, 8, { backendId: 0, providerName: 8, apiVersion: 16, __bindgen_anon_1: 40 };
        QnnSystemInterface_t, 160, 8, { backendId: 0, providerName: 8, systemApiVersion: 16, __bindgen_anon_1:
            32 };
        QnnSystemContext_GraphInfoV1_t, 40, 8, { graphName: 0, numGraphInputs: 8, graphInputs: 16,
            numGraphOutputs: 24, graphOutputs: 32 };
        QnnSystemContext_GraphInfoV3_t, 80, 8, { graphName: 0, numGraphInputs: 8, graphInputs: 16,
            numGraphOutputs: 24, graphOutputs: 32, numUpdateableTensors: 40, updateableTensors: 48,
            graphBlobInfoSize: 56, graphBlobInfo: 64, startOpIndex: 72, endOpIndex: 76 };
        QnnSystemContext_GraphInfo_t, 88, 8, { version: 0, __bindgen_anon_1: 8 };
        QnnSystemContext_BinaryInfoV1_t, 128, 8, { backendId: 0, buildId: 8, coreApiVersion: 16,
            backendApiVersion: 28, socVersion: 40, hwInfoBlobVersion: 48, contextBlobVersion: 60,
            hwInfoBlobSize: 72, hwInfoBlob: 80, contextBlobSize: 88, numContextTensors: 96, contextTensors: 104,
            numGraphs: 112, graphs: 120 };
        QnnSystemContext_BinaryInfoV2_t, 136, 8, { backendId: 0, buildId: 8, coreApiVersion: 16,
            backendApiVersion: 28, socVersion: 40, hwInfoBlobVersion: 48, contextBlobVersion: 60,
            hwInfoBlobSize: 72, hwInfoBlob: 80, contextBlobSize: 88, numContextTensors: 96, contextTensors: 104,
            numGraphs: 112, graphs: 120, platformInfo: 128 };
        QnnSystemContext_BinaryInfoV3_t, 136, 8, { backendId: 0, buildId: 8, coreApiVersion: 16,
            backendApiVersion: 28, socVersion: 40, contextBlobVersion: 48, contextBlobSize: 64,
            numContextTensors: 72, contextTensors: 80, numGraphs: 88, graphs: 96, platformInfo: 104,
            contextMetadataSize: 112, contextMetadata: 120, socModel: 128 };
        QnnSystemContext_BinaryInfo_t, 144, 8, { version: 0, __bindgen_anon_1: 8 };
        QnnHtpContext_CustomConfig_t, 24, 8, { option: 0, __bindgen_anon_1: 8 };
        QnnHtpGraph_CustomConfig_t, 56, 8, { option: 0, __bindgen_anon_1: 8 };
        QnnHtpDevice_CustomConfig_t, 12, 4, { option: 0, __bindgen_anon_1: 4 };
        QnnHtpPerfInfrastructure_DcvsV3_t, 64, 4, { contextId: 0, setDcvsEnable: 4, dcvsEnable: 8, powerMode:
            12, setSleepLatency: 16, sleepLatency: 20, setSleepDisable: 24, sleepDisable: 28, setBusParams: 32,
            busVoltageCornerMin: 36, busVoltageCornerTarget: 40, busVoltageCornerMax: 44, setCoreParams: 48,
            coreVoltageCornerMin: 52, coreVoltageCornerTarget: 56, coreVoltageCornerMax: 60 };
        QnnHtpPerfInfrastructure_PowerConfig_t, 68, 4, { option: 0, __bindgen_anon_1: 4 };
        QnnHtpDevice_PerfInfrastructure_t, 32, 8, { createPowerConfigId: 0, destroyPowerConfigId: 8,
            setPowerConfig: 16, setMemoryConfig: 24 };
        QnnHtpDevice_Infrastructure_t, 40, 8, { infraType: 0, __bindgen_anon_1: 8 };
        QnnHtpMem_SharedBufferConfig_t, 16, 8, { fd: 0, offset: 8 };
        QnnMemHtp_Descriptor_t, 32, 8, { type_: 0, size: 8, __bindgen_anon_1: 16 };
        QnnHtpSystemContext_GraphBlobInfoV1_t, 32, 8, { spillFillBufferSize: 0, vtcmSize: 8, optimizationLevel:
            12, htpDlbc: 16, numHvxThreads: 24 };
        QnnHtpSystemContext_GraphBlobInfoV2_t, 72, 8, { version: 0, nativeKChannelSize: 8, nativeVChannelSize:
            16, isSafeShareIO: 24, ioTensorSize: 32, opDataSize: 40, constSize: 48, ddrTensorSize: 56,
            sharedWeightsSize: 64 };
        QnnHtpDevice_CustomConfigAt8_t, 16, 8, { option: 0, __bindgen_anon_1: 8 };
    };
    for (name, what, found, wanted) in layouts {
        assert_eq!(found, wanted, "{name}: {what}");
    }
}

/// First, middle and last entries, and those between which versions appended.
#[test]
fn tables_have_the_entries_in_the_places_of_the_abi() {
    let entries = [
        (offset_of!(InterfaceTable, propertyHasCapability), 0),
        (offset_of!(InterfaceTable, backendValidateOpConfig), 7),
        (offset_of!(InterfaceTable, contextCreateFromBinary), 13),
        (offset_of!(InterfaceTable, graphExecute), 21),
        (offset_of!(InterfaceTable, logCreate), 25),
        (offset_of!(InterfaceTable, memRegister), 35),
        (offset_of!(InterfaceTable, deviceCreate), 40),
        (offset_of!(InterfaceTable, errorGetMessage), 48),
        (offset_of!(InterfaceTable, contextValidateBinary), 54),
        (offset_of!(InterfaceTable, contextFinalize), 66),
        (offset_of!(InterfaceTable, contextFreeBinarySectionUpdate), 70),
        (offset_of!(SystemTable, systemContextCreate), 0),
        (offset_of!(SystemTable, systemContextGetMetaData), 2),
        (offset_of!(SystemTable, systemProfileFreeSerializationTarget), 15),
    ];
    for (offset, index) in entries {
        assert_eq!(offset, index * 8);
    }
    assert_eq!((size_of::<InterfaceTable>(), size_of::<SystemTable>()), (71 * 8, 16 * 8));
    assert_eq!(offset_of!(QnnInterface_t, __bindgen_anon_1), 40);
    assert_eq!(offset_of!(QnnSystemInterface_t, __bindgen_anon_1), 32);
}

/// A number that no constant names, as a newer library may hand out, is a value like any other.
#[test]
fn unknown_enum_numbers_are_values() {
    assert_eq!(Qnn_TensorType_t(4711).0, 4711);
    assert_ne!(Qnn_DataType_t(0x7fff_1234), Qnn_DataType_t::QNN_DATATYPE_UFIXED_POINT_8);
    assert_eq!(size_of::<Qnn_DataType_t>(), 4);
}
