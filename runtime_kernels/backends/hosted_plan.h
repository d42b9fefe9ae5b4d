// A plan inside a framework's process: its bytes where they can be used, and the threads that all
// plans of the process share.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>

#include "edge/plan.h"
#include "edge/thread_pool.h"

namespace edge {

constexpr size_t kMaxThreads = 256;

class HostedPlan {
 public:
  // Validates a plan and prepares to run it with `threads` threads. The bytes are used in place
  // where they are aligned, and must then outlive this. Throws what std::thread and operator new
  // throw. To be called once.
  Status Load(const void* bytes, size_t size, size_t threads);

  // Whether the bytes given to Load are in use, rather than a copy of them.
  bool in_place() const { return copied_ == nullptr; }
  uint32_t n_inputs() const { return plan_.header().n_inputs; }
  uint32_t n_outputs() const { return plan_.header().n_outputs; }
  uint32_t n_ops() const { return plan_.header().n_ops; }
  // Elements of an input or output, float32 all of them.
  int64_t input_elements(uint32_t i) const { return Elements(plan_.input(i)); }
  int64_t output_elements(uint32_t i) const { return Elements(plan_.output(i)); }
  // The module path of an op; not terminated.
  std::string_view name(uint32_t op) const { return plan_.name(plan_.op(op)); }

  // Runs the plan, after any other of the process that is running.
  Status Run(const float* const* inputs, float* const* outputs, Observer* observer);

 private:
  struct SharedPool {
    explicit SharedPool(size_t threads) : pool(threads) {}
    ThreadPool pool;
    std::mutex running;
  };
  struct AlignedDelete {
    void operator()(uint8_t* bytes) const;
  };
  static std::shared_ptr<SharedPool> AcquirePool(size_t threads);
  static int64_t Elements(const TensorRec& tensor);

  std::unique_ptr<uint8_t[], AlignedDelete> copied_;
  Plan plan_;
  std::shared_ptr<SharedPool> pool_;
  std::unique_ptr<Executor> executor_;
};

}  // namespace edge
