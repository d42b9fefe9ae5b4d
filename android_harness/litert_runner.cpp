// Runs a LiteRT model on this device and prints one JSON document about it; README.md describes
// both.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge_delegate.h"
#include "failure.h"
#include "json.h"
#include "litert_abi.h"
#include "program.h"
#include "stderr_log.h"
#include "tflite_file.h"

namespace harness {
namespace {

constexpr LiteRtParamIndex kSignature = 0;
constexpr char kNotLoaded[] = "The model could not be loaded";
constexpr int kMaxEvents = 2048;  // that LiteRT keeps of a run

constexpr struct {
  int type;  // TensorFlow Lite's
  const Dtype* dtype;
  size_t size;
} kDtypes[] = {
    {1, &kFloat32, 4},  {2, &kInt32, 4},   {3, &kUInt8, 1},   {4, &kInt64, 8},
    {6, &kBool, 1},     {7, &kInt16, 2},   {9, &kInt8, 1},    {10, &kFloat16, 2},
    {11, &kFloat64, 8}, {13, &kUInt64, 8}, {16, &kUInt32, 4}, {17, &kUInt16, 2},
};

// A file's bytes, read-only.
class MappedFile {
 public:
  MappedFile() = default;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (data_ != nullptr) munmap(data_, size_);
  }
  // False when there is nothing that can be mapped.
  bool Open(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat about{};
    if (fd >= 0 && fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_size > 0) {
      size_ = static_cast<size_t>(about.st_size);
      void* data = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
      if (data != MAP_FAILED) data_ = data;
    }
    if (fd >= 0) close(fd);
    return data_ != nullptr;
  }
  const uint8_t* data() const { return static_cast<const uint8_t*>(data_); }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// What LiteRT asks an accelerator; ours is a delegate of the CPU.
struct Accelerator {
  static LiteRtStatus Name(const void*, const char** name) {
    *name = "EdgeKernels";
    return 0;
  }
  static LiteRtStatus Version(const void*, LiteRtApiVersion* version) {
    *version = {1, 0, 0};
    return 0;
  }
  static LiteRtStatus Hardware(const void*, int* hardware) {
    *hardware = kLiteRtHwAcceleratorCpu;
    return 0;
  }
  static LiteRtStatus CompilesItself(const void*, bool* yes) {
    *yes = true;
    return 0;
  }
};

class LitertModel final : public Model {
 public:
  LitertModel() = default;
  LitertModel(const LitertModel&) = delete;
  LitertModel& operator=(const LitertModel&) = delete;
  ~LitertModel() override {
    for (const auto buffer : inputs_) LiteRtDestroyTensorBuffer(buffer);
    for (const auto buffer : outputs_) LiteRtDestroyTensorBuffer(buffer);
    if (compiled_ != nullptr) LiteRtDestroyCompiledModel(compiled_);
    if (options_ != nullptr) LiteRtDestroyOptions(options_);
    if (model_ != nullptr) LiteRtDestroyModel(model_);
    if (environment_ != nullptr) LiteRtDestroyEnvironment(environment_);
  }

  void Load(const Options& options) override {
    threads_ = std::max(1, options.threads);
    profiles_ = !options.profile.empty();
    log_.Start();
    OpenFile(options.model);
    SetOptions();
    Check(LiteRtCreateCompiledModel(environment_, model_, options_, &compiled_), "load",
          kNotLoaded);
    Allocate();
    log_.Forget();
  }

  int threads() const override { return threads_; }
  std::vector<Tensor> Inputs() override { return input_tensors_; }
  std::vector<Tensor> Outputs() override { return output_tensors_; }

  void Run() override {
    Check(LiteRtRunCompiledModel(compiled_, kSignature, inputs_.size(), inputs_.data(),
                                 outputs_.size(), outputs_.data()),
          "run", "The model could not be run");
  }

  void StartProfile() override {
    const std::string what = "LiteRT cannot profile the model";
    Check(LiteRtCompiledModelGetProfiler(compiled_, &profiler_), "run", what);
    Check(LiteRtResetProfiler(profiler_), "run", what);
    Check(LiteRtStartProfiler(profiler_), "run", what);
    delegate_runs_.clear();
    profile_.BeginObject().Key("version").Value(int64_t{1}).Key("runs").BeginArray();
  }

  void RecordRun(int64_t total_ns) override {
    const std::string what = "LiteRT's profile of the run cannot be read";
    int count = 0;
    Check(LiteRtGetNumProfilerEvents(profiler_, &count), "run", what);
    if (count >= kMaxEvents) {
      throw Failure("run", "The model has too many operators to profile: LiteRT keeps " +
                               std::to_string(kMaxEvents) + " events of a run.");
    }
    std::vector<ProfiledEventData> events(static_cast<size_t>(count));
    Check(LiteRtGetProfilerEvents(profiler_, count, events.data()), "run", what);
    profile_.BeginObject().Key("total_ns").Value(total_ns).Key("events").BeginArray();
    AddEvents(events);
    profile_.EndArray().EndObject();
    delegate_runs_.clear();
    Check(LiteRtResetProfiler(profiler_), "run", what);
    Check(LiteRtStartProfiler(profiler_), "run", what);
  }

  void WriteProfile(const std::string& path) override {
    const std::string text = profile_.EndArray().EndObject().text() + "\n";
    WriteFile(path, text.data(), text.size());
  }

 private:
  // Throws unless `status` is success; the sentence carries what LiteRT said about it.
  void Check(LiteRtStatus status, const char* step, const std::string& what) {
    if (status == 0) return;
    const std::string said = Said();
    throw Failure(step, what + (said.empty() ? "" : ": " + said) + ".",
                  static_cast<uint32_t>(status));
  }

  // The first sentence of LiteRT's first error, and which operator it is about.
  std::string Said() const {
    const std::vector<std::string> errors = log_.Errors();
    if (errors.empty()) return "";
    std::string said = errors.front().substr(0, errors.front().find(". "));
    while (!said.empty() && (said.back() == '.' || said.back() == ' ')) said.pop_back();
    for (const std::string& error : errors) {
      if (error.rfind("Node number", 0) != 0) continue;  // "Node number 3 (CONV_2D) failed to ..."
      const size_t start = error.find('('), end = error.find(") failed");
      if (start == std::string::npos || end == std::string::npos || end < start) break;
      const std::string name = error.substr(start + 1, end - start - 1);
      return said.find(name) == std::string::npos ? said + " (" + name + ")" : said;
    }
    return said;
  }

  void OpenFile(const std::string& path) {
    const std::string not_one = path + " is not a model that LiteRT can read";
    if (!file_.Open(path)) throw Failure("load", not_one + ".");
    if (const char* why = RefuseTflite(file_.data(), file_.size())) {
      throw Failure("load", not_one + ": " + why + ".");
    }
    OpenEnvironment();
    Check(LiteRtCreateModelFromBuffer(environment_, file_.data(), file_.size(), &model_), "load",
          not_one);
  }

  // An environment with two accelerators: XNNPACK, which LiteRT registers, and ours.
  void OpenEnvironment() {
    const std::string what = "LiteRT cannot start";
    const LiteRtEnvOption options[] = {
        {kLiteRtEnvOptionTagAutoRegisterAccelerators, {kLiteRtAnyTypeInt, kLiteRtHwAcceleratorCpu}},
        {kLiteRtEnvOptionTagMinLoggerSeverity, {kLiteRtAnyTypeInt, kLiteRtLogSeverityError}}};
    Check(LiteRtCreateEnvironment(2, options, &environment_), "load", what);
    LiteRtAccelerator accelerator = nullptr;
    Check(LiteRtCreateAccelerator(&accelerator), "load", what);
    LiteRtSetAcceleratorGetName(accelerator, Accelerator::Name);
    LiteRtSetAcceleratorGetVersion(accelerator, Accelerator::Version);
    LiteRtSetAcceleratorGetHardwareSupport(accelerator, Accelerator::Hardware);
    LiteRtSetIsAcceleratorDelegateResponsibleForJitCompilation(accelerator,
                                                               Accelerator::CompilesItself);
    LiteRtSetDelegateFunction(accelerator, CreateDelegate);
    current_ = this;
    Check(LiteRtRegisterAccelerator(environment_, accelerator, nullptr, nullptr), "load", what);
  }

  static LiteRtStatus CreateDelegate(void*, LiteRtEnvironment, const void*, LiteRtOptions,
                                     LiteRtDelegateWrapper* wrapper) {
    auto* log = current_->profiles_ ? &current_->delegate_runs_ : nullptr;
    return LiteRtWrapDelegate(edge::CreateDelegate(static_cast<size_t>(current_->threads_), log),
                              edge::DestroyDelegate, wrapper);
  }

  void SetOptions() {
    Check(LiteRtCreateOptions(&options_), "load", "LiteRT cannot start");
    LiteRtSetOptionsHardwareAccelerators(options_, kLiteRtHwAcceleratorCpu);
    AddOption("xnnpack", "num_threads = " + std::to_string(threads_) + "\n");
    AddOption("runtime_options_string",
              std::string("enable_profiling = ") + (profiles_ ? "true" : "false") + "\n");
  }

  // Options are TOML, which LiteRT takes over.
  void AddOption(const char* id, const std::string& toml) {
    LiteRtOpaqueOptions opaque = nullptr;
    Check(LiteRtCreateOpaqueOptions(id, strdup(toml.c_str()), std::free, &opaque), "load",
          "LiteRT cannot start");
    Check(LiteRtAddOpaqueOptions(options_, opaque), "load", "LiteRT cannot start");
  }

  // Prepares plans and reserves all memory, so that the first run need not.
  void Allocate() {
    LiteRtSignature signature = nullptr;
    LiteRtParamIndex n_inputs = 0, n_outputs = 0;
    Check(LiteRtGetModelSignature(model_, kSignature, &signature), "load", kNotLoaded);
    Check(LiteRtGetNumSignatureInputs(signature, &n_inputs), "load", kNotLoaded);
    Check(LiteRtGetNumSignatureOutputs(signature, &n_outputs), "load", kNotLoaded);
    std::vector<LiteRtLayout> layouts(n_outputs);
    Check(LiteRtGetCompiledModelOutputTensorLayouts(compiled_, kSignature, n_outputs,
                                                    layouts.data(), true),
          "load", kNotLoaded);
    LiteRtTensor tensor = nullptr;
    LiteRtTensorBufferRequirements needs = nullptr;
    for (LiteRtParamIndex i = 0; i < n_inputs; ++i) {
      const std::string what = "Input " + std::to_string(i) + " of the model";
      LiteRtLayout layout{};
      Check(LiteRtGetSignatureInputTensorByIndex(signature, i, &tensor), "load", kNotLoaded);
      Check(LiteRtGetCompiledModelInputTensorLayout(compiled_, kSignature, i, &layout), "load",
            what + " has no shape");
      Check(LiteRtGetCompiledModelInputBufferRequirements(compiled_, kSignature, i, &needs), "load",
            what + " has no size");
      inputs_.push_back(MakeBuffer(tensor, layout, needs, what, &input_tensors_));
    }
    for (LiteRtParamIndex i = 0; i < n_outputs; ++i) {
      const std::string what = "Output " + std::to_string(i) + " of the model";
      Check(LiteRtGetSignatureOutputTensorByIndex(signature, i, &tensor), "load", kNotLoaded);
      Check(LiteRtGetCompiledModelOutputBufferRequirements(compiled_, kSignature, i, &needs),
            "load", what + " has no size");
      outputs_.push_back(MakeBuffer(tensor, layouts[i], needs, what, &output_tensors_));
    }
  }

  // The memory of an input or output, all zeros.
  LiteRtTensorBuffer MakeBuffer(LiteRtTensor tensor, const LiteRtLayout& layout,
                                LiteRtTensorBufferRequirements needs, const std::string& what,
                                std::vector<Tensor>* tensors) {
    LiteRtRankedTensorType type{};
    Check(LiteRtGetRankedTensorType(tensor, &type), "load", what + " is not a tensor");
    type.layout = layout;
    const auto* known = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                     [&](const auto& d) { return d.type == type.element_type; });
    if (known == std::end(kDtypes)) {
      throw Failure("load", what + " has an element type that the runner does not know.");
    }
    Tensor made{{}, known->dtype, nullptr, known->size};
    for (unsigned i = 0; i < layout.rank; ++i) {
      if (layout.dimensions[i] < 0) throw Failure("load", what + " has no fixed shape.");
      made.shape.push_back(layout.dimensions[i]);
      made.nbytes *= static_cast<size_t>(layout.dimensions[i]);
    }
    size_t size = 0;
    Check(LiteRtGetTensorBufferRequirementsBufferSize(needs, &size), "load", what + " has no size");
    if (size < made.nbytes) throw Failure("load", what + " has no fixed shape.");
    LiteRtTensorBuffer buffer = nullptr;
    Check(LiteRtCreateManagedTensorBuffer(environment_, kLiteRtTensorBufferTypeHostMemory, &type,
                                          size, &buffer),
          "load", what + " has no memory");
    Check(LiteRtGetTensorBufferHostMemory(buffer, &made.data), "load", what + " has no memory");
    std::memset(made.data, 0, size);
    tensors->push_back(std::move(made));
    return buffer;
  }

  // Adds what ran, in order: for every op `EdgeKernels` the ops of its plan. XNNPACK logs the ops
  // that it runs, and nothing of the node around them.
  void AddEvents(const std::vector<ProfiledEventData>& events) {
    size_t next = 0;
    for (const ProfiledEventData& event : events) {
      const std::string_view tag = event.tag == nullptr ? "" : event.tag;
      const auto ns = static_cast<int64_t>(event.elapsed_time_us) * 1000;
      if (event.event_type == kDelegateOperatorInvokeEvent ||
          event.event_type == kDelegateProfiledOperatorInvokeEvent) {
        AddEvent(tag, "xnnpack", ns);
      } else if (event.event_type != kOperatorInvokeEvent || RunsOthers(tag)) {
        continue;
      } else if (next < delegate_runs_.size() && delegate_runs_[next].node == tag) {
        for (const auto& op : delegate_runs_[next].ops) AddEvent(op.name, "edge", op.ns);
        ++next;
      } else {
        AddEvent(tag, "litert", ns);
      }
    }
  }

  // Whether it is an operator whose time is that of others, which have events of their own.
  static bool RunsOthers(std::string_view tag) {
    for (const char* name : {"CALL", "CALL_ONCE", "IF", "WHILE", "STABLEHLO_CASE",
                             "STABLEHLO_COMPOSITE", "STABLEHLO_WHILE"}) {
      if (tag == name) return true;
    }
    return false;
  }

  void AddEvent(std::string_view name, const char* runner, int64_t ns) {
    profile_.BeginObject().Key("name").Value(name).Key("runner").Value(std::string_view(runner));
    profile_.Key("ns").Value(ns).EndObject();
  }

  static LitertModel* current_;  // LiteRT hands an accelerator no data of its own

  StderrLog log_;
  int threads_ = 1;
  bool profiles_ = false;
  MappedFile file_;
  LiteRtEnvironment environment_ = nullptr;
  LiteRtModel model_ = nullptr;
  LiteRtOptions options_ = nullptr;
  LiteRtCompiledModel compiled_ = nullptr;
  std::vector<LiteRtTensorBuffer> inputs_, outputs_;
  std::vector<Tensor> input_tensors_, output_tensors_;
  LiteRtProfiler profiler_ = nullptr;
  std::vector<edge::DelegateRun> delegate_runs_;  // since the last RecordRun
  Json profile_;
};

LitertModel* LitertModel::current_ = nullptr;

}  // namespace
}  // namespace harness

int main(int argc, char** argv) {
  harness::LitertModel model;
  return harness::Main(argc, argv, {"litert_runner", ".tflite", "LiteRT"}, &model);
}
