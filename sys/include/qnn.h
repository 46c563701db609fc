/* C interface of Qualcomm AI Engine Direct (QNN), core API 2.32, HTP API 5.43, system API 1.7, written for coexec from
   a description of the ABI as data. Names of types, members, constants and functions are those of the ABI, so that
   code can move to the headers of Qualcomm's SDK; the comments are ours. Types for writing op packages are left out,
   no table entry needs them. `cargo xtask bindgen` makes src/bindings.rs of this file. */

#ifndef COEXEC_QNN_H
#define COEXEC_QNN_H

#include <stddef.h>
#include <stdint.h>

/* Sizes and offsets below hold where long and pointers have 64 bits and int has 32. */
_Static_assert(sizeof(void *) == 8 && sizeof(size_t) == 8 && sizeof(int) == 4, "QNN bindings are for LP64 targets");

/* Every struct, so that pointers may name those defined further down. */
typedef struct Qnn_OpMappingPair_t Qnn_OpMappingPair_t;
typedef struct Qnn_Mapping_t Qnn_Mapping_t;
typedef struct Qnn_OpMappingV1_t Qnn_OpMappingV1_t;
typedef struct Qnn_OpMapping_t Qnn_OpMapping_t;
typedef struct Qnn_ErrorReportingConfig_t Qnn_ErrorReportingConfig_t;
typedef struct Qnn_Version_t Qnn_Version_t;
typedef struct Qnn_ApiVersion_t Qnn_ApiVersion_t;
typedef struct Qnn_Scalar_t Qnn_Scalar_t;
typedef struct Qnn_ScaleOffset_t Qnn_ScaleOffset_t;
typedef struct Qnn_BwScaleOffset_t Qnn_BwScaleOffset_t;
typedef struct Qnn_AxisScaleOffset_t Qnn_AxisScaleOffset_t;
typedef struct Qnn_BwAxisScaleOffset_t Qnn_BwAxisScaleOffset_t;
typedef struct Qnn_BwAxisScaleOffsetMapped_t Qnn_BwAxisScaleOffsetMapped_t;
typedef struct Qnn_BlockEncoding_t Qnn_BlockEncoding_t;
typedef struct Qnn_BwBlockMapped_t Qnn_BwBlockMapped_t;
typedef struct Qnn_BlockwiseExpansion_t Qnn_BlockwiseExpansion_t;
typedef struct Qnn_BwBlockwiseExpansionMapped_t Qnn_BwBlockwiseExpansionMapped_t;
typedef struct Qnn_VectorEncoding_t Qnn_VectorEncoding_t;
typedef struct Qnn_FloatScaleOffset_t Qnn_FloatScaleOffset_t;
typedef struct Qnn_FloatBlockEncoding_t Qnn_FloatBlockEncoding_t;
typedef struct Qnn_BwFloatBlockEncoding_t Qnn_BwFloatBlockEncoding_t;
typedef struct Qnn_QuantizeParams_t Qnn_QuantizeParams_t;
typedef struct Qnn_ClientBuffer_t Qnn_ClientBuffer_t;
typedef struct Qnn_TensorRetrieveRaw_t Qnn_TensorRetrieveRaw_t;
typedef struct Qnn_OpaqueObject_t Qnn_OpaqueObject_t;
typedef struct Qnn_TensorV1_t Qnn_TensorV1_t;
typedef struct Qnn_SparseLayoutHybridCoo_t Qnn_SparseLayoutHybridCoo_t;
typedef struct Qnn_SparseParams_t Qnn_SparseParams_t;
typedef struct Qnn_TensorV2_t Qnn_TensorV2_t;
typedef struct Qnn_Tensor_t Qnn_Tensor_t;
typedef struct Qnn_TensorSetV1_t Qnn_TensorSetV1_t;
typedef struct Qnn_TensorSet_t Qnn_TensorSet_t;
typedef struct Qnn_Param_t Qnn_Param_t;
typedef struct Qnn_OpConfigV1_t Qnn_OpConfigV1_t;
typedef struct Qnn_OpConfig_t Qnn_OpConfig_t;
typedef struct QnnBackend_Config_t QnnBackend_Config_t;
typedef struct QnnBackend_OperationName_t QnnBackend_OperationName_t;
typedef struct QnnBackend_Property_t QnnBackend_Property_t;
typedef struct Qnn_MemShape_t Qnn_MemShape_t;
typedef struct Qnn_MemIonInfo_t Qnn_MemIonInfo_t;
typedef struct Qnn_MemDmaBufInfo_t Qnn_MemDmaBufInfo_t;
typedef struct Qnn_MemDescriptor_t Qnn_MemDescriptor_t;
typedef struct QnnContext_AsyncExecutionQueueDepth_t QnnContext_AsyncExecutionQueueDepth_t;
typedef struct QnnContext_Config_t QnnContext_Config_t;
typedef struct QnnContext_ParamsV1_t QnnContext_ParamsV1_t;
typedef struct Qnn_ContextBinaryDataRequest_t Qnn_ContextBinaryDataRequest_t;
typedef struct Qnn_ContextBinaryRawDataResponse_t Qnn_ContextBinaryRawDataResponse_t;
typedef struct Qnn_ContextBinaryDmaDataResponse_t Qnn_ContextBinaryDmaDataResponse_t;
typedef struct Qnn_ContextBinaryRawDataMem_t Qnn_ContextBinaryRawDataMem_t;
typedef struct Qnn_ContextBinaryDmaDataMem_t Qnn_ContextBinaryDmaDataMem_t;
typedef struct Qnn_ContextBinaryRawBufferCallbackV1_t Qnn_ContextBinaryRawBufferCallbackV1_t;
typedef struct Qnn_ContextBinaryDmaBufferCallbackV1_t Qnn_ContextBinaryDmaBufferCallbackV1_t;
typedef struct Qnn_ContextBinaryRawBufferCallback_t Qnn_ContextBinaryRawBufferCallback_t;
typedef struct Qnn_ContextBinaryDmaBufferCallback_t Qnn_ContextBinaryDmaBufferCallback_t;
typedef struct Qnn_ContextBinaryCallback_t Qnn_ContextBinaryCallback_t;
typedef struct QnnContext_ParamsV2_t QnnContext_ParamsV2_t;
typedef struct QnnContext_Params_t QnnContext_Params_t;
typedef struct Qnn_BinaryBuffer_t Qnn_BinaryBuffer_t;
typedef struct QnnContext_BufferV1_t QnnContext_BufferV1_t;
typedef struct QnnContext_Buffer_t QnnContext_Buffer_t;
typedef struct QnnContext_Property_t QnnContext_Property_t;
typedef struct QnnDevice_CoreInfoV1_t QnnDevice_CoreInfoV1_t;
typedef struct QnnDevice_CoreInfo_t QnnDevice_CoreInfo_t;
typedef struct QnnDevice_HardwareDeviceInfoV1_t QnnDevice_HardwareDeviceInfoV1_t;
typedef struct QnnDevice_HardwareDeviceInfo_t QnnDevice_HardwareDeviceInfo_t;
typedef struct QnnDevice_PlatformInfoV1_t QnnDevice_PlatformInfoV1_t;
typedef struct QnnDevice_PlatformInfo_t QnnDevice_PlatformInfo_t;
typedef struct QnnDevice_Config_t QnnDevice_Config_t;
typedef struct QnnGlobalConfig_t QnnGlobalConfig_t;
typedef struct QnnGraph_Config_t QnnGraph_Config_t;
typedef struct QnnGraph_Property_t QnnGraph_Property_t;
typedef struct QnnGraph_ExecuteEnvironment_t QnnGraph_ExecuteEnvironment_t;
typedef struct Qnn_NotifyStatus_t Qnn_NotifyStatus_t;
typedef struct QnnProfile_EventData_t QnnProfile_EventData_t;
typedef struct QnnProfile_BackendOpaqueObject_t QnnProfile_BackendOpaqueObject_t;
typedef struct QnnProfile_ExtendedEventDataV1_t QnnProfile_ExtendedEventDataV1_t;
typedef struct QnnProfile_ExtendedEventData_t QnnProfile_ExtendedEventData_t;
typedef struct QnnProfile_Config_t QnnProfile_Config_t;
typedef struct QnnSignal_Config_t QnnSignal_Config_t;
typedef struct QnnInterface_ImplementationV2_32_t QnnInterface_ImplementationV2_32_t;
typedef struct QnnInterface_t QnnInterface_t;
typedef struct QnnSystemContext_GraphInfoV1_t QnnSystemContext_GraphInfoV1_t;
typedef struct QnnSystemContext_GraphInfoV2_t QnnSystemContext_GraphInfoV2_t;
typedef struct QnnSystemContext_GraphInfoV3_t QnnSystemContext_GraphInfoV3_t;
typedef struct QnnSystemContext_GraphInfo_t QnnSystemContext_GraphInfo_t;
typedef struct QnnSystemContext_BinaryInfoV1_t QnnSystemContext_BinaryInfoV1_t;
typedef struct QnnSystemContext_BinaryInfoV2_t QnnSystemContext_BinaryInfoV2_t;
typedef struct QnnSystemContext_BinaryInfoV3_t QnnSystemContext_BinaryInfoV3_t;
typedef struct QnnSystemContext_BinaryInfo_t QnnSystemContext_BinaryInfo_t;
typedef struct QnnSystemDlc_GraphConfigInfoV1_t QnnSystemDlc_GraphConfigInfoV1_t;
typedef struct QnnSystemDlc_GraphConfigInfo_t QnnSystemDlc_GraphConfigInfo_t;
typedef struct QnnSystemProfile_SerializationTargetFile_t QnnSystemProfile_SerializationTargetFile_t;
typedef struct QnnSystemProfile_SerializationTarget_t QnnSystemProfile_SerializationTarget_t;
typedef struct QnnSystemProfile_SerializationFileHeader_t QnnSystemProfile_SerializationFileHeader_t;
typedef struct QnnSystemProfile_SerializationTargetConfig_t QnnSystemProfile_SerializationTargetConfig_t;
typedef struct QnnSystemProfile_HeaderV1_t QnnSystemProfile_HeaderV1_t;
typedef struct QnnSystemProfile_ProfileEventV1_t QnnSystemProfile_ProfileEventV1_t;
typedef struct QnnSystemProfile_ProfileDataV1_t QnnSystemProfile_ProfileDataV1_t;
typedef struct QnnSystemProfile_ProfileData_t QnnSystemProfile_ProfileData_t;
typedef struct QnnSystemInterface_ImplementationV1_7_t QnnSystemInterface_ImplementationV1_7_t;
typedef struct QnnSystemInterface_t QnnSystemInterface_t;
typedef struct QnnHtpContext_GroupRegistration_t QnnHtpContext_GroupRegistration_t;
typedef struct QnnHtpContext_CustomConfig_t QnnHtpContext_CustomConfig_t;
typedef struct QnnHtpContext_CustomProperty_t QnnHtpContext_CustomProperty_t;
typedef struct QnnHtpPerfInfrastructure_DcvsV3_t QnnHtpPerfInfrastructure_DcvsV3_t;
typedef struct QnnHtpPerfInfrastructure_HmxV2_t QnnHtpPerfInfrastructure_HmxV2_t;
typedef struct QnnHtpPerfInfrastructure_PowerConfig_t QnnHtpPerfInfrastructure_PowerConfig_t;
typedef struct QnnHtpPerfInfrastructure_MemoryConfig_t QnnHtpPerfInfrastructure_MemoryConfig_t;
typedef struct QnnHtpDevice_Minimum_Arch_t QnnHtpDevice_Minimum_Arch_t;
typedef struct QnnHtpDevice_UseSignedProcessDomain_t QnnHtpDevice_UseSignedProcessDomain_t;
typedef struct QnnHtpDevice_UseSecureProcessDomain_t QnnHtpDevice_UseSecureProcessDomain_t;
typedef struct QnnHtpDevice_CustomConfig_t QnnHtpDevice_CustomConfig_t;
typedef struct QnnHtpDevice_OnChipDeviceInfoExtension_t QnnHtpDevice_OnChipDeviceInfoExtension_t;
typedef struct QnnHtpDevice_DeviceInfoExtension_t QnnHtpDevice_DeviceInfoExtension_t;
typedef struct QnnHtpDevice_PerfInfrastructure_t QnnHtpDevice_PerfInfrastructure_t;
typedef struct QnnHtpDevice_Infrastructure_t QnnHtpDevice_Infrastructure_t;
typedef struct QnnHtpGraph_OptimizationOption_t QnnHtpGraph_OptimizationOption_t;
typedef struct QnnHtpGraph_VtcmConfig_t QnnHtpGraph_VtcmConfig_t;
typedef struct QnnHtpGraph_ParallelGraphExecutionConfig_t QnnHtpGraph_ParallelGraphExecutionConfig_t;
typedef struct QnnHtp_HmxBoundingInfo_t QnnHtp_HmxBoundingInfo_t;
typedef struct QnnHtpGraph_FinalizeConfig_t QnnHtpGraph_FinalizeConfig_t;
typedef struct QnnHtpGraph_CustomConfig_t QnnHtpGraph_CustomConfig_t;
typedef struct QnnHtpMem_SharedBufferConfig_t QnnHtpMem_SharedBufferConfig_t;
typedef struct QnnMemHtp_Descriptor_t QnnMemHtp_Descriptor_t;
typedef struct QnnHtpSystemContext_HwBlobInfoV1_t QnnHtpSystemContext_HwBlobInfoV1_t;
typedef struct QnnHtpSystemContext_HwBlobInfo_t QnnHtpSystemContext_HwBlobInfo_t;
typedef struct QnnHtpSystemContext_GraphBlobInfoV1_t QnnHtpSystemContext_GraphBlobInfoV1_t;
typedef struct QnnHtpSystemContext_GraphBlobInfoV2_t QnnHtpSystemContext_GraphBlobInfoV2_t;
typedef struct QnnHtpSystemContext_GraphBlobInfo_t QnnHtpSystemContext_GraphBlobInfo_t;
typedef struct QnnHtpSystemContext_ContextBlobInfoV1_t QnnHtpSystemContext_ContextBlobInfoV1_t;
typedef struct QnnHtpSystemContext_ContextBlobInfo_t QnnHtpSystemContext_ContextBlobInfo_t;

/* ---- Common ---------------------------------------------------------------------------------------------- */
/* Types that every part of the API shares: handles, versions, scalars, tensors, op configs. */

#define QNN_API_VERSION_PATCH 0
#define QNN_API_VERSION_MAJOR 2
#define QNN_API_VERSION_MINOR 32
#define QNN_MIN_ERROR_COMMON 1000
#define QNN_MAX_ERROR_COMMON 1999
#define QNN_MIN_ERROR_PROPERTY 2000
#define QNN_MAX_ERROR_PROPERTY 2999
#define QNN_MIN_ERROR_BACKEND 4000
#define QNN_MIN_ERROR_BACKEND_SAVER 4950
#define QNN_MAX_ERROR_BACKEND_SAVER 4998
#define QNN_MAX_ERROR_BACKEND 4999
#define QNN_MIN_ERROR_CONTEXT 5000
#define QNN_MAX_ERROR_CONTEXT 5999
#define QNN_MIN_ERROR_GRAPH 6000
#define QNN_MAX_ERROR_GRAPH 6999
#define QNN_MIN_ERROR_TENSOR 7000
#define QNN_MAX_ERROR_TENSOR 7999
#define QNN_MIN_ERROR_MEM 8000
#define QNN_MAX_ERROR_MEM 8999
#define QNN_MIN_ERROR_SIGNAL 9000
#define QNN_MAX_ERROR_SIGNAL 9999
#define QNN_MIN_ERROR_ERROR 10000
#define QNN_MAX_ERROR_ERROR 10999
#define QNN_MIN_ERROR_LOG 11000
#define QNN_MAX_ERROR_LOG 11999
#define QNN_MIN_ERROR_PROFILE 12000
#define QNN_MAX_ERROR_PROFILE 12999
#define QNN_MIN_ERROR_DEVICE 14000
#define QNN_MAX_ERROR_DEVICE 14999
#define QNN_MIN_ERROR_GLOBAL_CONFIG 15000
#define QNN_MAX_ERROR_GLOBAL_CONFIG 15999
#define QNN_MIN_ERROR_INTERFACE 60000
#define QNN_MAX_ERROR_INTERFACE 60999
#define QNN_TENSOR_DATA_FORMAT_DENSE 0
#define QNN_TENSOR_DATA_FORMAT_FLAT_BUFFER 0
#define QNN_TENSOR_DATA_FORMAT_SPARSE 1
#define QNN_TENSOR_DATA_FORMAT_CODEBOOK 2
#define QNN_TENSOR_DATA_FORMAT_MX 3
#define QNN_TENSOR_DATA_FORMAT_UBWC_RGBA8888 4
#define QNN_TENSOR_DATA_FORMAT_UBWC_NV12 5
#define QNN_TENSOR_DATA_FORMAT_UBWC_NV12_Y 6
#define QNN_TENSOR_DATA_FORMAT_UBWC_NV12_UV 7
#define QNN_TENSOR_DATA_FORMAT_HMX_WEIGHT_LAYOUT 8
#define QNN_TENSOR_DATA_FORMAT_UBWC_NV124R 9
#define QNN_TENSOR_DATA_FORMAT_UBWC_NV124R_Y 10
#define QNN_TENSOR_DATA_FORMAT_UBWC_NV124R_UV 11
#define QNN_BACKEND_ID_NULL 0
#define QNN_SUCCESS 0
#define QNN_BACKEND_ID_HTP 6

typedef enum {
    QNN_COMMON_MIN_ERROR = 1000,
    QNN_COMMON_ERROR_NOT_SUPPORTED = 1000,
    QNN_COMMON_ERROR_MEM_ALLOC = 1002,
    QNN_COMMON_ERROR_SYSTEM = 1003,
    QNN_COMMON_ERROR_INVALID_ARGUMENT = 1004,
    QNN_COMMON_ERROR_OPERATION_NOT_PERMITTED = 1005,
    QNN_COMMON_ERROR_PLATFORM_NOT_SUPPORTED = 1006,
    QNN_COMMON_ERROR_SYSTEM_COMMUNICATION = 1007,
    QNN_COMMON_ERROR_INCOMPATIBLE_BINARIES = 1008,
    QNN_COMMON_ERROR_LOADING_BINARIES = 1009,
    QNN_COMMON_ERROR_RESOURCE_UNAVAILABLE = 1010,
    QNN_COMMON_ERROR_SYSTEM_COMMUNICATION_FATAL = 1011,
    QNN_COMMON_ERROR_GENERAL = 1100,
    QNN_COMMON_MAX_ERROR = 1999,
    QNN_COMMON_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnCommon_Error_t;

typedef enum {
    QNN_OP_MAPPING_TYPE_TENSOR = 0,
    QNN_OP_MAPPING_TYPE_OP = 1,
} Qnn_MappingType_t;

typedef enum {
    QNN_OP_MAPPING_VERSION_1 = 1,
} Qnn_OpMappingVersion_t;

typedef enum {
    QNN_DATATYPE_INT_8 = 8,
    QNN_DATATYPE_INT_16 = 22,
    QNN_DATATYPE_INT_32 = 50,
    QNN_DATATYPE_INT_64 = 100,
    QNN_DATATYPE_UINT_8 = 264,
    QNN_DATATYPE_UINT_16 = 278,
    QNN_DATATYPE_UINT_32 = 306,
    QNN_DATATYPE_UINT_64 = 356,
    QNN_DATATYPE_FLOAT_16 = 534,
    QNN_DATATYPE_BFLOAT_16 = 550,
    QNN_DATATYPE_FLOAT_32 = 562,
    QNN_DATATYPE_FLOAT_64 = 612,
    QNN_DATATYPE_SFIXED_POINT_4 = 772,
    QNN_DATATYPE_SFIXED_POINT_8 = 776,
    QNN_DATATYPE_SFIXED_POINT_16 = 790,
    QNN_DATATYPE_SFIXED_POINT_32 = 818,
    QNN_DATATYPE_UFIXED_POINT_4 = 1028,
    QNN_DATATYPE_UFIXED_POINT_8 = 1032,
    QNN_DATATYPE_UFIXED_POINT_16 = 1046,
    QNN_DATATYPE_UFIXED_POINT_32 = 1074,
    QNN_DATATYPE_BOOL_8 = 1288,
    QNN_DATATYPE_STRING = 1544,
    QNN_DATATYPE_UNDEFINED = 0x7FFFFFFF,
} Qnn_DataType_t;

typedef enum {
    QNN_PRECISION_FLOAT32 = 0,
    QNN_PRECISION_FLOAT16 = 1,
    QNN_PRECISION_UNDEFINED = 0x7FFFFFFF,
} Qnn_Precision_t;

typedef enum {
    QNN_TENSOR_TYPE_APP_WRITE = 0,
    QNN_TENSOR_TYPE_APP_READ = 1,
    QNN_TENSOR_TYPE_APP_READWRITE = 2,
    QNN_TENSOR_TYPE_NATIVE = 3,
    QNN_TENSOR_TYPE_STATIC = 4,
    QNN_TENSOR_TYPE_NULL = 5,
    QNN_TENSOR_TYPE_UPDATEABLE_STATIC = 6,
    QNN_TENSOR_TYPE_UPDATEABLE_NATIVE = 7,
    QNN_TENSOR_TYPE_UPDATEABLE_APP_WRITE = 8,
    QNN_TENSOR_TYPE_UPDATEABLE_APP_READ = 9,
    QNN_TENSOR_TYPE_UPDATEABLE_APP_READWRITE = 10,
    QNN_TENSOR_TYPE_OPTIONAL_APP_WRITE = 11,
    QNN_TENSOR_TYPE_OPTIONAL_APP_READ = 12,
    QNN_TENSOR_TYPE_OPTIONAL_APP_READWRITE = 13,
    QNN_TENSOR_TYPE_UNDEFINED = 0x7FFFFFFF,
} Qnn_TensorType_t;

typedef enum {
    QNN_PARAMTYPE_SCALAR = 0,
    QNN_PARAMTYPE_TENSOR = 1,
    QNN_PARAMTYPE_UNDEFINED = 0xFFFFFFFF,
} Qnn_ParamType_t;

typedef enum {
    QNN_DEFINITION_IMPL_GENERATED = 0,
    QNN_DEFINITION_DEFINED = 1,
    QNN_DEFINITION_UNDEFINED = 0x7FFFFFFF,
} Qnn_Definition_t;

typedef enum {
    QNN_PRIORITY_LOW = 0,
    QNN_PRIORITY_NORMAL = 100,
    QNN_PRIORITY_DEFAULT = 100,
    QNN_PRIORITY_NORMAL_HIGH = 150,
    QNN_PRIORITY_HIGH = 200,
    QNN_PRIORITY_UNDEFINED = 0x7FFFFFFF,
} Qnn_Priority_t;

typedef enum {
    QNN_ERROR_REPORTING_LEVEL_BRIEF = 0,
    QNN_ERROR_REPORTING_LEVEL_DETAILED = 1,
    QNN_ERROR_REPORTING_LEVEL_UNDEFINED = 0x7FFFFFFF,
} Qnn_ErrorReportingLevel_t;

typedef enum {
    QNN_QUANTIZATION_ENCODING_SCALE_OFFSET = 0,
    QNN_QUANTIZATION_ENCODING_AXIS_SCALE_OFFSET = 1,
    QNN_QUANTIZATION_ENCODING_BW_SCALE_OFFSET = 2,
    QNN_QUANTIZATION_ENCODING_BW_AXIS_SCALE_OFFSET = 3,
    QNN_QUANTIZATION_ENCODING_BLOCK = 4,
    QNN_QUANTIZATION_ENCODING_BLOCKWISE_EXPANSION = 5,
    QNN_QUANTIZATION_ENCODING_VECTOR = 6,
    QNN_QUANTIZATION_ENCODING_FLOAT_BLOCK = 7,
    QNN_QUANTIZATION_ENCODING_BW_AXIS_SCALE_OFFSET_MAPPED = 8,
    QNN_QUANTIZATION_ENCODING_BW_BLOCK_MAPPED = 9,
    QNN_QUANTIZATION_ENCODING_BW_BLOCKWISE_EXPANSION_MAPPED = 10,
    QNN_QUANTIZATION_ENCODING_BW_FLOAT_BLOCK = 11,
    QNN_QUANTIZATION_ENCODING_UNDEFINED = 0x7FFFFFFF,
} Qnn_QuantizationEncoding_t;

typedef enum {
    QNN_QUANTIZATION_ENCODING_MAPPING_STANDARD_SYMMETRIC = 0,
    QNN_QUANTIZATION_ENCODING_MAPPING_ASYMMETRIC_PLUS_ONE = 1,
    QNN_QUANTIZATION_ENCODING_MAPPING_LINEAR_SYMMETRIC_EXCLUDE_ZERO = 2,
    QNN_QUANTIZATION_ENCODING_MAPPING_UNDEFINED = 0x7FFFFFFF,
} Qnn_QuantizationEncodingMapping_t;

typedef enum {
    QNN_BLOCKWISE_EXPANSION_BITWIDTH_SCALE_STORAGE_8 = 0,
    QNN_BLOCKWISE_EXPANSION_BITWIDTH_SCALE_STORAGE_16 = 1,
    QNN_BLOCKWISE_EXPANSION_BITWIDTH_SCALE_STORAGE_UNDEFINED = 0x7FFFFFFF,
} Qnn_BlockwiseExpansionBlockScaleStorageType_t;

typedef enum {
    QNN_TENSORMEMTYPE_RAW = 0,
    QNN_TENSORMEMTYPE_MEMHANDLE = 1,
    QNN_TENSORMEMTYPE_RETRIEVE_RAW = 2,
    QNN_TENSORMEMTYPE_UNDEFINED = 0x7FFFFFFF,
} Qnn_TensorMemType_t;

typedef enum {
    QNN_SPARSE_LAYOUT_HYBRID_COO = 0,
    QNN_SPARSE_LAYOUT_UNDEFINED = 0x7FFFFFFF,
} Qnn_SparseLayoutType_t;

typedef enum {
    QNN_TENSOR_VERSION_1 = 1,
    QNN_TENSOR_VERSION_2 = 2,
    QNN_TENSOR_VERSION_UNDEFINED = 0x7FFFFFFF,
} Qnn_TensorVersion_t;

typedef enum {
    QNN_TENSOR_SET_VERSION_1 = 1,
    QNN_TENSOR_SET_VERSION_UNDEFINED = 0x7FFFFFFF,
} Qnn_TensorSetVersion_t;

typedef enum {
    QNN_OPCONFIG_VERSION_1 = 1,
    QNN_OPCONFIG_VERSION_UNDEFINED = 0x7FFFFFFF,
} Qnn_OpConfigVersion_t;

typedef enum {
    QNN_SOC_MODEL_UNKNOWN = 0,
    QNN_SOC_MODEL_SDM845 = 1,
    QNN_SOC_MODEL_SDM835 = 2,
    QNN_SOC_MODEL_SDM821 = 3,
    QNN_SOC_MODEL_SDM820 = 4,
    QNN_SOC_MODEL_SDM801 = 5,
    QNN_SOC_MODEL_SDM670 = 6,
    QNN_SOC_MODEL_SDM660 = 7,
    QNN_SOC_MODEL_SDM652 = 8,
    QNN_SOC_MODEL_SDM636 = 9,
    QNN_SOC_MODEL_SDM630 = 10,
    QNN_SOC_MODEL_SDM625 = 11,
    QNN_SOC_MODEL_SDM855 = 12,
    QNN_SOC_MODEL_SDM710 = 13,
    QNN_SOC_MODEL_SDM632 = 15,
    QNN_SOC_MODEL_SM6150 = 16,
    QNN_SOC_MODEL_SM7150 = 17,
    QNN_SOC_MODEL_QCS405 = 18,
    QNN_SOC_MODEL_SM6125 = 19,
    QNN_SOC_MODEL_QCS403 = 20,
    QNN_SOC_MODEL_SDM865 = 21,
    QNN_SOC_MODEL_IPQ6018 = 23,
    QNN_SOC_MODEL_IPQ6028 = 24,
    QNN_SOC_MODEL_SM7250 = 25,
    QNN_SOC_MODEL_SA8195 = 26,
    QNN_SOC_MODEL_SM6250 = 27,
    QNN_SOC_MODEL_SM4250 = 28,
    QNN_SOC_MODEL_SM6350 = 29,
    QNN_SOC_MODEL_SM8350 = 30,
    QNN_SOC_MODEL_SM4350 = 31,
    QNN_SOC_MODEL_SM7350 = 32,
    QNN_SOC_MODEL_QCS410 = 33,
    QNN_SOC_MODEL_SM8325 = 34,
    QNN_SOC_MODEL_SM7325 = 35,
    QNN_SOC_MODEL_SM8450 = 36,
    QNN_SOC_MODEL_SC8280X = 37,
    QNN_SOC_MODEL_SM7315 = 38,
    QNN_SOC_MODEL_SA8295 = 39,
    QNN_SOC_MODEL_SM6225 = 40,
    QNN_SOC_MODEL_SM7450 = 41,
    QNN_SOC_MODEL_SM8475 = 42,
    QNN_SOC_MODEL_SM8550 = 43,
    QNN_SOC_MODEL_SXR1230P = 45,
    QNN_SOC_MODEL_SSG2115P = 46,
    QNN_SOC_MODEL_STP6225P = 47,
    QNN_SOC_MODEL_QCS6125 = 48,
    QNN_SOC_MODEL_QRB4210 = 49,
    QNN_SOC_MODEL_SM6450 = 50,
    QNN_SOC_MODEL_QCS7230 = 51,
    QNN_SOC_MODEL_SA8255 = 52,
    QNN_SOC_MODEL_SXR2230P = 53,
    QNN_SOC_MODEL_SM7475 = 54,
    QNN_SOC_MODEL_SM4375 = 55,
    QNN_SOC_MODEL_QCM4325 = 56,
    QNN_SOC_MODEL_SM8650 = 57,
    QNN_SOC_MODEL_SSG2125P = 58,
    QNN_SOC_MODEL_SM4450 = 59,
    QNN_SOC_MODEL_SC8380XP = 60,
    QNN_SOC_MODEL_SM7435 = 61,
    QNN_SOC_MODEL_SA8540 = 62,
    QNN_SOC_MODEL_AIC100 = 63,
    QNN_SOC_MODEL_SM7550 = 64,
    QNN_SOC_MODEL_SM6450Q = 65,
    QNN_SOC_MODEL_QCS8550 = 66,
    QNN_SOC_MODEL_SA8620P = 67,
    QNN_SOC_MODEL_SM8635 = 68,
    QNN_SOC_MODEL_SM8750 = 69,
    QNN_SOC_MODEL_SM7675 = 70,
    QNN_SOC_MODEL_SM4635 = 71,
    QNN_SOC_MODEL_SA8797 = 72,
    QNN_SOC_MODEL_SM7635 = 73,
    QNN_SOC_MODEL_SM6650 = 74,
    QNN_SOC_MODEL_SXR2330P = 75,
    QNN_SOC_MODEL_SM6475 = 76,
    QNN_SOC_MODEL_QCS9100 = 77,
    QNN_SOC_MODEL_QCM6690 = 78,
    QNN_SOC_MODEL_IPQ9574 = 79,
    QNN_SOC_MODEL_IPQ5404 = 80,
    QNN_SOC_MODEL_IPQ5424 = 81,
    QNN_SOC_MODEL_QCS8300 = 82,
    QNN_SOC_MODEL_QCS2290 = 83,
    QNN_SOC_MODEL_SA525M = 84,
    QNN_SOC_MODEL_SM8735 = 85,
    QNN_SOC_MODEL_SM7750 = 86,
    QNN_SOC_MODEL_SM8850 = 87,
    QNN_SOC_MODEL_DYNAMIC_SDM = 0x7FFFFFFF,
} Qnn_SocModel_t;

typedef uint64_t Qnn_ErrorHandle_t;
typedef void *Qnn_Handle_t;
typedef Qnn_Handle_t Qnn_BackendHandle_t;
typedef Qnn_Handle_t Qnn_DeviceHandle_t;
typedef Qnn_Handle_t Qnn_GraphHandle_t;
typedef Qnn_Handle_t Qnn_LogHandle_t;
typedef Qnn_Handle_t Qnn_ProfileHandle_t;
typedef Qnn_Handle_t Qnn_SignalHandle_t;
typedef uint32_t Qnn_TensorDataFormat_t;

typedef Qnn_Handle_t Qnn_ContextHandle_t;
typedef Qnn_ErrorHandle_t (*Qnn_GetTensorRawDataFn_t)(
    Qnn_ContextHandle_t context, Qnn_GraphHandle_t graph, uint64_t id, Qnn_ClientBuffer_t *clientBuf);
typedef Qnn_ErrorHandle_t (*Qnn_FreeTensorRawDataFn_t)(
    Qnn_ContextHandle_t context, Qnn_GraphHandle_t graph, uint64_t id);

struct Qnn_OpMappingPair_t {
    const char *name;
    Qnn_MappingType_t type;
};

struct Qnn_Mapping_t {
    const char *name;
    Qnn_OpMappingPair_t *pair;
    uint32_t numPairs;
};

struct Qnn_OpMappingV1_t {
    const char *graphName;
    Qnn_Mapping_t *opMappings;
    uint32_t numOpMappings;
    Qnn_Mapping_t *tensorMappings;
    uint32_t numTensorMappings;
};

struct Qnn_OpMapping_t {
    Qnn_OpMappingVersion_t version;
    union {
        Qnn_OpMappingV1_t *v1;
    };
};

struct Qnn_ErrorReportingConfig_t {
    Qnn_ErrorReportingLevel_t reportingLevel;
    uint32_t storageLimit;
};

/* Version of an API. */
struct Qnn_Version_t {
    uint32_t major;
    uint32_t minor;
    uint32_t patch;
};

struct Qnn_ApiVersion_t {
    Qnn_Version_t coreApiVersion;
    Qnn_Version_t backendApiVersion;
};

struct Qnn_Scalar_t {
    Qnn_DataType_t dataType;
    union {
        float floatValue;
        double doubleValue;
        uint64_t uint64Value;
        int64_t int64Value;
        uint32_t uint32Value;
        int32_t int32Value;
        uint16_t uint16Value;
        int16_t int16Value;
        uint8_t uint8Value;
        int8_t int8Value;
        uint8_t bool8Value;
        int16_t bfloat16Value;
        const char *stringValue;
    };
};

struct Qnn_ScaleOffset_t {
    float scale;
    int32_t offset;
};

struct Qnn_BwScaleOffset_t {
    uint32_t bitwidth;
    float scale;
    int32_t offset;
};

/* One scale and offset per slice along an axis. */
struct Qnn_AxisScaleOffset_t {
    int32_t axis;
    uint32_t numScaleOffsets;
    Qnn_ScaleOffset_t *scaleOffset;
};

struct Qnn_BwAxisScaleOffset_t {
    uint32_t bitwidth;
    int32_t axis;
    uint32_t numElements;
    float *scales;
    int32_t *offsets;
};

struct Qnn_BwAxisScaleOffsetMapped_t {
    uint32_t bitwidth;
    int32_t axis;
    Qnn_QuantizationEncodingMapping_t mapping;
    uint32_t numElements;
    float *scales;
    int32_t *offsets;
};

/* One scale per block of values. */
struct Qnn_BlockEncoding_t {
    uint32_t *blockSize;
    Qnn_ScaleOffset_t *scaleOffset;
};

struct Qnn_BwBlockMapped_t {
    uint32_t bitwidth;
    Qnn_QuantizationEncodingMapping_t mapping;
    uint32_t *blockSize;
    Qnn_ScaleOffset_t *scaleOffset;
};

/* A small integer scale per block times a float scale per channel (LPBQ). */
struct Qnn_BlockwiseExpansion_t {
    int32_t axis;
    Qnn_ScaleOffset_t *scaleOffsets;
    uint32_t numBlocksPerAxis;
    uint32_t blockScaleBitwidth;
    Qnn_BlockwiseExpansionBlockScaleStorageType_t blockScaleStorageType;
    union {
        uint8_t *blocksScale8;
        uint16_t *blocksScale16;
    };
};

struct Qnn_BwBlockwiseExpansionMapped_t {
    uint32_t bitwidth;
    Qnn_QuantizationEncodingMapping_t mapping;
    int32_t axis;
    Qnn_ScaleOffset_t *scaleOffsets;
    uint32_t numBlocksPerAxis;
    uint32_t blockScaleBitwidth;
    Qnn_BlockwiseExpansionBlockScaleStorageType_t blockScaleStorageType;
    union {
        uint8_t *blocksScale8;
        uint16_t *blocksScale16;
    };
};

struct Qnn_VectorEncoding_t {
    Qnn_BwAxisScaleOffset_t bwAxisScaleOffset;
    uint32_t rowsPerBlock;
    uint32_t columnsPerBlock;
    uint8_t vectorDimension;
    uint8_t vectorStride;
    uint8_t indexBitwidth;
};

struct Qnn_FloatScaleOffset_t {
    float scale;
    float offset;
};

struct Qnn_FloatBlockEncoding_t {
    uint32_t *blockSize;
    Qnn_FloatScaleOffset_t *floatScaleOffset;
};

struct Qnn_BwFloatBlockEncoding_t {
    uint32_t bitwidth;
    uint32_t *blockSize;
    Qnn_FloatScaleOffset_t *floatScaleOffset;
};

/* How codes become numbers: number = (code + offset) * scale, so offset is minus the zero point. */
struct Qnn_QuantizeParams_t {
    Qnn_Definition_t encodingDefinition;
    Qnn_QuantizationEncoding_t quantizationEncoding;
    union {
        Qnn_ScaleOffset_t scaleOffsetEncoding; /* quantizationEncoding 0 */
        Qnn_AxisScaleOffset_t axisScaleOffsetEncoding; /* quantizationEncoding 1 */
        Qnn_BwScaleOffset_t bwScaleOffsetEncoding; /* quantizationEncoding 2 */
        Qnn_BwAxisScaleOffset_t bwAxisScaleOffsetEncoding; /* quantizationEncoding 3 */
        Qnn_BlockEncoding_t blockEncoding; /* quantizationEncoding 4 */
        Qnn_BlockwiseExpansion_t *blockwiseExpansion; /* quantizationEncoding 5 */
        Qnn_VectorEncoding_t *vectorEncoding; /* quantizationEncoding 6 */
        Qnn_FloatBlockEncoding_t floatBlockEncoding; /* quantizationEncoding 7 */
        Qnn_BwAxisScaleOffsetMapped_t *bwAxisScaleOffsetMappedEncoding; /* quantizationEncoding 8 */
        Qnn_BwBlockMapped_t *bwBlockMappedEncoding; /* quantizationEncoding 9 */
        Qnn_BwBlockwiseExpansionMapped_t *bwBlockwiseExpansionMappedEncoding; /* quantizationEncoding 10 */
        Qnn_BwFloatBlockEncoding_t bwFloatBlockEncoding; /* quantizationEncoding 11 */
    };
};

/* Raw memory of the caller. HTP ignores dataSize at execution: check sizes before the call. */
struct Qnn_ClientBuffer_t {
    void *data;
    uint32_t dataSize;
};

struct Qnn_TensorRetrieveRaw_t {
    Qnn_GetTensorRawDataFn_t getTensorData;
    Qnn_FreeTensorRawDataFn_t freeTensorData;
};

struct Qnn_OpaqueObject_t {
    void *data;
    uint64_t len;
};

typedef Qnn_Handle_t Qnn_MemHandle_t;
struct Qnn_TensorV1_t {
    uint32_t id;
    const char *name;
    Qnn_TensorType_t type;
    Qnn_TensorDataFormat_t dataFormat;
    Qnn_DataType_t dataType;
    Qnn_QuantizeParams_t quantizeParams;
    uint32_t rank;
    uint32_t *dimensions;
    Qnn_TensorMemType_t memType;
    union {
        Qnn_ClientBuffer_t clientBuf; /* memType 0 */
        Qnn_MemHandle_t memHandle; /* memType 1 */
    };
};

struct Qnn_SparseLayoutHybridCoo_t {
    uint32_t numSpecifiedElements;
    uint32_t numSparseDimensions;
};

struct Qnn_SparseParams_t {
    Qnn_SparseLayoutType_t type;
    union {
        Qnn_SparseLayoutHybridCoo_t hybridCoo;
    };
};

struct Qnn_TensorV2_t {
    uint32_t id;
    const char *name;
    Qnn_TensorType_t type;
    Qnn_TensorDataFormat_t dataFormat;
    Qnn_DataType_t dataType;
    Qnn_QuantizeParams_t quantizeParams;
    uint32_t rank;
    uint32_t *dimensions;
    Qnn_TensorMemType_t memType;
    union {
        Qnn_ClientBuffer_t clientBuf; /* memType 0 */
        Qnn_MemHandle_t memHandle; /* memType 1 */
        Qnn_TensorRetrieveRaw_t *retrieveRaw; /* memType 2 */
    };
    uint8_t *isDynamicDimensions;
    Qnn_SparseParams_t sparseParams;
    uint8_t isProduced;
};

/* A tensor. Two forms; the backend takes both. */
struct Qnn_Tensor_t {
    Qnn_TensorVersion_t version;
    union {
        Qnn_TensorV1_t v1; /* version 1 */
        Qnn_TensorV2_t v2; /* version 2 */
    };
};

struct Qnn_TensorSetV1_t {
    uint32_t numInputs;
    Qnn_Tensor_t *inputs;
    uint32_t numOutputs;
    Qnn_Tensor_t *outputs;
};

struct Qnn_TensorSet_t {
    Qnn_TensorSetVersion_t version;
    union {
        Qnn_TensorSetV1_t v1;
    };
};

/* A named parameter of a node: a scalar, or a static tensor that the graph already has. */
struct Qnn_Param_t {
    Qnn_ParamType_t paramType;
    const char *name;
    union {
        Qnn_Scalar_t scalarParam; /* paramType 0 */
        Qnn_Tensor_t tensorParam; /* paramType 1 */
    };
};

struct Qnn_OpConfigV1_t {
    const char *name;
    const char *packageName;
    const char *typeName;
    uint32_t numOfParams;
    Qnn_Param_t *params;
    uint32_t numOfInputs;
    Qnn_Tensor_t *inputTensors;
    uint32_t numOfOutputs;
    Qnn_Tensor_t *outputTensors;
};

/* One node: type, parameters, inputs, outputs. */
struct Qnn_OpConfig_t {
    Qnn_OpConfigVersion_t version;
    union {
        Qnn_OpConfigV1_t v1; /* version 1 */
    };
};

typedef uint64_t Qnn_ContextBinarySize_t;
struct Qnn_BinaryBuffer_t {
    void *data;
    Qnn_ContextBinarySize_t dataSize;
};

/* ---- Property -------------------------------------------------------------------------------------------- */
/* Capability queries: may a backend do X? */

#define QNN_PROPERTY_GROUP_CORE 1
#define QNN_PROPERTY_GROUP_BACKEND 101
#define QNN_PROPERTY_BACKEND_SUPPORT_PLATFORM_OPTIONS 106
#define QNN_PROPERTY_BACKEND_SUPPORT_COMPOSITION 107
#define QNN_PROPERTY_BACKEND_SUPPORT_CUSTOM_PROPERTY 108
#define QNN_PROPERTY_GROUP_CONTEXT 201
#define QNN_PROPERTY_CONTEXT_SUPPORT_CACHING 202
#define QNN_PROPERTY_CONTEXT_SUPPORT_CONFIGURATION 205
#define QNN_PROPERTY_CONTEXT_SUPPORT_CONFIG_ENABLE_GRAPHS 206
#define QNN_PROPERTY_CONTEXT_SUPPORT_CONFIG_MEMORY_LIMIT_HINT 207
#define QNN_PROPERTY_CONTEXT_SUPPORT_CONFIG_PERSISTENT_BINARY 208
#define QNN_PROPERTY_CONTEXT_SUPPORT_CONFIG_BINARY_COMPATIBILITY_TYPE 209
#define QNN_PROPERTY_CONTEXT_SUPPORT_VALIDATE_BINARY 210
#define QNN_PROPERTY_CONTEXT_SUPPORT_CREATE_FROM_BINARY_WITH_SIGNALS 211
#define QNN_PROPERTY_CONTEXT_SUPPORT_CREATE_FROM_BINARY_LIST_ASYNC 212
#define QNN_PROPERTY_CONTEXT_SUPPORT_BINARY_UPDATES 213
#define QNN_PROPERTY_CONTEXT_SUPPORT_BINARY_SECTION_FULL_CONTEXT 214
#define QNN_PROPERTY_CONTEXT_SUPPORT_CUSTOM_PROPERTY 215
#define QNN_PROPERTY_CONTEXT_SUPPORT_INCREMENTAL_BINARY 216
#define QNN_PROPERTY_CONTEXT_SUPPORT_BINARY_WEIGHT_ONLY_UPDATES 218
#define QNN_PROPERTY_CONTEXT_SUPPORT_BINARY_QUANT_ONLY_UPDATES 219
#define QNN_PROPERTY_CONTEXT_SUPPORT_CREATE_FROM_BINARY_WITH_CALLBACK 220
#define QNN_PROPERTY_CONTEXT_SUPPORT_GRAPH_RETENTION_ORDER 221
#define QNN_PROPERTY_CONTEXT_SUPPORT_BINARY_SECTION_UPDATES 222
#define QNN_PROPERTY_GROUP_GRAPH 301
#define QNN_PROPERTY_GRAPH_SUPPORT_CONFIG 302
#define QNN_PROPERTY_GRAPH_SUPPORT_SIGNALS 303
#define QNN_PROPERTY_GRAPH_SUPPORT_ASYNC_EXECUTION 304
#define QNN_PROPERTY_GRAPH_SUPPORT_NULL_INPUTS 305
#define QNN_PROPERTY_GRAPH_SUPPORT_PRIORITY_CONTROL 306
#define QNN_PROPERTY_GRAPH_SUPPORT_FINALIZE_SIGNAL 307
#define QNN_PROPERTY_GRAPH_SUPPORT_EXECUTE_SIGNAL 308
#define QNN_PROPERTY_GRAPH_SUPPORT_EXECUTE_ASYNC_SIGNAL 309
#define QNN_PROPERTY_GRAPH_SUPPORT_CONTINUOUS_PROFILING 310
#define QNN_PROPERTY_GRAPH_SUPPORT_EXECUTE 311
#define QNN_PROPERTY_GRAPH_SUPPORT_BATCH_MULTIPLE 312
#define QNN_PROPERTY_GRAPH_SUPPORT_EXECUTE_PER_API_PROFILING 313
#define QNN_PROPERTY_GRAPH_SUPPORT_SUBGRAPH 314
#define QNN_PROPERTY_GRAPH_SUPPORT_PROFILING_STATE 315
#define QNN_PROPERTY_GRAPH_SUPPORT_SET_PROFILING_NUM_EXECUTIONS 316
#define QNN_PROPERTY_GRAPH_SUPPORT_ENV_OPTION_BIND_MEM_HANDLES 317
#define QNN_PROPERTY_GRAPH_SUPPORT_ENV_OPTION_POPULATE_CLIENT_BUFS 318
#define QNN_PROPERTY_GRAPH_SUPPORT_FINALIZE_DESERIALIZED_GRAPH 319
#define QNN_PROPERTY_GRAPH_SUPPORT_CUSTOM_PROPERTY 320
#define QNN_PROPERTY_GRAPH_SUPPORT_EARLY_TERMINATION 321
#define QNN_PROPERTY_GRAPH_SUPPORT_ONLINE_PREPARE 322
#define QNN_PROPERTY_GRAPH_SUPPORT_UPDATABLE_WEIGHTS_BINARY_SECTION_CREATION 323
#define QNN_PROPERTY_GROUP_TENSOR 501
#define QNN_PROPERTY_TENSOR_SUPPORT_MEMHANDLE_TYPE 502
#define QNN_PROPERTY_TENSOR_SUPPORT_CONTEXT_TENSORS 503
#define QNN_PROPERTY_TENSOR_SUPPORT_DYNAMIC_DIMENSIONS 504
#define QNN_PROPERTY_TENSOR_SUPPORT_SPARSITY 505
#define QNN_PROPERTY_TENSOR_SUPPORT_UPDATEABLE_STATIC_TENSORS 506
#define QNN_PROPERTY_TENSOR_SUPPORT_UPDATEABLE_NATIVE_TENSORS 507
#define QNN_PROPERTY_TENSOR_SUPPORT_UPDATEABLE_APP_TENSORS 508
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_SCALE_OFFSET 509
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_AXIS_SCALE_OFFSET 510
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_BW_SCALE_OFFSET 511
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_BW_AXIS_SCALE_OFFSET 512
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_BLOCK 513
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_BLOCKWISE_EXPANSION 514
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_VECTOR 515
#define QNN_PROPERTY_TENSOR_SUPPORT_RETRIEVE_RAW 516
#define QNN_PROPERTY_TENSOR_SUPPORT_OPTIONAL_APP_WRITE 517
#define QNN_PROPERTY_TENSOR_SUPPORT_OPTIONAL_APP_READ 518
#define QNN_PROPERTY_TENSOR_SUPPORT_OPTIONAL_APP_READWRITE 519
#define QNN_PROPERTY_TENSOR_SUPPORT_MX_DATA_FORMAT 520
#define QNN_PROPERTY_TENSOR_SUPPORT_UBWC_RGBA8888 521
#define QNN_PROPERTY_TENSOR_SUPPORT_UBWC_NV12 522
#define QNN_PROPERTY_TENSOR_SUPPORT_UBWC_NV12_Y 523
#define QNN_PROPERTY_TENSOR_SUPPORT_UBWC_NV12_UV 524
#define QNN_PROPERTY_TENSOR_SUPPORT_UBWC_NV124R 525
#define QNN_PROPERTY_TENSOR_SUPPORT_UBWC_NV124R_Y 526
#define QNN_PROPERTY_TENSOR_SUPPORT_UBWC_NV124R_UV 527
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_FLOAT_BLOCK 528
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_BW_AXIS_SCALE_OFFSET_MAPPED 529
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_BW_BLOCK_SCALE_OFFSET_MAPPED 530
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_BW_BLOCKWISE_EXPANSION_MAPPED 531
#define QNN_PROPERTY_TENSOR_SUPPORT_QUANTIZATION_ENCODING_BW_FLOAT_BLOCK 532
#define QNN_PROPERTY_GROUP_ERROR 1001
#define QNN_PROPERTY_ERROR_GET_VERBOSE_MESSAGE 1002
#define QNN_PROPERTY_GROUP_MEMORY 1101
#define QNN_PROPERTY_MEMORY_SUPPORT_MEM_TYPE_ION 1102
#define QNN_PROPERTY_MEMORY_SUPPORT_MEM_TYPE_CUSTOM 1103
#define QNN_PROPERTY_MEMORY_SUPPORT_MEM_TYPE_DMA_BUF 1104
#define QNN_PROPERTY_GROUP_SIGNAL 1201
#define QNN_PROPERTY_SIGNAL_SUPPORT_ABORT 1202
#define QNN_PROPERTY_SIGNAL_SUPPORT_TIMEOUT 1203
#define QNN_PROPERTY_GROUP_LOG 1301
#define QNN_PROPERTY_LOG_SUPPORTS_DEFAULT_STREAM 1302
#define QNN_PROPERTY_GROUP_PROFILE 1401
#define QNN_PROPERTY_PROFILE_SUPPORT_CUSTOM_CONFIG 1402
#define QNN_PROPERTY_PROFILE_SUPPORT_MAX_EVENTS_CONFIG 1403
#define QNN_PROPERTY_PROFILE_SUPPORTS_EXTENDED_EVENT 1404
#define QNN_PROPERTY_PROFILE_SUPPORT_OPTRACE_CONFIG 1405
#define QNN_PROPERTY_GROUP_DEVICE 1501
#define QNN_PROPERTY_DEVICE_SUPPORT_INFRASTRUCTURE 1502
#define QNN_PROPERTY_GROUP_CUSTOM 2001
#define QNN_PROPERTY_CUSTOM_HTP_UNSIGNED_PD_SUPPORT 2002

typedef enum {
    QNN_PROPERTY_MIN_ERROR = 2000,
    QNN_PROPERTY_NO_ERROR = 0,
    QNN_PROPERTY_SUPPORTED = 0,
    QNN_PROPERTY_NOT_SUPPORTED = 1000,
    QNN_PROPERTY_ERROR_UNKNOWN_KEY = 2000,
    QNN_PROPERTY_MAX_ERROR = 2999,
    QNN_PROPERTY_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnProperty_Error_t;

typedef uint32_t QnnProperty_Key_t;

typedef Qnn_ErrorHandle_t (*QnnProperty_HasCapabilityFn_t)(QnnProperty_Key_t key);

/* ---- GlobalConfig ---------------------------------------------------------------------------------------- */
/* Process-wide options. */

typedef enum {
    QNN_GLOBAL_CONFIG_MIN_ERROR = 15000,
    QNN_GLOBAL_CONFIG_NO_ERROR = 0,
    QNN_GLOBAL_CONFIG_ERROR_INVALID_CONFIG = 15000,
    QNN_GLOBAL_CONFIG_MAX_ERROR = 15999,
    QNN_GLOBAL_CONFIG_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnGlobalConfig_Error_t;

typedef enum {
    QNN_GLOBAL_CONFIG_OPTION_SOC_MODEL = 0,
    QNN_GLOBAL_CONFIG_OPTION_UNDEFINED = 0x7FFFFFFF,
} QnnGlobalConfig_ConfigOption_t;

typedef Qnn_ErrorHandle_t (*QnnGlobalConfig_SetFn_t)(const QnnGlobalConfig_t **config);

struct QnnGlobalConfig_t {
    QnnGlobalConfig_ConfigOption_t option;
    union {
        Qnn_SocModel_t socModel;
    };
};

/* ---- Error ----------------------------------------------------------------------------------------------- */
/* Messages for error handles. */

typedef enum {
    QNN_ERROR_MIN_ERROR = 10000,
    QNN_ERROR_NO_ERROR = 0,
    QNN_ERROR_INVALID_ARGUMENT = 10000,
    QNN_ERROR_INVALID_ERROR_HANDLE = 10001,
    QNN_ERROR_MAX_ERROR = 10999,
    QNN_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnError_Error_t;

typedef Qnn_ErrorHandle_t (*QnnError_GetMessageFn_t)(Qnn_ErrorHandle_t errorHandle, const char **errorMessage);
typedef Qnn_ErrorHandle_t (*QnnError_GetVerboseMessageFn_t)(Qnn_ErrorHandle_t errorHandle, const char **errorMessage);
typedef Qnn_ErrorHandle_t (*QnnError_FreeVerboseMessageFn_t)(const char *errorMessage);

/* ---- Log ------------------------------------------------------------------------------------------------- */
/* Log handle and callback. */

typedef enum {
    QNN_LOG_MIN_ERROR = 11000,
    QNN_LOG_NO_ERROR = 0,
    QNN_LOG_ERROR_MEM_ALLOC = 1002,
    QNN_LOG_ERROR_INITIALIZATION = 11002,
    QNN_LOG_ERROR_INVALID_ARGUMENT = 11003,
    QNN_LOG_ERROR_INVALID_HANDLE = 11004,
    QNN_LOG_MAX_ERROR = 11999,
    QNN_LOG_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnLog_Error_t;

typedef enum {
    QNN_LOG_LEVEL_ERROR = 1,
    QNN_LOG_LEVEL_WARN = 2,
    QNN_LOG_LEVEL_INFO = 3,
    QNN_LOG_LEVEL_VERBOSE = 4,
    QNN_LOG_LEVEL_DEBUG = 5,
    QNN_LOG_LEVEL_MAX = 0x7FFFFFFF,
} QnnLog_Level_t;

/* Receives log lines, on any thread. The last argument is a C va_list. It is declared as a pointer because that is how
   it arrives both on x86-64 SysV (an array, which decays) and on AArch64 AAPCS (a struct of 32 bytes, which is passed
   by reference); so one binding suits both. */
typedef void (*QnnLog_Callback_t)(const char *fmt, QnnLog_Level_t level, uint64_t timestamp, void *args);
typedef Qnn_ErrorHandle_t (*QnnLog_CreateFn_t)(
    QnnLog_Callback_t callback, QnnLog_Level_t maxLogLevel, Qnn_LogHandle_t *logger);
typedef Qnn_ErrorHandle_t (*QnnLog_SetLogLevelFn_t)(Qnn_LogHandle_t logger, QnnLog_Level_t maxLogLevel);
typedef Qnn_ErrorHandle_t (*QnnLog_FreeFn_t)(Qnn_LogHandle_t logger);

/* ---- Backend --------------------------------------------------------------------------------------------- */
/* Backend handle, op validation. */

typedef enum {
    QNN_BACKEND_MIN_ERROR = 4000,
    QNN_BACKEND_NO_ERROR = 0,
    QNN_BACKEND_ERROR_MEM_ALLOC = 1002,
    QNN_BACKEND_ERROR_UNSUPPORTED_PLATFORM = 1006,
    QNN_BACKEND_ERROR_CANNOT_INITIALIZE = 4000,
    QNN_BACKEND_ERROR_TERMINATE_FAILED = 4002,
    QNN_BACKEND_ERROR_NOT_SUPPORTED = 4003,
    QNN_BACKEND_ERROR_INVALID_ARGUMENT = 4004,
    QNN_BACKEND_ERROR_OP_PACKAGE_NOT_FOUND = 4005,
    QNN_BACKEND_ERROR_OP_PACKAGE_IF_PROVIDER_NOT_FOUND = 4006,
    QNN_BACKEND_ERROR_OP_PACKAGE_REGISTRATION_FAILED = 4007,
    QNN_BACKEND_ERROR_OP_PACKAGE_UNSUPPORTED_VERSION = 4008,
    QNN_BACKEND_ERROR_OP_PACKAGE_DUPLICATE = 4009,
    QNN_BACKEND_ERROR_INCONSISTENT_CONFIG = 4010,
    QNN_BACKEND_ERROR_INVALID_HANDLE = 4011,
    QNN_BACKEND_ERROR_INVALID_CONFIG = 4012,
    QNN_BACKEND_MAX_ERROR = 4999,
    QNN_BACKEND_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnBackend_Error_t;

typedef enum {
    QNN_BACKEND_CONFIG_OPTION_CUSTOM = 0,
    QNN_BACKEND_CONFIG_OPTION_ERROR_REPORTING = 1,
    QNN_BACKEND_CONFIG_OPTION_PLATFORM = 2,
    QNN_BACKEND_CONFIG_OPTION_UNDEFINED = 0x7FFFFFFF,
} QnnBackend_ConfigOption_t;

typedef enum {
    QNN_BACKEND_PROPERTY_OPTION_CUSTOM = 0,
    QNN_BACKEND_PROPERTY_OPTION_UNDEFINED = 0x7FFFFFFF,
} QnnBackend_PropertyOption_t;

typedef void *QnnBackend_CustomConfig_t;
typedef void *QnnBackend_CustomProperty_t;

typedef Qnn_ErrorHandle_t (*QnnBackend_CreateFn_t)(
    Qnn_LogHandle_t logger, const QnnBackend_Config_t **config, Qnn_BackendHandle_t *backend);
typedef Qnn_ErrorHandle_t (*QnnBackend_SetConfigFn_t)(
    Qnn_BackendHandle_t backend, const QnnBackend_Config_t **config);
typedef Qnn_ErrorHandle_t (*QnnBackend_GetApiVersionFn_t)(Qnn_ApiVersion_t *pVersion);
typedef Qnn_ErrorHandle_t (*QnnBackend_GetBuildIdFn_t)(const char **id);
typedef Qnn_ErrorHandle_t (*QnnBackend_RegisterOpPackageFn_t)(
    Qnn_BackendHandle_t backend, const char *packagePath, const char *interfaceProvider, const char *target);
typedef Qnn_ErrorHandle_t (*QnnBackend_GetSupportedOperationsFn_t)(
    Qnn_BackendHandle_t backend, uint32_t *numOperations, const QnnBackend_OperationName_t **operations);
typedef Qnn_ErrorHandle_t (*QnnBackend_ValidateOpConfigFn_t)(Qnn_BackendHandle_t backend, Qnn_OpConfig_t opConfig);
typedef Qnn_ErrorHandle_t (*QnnBackend_FreeFn_t)(Qnn_BackendHandle_t backend);
typedef Qnn_ErrorHandle_t (*QnnBackend_GetPropertyFn_t)(
    Qnn_BackendHandle_t backendHandle, QnnBackend_Property_t **properties);

struct QnnBackend_Config_t {
    QnnBackend_ConfigOption_t option;
    union {
        QnnBackend_CustomConfig_t customConfig; /* option 0 */
        Qnn_ErrorReportingConfig_t errorConfig; /* option 1 */
        const char *platformOption; /* option 2 */
    };
};

struct QnnBackend_OperationName_t {
    const char *packageName;
    const char *name;
    const char *target;
};

struct QnnBackend_Property_t {
    QnnBackend_PropertyOption_t option;
    union {
        QnnBackend_CustomProperty_t customProperty;
    };
};

/* ---- Device ---------------------------------------------------------------------------------------------- */
/* Device handle, platform information. */

#define QNN_DEVICE_DEFAULT_CORE_ID 0xFFFFFFFFu
#define QNN_DEVICE_DEFAULT_DEVICE_ID 0xFFFFFFFFu

typedef enum {
    QNN_DEVICE_MIN_ERROR = 14000,
    QNN_DEVICE_ERROR_UNSUPPORTED_FEATURE = 1000,
    QNN_DEVICE_ERROR_MEM_ALLOC = 1002,
    QNN_DEVICE_ERROR_INVALID_ARGUMENT = 1004,
    QNN_DEVICE_ERROR_INVALID_HANDLE = 14000,
    QNN_DEVICE_ERROR_INVALID_CONFIG = 14001,
    QNN_DEVICE_ERROR_HARDWARE_UNAVAILABLE = 14002,
    QNN_DEVICE_ERROR_ASSOCIATED_TO_CONTEXT = 14003,
    QNN_DEVICE_NO_ERROR = 0,
    QNN_DEVICE_MAX_ERROR = 14999,
    QNN_DEVICE_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnDevice_Error_t;

typedef enum {
    QNN_DEVICE_CORE_INFO_VERSION_1 = 1,
    QNN_DEVICE_CORE_INFO_VERSION_UNDEFINED = 0x7FFFFFFF,
} QnnDevice_CoreInfoVersion_t;

typedef enum {
    QNN_DEVICE_HARDWARE_DEVICE_INFO_VERSION_1 = 1,
    QNN_DEVICE_HARDWARE_DEVICE_INFO_VERSION_UNDEFINED = 0x7FFFFFFF,
} QnnDevice_HardwareDeviceInfoVersion_t;

typedef enum {
    QNN_DEVICE_PLATFORM_INFO_VERSION_1 = 1,
    QNN_DEVICE_PLATFORM_INFO_VERSION_UNDEFINED = 0x7FFFFFFF,
} QnnDevice_PlatformInfoVersion_t;

typedef enum {
    QNN_DEVICE_CONFIG_OPTION_CUSTOM = 0,
    QNN_DEVICE_CONFIG_OPTION_PLATFORM_INFO = 1,
    QNN_DEVICE_CONFIG_OPTION_UNDEFINED = 0x7FFFFFFF,
} QnnDevice_ConfigOption_t;

typedef QnnHtpDevice_Infrastructure_t *QnnDevice_Infrastructure_t;
typedef struct _QnnDevice_CoreInfoExtension_t *QnnDevice_CoreInfoExtension_t;
typedef QnnHtpDevice_DeviceInfoExtension_t *QnnDevice_DeviceInfoExtension_t;
typedef void *QnnDevice_CustomConfig_t;

typedef Qnn_ErrorHandle_t (*QnnDevice_GetPlatformInfoFn_t)(
    Qnn_LogHandle_t logger, const QnnDevice_PlatformInfo_t **platformInfo);
typedef Qnn_ErrorHandle_t (*QnnDevice_FreePlatformInfoFn_t)(
    Qnn_LogHandle_t logger, const QnnDevice_PlatformInfo_t *platformInfo);
typedef Qnn_ErrorHandle_t (*QnnDevice_GetInfrastructureFn_t)(const QnnDevice_Infrastructure_t *deviceInfra);
typedef Qnn_ErrorHandle_t (*QnnDevice_CreateFn_t)(
    Qnn_LogHandle_t logger, const QnnDevice_Config_t **config, Qnn_DeviceHandle_t *device);
typedef Qnn_ErrorHandle_t (*QnnDevice_SetConfigFn_t)(Qnn_DeviceHandle_t device, const QnnDevice_Config_t **config);
typedef Qnn_ErrorHandle_t (*QnnDevice_GetInfoFn_t)(
    Qnn_DeviceHandle_t device, const QnnDevice_PlatformInfo_t **platformInfo);
typedef Qnn_ErrorHandle_t (*QnnDevice_FreeFn_t)(Qnn_DeviceHandle_t device);

struct QnnDevice_CoreInfoV1_t {
    uint32_t coreId;
    uint32_t coreType;
    QnnDevice_CoreInfoExtension_t coreInfoExtension;
};

struct QnnDevice_CoreInfo_t {
    QnnDevice_CoreInfoVersion_t version;
    union {
        QnnDevice_CoreInfoV1_t v1;
    };
};

struct QnnDevice_HardwareDeviceInfoV1_t {
    uint32_t deviceId;
    uint32_t deviceType;
    uint32_t numCores;
    QnnDevice_CoreInfo_t *cores;
    QnnDevice_DeviceInfoExtension_t deviceInfoExtension;
};

struct QnnDevice_HardwareDeviceInfo_t {
    QnnDevice_HardwareDeviceInfoVersion_t version;
    union {
        QnnDevice_HardwareDeviceInfoV1_t v1;
    };
};

struct QnnDevice_PlatformInfoV1_t {
    uint32_t numHwDevices;
    QnnDevice_HardwareDeviceInfo_t *hwDevices;
};

struct QnnDevice_PlatformInfo_t {
    QnnDevice_PlatformInfoVersion_t version;
    union {
        QnnDevice_PlatformInfoV1_t v1;
    };
};

struct QnnDevice_Config_t {
    QnnDevice_ConfigOption_t option;
    union {
        QnnDevice_CustomConfig_t customConfig; /* option 0 */
        QnnDevice_PlatformInfo_t *hardwareInfo; /* option 1 */
    };
};

/* ---- Signal ---------------------------------------------------------------------------------------------- */
/* Abort and time-out signals. */

typedef enum {
    QNN_SIGNAL_MIN_ERROR = 9000,
    QNN_SIGNAL_NO_ERROR = 0,
    QNN_SIGNAL_ERROR_UNSUPPORTED = 1000,
    QNN_SIGNAL_ERROR_SIGNAL_IN_USE = 9000,
    QNN_SIGNAL_ERROR_SIGNAL_IDLE = 9001,
    QNN_SIGNAL_ERROR_INVALID_ARGUMENT = 9002,
    QNN_SIGNAL_ERROR_INVALID_HANDLE = 9003,
    QNN_SIGNAL_ERROR_TIMEOUT = 9004,
    QNN_SIGNAL_ERROR_INCOMPATIBLE_SIGNAL_TYPE = 9005,
    QNN_SIGNAL_ERROR_MEM_ALLOC = 1002,
    QNN_SIGNAL_MAX_ERROR = 9999,
    QNN_SIGNAL_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnSignal_Error_t;

typedef enum {
    QNN_SIGNAL_CONFIG_OPTION_CUSTOM = 0,
    QNN_SIGNAL_CONFIG_OPTION_ABORT = 1,
    QNN_SIGNAL_CONFIG_OPTION_TIMEOUT = 2,
    QNN_SIGNAL_CONFIG_UNDEFINED = 0x7FFFFFFF,
} QnnSignal_ConfigOption_t;

typedef void *QnnSignal_CustomConfig_t;

typedef Qnn_ErrorHandle_t (*QnnSignal_CreateFn_t)(
    Qnn_BackendHandle_t backend, const QnnSignal_Config_t **config, Qnn_SignalHandle_t *signal);
typedef Qnn_ErrorHandle_t (*QnnSignal_SetConfigFn_t)(Qnn_SignalHandle_t signal, const QnnSignal_Config_t **config);
typedef Qnn_ErrorHandle_t (*QnnSignal_TriggerFn_t)(Qnn_SignalHandle_t signal);
typedef Qnn_ErrorHandle_t (*QnnSignal_FreeFn_t)(Qnn_SignalHandle_t signal);

struct QnnSignal_Config_t {
    QnnSignal_ConfigOption_t option;
    union {
        QnnSignal_CustomConfig_t customConfig;
        uint64_t timeoutDurationUs;
    };
};

/* ---- Profile --------------------------------------------------------------------------------------------- */
/* Profiling handle and events. */

#define QNN_PROFILE_EVENTTYPE_FINALIZE 300
#define QNN_PROFILE_EVENTTYPE_EXECUTE 400
#define QNN_PROFILE_EVENTTYPE_NODE 404
#define QNN_PROFILE_EVENTTYPE_EXECUTE_QUEUE_WAIT 405
#define QNN_PROFILE_EVENTTYPE_EXECUTE_PREPROCESS 406
#define QNN_PROFILE_EVENTTYPE_EXECUTE_DEVICE 407
#define QNN_PROFILE_EVENTTYPE_EXECUTE_POSTPROCESS 408
#define QNN_PROFILE_EVENTTYPE_DEINIT 500
#define QNN_PROFILE_EVENTTYPE_TRACE 600
#define QNN_PROFILE_EVENTTYPE_BACKEND 1000
#define QNN_PROFILE_LEVEL_BASIC 1
#define QNN_PROFILE_LEVEL_DETAILED 2
#define QNN_PROFILE_LEVEL_BACKEND 1000
#define QNN_PROFILE_EVENTUNIT_MICROSEC 1
#define QNN_PROFILE_EVENTUNIT_BYTES 2
#define QNN_PROFILE_EVENTUNIT_CYCLES 3
#define QNN_PROFILE_EVENTUNIT_COUNT 4
#define QNN_PROFILE_EVENTUNIT_OBJECT 5
#define QNN_PROFILE_EVENTUNIT_NONE 6
#define QNN_PROFILE_EVENTUNIT_BACKEND 1000

typedef enum {
    QNN_PROFILE_MIN_ERROR = 12000,
    QNN_PROFILE_NO_ERROR = 0,
    QNN_PROFILE_ERROR_UNSUPPORTED = 1000,
    QNN_PROFILE_ERROR_INVALID_ARGUMENT = 1004,
    QNN_PROFILE_ERROR_MEM_ALLOC = 1002,
    QNN_PROFILE_ERROR_INVALID_HANDLE = 12000,
    QNN_PROFILE_ERROR_HANDLE_IN_USE = 12001,
    QNN_PROFILE_ERROR_INCOMPATIBLE_EVENT = 12002,
    QNN_PROFILE_MAX_ERROR = 12999,
    QNN_PROFILE_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnProfile_Error_t;

typedef enum {
    QNN_PROFILE_DATA_VERSION_1 = 1,
    QNN_PROFILE_DATA_VERSION_UNDEFINED = 0x7FFFFFFF,
} QnnProfile_ExtendedEventDataVersion_t;

typedef enum {
    QNN_PROFILE_CONFIG_OPTION_CUSTOM = 0,
    QNN_PROFILE_CONFIG_OPTION_MAX_EVENTS = 1,
    QNN_PROFILE_CONFIG_OPTION_ENABLE_OPTRACE = 2,
    QNN_PROFILE_CONFIG_OPTION_UNDEFINED = 0x7FFFFFFF,
} QnnProfile_ConfigOption_t;

typedef uint32_t QnnProfile_EventType_t;
typedef uint64_t QnnProfile_EventValue_t;
typedef uint32_t QnnProfile_Level_t;
typedef uint64_t QnnProfile_EventId_t;
typedef uint32_t QnnProfile_EventUnit_t;
typedef void *QnnProfile_CustomConfig_t;

typedef Qnn_ErrorHandle_t (*QnnProfile_CreateFn_t)(
    Qnn_BackendHandle_t backend, QnnProfile_Level_t level, Qnn_ProfileHandle_t *profile);
typedef Qnn_ErrorHandle_t (*QnnProfile_SetConfigFn_t)(
    Qnn_ProfileHandle_t profileHandle, const QnnProfile_Config_t **config);
typedef Qnn_ErrorHandle_t (*QnnProfile_GetEventsFn_t)(
    Qnn_ProfileHandle_t profile, const QnnProfile_EventId_t **profileEventIds, uint32_t *numEvents);
typedef Qnn_ErrorHandle_t (*QnnProfile_GetSubEventsFn_t)(
    QnnProfile_EventId_t eventId, const QnnProfile_EventId_t **subEventIds, uint32_t *numSubEvents);
typedef Qnn_ErrorHandle_t (*QnnProfile_GetEventDataFn_t)(
    QnnProfile_EventId_t eventId, QnnProfile_EventData_t *eventData);
typedef Qnn_ErrorHandle_t (*QnnProfile_GetExtendedEventDataFn_t)(
    QnnProfile_EventId_t eventId, QnnProfile_ExtendedEventData_t *eventData);
typedef Qnn_ErrorHandle_t (*QnnProfile_FreeFn_t)(Qnn_ProfileHandle_t profile);

struct QnnProfile_EventData_t {
    QnnProfile_EventType_t type;
    QnnProfile_EventUnit_t unit;
    QnnProfile_EventValue_t value;
    const char *identifier;
};

struct QnnProfile_BackendOpaqueObject_t {
    Qnn_OpaqueObject_t opaqueObject;
    const char *fileName;
};

struct QnnProfile_ExtendedEventDataV1_t {
    QnnProfile_EventType_t type;
    QnnProfile_EventUnit_t unit;
    union {
        Qnn_Scalar_t value;
        QnnProfile_BackendOpaqueObject_t backendOpaqueObject;
    };
    uint64_t timestamp;
    const char *identifier;
};

struct QnnProfile_ExtendedEventData_t {
    QnnProfile_ExtendedEventDataVersion_t version;
    union {
        QnnProfile_ExtendedEventDataV1_t v1; /* version 1 */
    };
};

struct QnnProfile_Config_t {
    QnnProfile_ConfigOption_t option;
    union {
        QnnProfile_CustomConfig_t customConfig;
        uint64_t numMaxEvents;
        uint8_t enableOptrace;
    };
};

/* ---- Mem ------------------------------------------------------------------------------------------------- */
/* Memory shared with the device. */

#define QNN_MEM_INVALID_FD (-1)

typedef enum {
    QNN_MEM_MIN_ERROR = 8000,
    QNN_MEM_NO_ERROR = 0,
    QNN_MEM_ERROR_NOT_SUPPORTED = 1000,
    QNN_MEM_ERROR_INVALID_ARGUMENT = 8000,
    QNN_MEM_ERROR_INVALID_HANDLE = 8001,
    QNN_MEM_ERROR_ALREADY_REGISTERED = 8002,
    QNN_MEM_ERROR_MAPPING = 8003,
    QNN_MEM_ERROR_INVALID_SHAPE = 8004,
    QNN_MEM_ERROR_UNSUPPORTED_MEMTYPE = 8005,
    QNN_MEM_MAX_ERROR = 8999,
    QNN_MEM_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnMem_Error_t;

typedef enum {
    QNN_MEM_TYPE_ION = 1,
    QNN_MEM_TYPE_CUSTOM = 2,
    QNN_MEM_TYPE_DMA_BUF = 3,
    QNN_MEM_TYPE_UNDEFINED = 0x7FFFFFFF,
} Qnn_MemType_t;

typedef void *Qnn_MemInfoCustom_t;

typedef Qnn_ErrorHandle_t (*QnnMem_RegisterFn_t)(
    Qnn_ContextHandle_t context, const Qnn_MemDescriptor_t *memDescriptors, uint32_t numDescriptors, Qnn_MemHandle_t
    *memHandles);
typedef Qnn_ErrorHandle_t (*QnnMem_DeRegisterFn_t)(const Qnn_MemHandle_t *memHandles, uint32_t numHandles);

struct Qnn_MemShape_t {
    uint32_t numDim;
    uint32_t *dimSize;
    const char *shapeConfig;
};

struct Qnn_MemIonInfo_t {
    int32_t fd;
};

struct Qnn_MemDmaBufInfo_t {
    int32_t fd;
    void *data;
};

struct Qnn_MemDescriptor_t {
    Qnn_MemShape_t memShape;
    Qnn_DataType_t dataType;
    Qnn_MemType_t memType;
    union {
        Qnn_MemIonInfo_t ionInfo; /* memType 1 */
        Qnn_MemInfoCustom_t customInfo; /* memType 2 */
        Qnn_MemDmaBufInfo_t dmaBufInfo; /* memType 3 */
    };
};

/* ---- Context --------------------------------------------------------------------------------------------- */
/* Contexts and context binaries. */

typedef enum {
    QNN_CONTEXT_MIN_ERROR = 5000,
    QNN_CONTEXT_NO_ERROR = 0,
    QNN_CONTEXT_ERROR_UNSUPPORTED_FEATURE = 1000,
    QNN_CONTEXT_ERROR_MEM_ALLOC = 1002,
    QNN_CONTEXT_ERROR_INVALID_ARGUMENT = 5000,
    QNN_CONTEXT_ERROR_CTX_DOES_NOT_EXIST = 5001,
    QNN_CONTEXT_ERROR_INVALID_HANDLE = 5002,
    QNN_CONTEXT_ERROR_NOT_FINALIZED = 5003,
    QNN_CONTEXT_ERROR_BINARY_VERSION = 5004,
    QNN_CONTEXT_ERROR_CREATE_FROM_BINARY = 5005,
    QNN_CONTEXT_ERROR_GET_BINARY_SIZE_FAILED = 5006,
    QNN_CONTEXT_ERROR_GET_BINARY_FAILED = 5007,
    QNN_CONTEXT_ERROR_BINARY_CONFIGURATION = 5008,
    QNN_CONTEXT_ERROR_SET_PROFILE = 5009,
    QNN_CONTEXT_ERROR_INVALID_CONFIG = 5010,
    QNN_CONTEXT_ERROR_BINARY_SUBOPTIMAL = 5011,
    QNN_CONTEXT_ERROR_ABORTED = 5012,
    QNN_CONTEXT_ERROR_TIMED_OUT = 5013,
    QNN_CONTEXT_ERROR_INCREMENT_INVALID_BUFFER = 5014,
    QNN_CONTEXT_MAX_ERROR = 5999,
    QNN_CONTEXT_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnContext_Error_t;

typedef enum {
    QNN_CONTEXT_CONFIG_OPTION_CUSTOM = 0,
    QNN_CONTEXT_CONFIG_OPTION_PRIORITY = 1,
    QNN_CONTEXT_CONFIG_OPTION_ERROR_REPORTING = 2,
    QNN_CONTEXT_CONFIG_OPTION_OEM_STRING = 3,
    QNN_CONTEXT_CONFIG_ASYNC_EXECUTION_QUEUE_DEPTH = 4,
    QNN_CONTEXT_CONFIG_ENABLE_GRAPHS = 5,
    QNN_CONTEXT_CONFIG_MEMORY_LIMIT_HINT = 6,
    QNN_CONTEXT_CONFIG_PERSISTENT_BINARY = 7,
    QNN_CONTEXT_CONFIG_BINARY_COMPATIBILITY = 8,
    QNN_CONTEXT_CONFIG_OPTION_DEFER_GRAPH_INIT = 9,
    QNN_CONTEXT_CONFIG_GRAPH_RETENTION_ORDER = 10,
    QNN_CONTEXT_CONFIG_UNDEFINED = 0x7FFFFFFF,
} QnnContext_ConfigOption_t;

typedef enum {
    QNN_CONTEXT_BINARY_COMPATIBILITY_PERMISSIVE = 0,
    QNN_CONTEXT_BINARY_COMPATIBILITY_STRICT = 1,
    QNN_CONTEXT_BINARY_COMPATIBILITY_TYPE_UNDEFINED = 0x7FFFFFF,
} QnnContext_BinaryCompatibilityType_t;

typedef enum {
    QNN_CONTEXT_ASYNC_EXECUTION_QUEUE_DEPTH_TYPE_NUMERIC = 0,
    QNN_CONTEXT_ASYNC_EXECUTION_QUEUE_DEPTH_TYPE_UNDEFINED = 0x7FFFFFF,
} QnnContext_AsyncExecutionQueueDepthType_t;

typedef enum {
    QNN_CONTEXT_NOTIFY_TYPE_GRAPH_INIT = 0,
    QNN_CONTEXT_NOTIFY_TYPE_CONTEXT_INIT = 1,
    QNN_CONTEXT_NOTIFY_TYPE_UNDEFINED = 0x7FFFFFF,
} QnnContext_createFromBinaryAsyncNotifyType_t;

typedef enum {
    QNN_CONTEXT_PARAMS_VERSION_1 = 1,
    QNN_CONTEXT_PARAMS_VERSION_2 = 2,
    QNN_CONTEXT_PARAMS_VERSION_UNDEFINED = 0x7FFFFFFF,
} QnnContext_ParamsVersion_t;

typedef enum {
    QNN_CONTEXT_CALLBACK_RAW_BUFFER_VERSION_1 = 1,
    QNN_CONTEXT_CALLBACK_RAW_BUFFER_VERSION_UNDEFINED = 0x7FFFFFFF,
} Qnn_ContextBinaryRawBufferCallbackVersion_t;

typedef enum {
    QNN_CONTEXT_CALLBACK_DMA_BUFFER_VERSION_1 = 1,
    QNN_CONTEXT_CALLBACK_DMA_BUFFER_VERSION_UNDEFINED = 0x7FFFFFFF,
} Qnn_ContextBinaryDmaBufferCallbackVersion_t;

typedef enum {
    QNN_CONTEXT_CALLBACK_RAW_BUFFER = 1,
    QNN_CONTEXT_CALLBACK_DMA_BUFFER = 2,
    QNN_CONTEXT_CALLBACK_UNDEFINED = 0x7FFFFFFF,
} Qnn_ContextBinaryCallbackType_t;

typedef enum {
    QNN_CONTEXT_SECTION_UPDATABLE = 1,
    QNN_CONTEXT_SECTION_UPDATABLE_WEIGHTS = 2,
    QNN_CONTEXT_SECTION_UPDATABLE_QUANT_PARAMS = 3,
    QNN_CONTEXT_SECTION_UNDEFINED = 0x7FFFFFFF,
} QnnContext_SectionType_t;

typedef enum {
    QNN_CONTEXTMEMTYPE_RAW = 0,
    QNN_CONTEXTMEMTYPE_MEMHANDLE = 1,
    QNN_CONTEXTMEMTYPE_UNDEFINED = 0x7FFFFFFF,
} QnnContext_MemType_t;

typedef enum {
    QNN_CONTEXT_BUFFER_VERSION_1 = 1,
    QNN_CONTEXT_BUFFER_VERSION_UNDEFINED = 0x7FFFFFFF,
} QnnContext_BufferVersion_t;

typedef enum {
    QNN_CONTEXT_PROPERTY_OPTION_CUSTOM = 0,
    QNN_CONTEXT_PROPERTY_OPTION_UNDEFINED = 0x7FFFFFFF,
} QnnContext_PropertyOption_t;

typedef void *QnnContext_CustomConfig_t;
typedef void *QnnContext_CustomProperty_t;

typedef void (*QnnContext_createFromBinaryNotifyFn_t)(
    Qnn_ContextHandle_t context, Qnn_GraphHandle_t graph, const char *graphName,
    QnnContext_createFromBinaryAsyncNotifyType_t notifyType, void *notifyParam, Qnn_ErrorHandle_t status);
typedef Qnn_ErrorHandle_t (*Qnn_ContextBinaryRawDataProviderFn_t)(
    Qnn_ContextBinaryDataRequest_t req, Qnn_ContextBinaryRawDataResponse_t *rawDataResponse, void *notifyParam);
typedef Qnn_ErrorHandle_t (*Qnn_ContextBinaryDmaDataProviderFn_t)(
    Qnn_ContextBinaryDataRequest_t req, Qnn_ContextBinaryDmaDataResponse_t *dmaDataResponse, void *notifyParam);
typedef Qnn_ErrorHandle_t (*Qnn_ContextBinaryRawDataReleaseFn_t)(
    Qnn_ContextBinaryRawDataMem_t rawDataMem, void *notifyParam);
typedef Qnn_ErrorHandle_t (*Qnn_ContextBinaryDmaDataReleaseFn_t)(
    Qnn_ContextBinaryDmaDataMem_t dmaDataMem, void *notifyParam);
typedef Qnn_ErrorHandle_t (*QnnContext_CreateFn_t)(
    Qnn_BackendHandle_t backend, Qnn_DeviceHandle_t device, const QnnContext_Config_t **config, Qnn_ContextHandle_t
    *context);
typedef Qnn_ErrorHandle_t (*QnnContext_SetConfigFn_t)(
    Qnn_ContextHandle_t context, const QnnContext_Config_t **config);
typedef Qnn_ErrorHandle_t (*QnnContext_GetBinarySizeFn_t)(
    Qnn_ContextHandle_t context, Qnn_ContextBinarySize_t *binaryBufferSize);
typedef Qnn_ErrorHandle_t (*QnnContext_GetBinaryFn_t)(
    Qnn_ContextHandle_t context, void *binaryBuffer, Qnn_ContextBinarySize_t binaryBufferSize,
    Qnn_ContextBinarySize_t *writtenBufferSize);
typedef Qnn_ErrorHandle_t (*QnnContext_CreateFromBinaryFn_t)(
    Qnn_BackendHandle_t backend, Qnn_DeviceHandle_t device, const QnnContext_Config_t **config, const void
    *binaryBuffer, Qnn_ContextBinarySize_t binaryBufferSize, Qnn_ContextHandle_t *context, Qnn_ProfileHandle_t
    profile);
typedef Qnn_ErrorHandle_t (*QnnContext_FreeFn_t)(Qnn_ContextHandle_t context, Qnn_ProfileHandle_t profile);
typedef Qnn_ErrorHandle_t (*QnnContext_ValidateBinaryFn_t)(
    Qnn_BackendHandle_t backend, Qnn_DeviceHandle_t device, const QnnContext_Config_t **config, const void
    *binaryBuffer, Qnn_ContextBinarySize_t binaryBufferSize);
typedef Qnn_ErrorHandle_t (*QnnContext_CreateFromBinaryWithSignalFn_t)(
    Qnn_BackendHandle_t backend, Qnn_DeviceHandle_t device, const QnnContext_Config_t **config, const void
    *binaryBuffer, Qnn_ContextBinarySize_t binaryBufferSize, Qnn_ContextHandle_t *context, Qnn_ProfileHandle_t
    profile, Qnn_SignalHandle_t signal);
typedef Qnn_ErrorHandle_t (*QnnContext_CreateFromBinaryListAsyncFn_t)(
    Qnn_BackendHandle_t backend, Qnn_DeviceHandle_t device, const QnnContext_Params_t **contextParams, const
    QnnContext_Config_t **listConfig, Qnn_SignalHandle_t signal);
typedef Qnn_ErrorHandle_t (*QnnContext_FinalizeFn_t)(Qnn_ContextHandle_t context, Qnn_ProfileHandle_t profile);
typedef Qnn_ErrorHandle_t (*QnnContext_CreateFromBinaryWithCallbackFn_t)(
    Qnn_BackendHandle_t backend, Qnn_DeviceHandle_t device, const QnnContext_Config_t **config, const
    Qnn_ContextBinaryCallback_t *callback, const void *binaryBuffer, Qnn_ContextBinarySize_t binaryBufferSize,
    Qnn_ContextHandle_t *context, Qnn_ProfileHandle_t profile, Qnn_SignalHandle_t signal);
typedef Qnn_ErrorHandle_t (*QnnContext_GetBinarySectionSizeFn_t)(
    Qnn_ContextHandle_t context, Qnn_GraphHandle_t graph, QnnContext_SectionType_t section, Qnn_ContextBinarySize_t
    *binaryBufferSize);
typedef Qnn_ErrorHandle_t (*QnnContext_GetBinarySectionFn_t)(
    Qnn_ContextHandle_t context, Qnn_GraphHandle_t graph, QnnContext_SectionType_t section, const
    QnnContext_Buffer_t *binaryBuffer, Qnn_ContextBinarySize_t *writtenBufferSize, Qnn_ProfileHandle_t profile,
    Qnn_SignalHandle_t signal);
typedef Qnn_ErrorHandle_t (*QnnContext_ApplyBinarySectionFn_t)(
    Qnn_ContextHandle_t context, Qnn_GraphHandle_t graph, QnnContext_SectionType_t section, const
    QnnContext_Buffer_t *binaryBuffer, Qnn_ProfileHandle_t profile, Qnn_SignalHandle_t signal);
typedef Qnn_ErrorHandle_t (*QnnContext_GetBinarySectionUpdateFn_t)(
    const QnnContext_Buffer_t *binaryBuffer, const QnnContext_Buffer_t *auxiliaryBuffer, const Qnn_Tensor_t
    **tensors, uint64_t numTensors, uint8_t keepUpdatable, Qnn_LogHandle_t logger, Qnn_ProfileHandle_t profile,
    Qnn_SignalHandle_t signal, QnnContext_Buffer_t *binarySectionUpdate);
typedef Qnn_ErrorHandle_t (*QnnContext_FreeBinarySectionUpdateFn_t)(
    QnnContext_Buffer_t binarySectionUpdate, Qnn_LogHandle_t logger);
typedef Qnn_ErrorHandle_t (*QnnContext_GetPropertyFn_t)(
    Qnn_ContextHandle_t contextHandle, QnnContext_Property_t **properties);
typedef Qnn_ErrorHandle_t (*QnnContext_GetIncrementalBinaryFn_t)(
    Qnn_ContextHandle_t context, const void **binaryBuffer, Qnn_ContextBinarySize_t *startOffset,
    Qnn_ContextBinarySize_t *writtenBufferSize);
typedef Qnn_ErrorHandle_t (*QnnContext_ReleaseIncrementalBinaryFn_t)(
    Qnn_ContextHandle_t context, const void *binaryBuffer, Qnn_ContextBinarySize_t startOffset);

struct QnnContext_AsyncExecutionQueueDepth_t {
    QnnContext_AsyncExecutionQueueDepthType_t type;
    union {
        uint32_t depth;
    };
};

struct QnnContext_Config_t {
    QnnContext_ConfigOption_t option;
    union {
        QnnContext_CustomConfig_t customConfig; /* option 0 */
        Qnn_Priority_t priority; /* option 1 */
        Qnn_ErrorReportingConfig_t errorConfig; /* option 2 */
        const char *oemString; /* option 3 */
        QnnContext_AsyncExecutionQueueDepth_t asyncExeQueueDepth; /* option 4 */
        const char * const *enableGraphs; /* option 5 */
        uint64_t memoryLimitHint; /* option 6 */
        uint8_t isPersistentBinary; /* option 7 */
        QnnContext_BinaryCompatibilityType_t binaryCompatibilityType; /* option 8 */
        uint8_t isGraphInitDeferred; /* option 9 */
        const char * const *graphRetentionOrder; /* option 10 */
    };
};

struct QnnContext_ParamsV1_t {
    const QnnContext_Config_t **config;
    const void *binaryBuffer;
    const Qnn_ContextBinarySize_t binaryBufferSize;
    Qnn_ProfileHandle_t profile;
    QnnContext_createFromBinaryNotifyFn_t notifyFunc;
    void *notifyParam;
};

struct Qnn_ContextBinaryDataRequest_t {
    Qnn_ContextBinarySize_t offset;
    Qnn_ContextBinarySize_t size;
    uint8_t isBackendMappingNeeded;
};

struct Qnn_ContextBinaryRawDataResponse_t {
    void *memPtr;
    Qnn_ContextBinarySize_t dataStartOffset;
    Qnn_ContextBinarySize_t alignedSize;
};

struct Qnn_ContextBinaryDmaDataResponse_t {
    Qnn_MemDmaBufInfo_t dmaBuffer;
    Qnn_ContextBinarySize_t dataStartOffset;
    Qnn_ContextBinarySize_t alignedSize;
};

struct Qnn_ContextBinaryRawDataMem_t {
    void *memPtr;
    Qnn_ContextBinarySize_t memSize;
};

struct Qnn_ContextBinaryDmaDataMem_t {
    Qnn_MemDmaBufInfo_t dmaBuffer;
    Qnn_ContextBinarySize_t memSize;
};

struct Qnn_ContextBinaryRawBufferCallbackV1_t {
    Qnn_ContextBinaryRawDataProviderFn_t dataProvide;
    Qnn_ContextBinaryRawDataReleaseFn_t dataRelease;
    void *notifyParam;
};

struct Qnn_ContextBinaryDmaBufferCallbackV1_t {
    Qnn_ContextBinaryDmaDataProviderFn_t dataProvide;
    Qnn_ContextBinaryDmaDataReleaseFn_t dataRelease;
    void *notifyParam;
};

struct Qnn_ContextBinaryRawBufferCallback_t {
    Qnn_ContextBinaryRawBufferCallbackVersion_t version;
    union {
        Qnn_ContextBinaryRawBufferCallbackV1_t v1;
    };
};

struct Qnn_ContextBinaryDmaBufferCallback_t {
    Qnn_ContextBinaryDmaBufferCallbackVersion_t version;
    union {
        Qnn_ContextBinaryDmaBufferCallbackV1_t v1;
    };
};

struct Qnn_ContextBinaryCallback_t {
    Qnn_ContextBinaryCallbackType_t type;
    union {
        Qnn_ContextBinaryRawBufferCallback_t rawBufferCallback;
        Qnn_ContextBinaryDmaBufferCallback_t dmaBufferCallback;
    };
};

struct QnnContext_ParamsV2_t {
    const QnnContext_Config_t **config;
    const void *binaryBuffer;
    const Qnn_ContextBinarySize_t binaryBufferSize;
    Qnn_ProfileHandle_t profile;
    QnnContext_createFromBinaryNotifyFn_t notifyFunc;
    void *notifyParam;
    const Qnn_ContextBinaryCallback_t *callback;
};

struct QnnContext_Params_t {
    QnnContext_ParamsVersion_t version;
    union {
        QnnContext_ParamsV1_t v1;
        QnnContext_ParamsV2_t *v2;
    };
};

struct QnnContext_BufferV1_t {
    QnnContext_MemType_t memType;
    union {
        Qnn_BinaryBuffer_t binaryBuf;
        Qnn_MemHandle_t memHandle;
    };
};

struct QnnContext_Buffer_t {
    QnnContext_BufferVersion_t version;
    union {
        QnnContext_BufferV1_t v1;
    };
};

struct QnnContext_Property_t {
    QnnContext_PropertyOption_t option;
    union {
        QnnContext_CustomProperty_t customProperty;
    };
};

/* ---- Graph ----------------------------------------------------------------------------------------------- */
/* Graphs: composition, finalisation, execution. */

typedef enum {
    QNN_GRAPH_MIN_ERROR = 6000,
    QNN_GRAPH_NO_ERROR = 0,
    QNN_GRAPH_ERROR_UNSUPPORTED_FEATURE = 1000,
    QNN_GRAPH_ERROR_MEM_ALLOC = 1002,
    QNN_GRAPH_ERROR_GENERAL = 1100,
    QNN_GRAPH_ERROR_INVALID_ARGUMENT = 6000,
    QNN_GRAPH_ERROR_INVALID_HANDLE = 6001,
    QNN_GRAPH_ERROR_GRAPH_DOES_NOT_EXIST = 6002,
    QNN_GRAPH_ERROR_INVALID_NAME = 6003,
    QNN_GRAPH_ERROR_INVALID_TENSOR = 6004,
    QNN_GRAPH_ERROR_INVALID_OP_CONFIG = 6005,
    QNN_GRAPH_ERROR_SET_PROFILE = 6006,
    QNN_GRAPH_ERROR_UNCONNECTED_NODE = 6007,
    QNN_GRAPH_ERROR_CREATE_FAILED = 6020,
    QNN_GRAPH_ERROR_OPTIMIZATION_FAILED = 6021,
    QNN_GRAPH_ERROR_FINALIZE_FAILED = 6022,
    QNN_GRAPH_ERROR_GRAPH_NOT_FINALIZED = 6023,
    QNN_GRAPH_ERROR_GRAPH_FINALIZED = 6024,
    QNN_GRAPH_ERROR_EXECUTION_ASYNC_FIFO_FULL = 6025,
    QNN_GRAPH_ERROR_SIGNAL_IN_USE = 6030,
    QNN_GRAPH_ERROR_ABORTED = 6031,
    QNN_GRAPH_ERROR_PROFILE_IN_USE = 6032,
    QNN_GRAPH_ERROR_TIMED_OUT = 6033,
    QNN_GRAPH_ERROR_SUBGRAPH = 6034,
    QNN_GRAPH_ERROR_DISABLED = 6035,
    QNN_GRAPH_ERROR_DYNAMIC_TENSOR_SHAPE = 6036,
    QNN_GRAPH_ERROR_TENSOR_SPARSITY = 6037,
    QNN_GRAPH_ERROR_EARLY_TERMINATION = 6038,
    QNN_GRAPH_ERROR_INVALID_CONTEXT = 6039,
    QNN_GRAPH_MAX_ERROR = 6999,
    QNN_GRAPH_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnGraph_Error_t;

typedef enum {
    QNN_GRAPH_CONFIG_OPTION_CUSTOM = 0,
    QNN_GRAPH_CONFIG_OPTION_PRIORITY = 3,
    QNN_GRAPH_CONFIG_OPTION_PROFILE_HANDLE = 4,
    QNN_GRAPH_CONFIG_OPTION_SET_PROFILING_STATE = 5,
    QNN_GRAPH_CONFIG_OPTION_SET_PROFILING_NUM_EXECUTIONS = 6,
    QNN_GRAPH_CONFIG_OPTION_ENABLE_BINARY_SECTION_WEIGHTS_UPDATES = 7,
    QNN_GRAPH_CONFIG_OPTION_UNDEFINED = 0x7FFFFFFF,
} QnnGraph_ConfigOption_t;

typedef enum {
    QNN_GRAPH_PROFILING_STATE_ENABLED = 1,
    QNN_GRAPH_PROFILING_STATE_DISABLED = 2,
    QNN_GRAPH_PROFILING_STATE_UNDEFINED = 0x7FFFFFFF,
} QnnGraph_ProfilingState_t;

typedef enum {
    QNN_GRAPH_PROPERTY_OPTION_CUSTOM = 0,
    QNN_GRAPH_PROPERTY_OPTION_UNDEFINED = 0x7FFFFFFF,
} QnnGraph_PropertyOption_t;

typedef enum {
    QNN_GRAPH_EXECUTE_ENVIRONMENT_OPTION_BIND_MEM_HANDLES = 0,
    QNN_GRAPH_EXECUTE_ENVIRONMENT_OPTION_POPULATE_CLIENT_BUFS = 1,
    QNN_GRAPH_EXECUTE_ENVIRONMENT_OPTION_UNDEFINED = 0x7FFFFFFF,
} QnnGraph_ExecuteEnvironmentOption_t;

typedef void *QnnGraph_CustomConfig_t;
typedef void *QnnGraph_CustomProperty_t;

typedef void (*Qnn_NotifyFn_t)(void *notifyParam, Qnn_NotifyStatus_t notifyStatus);
typedef Qnn_ErrorHandle_t (*QnnGraph_CreateFn_t)(
    Qnn_ContextHandle_t contextHandle, const char *graphName, const QnnGraph_Config_t **config, Qnn_GraphHandle_t
    *graphHandle);
typedef Qnn_ErrorHandle_t (*QnnGraph_CreateSubgraphFn_t)(
    Qnn_GraphHandle_t graphHandle, const char *graphName, Qnn_GraphHandle_t *subgraphHandle);
typedef Qnn_ErrorHandle_t (*QnnGraph_SetConfigFn_t)(Qnn_GraphHandle_t graphHandle, const QnnGraph_Config_t **config);
typedef Qnn_ErrorHandle_t (*QnnGraph_GetPropertyFn_t)(
    Qnn_GraphHandle_t graphHandle, QnnGraph_Property_t **properties);
typedef Qnn_ErrorHandle_t (*QnnGraph_AddNodeFn_t)(Qnn_GraphHandle_t graphHandle, Qnn_OpConfig_t opConfig);
typedef Qnn_ErrorHandle_t (*QnnGraph_FinalizeFn_t)(
    Qnn_GraphHandle_t graphHandle, Qnn_ProfileHandle_t profileHandle, Qnn_SignalHandle_t signalHandle);
typedef Qnn_ErrorHandle_t (*QnnGraph_RetrieveFn_t)(
    Qnn_ContextHandle_t contextHandle, const char *graphName, Qnn_GraphHandle_t *graphHandle);
typedef Qnn_ErrorHandle_t (*QnnGraph_PrepareExecutionEnvironmentFn_t)(
    Qnn_GraphHandle_t graphHandle, QnnGraph_ExecuteEnvironment_t **envs, uint32_t envSize);
typedef Qnn_ErrorHandle_t (*QnnGraph_ExecuteFn_t)(
    Qnn_GraphHandle_t graphHandle, const Qnn_Tensor_t *inputs, uint32_t numInputs, Qnn_Tensor_t *outputs, uint32_t
    numOutputs, Qnn_ProfileHandle_t profileHandle, Qnn_SignalHandle_t signalHandle);
typedef Qnn_ErrorHandle_t (*QnnGraph_ExecuteAsyncFn_t)(
    Qnn_GraphHandle_t graphHandle, const Qnn_Tensor_t *inputs, uint32_t numInputs, Qnn_Tensor_t *outputs, uint32_t
    numOutputs, Qnn_ProfileHandle_t profileHandle, Qnn_SignalHandle_t signalHandle, Qnn_NotifyFn_t notifyFn, void
    *notifyParam);
typedef Qnn_ErrorHandle_t (*QnnGraph_ReleaseExecutionEnvironmentFn_t)(
    Qnn_GraphHandle_t graphHandle, const QnnGraph_ExecuteEnvironment_t **envs, uint32_t envSize);

struct QnnGraph_Config_t {
    QnnGraph_ConfigOption_t option;
    union {
        QnnGraph_CustomConfig_t customConfig; /* option 0 */
        Qnn_Priority_t priority; /* option 3 */
        Qnn_ProfileHandle_t profileHandle; /* option 4 */
        QnnGraph_ProfilingState_t profilingState; /* option 5 */
        uint32_t numProfilingExecutions; /* option 6 */
        uint8_t enableBinarySectionWeightsUpdates; /* option 7 */
    };
};

struct QnnGraph_Property_t {
    QnnGraph_PropertyOption_t option;
    union {
        QnnGraph_CustomProperty_t customProperty;
    };
};

struct QnnGraph_ExecuteEnvironment_t {
    QnnGraph_ExecuteEnvironmentOption_t option;
    union {
        Qnn_TensorSet_t tensorSet;
    };
};

struct Qnn_NotifyStatus_t {
    Qnn_ErrorHandle_t error;
};

/* ---- Tensor ---------------------------------------------------------------------------------------------- */
/* Tensors of graphs and contexts. */

typedef enum {
    QNN_TENSOR_MIN_ERROR = 7000,
    QNN_TENSOR_NO_ERROR = 0,
    QNN_TENSOR_ERROR_INVALID_HANDLE = 7001,
    QNN_TENSOR_ERROR_DOES_NOT_EXIST = 7002,
    QNN_TENSOR_ERROR_ALREADY_EXISTS = 7003,
    QNN_TENSOR_ERROR_INVALID_TENSOR_PARAM = 7004,
    QNN_TENSOR_ERROR_UNSUPPORTED_TENSOR_PARAM = 7005,
    QNN_TENSOR_ERROR_NAME_HASH_COLLISION = 7006,
    QNN_TENSOR_ERROR_INCOMPATIBLE_TENSOR_UPDATE = 7007,
    QNN_TENSOR_ERROR_UNSUPPORTED_FEATURE = 1000,
    QNN_TENSOR_MAX_ERROR = 7999,
    QNN_TENSOR_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnTensor_Error_t;

typedef Qnn_ErrorHandle_t (*QnnTensor_CreateContextTensorFn_t)(Qnn_ContextHandle_t context, Qnn_Tensor_t *tensor);
typedef Qnn_ErrorHandle_t (*QnnTensor_CreateGraphTensorFn_t)(Qnn_GraphHandle_t graph, Qnn_Tensor_t *tensor);
typedef Qnn_ErrorHandle_t (*QnnTensor_UpdateContextTensorsFn_t)(
    Qnn_ContextHandle_t context, const Qnn_Tensor_t **tensor, uint64_t numTensors);
typedef Qnn_ErrorHandle_t (*QnnTensor_UpdateGraphTensorsFn_t)(
    Qnn_GraphHandle_t graph, const Qnn_Tensor_t **tensor, uint64_t numTensors);

/* ---- Interface ------------------------------------------------------------------------------------------- */
/* The function table of a backend library. */

typedef enum {
    QNN_INTERFACE_MIN_ERROR = 60000,
    QNN_INTERFACE_NO_ERROR = 0,
    QNN_INTERFACE_ERROR_NOT_SUPPORTED = 1000,
    QNN_INTERFACE_ERROR_INVALID_PARAMETER = 1004,
    QNN_INTERFACE_MAX_ERROR = 60999,
} QnnInterface_Error_t;

/* The function table of core API 2.32. Later minor versions append entries. */
struct QnnInterface_ImplementationV2_32_t {
    QnnProperty_HasCapabilityFn_t propertyHasCapability;
    QnnBackend_CreateFn_t backendCreate;
    QnnBackend_SetConfigFn_t backendSetConfig;
    QnnBackend_GetApiVersionFn_t backendGetApiVersion;
    QnnBackend_GetBuildIdFn_t backendGetBuildId;
    QnnBackend_RegisterOpPackageFn_t backendRegisterOpPackage;
    QnnBackend_GetSupportedOperationsFn_t backendGetSupportedOperations;
    QnnBackend_ValidateOpConfigFn_t backendValidateOpConfig;
    QnnBackend_FreeFn_t backendFree;
    QnnContext_CreateFn_t contextCreate;
    QnnContext_SetConfigFn_t contextSetConfig;
    QnnContext_GetBinarySizeFn_t contextGetBinarySize;
    QnnContext_GetBinaryFn_t contextGetBinary;
    QnnContext_CreateFromBinaryFn_t contextCreateFromBinary;
    QnnContext_FreeFn_t contextFree;
    QnnGraph_CreateFn_t graphCreate;
    QnnGraph_CreateSubgraphFn_t graphCreateSubgraph;
    QnnGraph_SetConfigFn_t graphSetConfig;
    QnnGraph_AddNodeFn_t graphAddNode;
    QnnGraph_FinalizeFn_t graphFinalize;
    QnnGraph_RetrieveFn_t graphRetrieve;
    QnnGraph_ExecuteFn_t graphExecute;
    QnnGraph_ExecuteAsyncFn_t graphExecuteAsync;
    QnnTensor_CreateContextTensorFn_t tensorCreateContextTensor;
    QnnTensor_CreateGraphTensorFn_t tensorCreateGraphTensor;
    QnnLog_CreateFn_t logCreate;
    QnnLog_SetLogLevelFn_t logSetLogLevel;
    QnnLog_FreeFn_t logFree;
    QnnProfile_CreateFn_t profileCreate;
    QnnProfile_SetConfigFn_t profileSetConfig;
    QnnProfile_GetEventsFn_t profileGetEvents;
    QnnProfile_GetSubEventsFn_t profileGetSubEvents;
    QnnProfile_GetEventDataFn_t profileGetEventData;
    QnnProfile_GetExtendedEventDataFn_t profileGetExtendedEventData;
    QnnProfile_FreeFn_t profileFree;
    QnnMem_RegisterFn_t memRegister;
    QnnMem_DeRegisterFn_t memDeRegister;
    QnnDevice_GetPlatformInfoFn_t deviceGetPlatformInfo;
    QnnDevice_FreePlatformInfoFn_t deviceFreePlatformInfo;
    QnnDevice_GetInfrastructureFn_t deviceGetInfrastructure;
    QnnDevice_CreateFn_t deviceCreate;
    QnnDevice_SetConfigFn_t deviceSetConfig;
    QnnDevice_GetInfoFn_t deviceGetInfo;
    QnnDevice_FreeFn_t deviceFree;
    QnnSignal_CreateFn_t signalCreate;
    QnnSignal_SetConfigFn_t signalSetConfig;
    QnnSignal_TriggerFn_t signalTrigger;
    QnnSignal_FreeFn_t signalFree;
    QnnError_GetMessageFn_t errorGetMessage;
    QnnError_GetVerboseMessageFn_t errorGetVerboseMessage;
    QnnError_FreeVerboseMessageFn_t errorFreeVerboseMessage;
    QnnGraph_PrepareExecutionEnvironmentFn_t graphPrepareExecutionEnvironment;
    QnnGraph_ReleaseExecutionEnvironmentFn_t graphReleaseExecutionEnvironment;
    QnnGraph_GetPropertyFn_t graphGetProperty;
    QnnContext_ValidateBinaryFn_t contextValidateBinary;
    QnnContext_CreateFromBinaryWithSignalFn_t contextCreateFromBinaryWithSignal;
    QnnContext_CreateFromBinaryListAsyncFn_t contextCreateFromBinaryListAsync;
    QnnTensor_UpdateGraphTensorsFn_t tensorUpdateGraphTensors;
    QnnTensor_UpdateContextTensorsFn_t tensorUpdateContextTensors;
    QnnContext_GetBinarySectionSizeFn_t contextGetBinarySectionSize;
    QnnContext_GetBinarySectionFn_t contextGetBinarySection;
    QnnContext_ApplyBinarySectionFn_t contextApplyBinarySection;
    QnnBackend_GetPropertyFn_t backendGetProperty;
    QnnContext_GetPropertyFn_t contextGetProperty;
    QnnContext_GetIncrementalBinaryFn_t contextGetIncrementalBinary;
    QnnContext_ReleaseIncrementalBinaryFn_t contextReleaseIncrementalBinary;
    QnnContext_FinalizeFn_t contextFinalize;
    QnnGlobalConfig_SetFn_t globalConfigSet;
    QnnContext_CreateFromBinaryWithCallbackFn_t contextCreateFromBinaryWithCallback;
    QnnContext_GetBinarySectionUpdateFn_t contextGetBinarySectionUpdate;
    QnnContext_FreeBinarySectionUpdateFn_t contextFreeBinarySectionUpdate;
};

/* What QnnInterface_getProviders hands out. The table of the version in apiVersion starts at byte 40. */
struct QnnInterface_t {
    uint32_t backendId;
    const char *providerName;
    Qnn_ApiVersion_t apiVersion;
    union {
        QnnInterface_ImplementationV2_32_t v2_32;
    };
};

/* ---- System ---------------------------------------------------------------------------------------------- */
/* libQnnSystem: what a context binary says of itself. */

#define QNN_SYSTEM_API_VERSION_PATCH 0
#define QNN_SYSTEM_API_VERSION_MAJOR 1
#define QNN_SYSTEM_API_VERSION_MINOR 7
#define QNN_SYSTEM_COMMON_MIN_ERROR 30000
#define QNN_MIN_ERROR_SYSTEM 30000
#define QNN_SYSTEM_CONTEXT_MIN_ERROR 30000
#define QNN_SYSTEM_COMMON_MAX_ERROR 30999
#define QNN_SYSTEM_CONTEXT_MAX_ERROR 30999
#define QNN_SYSTEM_PROFILE_MIN_ERROR 31000
#define QNN_SYSTEM_PROFILE_MAX_ERROR 31999
#define QNN_MAX_ERROR_SYSTEM 49999
#define QNN_SYSTEM_INTERFACE_PROVIDER_NAME "SYSTEM_QTI_AISW"

typedef enum {
    QNN_SYSTEM_COMMON_NO_ERROR = 0,
    QNN_SYSTEM_COMMON_ERROR_UNSUPPORTED_FEATURE = 1000,
    QNN_SYSTEM_COMMON_ERROR_INVALID_HANDLE = 30000,
    QNN_SYSTEM_COMMON_ERROR_INVALID_ARGUMENT = 30001,
} QnnSystemCommon_Error_t;

typedef enum {
    QNN_SYSTEM_CONTEXT_MINERROR = 30000,
    QNN_SYSTEM_CONTEXT_NO_ERROR = 0,
    QNN_SYSTEM_CONTEXT_ERROR_UNSUPPORTED_FEATURE = 1000,
    QNN_SYSTEM_CONTEXT_ERROR_INVALID_HANDLE = 30000,
    QNN_SYSTEM_CONTEXT_ERROR_INVALID_ARGUMENT = 30001,
    QNN_SYSTEM_CONTEXT_ERROR_OPERATION_FAILED = 30002,
    QNN_SYSTEM_CONTEXT_ERROR_MALFORMED_BINARY = 30010,
    QNN_SYSTEM_CONTEXT_MAXERROR = 49999,
} QnnSystemContext_Error_t;

typedef enum {
    QNN_SYSTEM_CONTEXT_GRAPH_INFO_VERSION_1 = 1,
    QNN_SYSTEM_CONTEXT_GRAPH_INFO_VERSION_2 = 2,
    QNN_SYSTEM_CONTEXT_GRAPH_INFO_VERSION_3 = 3,
    QNN_SYSTEM_CONTEXT_GRAPH_INFO_UNDEFINED = 0x7FFFFFFF,
} QnnSystemContext_GraphInfoVersion_t;

typedef enum {
    QNN_SYSTEM_CONTEXT_BINARY_INFO_VERSION_1 = 1,
    QNN_SYSTEM_CONTEXT_BINARY_INFO_VERSION_2 = 2,
    QNN_SYSTEM_CONTEXT_BINARY_INFO_VERSION_3 = 3,
    QNN_SYSTEM_CONTEXT_BINARY_INFO_UNDEFINED = 0x7FFFFFFF,
} QnnSystemContext_BinaryInfoVersion_t;

typedef enum {
    QNN_SYSTEM_DLC_MINERROR = 30000,
    QNN_SYSTEM_DLC_NO_ERROR = 0,
    QNN_SYSTEM_DLC_ERROR_UNSUPPORTED_FEATURE = 1000,
    QNN_SYSTEM_DLC_ERROR_INVALID_HANDLE = 30000,
    QNN_SYSTEM_DLC_ERROR_INVALID_ARGUMENT = 30001,
    QNN_SYSTEM_DLC_ERROR_OPERATION_FAILED = 30002,
    QNN_SYSTEM_DLC_ERROR_MALFORMED_BINARY = 30010,
    QNN_SYSTEM_DLC_MAXERROR = 49999,
} QnnSystemDlc_Error_t;

typedef enum {
    QNN_SYSTEM_DLC_GRAPH_CONFIG_INFO_VERSION_1 = 1,
    QNN_SYSTEM_DLC_GRAPH_CONFIG_INFO_UNDEFINED = 0x7FFFFFFF,
} QnnSystemContext_GraphConfigInfoVersion_t;

typedef enum {
    QNN_SYSTEM_PROFILE_NO_ERROR = 0,
    QNN_SYSTEM_PROFILE_ERROR_UNSUPPORTED_FEATURE = 1000,
    QNN_SYSTEM_PROFILE_ERROR_INVALID_HANDLE = 30000,
    QNN_SYSTEM_PROFILE_ERROR_INVALID_ARGUMENT = 30001,
    QNN_SYSTEM_PROFILE_ERROR_MEM_ALLOC = 31000,
} QnnSystemProfile_Error_t;

typedef enum {
    QNN_SYSTEM_PROFILE_SERIALIZATION_TARGET_FILE = 1,
    QNN_SYSTEM_PROFILE_SERIALIZATION_TARGET_UNDEFINED = 0x7FFFFFFF,
} QnnSystemProfile_SerializationTargetType_t;

typedef enum {
    QNN_SYSTEM_PROFILE_SERIALIZATION_TARGET_CONFIG_MAX_NUM_MESSAGES = 0,
    QNN_SYSTEM_PROFILE_SERIALIZATION_TARGET_CONFIG_SERIALIZATION_HEADER = 1,
    QNN_SYSTEM_PROFILE_SERIALIZATION_TARGET_CONFIG_UNDEFINED = 0x7FFFFFFF,
} QnnSystemProfile_SerializationTargetConfigType_t;

typedef enum {
    QNN_SYSTEM_PROFILE_VISIBILITY_PUBLIC = 0,
    QNN_SYSTEM_PROFILE_VISIBILITY_PRIVATE = 1,
} QnnSystemProfile_Visibility_t;

typedef enum {
    QNN_SYSTEM_PROFILE_METHOD_TYPE_NONE = 0,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_BACKEND_EXECUTE = 1,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_BACKEND_FINALIZE = 2,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_BACKEND_EXECUTE_ASYNC = 3,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_BACKEND_CREATE_FROM_BINARY = 4,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_BACKEND_DEINIT = 5,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_APP_CONTEXT_CREATE = 6,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_APP_COMPOSE_GRAPHS = 7,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_APP_EXECUTE_IPS = 8,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_BACKEND_GRAPH_COMPONENT = 9,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_APP_BACKEND_LIB_LOAD = 10,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_BACKEND_APPLY_BINARY_SECTION = 11,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_CONTEXT_FINALIZE = 12,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_CONTEXT_GET_BINARY_SIZE = 13,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_CONTEXT_GET_BINARY = 14,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_CONTEXT_GET_BINARY_SECTION_SIZE = 15,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_BACKEND_FINALIZE_TENSOR_UPDATES = 16,
    QNN_SYSTEM_PROFILE_METHOD_TYPE_BACKEND_UPDATE_BINARY_SECTION = 17,
} QnnSystemProfile_MethodType_t;

typedef enum {
    QNN_SYSTEM_PROFILE_EVENT_DATA = 0,
    QNN_SYSTEM_PROFILE_EXTENDED_EVENT_DATA = 1,
    QNN_SYSTEM_PROFILE_EVENT_DATA_UNDEFINED = 0x7FFFFFFF,
} QnnSystemProfile_EventDataType_t;

typedef enum {
    QNN_SYSTEM_PROFILE_DATA_VERSION_1 = 1,
    QNN_SYSTEM_PROFILE_DATA_VERSION_UNDEFINED = 0x7FFFFFFF,
} QnnSystemProfile_ProfileDataVersion_t;

typedef enum {
    QNN_SYSTEM_TENSOR_MIN_ERROR = 30000,
    QNN_SYSTEM_TENSOR_NO_ERROR = 0,
    QNN_SYSTEM_TENSOR_ERROR_UNSUPPORTED_FEATURE = 1000,
    QNN_SYSTEM_TENSOR_ERROR_INVALID_ARGUMENT = 30001,
    QNN_SYSTEM_TENSOR_ERROR_INVALID_TENSOR = 30002,
    QNN_SYSTEM_TENSOR_MAX_ERROR = 49999,
} QnnSystemTensor_Error_t;

typedef enum {
    QNN_SYSTEM_INTERFACE_MIN_ERROR = 30000,
    QNN_SYSTEM_INTERFACE_NO_ERROR = 0,
    QNN_SYSTEM_INTERFACE_ERROR_NOT_SUPPORTED = 1000,
    QNN_SYSTEM_INTERFACE_ERROR_INVALID_PARAMETER = 1004,
    QNN_SYSTEM_INTERFACE_MAX_ERROR = 49999,
} QnnSystemInterface_Error_t;

typedef void *QnnSystemContext_Handle_t;
typedef void *QnnSystemDlc_Handle_t;
typedef void *QnnSystemProfile_SerializationTargetHandle_t;

typedef Qnn_ErrorHandle_t (*QnnSystemContext_CreateFn_t)(QnnSystemContext_Handle_t *sysCtxHandle);
typedef Qnn_ErrorHandle_t (*QnnSystemContext_GetBinaryInfoFn_t)(
    QnnSystemContext_Handle_t sysCtxHandle, void *binaryBuffer, uint64_t binaryBufferSize, const
    QnnSystemContext_BinaryInfo_t **binaryInfo, Qnn_ContextBinarySize_t *binaryInfoSize);
typedef Qnn_ErrorHandle_t (*QnnSystemContext_GetMetaDataFn_t)(
    QnnSystemContext_Handle_t sysCtxHandle, const void *binaryBuffer, uint64_t binaryBufferSize, const
    QnnSystemContext_BinaryInfo_t **binaryInfo);
typedef Qnn_ErrorHandle_t (*QnnSystemContext_FreeFn_t)(QnnSystemContext_Handle_t sysCtxHandle);
typedef Qnn_ErrorHandle_t (*QnnSystemTensor_getMemoryFootprintFn_t)(Qnn_Tensor_t tensor, uint64_t *footprint);
typedef Qnn_ErrorHandle_t (*QnnSystemLog_createFn_t)(
    QnnLog_Callback_t callback, QnnLog_Level_t maxLogLevel, Qnn_LogHandle_t *logger);
typedef Qnn_ErrorHandle_t (*QnnSystemLog_setLogLevelFn_t)(Qnn_LogHandle_t logger, QnnLog_Level_t maxLogLevel);
typedef Qnn_ErrorHandle_t (*QnnSystemLog_freeFn_t)(Qnn_LogHandle_t logger);
typedef Qnn_ErrorHandle_t (*QnnSystemDlc_createFromFileFn_t)(
    Qnn_LogHandle_t logger, const char *dlcPath, QnnSystemDlc_Handle_t *dlcHandle);
typedef Qnn_ErrorHandle_t (*QnnSystemDlc_createFromBinaryFn_t)(
    Qnn_LogHandle_t logger, const uint8_t *buffer, const Qnn_ContextBinarySize_t bufferSize, QnnSystemDlc_Handle_t
    *dlcHandle);
typedef Qnn_ErrorHandle_t (*QnnSystemDlc_composeGraphsFn_t)(
    QnnSystemDlc_Handle_t dlcHandle, const QnnSystemDlc_GraphConfigInfo_t **graphConfigs, const uint32_t
    numGraphConfigs, Qnn_BackendHandle_t backend, Qnn_ContextHandle_t context, QnnInterface_t interface,
    QnnSystemContext_GraphInfoVersion_t graphVersion, QnnSystemContext_GraphInfo_t **graphs, uint32_t *numGraphs);
typedef Qnn_ErrorHandle_t (*QnnSystemDlc_getOpMappingsFn_t)(
    QnnSystemDlc_Handle_t dlcHandle, const Qnn_OpMapping_t **opMappings, uint32_t *numOpMappings);
typedef Qnn_ErrorHandle_t (*QnnSystemDlc_freeFn_t)(QnnSystemDlc_Handle_t dlcHandle);
typedef Qnn_ErrorHandle_t (*QnnSystemProfile_createSerializationTargetFn_t)(
    QnnSystemProfile_SerializationTarget_t serializationTargetInfo, QnnSystemProfile_SerializationTargetConfig_t
    *configs, uint32_t numConfigs, QnnSystemProfile_SerializationTargetHandle_t *serializationTarget);
typedef Qnn_ErrorHandle_t (*QnnSystemProfile_serializeEventDataFn_t)(
    QnnSystemProfile_SerializationTargetHandle_t serializationTarget, const QnnSystemProfile_ProfileData_t
    **eventData, uint32_t numEvents);
typedef Qnn_ErrorHandle_t (*QnnSystemProfile_freeSerializationTargetFn_t)(
    QnnSystemProfile_SerializationTargetHandle_t serializationTarget);

struct QnnSystemContext_GraphInfoV1_t {
    const char *graphName;
    uint32_t numGraphInputs;
    Qnn_Tensor_t *graphInputs;
    uint32_t numGraphOutputs;
    Qnn_Tensor_t *graphOutputs;
};

struct QnnSystemContext_GraphInfoV2_t {
    const char *graphName;
    uint32_t numGraphInputs;
    Qnn_Tensor_t *graphInputs;
    uint32_t numGraphOutputs;
    Qnn_Tensor_t *graphOutputs;
    uint32_t numUpdateableTensors;
    Qnn_Tensor_t *updateableTensors;
};

struct QnnSystemContext_GraphInfoV3_t {
    const char *graphName;
    uint32_t numGraphInputs;
    Qnn_Tensor_t *graphInputs;
    uint32_t numGraphOutputs;
    Qnn_Tensor_t *graphOutputs;
    uint32_t numUpdateableTensors;
    Qnn_Tensor_t *updateableTensors;
    uint32_t graphBlobInfoSize;
    void *graphBlobInfo;
    uint32_t startOpIndex;
    uint32_t endOpIndex;
};

struct QnnSystemContext_GraphInfo_t {
    QnnSystemContext_GraphInfoVersion_t version;
    union {
        QnnSystemContext_GraphInfoV1_t graphInfoV1; /* version 1 */
        QnnSystemContext_GraphInfoV2_t graphInfoV2; /* version 2 */
        QnnSystemContext_GraphInfoV3_t graphInfoV3; /* version 3 */
    };
};

struct QnnSystemContext_BinaryInfoV1_t {
    uint32_t backendId;
    const char *buildId;
    Qnn_Version_t coreApiVersion;
    Qnn_Version_t backendApiVersion;
    const char *socVersion;
    Qnn_Version_t hwInfoBlobVersion;
    Qnn_Version_t contextBlobVersion;
    uint32_t hwInfoBlobSize;
    void *hwInfoBlob;
    uint64_t contextBlobSize;
    uint32_t numContextTensors;
    Qnn_Tensor_t *contextTensors;
    uint32_t numGraphs;
    QnnSystemContext_GraphInfo_t *graphs;
};

struct QnnSystemContext_BinaryInfoV2_t {
    uint32_t backendId;
    const char *buildId;
    Qnn_Version_t coreApiVersion;
    Qnn_Version_t backendApiVersion;
    const char *socVersion;
    Qnn_Version_t hwInfoBlobVersion;
    Qnn_Version_t contextBlobVersion;
    uint32_t hwInfoBlobSize;
    void *hwInfoBlob;
    uint64_t contextBlobSize;
    uint32_t numContextTensors;
    Qnn_Tensor_t *contextTensors;
    uint32_t numGraphs;
    QnnSystemContext_GraphInfo_t *graphs;
    QnnDevice_PlatformInfo_t *platformInfo;
};

struct QnnSystemContext_BinaryInfoV3_t {
    uint32_t backendId;
    const char *buildId;
    Qnn_Version_t coreApiVersion;
    Qnn_Version_t backendApiVersion;
    const char *socVersion;
    Qnn_Version_t contextBlobVersion;
    uint64_t contextBlobSize;
    uint32_t numContextTensors;
    Qnn_Tensor_t *contextTensors;
    uint32_t numGraphs;
    QnnSystemContext_GraphInfo_t *graphs;
    QnnDevice_PlatformInfo_t *platformInfo;
    uint32_t contextMetadataSize;
    void *contextMetadata;
    uint32_t socModel;
};

/* What a context binary says of itself. */
struct QnnSystemContext_BinaryInfo_t {
    QnnSystemContext_BinaryInfoVersion_t version;
    union {
        QnnSystemContext_BinaryInfoV1_t contextBinaryInfoV1; /* version 1 */
        QnnSystemContext_BinaryInfoV2_t contextBinaryInfoV2; /* version 2 */
        QnnSystemContext_BinaryInfoV3_t contextBinaryInfoV3; /* version 3 */
    };
};

struct QnnSystemDlc_GraphConfigInfoV1_t {
    const char *graphName;
    const QnnGraph_Config_t **graphConfigs;
    uint32_t numConfigs;
};

struct QnnSystemDlc_GraphConfigInfo_t {
    QnnSystemContext_GraphConfigInfoVersion_t version;
    union {
        QnnSystemDlc_GraphConfigInfoV1_t v1;
    };
};

struct QnnSystemProfile_SerializationTargetFile_t {
    const char *fileName;
    const char *fileDirectory;
};

struct QnnSystemProfile_SerializationTarget_t {
    QnnSystemProfile_SerializationTargetType_t type;
    union {
        QnnSystemProfile_SerializationTargetFile_t file;
    };
};

struct QnnSystemProfile_SerializationFileHeader_t {
    const char *appName;
    const char *appVersion;
    const char *backendVersion;
};

struct QnnSystemProfile_SerializationTargetConfig_t {
    QnnSystemProfile_SerializationTargetConfigType_t type;
    union {
        uint32_t maxNumMessages;
        QnnSystemProfile_SerializationFileHeader_t serializationHeader;
    };
};

struct QnnSystemProfile_HeaderV1_t {
    uint64_t startTime;
    uint64_t stopTime;
    uint64_t startMem;
    uint64_t stopMem;
    QnnSystemProfile_MethodType_t methodType;
    QnnSystemProfile_Visibility_t visibility;
    const char *graphName;
};

struct QnnSystemProfile_ProfileEventV1_t {
    QnnSystemProfile_EventDataType_t type;
    union {
        QnnProfile_EventData_t eventData;
        QnnProfile_ExtendedEventData_t extendedEventData;
    };
    QnnSystemProfile_ProfileEventV1_t *profileSubEventData;
    uint32_t numSubEvents;
};

struct QnnSystemProfile_ProfileDataV1_t {
    QnnSystemProfile_HeaderV1_t header;
    QnnSystemProfile_ProfileEventV1_t *profilingEvents;
    uint32_t numProfilingEvents;
};

struct QnnSystemProfile_ProfileData_t {
    QnnSystemProfile_ProfileDataVersion_t version;
    union {
        QnnSystemProfile_ProfileDataV1_t v1;
    };
};

/* The function table of system API 1.7. Later minor versions append entries. */
struct QnnSystemInterface_ImplementationV1_7_t {
    QnnSystemContext_CreateFn_t systemContextCreate;
    QnnSystemContext_GetBinaryInfoFn_t systemContextGetBinaryInfo;
    QnnSystemContext_GetMetaDataFn_t systemContextGetMetaData;
    QnnSystemContext_FreeFn_t systemContextFree;
    QnnSystemTensor_getMemoryFootprintFn_t systemTensorGetMemoryFootprint;
    QnnSystemLog_createFn_t systemLogCreate;
    QnnSystemLog_setLogLevelFn_t systemLogSetLogLevel;
    QnnSystemLog_freeFn_t systemLogFree;
    QnnSystemDlc_createFromFileFn_t systemDlcCreateFromFile;
    QnnSystemDlc_createFromBinaryFn_t systemDlcCreateFromBinary;
    QnnSystemDlc_composeGraphsFn_t systemDlcComposeGraphs;
    QnnSystemDlc_getOpMappingsFn_t systemDlcGetOpMappings;
    QnnSystemDlc_freeFn_t systemDlcFree;
    QnnSystemProfile_createSerializationTargetFn_t systemProfileCreateSerializationTarget;
    QnnSystemProfile_serializeEventDataFn_t systemProfileSerializeEventData;
    QnnSystemProfile_freeSerializationTargetFn_t systemProfileFreeSerializationTarget;
};

/* What QnnSystemInterface_getProviders hands out. The table starts at byte 32. */
struct QnnSystemInterface_t {
    uint32_t backendId;
    const char *providerName;
    Qnn_Version_t systemApiVersion;
    union {
        QnnSystemInterface_ImplementationV1_7_t v1_7;
    };
};

/* ---- HTP ------------------------------------------------------------------------------------------------- */
/* What only the HTP backend knows: power votes, device, graph, context and memory options. */

#define QNN_HTP_API_VERSION_PATCH 0
#define QNN_HTP_CONTEXT_BLOB_VERSION_MAJOR 3
#define QNN_HTP_CONTEXT_BLOB_VERSION_MINOR 3
#define QNN_HTP_CONTEXT_BLOB_VERSION_PATCH 4
#define QNN_HTP_API_VERSION_MAJOR 5
#define QNN_HTP_API_VERSION_MINOR 43
#define QNN_HTP_PROFILE_EVENTTYPE_CONTEXT_LOAD_BIN_HOST_RPC_TIME_MICROSEC 1002
#define QNN_HTP_PROFILE_EVENTTYPE_CONTEXT_LOAD_BIN_HTP_RPC_TIME_MICROSEC 1003
#define QNN_HTP_PROFILE_EVENTTYPE_CONTEXT_LOAD_BIN_ACCEL_TIME_MICROSEC 1004
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_HOST_RPC_TIME_MICROSEC 2001
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_HTP_RPC_TIME_MICROSEC 2002
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_ACCEL_TIME_MICROSEC 2003
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE 2004
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_MODE 2005
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_SIM_EXEC_CYCLES 2006
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_SIM_EXEC_LOWER_CYCLES 2007
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_SIM_EXEC_UPPER_CYCLES 2008
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_BANDWIDTH_STATS 2009
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_BANDWIDTH_STATS_HTP_ID 2010
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_INPUT_FILL 2011
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_INTERMEDIATE_FILL 2012
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_INTERMEDIATE_SPILL 2013
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_INTER_HTP_FILL 2014
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_INTER_HTP_SPILL 2015
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_OUTPUT_SPILL 2016
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_MISSING_COST_OPS 2017
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_FINALIZE_PERF_ESTIMATE_MISSING_COST_OPID 2018
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_HOST_RPC_TIME_MICROSEC 3001
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_HTP_RPC_TIME_MICROSEC 3002
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_ACCEL_TIME_CYCLE 3003
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_ACCEL_TIME_MICROSEC 3004
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_MISC_ACCEL_TIME_MICROSEC 3005
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_YIELD_INSTANCE_RELEASE_TIME 3006
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_YIELD_INSTANCE_WAIT_TIME 3007
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_YIELD_INSTANCE_RESTORE_TIME 3008
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_YIELD_COUNT 3009
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_VTCM_ACQUIRE_TIME 3010
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_RESOURCE_POWER_UP_TIME 3011
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_ACCEL_EXCL_WAIT_TIME_MICROSEC 3012
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_DEINIT_HOST_RPC_TIME_MICROSEC 4001
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_DEINIT_HTP_RPC_TIME_MICROSEC 4002
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_DEINIT_ACCEL_TIME_MICROSEC 4003
#define QNN_HTP_PROFILE_EVENTTYPE_NODE_WAIT 5001
#define QNN_HTP_PROFILE_EVENTTYPE_NODE_OVERLAP 5002
#define QNN_HTP_PROFILE_EVENTTYPE_NODE_WAIT_OVERLAP 5003
#define QNN_HTP_PROFILE_EVENTTYPE_NODE_RESOURCEMASK 5004
#define QNN_HTP_PROFILE_EVENTTYPE_NODE_CRITICAL_BG_OP_ID 5005
#define QNN_HTP_PROFILE_EVENTTYPE_NODE_WAIT_BG_OP_ID 5006
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_EXECUTE_CRITICAL_ACCEL_TIME_CYCLE 6001
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_NUMBER_OF_HVX_THREADS 8001
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_APPLY_BINARY_SECTION_QNN 9001
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_APPLY_BINARY_SECTION_RPC 9002
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_APPLY_BINARY_SECTION_QNN_ACC 9003
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_APPLY_BINARY_SECTION_ACC 9004
#define QNN_HTP_PROFILE_EVENTTYPE_GRAPH_UPDATE_BINARY_SECTION_QNN 10001
#define QNN_HTP_PROFILE_EVENTTYPE_UPDATE_EXTRACT_INFO 10002
#define QNN_HTP_PROFILE_EVENTTYPE_UPDATE_CHECK_FIX_TENSORS 10003
#define QNN_HTP_PROFILE_EVENTTYPE_UPDATE_DESERIALIZE_AUX 10004
#define QNN_HTP_PROFILE_EVENTTYPE_UPDATE_EXECUTE_TENSORS 10005
#define QNN_HTP_PROFILE_EVENTTYPE_UPDATE_REPACKAGE 10006
#define QNN_HTP_PROFILE_EVENTTYPE_UPDATE_FREE_RESOURCES 10007
#define QNN_HTP_PROFILE_LEVEL_LINTING 7001
#define QNN_MIN_ERROR_PERF_INFRASTRUCTURE 13000
#define QNN_MAX_ERROR_PERF_INFRASTRUCTURE 13999
#define QNN_HTP_GRAPH_CONFIG_OPTION_MAX 0
#define QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIG_MAX_RPC_POLLING_TIME 9999
#define QNN_HTP_INTERFACE_PROVIDER_NAME "HTP_QTI_AISW"

typedef enum {
    QNN_HTP_CONTEXT_CONFIG_OPTION_WEIGHT_SHARING_ENABLED = 1,
    QNN_HTP_CONTEXT_CONFIG_OPTION_REGISTER_MULTI_CONTEXTS = 2,
    QNN_HTP_CONTEXT_CONFIG_OPTION_FILE_READ_MEMORY_BUDGET = 3,
    QNN_HTP_CONTEXT_CONFIG_OPTION_DSP_MEMORY_PROFILING_ENABLED = 4,
    QNN_HTP_CONTEXT_CONFIG_OPTION_SHARE_RESOURCES = 5,
    QNN_HTP_CONTEXT_CONFIG_OPTION_IO_MEM_ESTIMATION = 6,
    QNN_HTP_CONTEXT_CONFIG_OPTION_PREPARE_ONLY = 7,
    QNN_HTP_CONTEXT_CONFIG_OPTION_INIT_ACCELERATION = 8,
    QNN_HTP_CONTEXT_CONFIG_OPTION_SKIP_VALIDATION_ON_BINARY_SECTION = 9,
    QNN_HTP_CONTEXT_CONFIG_OPTION_SHARE_RESOURCES_OPTIMIZATION_TYPE = 10,
    QNN_HTP_CONTEXT_CONFIG_OPTION_USE_EXTENDED_UDMA = 11,
    QNN_HTP_CONTEXT_CONFIG_OPTION_REGISTER_CONCURRENT_RESOURCE_SHARING = 12,
    QNN_HTP_CONTEXT_CONFIG_OPTION_LORA_WEIGHT_SHARING_ENABLED = 13,
    QNN_HTP_CONTEXT_CONFIG_OPTION_RESERVED_14 = 14,
    QNN_HTP_CONTEXT_CONFIG_OPTION_RESERVED_15 = 15,
    QNN_HTP_CONTEXT_CONFIG_OPTION_UNKNOWN = 0x7FFFFFFF,
} QnnHtpContext_ConfigOption_t;

typedef enum {
    SEQUENTIAL_WITH_VA_OPTIMIZATION = 0,
    SEQUENTIAL_WITHOUT_VA_OPTIMIZATION = 1,
    CONCURRENT_OPTIMIZATION = 2,
} QnnHtpContext_ShareResourcesOptimizationType_t;

typedef enum {
    QNN_HTP_CONTEXT_GET_PROP_BUFFER_START_ALIGNMENT = 1,
    QNN_HTP_CONTEXT_GET_PROP_MAX_SPILLFILL_BUFFER_SIZE = 2,
    QNN_HTP_CONTEXT_GET_PROP_WEIGHTS_BUFFER_SIZE = 3,
    QNN_HTP_CONTEXT_GET_PROP_RESERVED_4 = 4,
    QNN_HTP_CONTEXT_GET_PROP_RESERVED_5 = 5,
    QNN_HTP_CONTEXT_GET_PROP_UNDEFINED = 0x7FFFFFFF,
} QnnHtpContext_GetPropertyOption_t;

typedef enum {
    QNN_HTP_PERF_INFRASTRUCTURE_MIN_ERROR = 13000,
    QNN_HTP_PERF_INFRASTRUCTURE_NO_ERROR = 0,
    QNN_HTP_PERF_INFRASTRUCTURE_ERROR_INVALID_HANDLE_PTR = 13000,
    QNN_HTP_PERF_INFRASTRUCTURE_ERROR_INVALID_INPUT = 13001,
    QNN_HTP_PERF_INFRASTRUCTURE_ERROR_UNSUPPORTED_CONFIG = 13002,
    QNN_HTP_PERF_INFRASTRUCTURE_ERROR_TRANSPORT = 13003,
    QNN_HTP_PERF_INFRASTRUCTURE_ERROR_UNSUPPORTED = 13004,
    QNN_HTP_PERF_INFRASTRUCTURE_ERROR_MEM_ALLOC = 13005,
    QNN_HTP_PERF_INFRASTRUCTURE_ERROR_FAILED = 13006,
    QNN_HTP_PERF_INFRASTRUCTURE_MAX_ERROR = 13999,
    QNN_HTP_PERF_INFRASTRUCTURE_ERROR_UNDEFINED = 0x7FFFFFFF,
} QnnHtpPerfInfrastructure_Error_t;

typedef enum {
    QNN_HTP_PERF_INFRASTRUCTURE_CLK_PERF_HIGH = 0,
    QNN_HTP_PERF_INFRASTRUCTURE_CLK_PERF_LOW = 1,
    QNN_HTP_PERF_INFRASTRUCTURE_CLK_PERF_UNKNOWN = 0x7FFFFFFF,
} QnnHtpPerfInfrastructure_ClkPerfMode_t;

typedef enum {
    DCVS_VOLTAGE_CORNER_DISABLE = 16,
    DCVS_VOLTAGE_VCORNER_MIN_VOLTAGE_CORNER = 32,
    DCVS_VOLTAGE_VCORNER_SVS2 = 48,
    DCVS_VOLTAGE_VCORNER_SVS = 64,
    DCVS_VOLTAGE_VCORNER_SVS_PLUS = 80,
    DCVS_VOLTAGE_VCORNER_NOM = 96,
    DCVS_VOLTAGE_VCORNER_NOM_PLUS = 112,
    DCVS_VOLTAGE_VCORNER_TURBO = 128,
    DCVS_VOLTAGE_VCORNER_TURBO_PLUS = 144,
    DCVS_VOLTAGE_VCORNER_TURBO_L2 = 146,
    DCVS_VOLTAGE_VCORNER_TURBO_L3 = 147,
    DCVS_VOLTAGE_VCORNER_TURBO_L4 = 148,
    DCVS_VOLTAGE_VCORNER_TURBO_L5 = 149,
    DCVS_VOLTAGE_VCORNER_MAX_VOLTAGE_CORNER = 160,
    DCVS_VOLTAGE_VCORNER_UNKNOWN = 0x7FFFFFFF,
} QnnHtpPerfInfrastructure_VoltageCorner_t;

typedef enum {
    DCVS_EXP_VCORNER_DISABLE = 0,
    DCVS_EXP_VCORNER_MIN = 256,
    DCVS_EXP_VCORNER_LOW_SVS_D2 = 308,
    DCVS_EXP_VCORNER_LOW_SVS_D1 = 312,
    DCVS_EXP_VCORNER_LOW_SVS = 320,
    DCVS_EXP_VCORNER_LOW_SVS_L0 = 332,
    DCVS_EXP_VCORNER_SVS = 384,
    DCVS_EXP_VCORNER_SVS_L0 = 400,
    DCVS_EXP_VCORNER_SVS_L1 = 448,
    DCVS_EXP_VCORNER_SVS_L2 = 480,
    DCVS_EXP_VCORNER_NOM = 512,
    DCVS_EXP_VCORNER_NOM_L1 = 576,
    DCVS_EXP_VCORNER_NOM_L2 = 592,
    DCVS_EXP_VCORNER_TUR = 640,
    DCVS_EXP_VCORNER_TUR_L1 = 672,
    DCVS_EXP_VCORNER_TUR_L2 = 688,
    DCVS_EXP_VCORNER_TUR_L3 = 704,
    DCVS_EXP_VCORNER_MAX = 65535,
    DCVS_EXP_VCORNER_UNKNOWN = 0x7FFFFFFF,
} QnnHtpPerfInfrastructure_ExpVoltageCorner_t;

typedef enum {
    QNN_HTP_PERF_INFRASTRUCTURE_POWERMODE_ADJUST_UP_DOWN = 1,
    QNN_HTP_PERF_INFRASTRUCTURE_POWERMODE_ADJUST_ONLY_UP = 2,
    QNN_HTP_PERF_INFRASTRUCTURE_POWERMODE_POWER_SAVER_MODE = 4,
    QNN_HTP_PERF_INFRASTRUCTURE_POWERMODE_POWER_SAVER_AGGRESSIVE_MODE = 8,
    QNN_HTP_PERF_INFRASTRUCTURE_POWERMODE_PERFORMANCE_MODE = 16,
    QNN_HTP_PERF_INFRASTRUCTURE_POWERMODE_DUTY_CYCLE_MODE = 32,
    QNN_HTP_PERF_INFRASTRUCTURE_POWERMODE_UNKNOWN = 0x7FFFFFFF,
} QnnHtpPerfInfrastructure_PowerMode_t;

typedef enum {
    QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIGOPTION_DCVS_V3 = 1,
    QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIGOPTION_RPC_CONTROL_LATENCY = 2,
    QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIGOPTION_RPC_POLLING_TIME = 3,
    QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIGOPTION_HMX_TIMEOUT_INTERVAL_US = 4,
    QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIGOPTION_HMX_V2 = 5,
    QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIGOPTION_ADAPTIVE_POLLING_TIME = 6,
    QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIGOPTION_DDR_PERF_MODE = 7,
    QNN_HTP_PERF_INFRASTRUCTURE_POWER_CONFIGOPTION_UNKNOWN = 0x7FFFFFFF,
} QnnHtpPerfInfrastructure_PowerConfigOption_t;

typedef enum {
    QNN_HTP_PERF_INFRASTRUCTURE_MEMORY_CONFIGOPTION_GROW_SIZE = 1,
    QNN_HTP_PERF_INFRASTRUCTURE_MEMORY_CONFIGOPTION_UNKNOWN = 0x7FFFFFFF,
} QnnHtpPerfInfrastructure_MemoryConfigOption_t;

typedef enum {
    QNN_HTP_DEVICE_ARCH_NONE = 0,
    QNN_HTP_DEVICE_ARCH_V68 = 68,
    QNN_HTP_DEVICE_ARCH_V69 = 69,
    QNN_HTP_DEVICE_ARCH_V73 = 73,
    QNN_HTP_DEVICE_ARCH_V75 = 75,
    QNN_HTP_DEVICE_ARCH_V79 = 79,
    QNN_HTP_DEVICE_ARCH_V81 = 81,
    QNN_HTP_DEVICE_ARCH_V85 = 85,
    QNN_HTP_DEVICE_ARCH_UNKNOWN = 0x7FFFFFFF,
} QnnHtpDevice_Arch_t;

typedef enum {
    QNN_HTP_DEVICE_CONFIG_OPTION_SOC = 0,
    QNN_HTP_DEVICE_CONFIG_OPTION_ARCH = 1,
    QNN_HTP_DEVICE_CONFIG_OPTION_SIGNEDPD = 2,
    QNN_HTP_DEVICE_CONFIG_OPTION_SECUREPD = 3,
    QNN_HTP_DEVICE_CONFIG_OPTION_UNKNOWN = 0x7FFFFFFF,
} QnnHtpDevice_ConfigOption_t;

typedef enum {
    QNN_HTP_DEVICE_TYPE_ON_CHIP = 0,
    QNN_HTP_DEVICE_TYPE_UNKNOWN = 0x7FFFFFFF,
} QnnHtpDevice_DeviceType_t;

typedef enum {
    QNN_HTP_CORE_TYPE_NSP = 0,
    QNN_HTP_CORE_TYPE_HPASS = 1,
    QNN_HTP_CORE_TYPE_MAX = 2,
    QNN_HTP_CORE_TYPE_UNKNOWN = 0x7FFFFFFF,
} QnnHtpDevice_CoreType_t;

typedef enum {
    QNN_HTP_DEVICE_INFRASTRUCTURE_TYPE_PERF = 0,
    QNN_HTP_DEVICE_INFRASTRUCTURE_TYPE_UNKNOWN = 0x7FFFFFFF,
} QnnHtpDevice_InfrastructureType_t;

typedef enum {
    QNN_HTP_GRAPH_OPTIMIZATION_TYPE_SCHEDULE_THRESHOLD = 1,
    QNN_HTP_GRAPH_OPTIMIZATION_TYPE_FINALIZE_RETRIES = 2,
    QNN_HTP_GRAPH_OPTIMIZATION_TYPE_FINALIZE_OPTIMIZATION_FLAG = 3,
    QNN_HTP_GRAPH_OPTIMIZATION_TYPE_ENABLE_DLBC = 4,
    QNN_HTP_GRAPH_OPTIMIZATION_TYPE_ENABLE_DLBC_WEIGHTS = 5,
    QNN_HTP_GRAPH_OPTIMIZATION_TYPE_ENABLE_SPARSE_WEIGHTS_COMPRESSION = 6,
    QNN_HTP_GRAPH_OPTIMIZATION_TYPE_ENABLE_SLC_ALLOCATOR = 7,
    QNN_HTP_GRAPH_OPTIMIZATION_TYPE_UNKNOWN = 0x7FFFFFFF,
} QnnHtpGraph_OptimizationType_t;

typedef enum {
    QNN_HTP_GRAPH_CONCURRENCY_OPTION_NONE = 0,
    QNN_HTP_GRAPH_CONCURRENCY_OPTION_DEFAULT = 0,
    QNN_HTP_GRAPH_CONCURRENCY_OPTION_ALL_SHARED = 1,
    QNN_HTP_GRAPH_CONCURRENCY_OPTION_UNKNOWN = 0x7FFFFFFF,
} QnnHtpGraph_ConcurrencyOption_t;

typedef enum {
    QNN_HTP_GRAPH_CONFIG_OPTION_OPTIMIZATION = 1,
    QNN_HTP_GRAPH_CONFIG_OPTION_PRECISION = 2,
    QNN_HTP_GRAPH_CONFIG_OPTION_VTCM_SIZE_IN_MB = 3,
    QNN_HTP_GRAPH_CONFIG_OPTION_VTCM_SIZE = 3,
    QNN_HTP_GRAPH_CONFIG_OPTION_FOLD_RELU_ACTIVATION_INTO_CONV_OFF = 4,
    QNN_HTP_GRAPH_CONFIG_OPTION_SHORT_DEPTH_CONV_ON_HMX_OFF = 5,
    QNN_HTP_GRAPH_CONFIG_OPTION_NUM_HVX_THREADS = 6,
    QNN_HTP_GRAPH_CONFIG_OPTION_FINALIZE_CONFIG = 7,
    QNN_HTP_GRAPH_CONFIG_OPTION_NUM_CORES = 8,
    QNN_HTP_GRAPH_CONFIG_OPTION_PARALLEL_GRAPH_EXECUTION_CONFIG = 9,
    QNN_HTP_GRAPH_CONFIG_OPTION_VTCM_SIZE_IN_BYTES = 10,
    QNN_HTP_GRAPH_CONFIG_OPTION_HMX_BOUNDING = 11,
    QNN_HTP_GRAPH_CONFIG_OPTION_WEIGHTS_PACKING = 12,
    QNN_HTP_GRAPH_CONFIG_OPTION_ASSUME_SAME_QUANT = 13,
    QNN_HTP_GRAPH_CONFIG_OPTION_SHARE_IO_BUFFER = 14,
    QNN_HTP_GRAPH_CONFIG_OPTION_ADVANCED_ACTIVATION_FUSION = 15,
    QNN_HTP_GRAPH_CONFIG_OPTION_HIGH_PRECISION_SIGMOID = 16,
    QNN_HTP_GRAPH_CONFIG_OPTION_MONOLITHIC_LSTM = 17,
    QNN_HTP_GRAPH_CONFIG_OPTION_RESERVED = 0x7FFF0000,
    QNN_HTP_GRAPH_CONFIG_OPTION_UNKNOWN = 0x7FFFFFFF,
} QnnHtpGraph_ConfigOption_t;

typedef enum {
    QNN_HTP_MEM_QURT = 0,
    QNN_HTP_MEM_SHARED_BUFFER = 1,
    QNN_HTP_MEM_WEIGHTS_BUFFER = 2,
    QNN_HTP_MEM_SHARED_SPILLFILL_BUFFER = 3,
    QNN_HTP_MEM_UNDEFINED = 0x7FFFFFFF,
} QnnHtpMem_Type_t;

typedef enum {
    QNN_SYSTEM_CONTEXT_HTP_HW_INFO_BLOB_VERSION_V1 = 1,
    QNN_SYSTEM_CONTEXT_HTP_HW_INFO_BLOB_UNDEFINED = 0x7FFFFFFF,
} QnnHtpSystemContext_HwInfoBlobVersion_t;

typedef enum {
    QNN_SYSTEM_CONTEXT_HTP_GRAPH_INFO_BLOB_VERSION_V1 = 1,
    QNN_SYSTEM_CONTEXT_HTP_GRAPH_INFO_BLOB_VERSION_V2 = 2,
    QNN_SYSTEM_CONTEXT_HTP_GRAPH_INFO_BLOB_UNDEFINED = 0x7FFFFFFF,
} QnnHtpSystemContext_GraphInfoBlobVersion_t;

typedef enum {
    QNN_SYSTEM_CONTEXT_HTP_CONTEXT_INFO_BLOB_VERSION_V1 = 1,
    QNN_SYSTEM_CONTEXT_HTP_CONTEXT_INFO_BLOB_UNDEFINED = 0x7FFFFFFF,
} QnnHtpSystemContext_ContextInfoBlobVersion_t;

typedef uint32_t QnnHtpPerfInfrastructure_SetDcvsEnable_t;
typedef uint32_t QnnHtpPerfInfrastructure_DcvsEnable_t;
typedef uint32_t QnnHtpPerfInfrastructure_SetSleepLatency_t;
typedef uint32_t QnnHtpPerfInfrastructure_SleepLatency_t;
typedef uint32_t QnnHtpPerfInfrastructure_SetSleepDisable_t;
typedef uint32_t QnnHtpPerfInfrastructure_SleepDisable_t;
typedef uint32_t QnnHtpPerfInfrastructure_SetBusParams_t;
typedef uint32_t QnnHtpPerfInfrastructure_SetCoreParams_t;
typedef uint32_t QnnHtpPerfInfrastructure_RpcControlLatency_t;
typedef uint32_t QnnHtpPerfInfrastructure_RpcPollingTime_t;
typedef uint32_t QnnHtpPerfInfrastructure_AdaptivePollingTime_t;
typedef uint32_t QnnHtpPerfInfrastructure_DdrPerfMode_t;
typedef uint32_t QnnHtpPerfInfrastructure_HmxTimeoutIntervalUs_t;
typedef uint32_t QnnHtpPerfInfrastructure_MemGrowSize_t;
typedef uint32_t QnnHtpPerfInfrastructure_HmxDefault_Vote_t;
typedef uint32_t QnnHtpMem_QurtAddress_t;

typedef Qnn_ErrorHandle_t (*QnnHtpPerfInfrastructure_CreatePowerConfigIdFn_t)(
    uint32_t deviceId, uint32_t coreId, uint32_t *powerConfigId);
typedef Qnn_ErrorHandle_t (*QnnHtpPerfInfrastructure_DestroyPowerConfigIdFn_t)(uint32_t powerConfigId);
typedef Qnn_ErrorHandle_t (*QnnHtpPerfInfrastructure_SetPowerConfigFn_t)(
    uint32_t powerConfigId, const QnnHtpPerfInfrastructure_PowerConfig_t **config);
typedef Qnn_ErrorHandle_t (*QnnHtpPerfInfrastructure_SetMemoryConfigFn_t)(
    uint32_t deviceId, uint32_t coreId, const QnnHtpPerfInfrastructure_MemoryConfig_t **config);

struct QnnHtpContext_GroupRegistration_t {
    Qnn_ContextHandle_t firstGroupHandle;
    uint64_t maxSpillFillBuffer;
};

struct QnnHtpContext_CustomConfig_t {
    QnnHtpContext_ConfigOption_t option;
    union {
        _Bool weightSharingEnabled; /* option 1 */
        QnnHtpContext_GroupRegistration_t groupRegistration; /* option 2 */
        uint64_t fileReadMemoryBudgetInMb; /* option 3 */
        _Bool dspMemoryProfilingEnabled; /* option 4 */
        _Bool shareResources; /* option 5 */
        _Bool ioMemEstimation; /* option 6 */
        _Bool isPrepareOnly; /* option 7 */
        _Bool initAcceleration; /* option 8 */
        _Bool skipValidationOnBinarySection; /* option 9 */
        QnnHtpContext_ShareResourcesOptimizationType_t shareResOptType; /* option 10 */
        _Bool useExtendedUdma; /* option 11 */
        QnnHtpContext_GroupRegistration_t concurrentGroupRegistration; /* option 12 */
        _Bool loraWeightSharingEnabled; /* option 13 */
    };
};

struct QnnHtpContext_CustomProperty_t {
    QnnHtpContext_GetPropertyOption_t option;
    union {
        uint64_t bufferStartAlignment;
        uint64_t spillfillBufferSize;
        uint64_t weightsBufferSize;
    };
};

/* A vote for clocks and sleep. contextId is the power config id. */
struct QnnHtpPerfInfrastructure_DcvsV3_t {
    uint32_t contextId;
    QnnHtpPerfInfrastructure_SetDcvsEnable_t setDcvsEnable;
    QnnHtpPerfInfrastructure_DcvsEnable_t dcvsEnable;
    QnnHtpPerfInfrastructure_PowerMode_t powerMode;
    QnnHtpPerfInfrastructure_SetSleepLatency_t setSleepLatency;
    QnnHtpPerfInfrastructure_SleepLatency_t sleepLatency;
    QnnHtpPerfInfrastructure_SetSleepDisable_t setSleepDisable;
    QnnHtpPerfInfrastructure_SleepDisable_t sleepDisable;
    QnnHtpPerfInfrastructure_SetBusParams_t setBusParams;
    QnnHtpPerfInfrastructure_VoltageCorner_t busVoltageCornerMin;
    QnnHtpPerfInfrastructure_VoltageCorner_t busVoltageCornerTarget;
    QnnHtpPerfInfrastructure_VoltageCorner_t busVoltageCornerMax;
    QnnHtpPerfInfrastructure_SetCoreParams_t setCoreParams;
    QnnHtpPerfInfrastructure_VoltageCorner_t coreVoltageCornerMin;
    QnnHtpPerfInfrastructure_VoltageCorner_t coreVoltageCornerTarget;
    QnnHtpPerfInfrastructure_VoltageCorner_t coreVoltageCornerMax;
};

struct QnnHtpPerfInfrastructure_HmxV2_t {
    QnnHtpPerfInfrastructure_HmxDefault_Vote_t hmxPickDefault;
    QnnHtpPerfInfrastructure_ExpVoltageCorner_t hmxVoltageCornerMin;
    QnnHtpPerfInfrastructure_ExpVoltageCorner_t hmxVoltageCornerTarget;
    QnnHtpPerfInfrastructure_ExpVoltageCorner_t hmxVoltageCornerMax;
    QnnHtpPerfInfrastructure_ClkPerfMode_t hmxPerfMode;
};

/* One power option; the union starts at byte 4 in HTP API 5.43 and 5.51. */
struct QnnHtpPerfInfrastructure_PowerConfig_t {
    QnnHtpPerfInfrastructure_PowerConfigOption_t option;
    union {
        QnnHtpPerfInfrastructure_DcvsV3_t dcvsV3Config; /* option 1 */
        QnnHtpPerfInfrastructure_RpcControlLatency_t rpcControlLatencyConfig; /* option 2 */
        QnnHtpPerfInfrastructure_RpcPollingTime_t rpcPollingTimeConfig; /* option 3 */
        QnnHtpPerfInfrastructure_HmxTimeoutIntervalUs_t hmxTimeoutIntervalUsConfig; /* option 4 */
        QnnHtpPerfInfrastructure_HmxV2_t hmxV2Config; /* option 5 */
        QnnHtpPerfInfrastructure_AdaptivePollingTime_t adaptivePollingTimeConfig; /* option 6 */
        QnnHtpPerfInfrastructure_DdrPerfMode_t ddrPerfModeConfig; /* option 7 */
    };
};

struct QnnHtpPerfInfrastructure_MemoryConfig_t {
    QnnHtpPerfInfrastructure_MemoryConfigOption_t option;
    union {
        QnnHtpPerfInfrastructure_MemGrowSize_t memGrowSizeConfig;
    };
};

struct QnnHtpDevice_Minimum_Arch_t {
    uint32_t deviceId;
    QnnHtpDevice_Arch_t arch;
};

struct QnnHtpDevice_UseSignedProcessDomain_t {
    uint32_t deviceId;
    _Bool useSignedProcessDomain;
};

struct QnnHtpDevice_UseSecureProcessDomain_t {
    uint32_t deviceId;
    _Bool useSecureProcessDomain;
};

/* Device option in the layout of HTP API 5.43: the union starts at byte 4. See QnnHtpDevice_CustomConfigAt8_t. */
struct QnnHtpDevice_CustomConfig_t {
    QnnHtpDevice_ConfigOption_t option;
    union {
        uint32_t socModel; /* option 0 */
        QnnHtpDevice_Minimum_Arch_t arch; /* option 1 */
        QnnHtpDevice_UseSignedProcessDomain_t useSignedProcessDomain; /* option 2 */
        QnnHtpDevice_UseSecureProcessDomain_t useSecureProcessDomain; /* option 3 */
    };
};

/* The same option in the layout of HTP API 5.51: the union starts at byte 8, because it has got a pointer. Our own
   name; between 5.43 and 5.51 the layout of a version is not known. */
typedef struct {
    QnnHtpDevice_ConfigOption_t option;
    union {
        uint32_t socModel; /* option 0 */
        QnnHtpDevice_Minimum_Arch_t arch; /* option 1 */
        QnnHtpDevice_UseSignedProcessDomain_t useSignedProcessDomain; /* option 2 */
        QnnHtpDevice_UseSecureProcessDomain_t useSecureProcessDomain; /* option 3 */
        void *htpExtension;
    };
} QnnHtpDevice_CustomConfigAt8_t;

struct QnnHtpDevice_OnChipDeviceInfoExtension_t {
    size_t vtcmSize;
    uint32_t socModel;
    _Bool signedPdSupport;
    _Bool dlbcSupport;
    QnnHtpDevice_Arch_t arch;
};

struct QnnHtpDevice_DeviceInfoExtension_t {
    QnnHtpDevice_DeviceType_t devType;
    union {
        QnnHtpDevice_OnChipDeviceInfoExtension_t onChipDevice;
    };
};

struct QnnHtpDevice_PerfInfrastructure_t {
    QnnHtpPerfInfrastructure_CreatePowerConfigIdFn_t createPowerConfigId;
    QnnHtpPerfInfrastructure_DestroyPowerConfigIdFn_t destroyPowerConfigId;
    QnnHtpPerfInfrastructure_SetPowerConfigFn_t setPowerConfig;
    QnnHtpPerfInfrastructure_SetMemoryConfigFn_t setMemoryConfig;
};

struct QnnHtpDevice_Infrastructure_t {
    QnnHtpDevice_InfrastructureType_t infraType;
    union {
        QnnHtpDevice_PerfInfrastructure_t perfInfra;
    };
};

struct QnnHtpGraph_OptimizationOption_t {
    QnnHtpGraph_OptimizationType_t type;
    float floatValue;
};

struct QnnHtpGraph_VtcmConfig_t {
    uint32_t sizeInBytes;
    uint32_t offsetInBytes;
    uint32_t sizeTotalInBytes;
    uint32_t reserved[3];
};

struct QnnHtpGraph_ParallelGraphExecutionConfig_t {
    QnnHtpGraph_ConcurrencyOption_t concurrency;
    QnnHtpGraph_VtcmConfig_t vtcmConfig;
    uint32_t reserved[4];
};

struct QnnHtp_HmxBoundingInfo_t {
    float targetHmxFreqHz;
    float targetDspCoreFreq;
};

struct QnnHtpGraph_FinalizeConfig_t {
    const char *key;
    Qnn_Scalar_t value;
};

struct QnnHtpGraph_CustomConfig_t {
    QnnHtpGraph_ConfigOption_t option;
    union {
        QnnHtpGraph_OptimizationOption_t optimizationOption; /* option 1 */
        Qnn_Precision_t precision; /* option 2 */
        uint32_t vtcmSizeInMB; /* option 3 */
        _Bool foldReluActivationIntoConvOff; /* option 4 */
        _Bool shortDepthConvOnHmxOff; /* option 5 */
        uint64_t numHvxThreads; /* option 6 */
        void *reserved;
        QnnHtpGraph_FinalizeConfig_t finalizeConfig; /* option 7 */
        uint32_t numCores; /* option 8 */
        QnnHtpGraph_ParallelGraphExecutionConfig_t parallelGraphExecutionConfig; /* option 9 */
        uint32_t vtcmSizeInBytes; /* option 10 */
        QnnHtp_HmxBoundingInfo_t hmxBoundingInfo; /* option 11 */
        _Bool weightsPacking; /* option 12 */
        _Bool assumeSameQuant; /* option 13 */
        _Bool shareIOBuffer; /* option 14 */
        _Bool advancedActivationFusion; /* option 15 */
        _Bool highPrecisionSigmoid; /* option 16 */
        _Bool monolithicLstm; /* option 17 */
    };
};

struct QnnHtpMem_SharedBufferConfig_t {
    int32_t fd;
    uint64_t offset;
};

struct QnnMemHtp_Descriptor_t {
    QnnHtpMem_Type_t type;
    uint64_t size;
    union {
        QnnHtpMem_QurtAddress_t qurtAddress; /* type 0 */
        QnnHtpMem_SharedBufferConfig_t sharedBufferConfig; /* type 1 */
        QnnHtpMem_SharedBufferConfig_t weightsBufferConfig; /* type 2 */
        QnnHtpMem_SharedBufferConfig_t sharedSpillfillBufferConfig; /* type 3 */
    };
};

struct QnnHtpSystemContext_HwBlobInfoV1_t {
    uint32_t graphListIndex;
    uint64_t spillFillBufferSize;
};

struct QnnHtpSystemContext_HwBlobInfo_t {
    QnnHtpSystemContext_HwInfoBlobVersion_t version;
    union {
        QnnHtpSystemContext_HwBlobInfoV1_t contextBinaryHwInfoBlobV1_t;
    };
};

struct QnnHtpSystemContext_GraphBlobInfoV1_t {
    uint64_t spillFillBufferSize;
    uint32_t vtcmSize;
    uint32_t optimizationLevel;
    uint8_t htpDlbc;
    uint64_t numHvxThreads;
};

struct QnnHtpSystemContext_GraphBlobInfoV2_t {
    QnnHtpSystemContext_GraphInfoBlobVersion_t version;
    uint64_t nativeKChannelSize;
    uint64_t nativeVChannelSize;
    uint32_t isSafeShareIO;
    uint64_t ioTensorSize;
    uint64_t opDataSize;
    uint64_t constSize;
    uint64_t ddrTensorSize;
    uint64_t sharedWeightsSize;
};

struct QnnHtpSystemContext_GraphBlobInfo_t {
    QnnHtpSystemContext_GraphInfoBlobVersion_t version;
    union {
        QnnHtpSystemContext_GraphBlobInfoV1_t contextBinaryGraphBlobInfoV1;
    };
};

struct QnnHtpSystemContext_ContextBlobInfoV1_t {
    uint32_t dspArch;
};

struct QnnHtpSystemContext_ContextBlobInfo_t {
    QnnHtpSystemContext_ContextInfoBlobVersion_t version;
    union {
        QnnHtpSystemContext_ContextBlobInfoV1_t contextBinaryContextBlobInfoV1;
    };
};

#endif
