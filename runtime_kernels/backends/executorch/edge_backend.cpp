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
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "edge/plan.h"
#include "edge/thread_pool.h"

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
constexpr size_t kAlignment =
    64;  // of the plan's bytes, so that packed weights start at cache lines
constexpr size_t kMaxThreads = 256;

// The threads that all delegates of the process share; the mutex keeps to one run at a time.
struct SharedPool {
  explicit SharedPool(size_t threads) : pool(threads) {}
  edge::ThreadPool pool;
  std::mutex running;
};

// $EDGE_THREADS, or as many as ExecuTorch's own pool has.
size_t WantedThreads() {
  if (const char* chosen = std::getenv("EDGE_THREADS")) {
    char* end = nullptr;
    const unsigned long threads = std::strtoul(chosen, &end, 10);
    if (end != chosen && *end == '\0' && threads >= 1 && threads <= kMaxThreads) return threads;
    ET_LOG(Error, "EDGE_THREADS is \"%s\", not a number from 1 to %zu: it is ignored.", chosen,
           kMaxThreads);
  }
  const auto* pool = executorch::extension::threadpool::get_threadpool();
  const size_t threads = pool == nullptr ? 1 : pool->get_thread_count();
  return std::clamp<size_t>(threads, 1, kMaxThreads);
}

// The pool in use, or a new one when there is none or ExecuTorch's has changed its size since.
std::shared_ptr<SharedPool> AcquirePool() {
  static std::mutex mutex;
  static std::weak_ptr<SharedPool> current;
  const std::lock_guard<std::mutex> lock(mutex);
  const size_t threads = WantedThreads();
  std::shared_ptr<SharedPool> pool = current.lock();
  if (!pool || pool->pool.threads() != threads) {
    pool = std::make_shared<SharedPool>(threads);
    current = pool;
  }
  return pool;
}

struct AlignedDelete {
  void operator()(uint8_t* bytes) const {
    ::operator delete[](bytes, std::align_val_t{kAlignment});
  }
};

// One delegated subgraph.
struct Delegate {
  std::optional<FreeableBuffer> in_place;  // ExecuTorch's own bytes, where they are aligned,
  std::unique_ptr<uint8_t[], AlignedDelete> copied;  // or an aligned copy of them
  edge::Plan plan;
  std::vector<std::string> names;  // module path of every op, terminated as the tracer wants it
  std::shared_ptr<SharedPool> pool;
  std::unique_ptr<edge::Executor> executor;
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

// Takes the plan's bytes over: in place where they are aligned, else as a copy. Null when there is
// no memory for one.
const void* TakeBytes(FreeableBuffer* processed, Delegate* delegate) {
  const void* data = processed->data();
  const size_t size = processed->size();
  if (reinterpret_cast<uintptr_t>(data) % kAlignment == 0) {
    delegate->in_place.emplace(std::move(*processed));
    return data;
  }
  auto* copy =
      static_cast<uint8_t*>(::operator new[](size, std::align_val_t{kAlignment}, std::nothrow));
  if (copy == nullptr) return nullptr;
  delegate->copied.reset(copy);
  std::memcpy(copy, data, size);
  processed->Free();
  return copy;
}

Error Prepare(FreeableBuffer* processed, Delegate* delegate) {
  const size_t size = processed->size();
  ET_CHECK_OR_RETURN_ERROR(processed->data() != nullptr, InvalidProgram, "%s: the plan is empty.",
                           kName);
  const void* bytes = TakeBytes(processed, delegate);
  ET_CHECK_OR_RETURN_ERROR(bytes != nullptr, MemoryAllocationFailed,
                           "%s: there is no memory for a plan of %zu bytes.", kName, size);
  edge::Status status = edge::Plan::Load(bytes, size, &delegate->plan);
  if (status == edge::Status::kOk) {
    delegate->pool = AcquirePool();
    status = edge::Executor::Create(delegate->plan, &delegate->pool->pool, &delegate->executor);
  }
  if (status != edge::Status::kOk) {
    ET_LOG(Error, "%s refuses its plan of %zu bytes: %s.", kName, size,
           edge::StatusMessage(status));
    return ErrorOf(status);
  }
  const edge::Header& header = delegate->plan.header();
  for (uint32_t i = 0; i < header.n_ops; ++i) {
    delegate->names.emplace_back(delegate->plan.name(delegate->plan.op(i)));
  }
  delegate->inputs.resize(header.n_inputs);
  delegate->outputs.resize(header.n_outputs);
  return Error::Ok;
}

// Checks that an argument is a dense float32 tensor of as many elements as the plan's.
Error CheckArgument(const EValue& value, const edge::TensorRec& expected, const char* kind,
                    size_t index) {
  ET_CHECK_OR_RETURN_ERROR(value.isTensor(), InvalidType, "%s: %s %zu is not a tensor.", kName,
                           kind, index);
  const Tensor& tensor = value.toTensor();
  ET_CHECK_OR_RETURN_ERROR(tensor.scalar_type() == ScalarType::Float, InvalidType,
                           "%s: %s %zu is not float32.", kName, kind, index);
  int64_t elements = 1;
  for (const int32_t dim : expected.dims) elements *= dim;
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
      ET_CHECK_OK_OR_RETURN_ERROR(CheckArgument(*args[i], delegate->plan.input(i), "input", i));
      delegate->inputs[i] = args[i]->toTensor().const_data_ptr<float>();
    }
    for (size_t i = 0; i < n_out; ++i) {
      ET_CHECK_OK_OR_RETURN_ERROR(
          CheckArgument(*args[n_in + i], delegate->plan.output(i), "output", i));
      delegate->outputs[i] = args[n_in + i]->toTensor().mutable_data_ptr<float>();
    }
    return Run(context.event_tracer(), delegate);
  }

  void destroy(DelegateHandle* handle) const override { delete static_cast<Delegate*>(handle); }

 private:
  static Error Run(EventTracer* tracer, Delegate* delegate) {
    OpEvents events(delegate->names.size());
    const std::lock_guard<std::mutex> lock(delegate->pool->running);
    const edge::Status status = delegate->executor->Run(
        delegate->inputs.data(), delegate->inputs.size(), delegate->outputs.data(),
        delegate->outputs.size(), tracer == nullptr ? nullptr : &events);
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
