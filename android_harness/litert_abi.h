// The part of LiteRT's C API (libLiteRt.so 2.3) that the runner needs. The wheel ships no headers;
// names, arguments and layouts are those of litert/c/*.h in LiteRT's sources.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

using LiteRtStatus = int;  // 0 is success
using LiteRtParamIndex = size_t;
using LiteRtEnvironment = struct LiteRtEnvironmentT*;
using LiteRtModel = struct LiteRtModelT*;
using LiteRtSignature = struct LiteRtSignatureT*;
using LiteRtTensor = struct LiteRtTensorT*;
using LiteRtOptions = struct LiteRtOptionsT*;
using LiteRtOpaqueOptions = struct LiteRtOpaqueOptionsT*;
using LiteRtCompiledModel = struct LiteRtCompiledModelT*;
using LiteRtTensorBuffer = struct LiteRtTensorBufferT*;
using LiteRtTensorBufferRequirements = struct LiteRtTensorBufferRequirementsT*;
using LiteRtProfiler = struct LiteRtProfilerT*;
using LiteRtAccelerator = struct LiteRtAcceleratorT*;
using LiteRtDelegateWrapper = struct LiteRtDelegateWrapperT*;

constexpr int kLiteRtHwAcceleratorCpu = 1;
constexpr int kLiteRtTensorBufferTypeHostMemory = 1;
constexpr int kLiteRtEnvOptionTagAutoRegisterAccelerators = 24;
constexpr int kLiteRtEnvOptionTagMinLoggerSeverity = 25;
constexpr int kLiteRtAnyTypeInt = 2;
constexpr int kLiteRtLogSeverityError = 3;

// litert_environment_options.h, litert_any.h
struct LiteRtEnvOption {
  int tag;
  struct {
    int type;
    int64_t value;  // of a union
  } any;
};
static_assert(sizeof(LiteRtEnvOption) == 24);

// litert_layout.h, litert_model_types.h; the element types are TensorFlow Lite's
struct LiteRtLayout {
  unsigned int rank : 7;
  bool has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
};
static_assert(sizeof(LiteRtLayout) == 68);
struct LiteRtRankedTensorType {
  int element_type;
  LiteRtLayout layout;
};
static_assert(sizeof(LiteRtRankedTensorType) == 72);

// litert_profiler_event.h
struct ProfiledEventData {
  const char* tag;
  int event_type;
  uint64_t start_timestamp_us;
  uint64_t elapsed_time_us;
  struct {
    size_t total, in_use, privately;
  } memory[2];
  uint64_t metadata1;
  uint64_t metadata2;
  int event_source;
};
static_assert(sizeof(ProfiledEventData) == 104);
constexpr int kOperatorInvokeEvent = 2;                  // of a node
constexpr int kDelegateOperatorInvokeEvent = 4;          // inside of a delegate's node
constexpr int kDelegateProfiledOperatorInvokeEvent = 8;  // the same, the node having no event

// litert_accelerator_def.h
struct LiteRtApiVersion {
  int major, minor, patch;
};

LiteRtStatus LiteRtCreateEnvironment(int count, const LiteRtEnvOption*, LiteRtEnvironment*);
void LiteRtDestroyEnvironment(LiteRtEnvironment);

LiteRtStatus LiteRtCreateModelFromBuffer(LiteRtEnvironment, const void*, size_t, LiteRtModel*);
void LiteRtDestroyModel(LiteRtModel);
LiteRtStatus LiteRtGetModelSignature(LiteRtModel, LiteRtParamIndex, LiteRtSignature*);
LiteRtStatus LiteRtGetNumSignatureInputs(LiteRtSignature, LiteRtParamIndex*);
LiteRtStatus LiteRtGetNumSignatureOutputs(LiteRtSignature, LiteRtParamIndex*);
LiteRtStatus LiteRtGetSignatureInputTensorByIndex(LiteRtSignature, LiteRtParamIndex, LiteRtTensor*);
LiteRtStatus LiteRtGetSignatureOutputTensorByIndex(LiteRtSignature, LiteRtParamIndex,
                                                   LiteRtTensor*);
LiteRtStatus LiteRtGetRankedTensorType(LiteRtTensor, LiteRtRankedTensorType*);

LiteRtStatus LiteRtCreateOptions(LiteRtOptions*);
void LiteRtDestroyOptions(LiteRtOptions);
LiteRtStatus LiteRtSetOptionsHardwareAccelerators(LiteRtOptions, int set);
LiteRtStatus LiteRtCreateOpaqueOptions(const char* id, void* payload, void (*destroy)(void*),
                                       LiteRtOpaqueOptions*);
LiteRtStatus LiteRtAddOpaqueOptions(LiteRtOptions, LiteRtOpaqueOptions);

LiteRtStatus LiteRtCreateAccelerator(LiteRtAccelerator*);
LiteRtStatus LiteRtSetAcceleratorGetName(LiteRtAccelerator,
                                         LiteRtStatus (*)(const void*, const char**));
LiteRtStatus LiteRtSetAcceleratorGetVersion(LiteRtAccelerator,
                                            LiteRtStatus (*)(const void*, LiteRtApiVersion*));
LiteRtStatus LiteRtSetAcceleratorGetHardwareSupport(LiteRtAccelerator,
                                                    LiteRtStatus (*)(const void*, int*));
LiteRtStatus LiteRtSetIsAcceleratorDelegateResponsibleForJitCompilation(
    LiteRtAccelerator, LiteRtStatus (*)(const void*, bool*));
LiteRtStatus LiteRtSetDelegateFunction(LiteRtAccelerator,
                                       LiteRtStatus (*)(void* runtime, LiteRtEnvironment,
                                                        const void* accelerator, LiteRtOptions,
                                                        LiteRtDelegateWrapper*));
LiteRtStatus LiteRtWrapDelegate(void* delegate, void (*destroy)(void*), LiteRtDelegateWrapper*);
LiteRtStatus LiteRtRegisterAccelerator(LiteRtEnvironment, LiteRtAccelerator, void* data,
                                       void (*destroy)(void*));

LiteRtStatus LiteRtCreateCompiledModel(LiteRtEnvironment, LiteRtModel, LiteRtOptions,
                                       LiteRtCompiledModel*);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel);
LiteRtStatus LiteRtGetCompiledModelInputTensorLayout(LiteRtCompiledModel,
                                                     LiteRtParamIndex signature,
                                                     LiteRtParamIndex input, LiteRtLayout*);
LiteRtStatus LiteRtGetCompiledModelOutputTensorLayouts(LiteRtCompiledModel,
                                                       LiteRtParamIndex signature, size_t count,
                                                       LiteRtLayout*, bool update_allocation);
LiteRtStatus LiteRtGetCompiledModelInputBufferRequirements(LiteRtCompiledModel,
                                                           LiteRtParamIndex signature,
                                                           LiteRtParamIndex input,
                                                           LiteRtTensorBufferRequirements*);
LiteRtStatus LiteRtGetCompiledModelOutputBufferRequirements(LiteRtCompiledModel,
                                                            LiteRtParamIndex signature,
                                                            LiteRtParamIndex output,
                                                            LiteRtTensorBufferRequirements*);
LiteRtStatus LiteRtGetTensorBufferRequirementsBufferSize(LiteRtTensorBufferRequirements, size_t*);
LiteRtStatus LiteRtRunCompiledModel(LiteRtCompiledModel, LiteRtParamIndex signature, size_t n_in,
                                    LiteRtTensorBuffer*, size_t n_out, LiteRtTensorBuffer*);

LiteRtStatus LiteRtCreateManagedTensorBuffer(LiteRtEnvironment, int type,
                                             const LiteRtRankedTensorType*, size_t size,
                                             LiteRtTensorBuffer*);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer);
LiteRtStatus LiteRtGetTensorBufferHostMemory(LiteRtTensorBuffer, void**);

LiteRtStatus LiteRtCompiledModelGetProfiler(LiteRtCompiledModel, LiteRtProfiler*);
LiteRtStatus LiteRtStartProfiler(LiteRtProfiler);
LiteRtStatus LiteRtStopProfiler(LiteRtProfiler);
LiteRtStatus LiteRtResetProfiler(LiteRtProfiler);
LiteRtStatus LiteRtGetNumProfilerEvents(LiteRtProfiler, int*);
LiteRtStatus LiteRtGetProfilerEvents(LiteRtProfiler, int count, ProfiledEventData*);

}  // extern "C"
