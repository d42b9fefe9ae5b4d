// Runs an ExecuTorch model on this device and prints one JSON document about it; README.md
// describes both.
#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/core/exec_aten/util/dim_order_util.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "failure.h"
#include "json.h"
#include "kernels/conv/conv.h"
#include "npy.h"
#include "options.h"
#include "peaks.h"

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
using executorch::runtime::Program;
using executorch::runtime::Tag;
using executorch::runtime::TensorInfo;
using Clock = std::chrono::steady_clock;

constexpr char kMethod[] = "forward";

struct Dtype {
  ScalarType type;
  const char* name;
  const char* descr;  // NumPy's
};
constexpr Dtype kDtypes[] = {
    {ScalarType::Float, "float32", "<f4"}, {ScalarType::Double, "float64", "<f8"},
    {ScalarType::Half, "float16", "<f2"},  {ScalarType::Long, "int64", "<i8"},
    {ScalarType::Int, "int32", "<i4"},     {ScalarType::Short, "int16", "<i2"},
    {ScalarType::Char, "int8", "|i1"},     {ScalarType::Byte, "uint8", "|u1"},
    {ScalarType::Bool, "bool", "|b1"},
};

struct Input {
  std::vector<int64_t> shape;
  const Dtype* dtype;
  std::vector<uint8_t> data;
  TensorPtr tensor;
};

// A loaded model and what the runner knows of it.
struct Session {
  ETDumpGen* tracer = nullptr;  // owned by the module; null without --etdump
  std::unique_ptr<Module> module;
  std::vector<Input> inputs;
  std::vector<EValue> outputs;
  int64_t load_ns = 0;
  std::vector<int64_t> runs_ns;
};

int64_t Nanoseconds(Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

// Throws unless `error` is Ok; the sentence carries what ExecuTorch logged about it.
void Check(Error error, const char* step, const std::string& what) {
  if (error == Error::Ok) return;
  const std::string logged = LoggedError();
  const std::string name = std::string(executorch::runtime::to_string(error)).substr(7);
  throw Failure(step, what + " (" + name + ")" + (logged.empty() ? "" : ": " + logged) + ".",
                static_cast<uint32_t>(error));
}

const Dtype& DtypeOf(ScalarType type, const char* step, const std::string& what) {
  for (const Dtype& dtype : kDtypes) {
    if (dtype.type == type) return dtype;
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

MethodMeta Meta(Module* module) {
  auto meta = module->method_meta(kMethod);
  Check(meta.error(), "load", "The model has no usable method \"forward\"");
  return *meta;
}

void Load(const Options& options, Session* session) {
  EnterStep("load");
  if (std::FILE* file = std::fopen(options.model.c_str(), "rb")) {
    std::fclose(file);
  } else {
    throw Failure("load", "There is no readable model at " + options.model + ".",
                  static_cast<uint32_t>(Error::AccessFailed));
  }
  SetThreads(options.threads);
  std::unique_ptr<ETDumpGen> tracer;
  if (!options.etdump.empty()) tracer = std::make_unique<ETDumpGen>();
  session->tracer = tracer.get();
  const auto start = Clock::now();
  session->module =
      std::make_unique<Module>(options.model, Module::LoadMode::Mmap, std::move(tracer));
  Check(session->module->load(Program::Verification::InternalConsistency), "load",
        options.model + " is not a model that ExecuTorch can read");
  CheckBackends(Meta(session->module.get()));
  Check(session->module->load_method(kMethod), "load", "The model could not be loaded");
  session->load_ns = Nanoseconds(Clock::now() - start);
}

Input MakeInput(const TensorInfo& info, const std::string& what, const std::string* path) {
  Input input;
  const auto sizes = info.sizes();
  input.shape.assign(sizes.begin(), sizes.end());
  input.dtype = &DtypeOf(info.scalar_type(), "inputs", what);
  if (!executorch::runtime::is_contiguous_dim_order(info.dim_order().data(),
                                                    info.dim_order().size())) {
    throw Failure("inputs", what + " is not in the default (contiguous) dim order.");
  }
  if (path == nullptr) {
    input.data.resize(info.nbytes());
  } else if (input.dtype->type != ScalarType::Float) {
    throw Failure("inputs", what + " is " + input.dtype->name +
                                "; only float32 inputs can be read from a file.");
  } else {
    input.data = ReadFloatTensor(*path, input.shape);
  }
  input.tensor = executorch::extension::from_blob(input.data.data(), {sizes.begin(), sizes.end()},
                                                  info.scalar_type());
  return input;
}

void PrepareInputs(const Options& options, Session* session) {
  EnterStep("inputs");
  const MethodMeta meta = Meta(session->module.get());
  if (options.inputs.size() > meta.num_inputs()) {
    throw Failure("inputs", "The model takes " + std::to_string(meta.num_inputs()) + " input" +
                                (meta.num_inputs() == 1 ? "" : "s") + ", not " +
                                std::to_string(options.inputs.size()) + ".");
  }
  for (size_t i = 0; i < meta.num_inputs(); ++i) {
    const std::string what = "Input " + std::to_string(i) + " of the model";
    const auto tag = meta.input_tag(i);
    if (!tag.ok() || *tag != Tag::Tensor) throw Failure("inputs", what + " is not a tensor.");
    const auto info = meta.input_tensor_meta(i);
    Check(info.error(), "inputs", what + " is damaged");
    const std::string* path = i < options.inputs.size() ? &options.inputs[i] : nullptr;
    session->inputs.push_back(MakeInput(*info, what, path));
  }
}

void Run(const Options& options, Session* session) {
  EnterStep("run");
  std::vector<EValue> values;
  for (const Input& input : session->inputs) values.emplace_back(*input.tensor);
  for (int i = -options.warmup; i < options.runs; ++i) {
    // The ETDump holds the timed runs only.
    if (i == 0 && session->tracer != nullptr) session->tracer->reset();
    const auto start = Clock::now();
    auto result = session->module->execute(kMethod, values);
    const auto stop = Clock::now();
    Check(result.error(), "run", "The model could not be run");
    if (i >= 0) session->runs_ns.push_back(Nanoseconds(stop - start));
    if (i == options.runs - 1) session->outputs = std::move(*result);
  }
}

void WriteEtdump(const Options& options, Session* session) {
  if (session->tracer == nullptr) return;
  EnterStep("output");
  const auto dump = session->tracer->get_etdump_data();
  const std::unique_ptr<void, decltype(&std::free)> owned(dump.buf, &std::free);
  if (dump.buf == nullptr || dump.size == 0) {
    throw Failure("output", "ExecuTorch recorded no events.");
  }
  std::FILE* file = std::fopen(options.etdump.c_str(), "wb");
  bool ok = file != nullptr && std::fwrite(dump.buf, 1, dump.size, file) == dump.size;
  ok = file != nullptr && std::fclose(file) == 0 && ok;
  if (!ok) throw Failure("output", options.etdump + " cannot be written.");
}

// Writes the outputs when a prefix is given, and adds their description to the document.
void DescribeOutputs(const Options& options, const Session& session, Json* json) {
  EnterStep("output");
  json->Key("outputs").BeginArray();
  for (size_t i = 0; i < session.outputs.size(); ++i) {
    const std::string what = "Output " + std::to_string(i) + " of the model";
    if (!session.outputs[i].isTensor()) throw Failure("output", what + " is not a tensor.");
    const auto& tensor = session.outputs[i].toTensor();
    const Dtype& dtype = DtypeOf(tensor.scalar_type(), "output", what);
    if (!executorch::runtime::is_contiguous_dim_order(tensor.dim_order().data(), tensor.dim())) {
      throw Failure("output", what + " is not in the default (contiguous) dim order.");
    }
    const std::vector<int64_t> shape(tensor.sizes().begin(), tensor.sizes().end());
    json->BeginObject().Key("shape").Values(shape).Key("dtype").Value(dtype.name);
    if (!options.output.empty()) {
      const std::string path = options.output + "_" + std::to_string(i) + ".npy";
      WriteNpy(path, dtype.descr, shape, tensor.const_data_ptr(), tensor.nbytes());
      json->Key("path").Value(path);
    }
    json->EndObject();
  }
  json->EndArray();
}

// Not getrusage's, which counts what the process was before it became the runner.
int64_t PeakRssKb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::strtoll(line.c_str() + 6, nullptr, 10);
  }
  return 0;
}

std::string Describe(const Options& options, const Session& session) {
  const size_t threads = executorch::extension::threadpool::get_threadpool()->get_thread_count();
  Json json;
  json.BeginObject().Key("version").Value(int64_t{1});
  json.Key("threads").Value(static_cast<int64_t>(threads));
  json.Key("isa").Value(edge::IsaName(edge::ActiveIsa()));
  json.Key("warmup").Value(int64_t{options.warmup});
  json.Key("load_ns").Value(session.load_ns).Key("runs_ns").Values(session.runs_ns);
  json.Key("peak_rss_kb").Value(PeakRssKb()).Key("inputs").BeginArray();
  for (const Input& input : session.inputs) {
    json.BeginObject().Key("shape").Values(input.shape);
    json.Key("dtype").Value(input.dtype->name).EndObject();
  }
  json.EndArray();
  DescribeOutputs(options, session, &json);
  return json.EndObject().text();
}

int Main(int argc, char** argv) {
  InstallGuards();
  try {
    const Options options = ParseOptions(argc, argv);
    if (options.help) {
      std::fputs(kUsage, stdout);
      return 0;
    }
    if (!options.cpu_mask.empty()) ApplyCpuMask(options.cpu_mask);
    if (options.peaks) {
      Print(MeasurePeaks(std::max(1, options.threads)));
      return 0;
    }
    Session session;
    Load(options, &session);
    PrepareInputs(options, &session);
    Run(options, &session);
    WriteEtdump(options, &session);
    Print(Describe(options, session));
    return 0;
  } catch (const Failure& failure) {
    return Report(failure);
  } catch (const std::bad_alloc&) {
    return Report(Failure(CurrentStep(), "There is not enough memory for this model."));
  } catch (const std::exception& error) {
    return Report(Failure(CurrentStep(), error.what()));
  }
}

}  // namespace
}  // namespace harness

int main(int argc, char** argv) { return harness::Main(argc, argv); }
