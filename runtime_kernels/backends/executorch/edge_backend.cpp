// `EdgeKernelsBackend`: runs the plans written by edgectl.lowering inside ExecuTorch.
//
// The library registers the backend when it is loaded. `processed` is a plan (edge/plan_format.h)
// and is used in place; a delegate's arguments are the plan's inputs, then its outputs, dense
// float32 tensors. With an event tracer, every plan op logs one delegate event named by the PyTorch
// module path it came from.
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/core/event_tracer_hooks_delegate.h>
#include <executorch/runtime/core/exec_aten/util/dim_order_util.h>
#include <executorch/runtime/platform/log.h>
#include <executorch/runtime/platform/platform.h>

#include <algorithm>
#include <cinttypes>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hosted_plan.h"

// ExecuTorch's wheel exports this class from libexecutorch_threadpool.so but ships no header for
// it.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::ArrayRef;
using executorch::runtime::BackendExecutionContext;
using executorch::runtime::BackendInitContext;
using executorch::runtime::CompileSpec;
using executorch::runtime::DelegateHandle;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::EventTracer;
using executorch::runtime::EventTracerEntry;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::pal_current_ticks;
using executorch::runtime::Result;
using executorch::runtime::Span;

constexpr char kName[] = "EdgeKernelsBackend";
constexpr char kEventMark[] = "edge";

// $EDGE_THREADS, or as many as ExecuTorch's own pool has.
size_t WantedThreads() {
  if (const char* chosen = std::getenv("EDGE_THREADS")) {
    char* end = nullptr;
    const unsigned long threads = std::strtoul(chosen, &end, 10);
    if (end != chosen && *end == '\0' && threads >= 1 && threads <= edge::kMaxThreads)
      return threads;
    ET_LOG(Error, "EDGE_THREADS is \"%s\", not a number from 1 to %zu: it is ignored.", chosen,
           edge::kMaxThreads);
  }
  const auto* pool = executorch::extension::threadpool::get_threadpool();
  const size_t threads = pool == nullptr ? 1 : pool->get_thread_count();
  return std::clamp<size_t>(threads, 1, edge::kMaxThreads);
}

// One delegated subgraph.
struct Delegate {
  std::optional<FreeableBuffer> bytes;  // where the plan is run in place
  edge::HostedPlan plan;
  std::vector<std::string> names;  // module path of every op, terminated as the tracer wants it
  std::vector<const float*> inputs;
  std::vector<float*> outputs;
};

// Logs every op of a run as one delegate event, as long as the op ran, one after the other. The
// mark tells readers of an ETDump which delegate's event it is.
class OpEvents final : public edge::Observer {
 public:
  explicit OpEvents(size_t n_ops) : ticks_(n_ops), start_(pal_current_ticks()) {}
  uint64_t Now() override { return pal_current_ticks(); }
  void Took(uint32_t op, std::string_view, uint64_t time) override { ticks_[op] = time; }
  void Log(EventTracer* tracer, const std::vector<std::string>& names) const {
    et_timestamp_t at = start_;
    for (size_t op = 0; op < ticks_.size(); ++op) {
      executorch::runtime::event_tracer_log_profiling_delegate(
          tracer, names[op].c_str(), executorch::runtime::kUnsetDelegateDebugIntId, at,
          at + ticks_[op], kEventMark, sizeof kEventMark - 1);
      at += ticks_[op];
    }
  }

 private:
  std::vector<et_timestamp_t> ticks_;
  et_timestamp_t start_;
};

Error ErrorOf(edge::Status status) {
  switch (status) {
    case edge::Status::kOk:
      return Error::Ok;
    case edge::Status::kTruncated:
    case edge::Status::kNotAPlan:
    case edge::Status::kBadOffset:
    case edge::Status::kBadValue:
      return Error::InvalidProgram;
    case edge::Status::kWrongVersion:
      return Error::DelegateInvalidCompatibility;
    case edge::Status::kOutOfMemory:
      return Error::MemoryAllocationFailed;
    case edge::Status::kBadArgument:
      return Error::InvalidArgument;
  }
  return Error::Internal;
}

Error Prepare(FreeableBuffer* processed, Delegate* delegate) {
  const size_t size = processed->size();
  ET_CHECK_OR_RETURN_ERROR(processed->data() != nullptr, InvalidProgram, "%s: the plan is empty.",
                           kName);
  const edge::Status status = delegate->plan.Load(processed->data(), size, WantedThreads());
  if (status != edge::Status::kOk) {
    ET_LOG(Error, "%s refuses its plan of %zu bytes: %s.", kName, size,
           edge::StatusMessage(status));
    return ErrorOf(status);
  }
  if (delegate->plan.in_place()) {
    delegate->bytes.emplace(std::move(*processed));
  } else {
    processed->Free();
  }
  for (uint32_t i = 0; i < delegate->plan.n_ops(); ++i) {
    delegate->names.emplace_back(delegate->plan.name(i));
  }
  delegate->inputs.resize(delegate->plan.n_inputs());
  delegate->outputs.resize(delegate->plan.n_outputs());
  return Error::Ok;
}

// Checks that an argument is a dense float32 tensor of as many elements as the plan's.
Error CheckArgument(const EValue& value, int64_t elements, const char* kind, size_t index) {
  ET_CHECK_OR_RETURN_ERROR(value.isTensor(), InvalidType, "%s: %s %zu is not a tensor.", kName,
                           kind, index);
  const Tensor& tensor = value.toTensor();
  ET_CHECK_OR_RETURN_ERROR(tensor.scalar_type() == ScalarType::Float, InvalidType,
                           "%s: %s %zu is not float32.", kName, kind, index);
  ET_CHECK_OR_RETURN_ERROR(tensor.numel() == elements, InvalidArgument,
                           "%s: %s %zu has %zd elements, the plan was compiled for %" PRId64 ".",
                           kName, kind, index, tensor.numel(), elements);
  ET_CHECK_OR_RETURN_ERROR(
      executorch::runtime::is_contiguous_dim_order(tensor.dim_order().data(), tensor.dim()),
      InvalidArgument, "%s: %s %zu is not in the default (contiguous) dim order.", kName, kind,
      index);
  return Error::Ok;
}

class EdgeKernelsBackend final : public executorch::runtime::BackendInterface {
 public:
  bool is_available() const override { return true; }

  Result<DelegateHandle*> init(BackendInitContext&, FreeableBuffer* processed,
                               ArrayRef<CompileSpec>) const override {
    std::unique_ptr<Delegate> delegate;
    Error error = Error::MemoryAllocationFailed;
    try {
      delegate = std::make_unique<Delegate>();
      error = Prepare(processed, delegate.get());
    } catch (const std::exception& problem) {
      ET_LOG(Error, "%s: the plan could not be prepared: %s.", kName, problem.what());
    }
    if (error != Error::Ok) return error;
    return static_cast<DelegateHandle*>(delegate.release());
  }

  Error execute(BackendExecutionContext& context, DelegateHandle* handle,
                Span<EValue*> args) const override {
    auto* delegate = static_cast<Delegate*>(handle);
    const size_t n_in = delegate->inputs.size();
    const size_t n_out = delegate->outputs.size();
    ET_CHECK_OR_RETURN_ERROR(args.size() == n_in + n_out, InvalidArgument,
                             "%s: got %zu arguments, the plan has %zu inputs and %zu outputs.",
                             kName, args.size(), n_in, n_out);
    for (size_t i = 0; i < n_in; ++i) {
      ET_CHECK_OK_OR_RETURN_ERROR(
          CheckArgument(*args[i], delegate->plan.input_elements(i), "input", i));
      delegate->inputs[i] = args[i]->toTensor().const_data_ptr<float>();
    }
    for (size_t i = 0; i < n_out; ++i) {
      ET_CHECK_OK_OR_RETURN_ERROR(
          CheckArgument(*args[n_in + i], delegate->plan.output_elements(i), "output", i));
      delegate->outputs[i] = args[n_in + i]->toTensor().mutable_data_ptr<float>();
    }
    return Run(context.event_tracer(), delegate);
  }

  void destroy(DelegateHandle* handle) const override { delete static_cast<Delegate*>(handle); }

 private:
  static Error Run(EventTracer* tracer, Delegate* delegate) {
    OpEvents events(delegate->names.size());
    const edge::Status status = delegate->plan.Run(
        delegate->inputs.data(), delegate->outputs.data(), tracer == nullptr ? nullptr : &events);
    if (status != edge::Status::kOk) {
      ET_LOG(Error, "%s: the run failed: %s.", kName, edge::StatusMessage(status));
    }
    events.Log(tracer, delegate->names);
    return ErrorOf(status);
  }
};

EdgeKernelsBackend backend;
const Error registered = executorch::runtime::register_backend({kName, &backend});

}  // namespace
