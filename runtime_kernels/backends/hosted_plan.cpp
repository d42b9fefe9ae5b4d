#include "hosted_plan.h"

#include <cstring>
#include <new>

namespace edge {
namespace {

constexpr size_t kAlignment = 64;  // so that packed weights start at cache lines

}  // namespace

void HostedPlan::AlignedDelete::operator()(uint8_t* bytes) const {
  ::operator delete[](bytes, std::align_val_t{kAlignment});
}

Status HostedPlan::Load(const void* bytes, size_t size, size_t threads) {
  if (reinterpret_cast<uintptr_t>(bytes) % kAlignment != 0) {
    copied_.reset(
        static_cast<uint8_t*>(::operator new[](size, std::align_val_t{kAlignment}, std::nothrow)));
    if (!copied_) return Status::kOutOfMemory;
    std::memcpy(copied_.get(), bytes, size);
    bytes = copied_.get();
  }
  const Status status = Plan::Load(bytes, size, &plan_);
  if (status != Status::kOk) return status;
  pool_ = AcquirePool(threads);
  return Executor::Create(plan_, &pool_->pool, &executor_);
}

Status HostedPlan::Run(const float* const* inputs, float* const* outputs, Observer* observer) {
  const std::lock_guard<std::mutex> lock(pool_->running);
  return executor_->Run(inputs, n_inputs(), outputs, n_outputs(), observer);
}

// The pool in use, or a new one when there is none or it has another number of threads.
std::shared_ptr<HostedPlan::SharedPool> HostedPlan::AcquirePool(size_t threads) {
  static std::mutex mutex;
  static std::weak_ptr<SharedPool> current;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<SharedPool> pool = current.lock();
  if (!pool || pool->pool.threads() != threads) {
    pool = std::make_shared<SharedPool>(threads);
    current = pool;
  }
  return pool;
}

int64_t HostedPlan::Elements(const TensorRec& tensor) {
  int64_t elements = 1;
  for (const int32_t dim : tensor.dims) elements *= dim;
  return elements;
}

}  // namespace edge
