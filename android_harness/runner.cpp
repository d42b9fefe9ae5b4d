// Runs an ExecuTorch model on this device and prints one JSON document about it; README.md
// describes both.
#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/core/exec_aten/util/dim_order_util.h>
#include <executorch/runtime/platform/platform.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "failure.h"
#include "program.h"

// ExecuTorch's wheel exports this class from libexecutorch_threadpool.so but ships no header for
// it.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(unsigned int threads);
  size_t get_thread_count() const;
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace harness {
namespace {

using executorch::aten::ScalarType;
using executorch::etdump::ETDumpGen;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::MethodMeta;
using executorch::runtime::Tag;
using executorch::runtime::TensorInfo;

constexpr char kMethod[] = "forward";

constexpr struct {
  ScalarType type;
  const Dtype* dtype;
} kDtypes[] = {
    {ScalarType::Float, &kFloat32}, {ScalarType::Double, &kFloat64}, {ScalarType::Half, &kFloat16},
    {ScalarType::Long, &kInt64},    {ScalarType::Int, &kInt32},      {ScalarType::Short, &kInt16},
    {ScalarType::Char, &kInt8},     {ScalarType::Byte, &kUInt8},     {ScalarType::Bool, &kBool},
};

// The first message that ExecuTorch logged as an error in a step.
std::mutex log_mutex;
std::string first_error;

void OnLog(et_timestamp_t, et_pal_log_level_t level, const char* file, const char*, size_t line,
           const char* message, size_t length) {
  if (level != et_pal_log_level_t::kError && level != et_pal_log_level_t::kFatal) return;
  const std::string_view text(message, length);
  std::fprintf(stderr, "%s:%zu] %.*s\n", file, line, static_cast<int>(text.size()), text.data());
  const std::lock_guard<std::mutex> lock(log_mutex);
  if (first_error.empty()) first_error = text;
}

void ForgetErrors() {
  const std::lock_guard<std::mutex> lock(log_mutex);
  first_error.clear();
}

// Collects ExecuTorch's log messages, and makes it end with an error document when it gives up.
void InstallPlatform() {
  using executorch::runtime::PalImpl;
  PalImpl platform = PalImpl::create(OnLog, __FILE__);
  platform.abort = [] { EndWithAbort(); };
  executorch::runtime::register_pal(platform);
}

// Throws unless `error` is Ok; the sentence carries what ExecuTorch logged about it.
void Check(Error error, const char* step, const std::string& what) {
  if (error == Error::Ok) return;
  const std::lock_guard<std::mutex> lock(log_mutex);
  std::string logged = first_error;
  while (!logged.empty() && (logged.back() == '.' || logged.back() == '\n')) logged.pop_back();
  const std::string name = std::string(executorch::runtime::to_string(error)).substr(7);
  throw Failure(step, what + " (" + name + ")" + (logged.empty() ? "" : ": " + logged) + ".",
                static_cast<uint32_t>(error));
}

const Dtype* DtypeOf(ScalarType type, const char* step, const std::string& what) {
  for (const auto& known : kDtypes) {
    if (known.type == type) return known.dtype;
  }
  throw Failure(step, what + " has an element type that the runner does not know.");
}

void SetThreads(int threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr) {
    throw Failure(
        "load", "ExecuTorch cannot start its threads here: mount /sys and /proc, which it reads.");
  }
  if (threads > 0 && !pool->_unsafe_reset_threadpool(static_cast<unsigned>(threads))) {
    throw Failure("load", "ExecuTorch cannot start " + std::to_string(threads) + " threads.");
  }
}

// Throws when the method needs a backend that this program does not carry.
void CheckBackends(const MethodMeta& meta) {
  namespace rt = executorch::runtime;
  for (size_t i = 0; i < meta.num_backends(); ++i) {
    const auto name = meta.get_backend_name(i);
    Check(name.error(), "load", "The model's list of backends is damaged");
    const auto* backend = rt::get_backend_class(*name);
    if (backend != nullptr && backend->is_available()) continue;
    std::string known;
    for (size_t k = 0; k < rt::get_num_registered_backends(); ++k) {
      const auto other = rt::get_backend_name(k);
      if (other.ok()) known += (known.empty() ? "" : ", ") + std::string(*other);
    }
    throw Failure("load",
                  "The model needs the backend " + std::string(*name) +
                      ", which this runner does not have (it has " + known +
                      "); build the model for one of those, or build the runner with its library.",
                  static_cast<uint32_t>(Error::NotFound));
  }
}

class ExecutorchModel final : public Model {
 public:
  void Load(const Options& options) override {
    ForgetErrors();
    SetThreads(options.threads);
    std::unique_ptr<ETDumpGen> tracer;
    if (!options.profile.empty()) tracer = std::make_unique<ETDumpGen>();
    tracer_ = tracer.get();
    module_ = std::make_unique<Module>(options.model, Module::LoadMode::Mmap, std::move(tracer));
    Check(module_->load(executorch::runtime::Program::Verification::InternalConsistency), "load",
          options.model + " is not a model that ExecuTorch can read");
    CheckBackends(Meta());
    Check(module_->load_method(kMethod), "load", "The model could not be loaded");
  }

  int threads() const override {
    return static_cast<int>(
        executorch::extension::threadpool::get_threadpool()->get_thread_count());
  }

  std::vector<Tensor> Inputs() override {
    ForgetErrors();
    const MethodMeta meta = Meta();
    std::vector<Tensor> inputs;
    for (size_t i = 0; i < meta.num_inputs(); ++i) {
      const std::string what = "Input " + std::to_string(i) + " of the model";
      const auto tag = meta.input_tag(i);
      if (!tag.ok() || *tag != Tag::Tensor) throw Failure("inputs", what + " is not a tensor.");
      const auto info = meta.input_tensor_meta(i);
      Check(info.error(), "inputs", what + " is damaged");
      inputs.push_back(MakeInput(*info, what));
    }
    return inputs;
  }

  void Run() override {
    ForgetErrors();
    auto result = module_->execute(kMethod, inputs_);
    Check(result.error(), "run", "The model could not be run");
    outputs_ = std::move(*result);
  }

  std::vector<Tensor> Outputs() override {
    std::vector<Tensor> outputs;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const std::string what = "Output " + std::to_string(i) + " of the model";
      if (!outputs_[i].isTensor()) throw Failure("output", what + " is not a tensor.");
      const auto& tensor = outputs_[i].toTensor();
      const Dtype* dtype = DtypeOf(tensor.scalar_type(), "output", what);
      if (!executorch::runtime::is_contiguous_dim_order(tensor.dim_order().data(), tensor.dim())) {
        throw Failure("output", what + " is not in the default (contiguous) dim order.");
      }
      outputs.push_back({{tensor.sizes().begin(), tensor.sizes().end()},
                         dtype,
                         tensor.mutable_data_ptr(),
                         tensor.nbytes()});
    }
    return outputs;
  }

  void StartProfile() override { tracer_->reset(); }
  void RecordRun(int64_t) override {}

  void WriteProfile(const std::string& path) override {
    const auto dump = tracer_->get_etdump_data();
    const std::unique_ptr<void, decltype(&std::free)> owned(dump.buf, &std::free);
    if (dump.buf == nullptr || dump.size == 0) {
      throw Failure("output", "ExecuTorch recorded no events.");
    }
    WriteFile(path, dump.buf, dump.size);
  }

 private:
  MethodMeta Meta() {
    auto meta = module_->method_meta(kMethod);
    Check(meta.error(), "load", "The model has no usable method \"forward\"");
    return *meta;
  }

  Tensor MakeInput(const TensorInfo& info, const std::string& what) {
    const auto sizes = info.sizes();
    const Dtype* dtype = DtypeOf(info.scalar_type(), "inputs", what);
    if (!executorch::runtime::is_contiguous_dim_order(info.dim_order().data(),
                                                      info.dim_order().size())) {
      throw Failure("inputs", what + " is not in the default (contiguous) dim order.");
    }
    input_data_.emplace_back(info.nbytes());
    void* data = input_data_.back().data();
    input_tensors_.push_back(
        executorch::extension::from_blob(data, {sizes.begin(), sizes.end()}, info.scalar_type()));
    inputs_.emplace_back(*input_tensors_.back());
    return {{sizes.begin(), sizes.end()}, dtype, data, info.nbytes()};
  }

  ETDumpGen* tracer_ = nullptr;  // owned by the module; null without --profile
  std::unique_ptr<Module> module_;
  std::vector<std::vector<uint8_t>> input_data_;
  std::vector<TensorPtr> input_tensors_;
  std::vector<EValue> inputs_;
  std::vector<EValue> outputs_;
};

}  // namespace
}  // namespace harness

int main(int argc, char** argv) {
  harness::InstallPlatform();
  harness::ExecutorchModel model;
  return harness::Main(argc, argv, {"runner", ".pte", "ExecuTorch"}, &model);
}
