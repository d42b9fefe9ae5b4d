// Loads and runs plans. The whole public C++ interface of runtime_kernels; it depends on nothing
// but the C++17 library.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "edge/plan_format.h"
#include "edge/thread_pool.h"

namespace edge {

enum class Status : int {
  kOk = 0,
  kTruncated,     // smaller than it says, or than a record needs
  kNotAPlan,      // wrong magic
  kWrongVersion,  // another kPlanVersion
  kBadOffset,     // something points outside the plan or the arena
  kBadValue,      // an enum, size, shape or parameter that makes no sense
  kOutOfMemory,
  kBadArgument,  // null, misaligned or too few bytes or buffers
};
const char* StatusMessage(Status status);

// A validated, read-only view of plan bytes. The bytes must outlive the view and be 8-byte aligned
// (64 is best: the weights' alignment counts from the start of the plan); otherwise Load answers
// kBadArgument.
class Plan {
 public:
  // Validates everything; on any error returns its status and leaves *out untouched. Never reads
  // outside [bytes, bytes + size).
  static Status Load(const void* bytes, size_t size, Plan* out);

  const Header& header() const { return *reinterpret_cast<const Header*>(bytes_); }
  const TensorRec& tensor(uint32_t id) const;
  const OpRec& op(uint32_t i) const;
  const ChainRec& chain(uint32_t i) const;
  uint32_t index(uint32_t i) const;  // entry of the index table
  const TensorRec& input(uint32_t i) const;
  const TensorRec& output(uint32_t i) const;
  std::string_view name(const OpRec& op) const;
  const uint8_t* data() const { return bytes_ + header().data_off; }
  size_t size() const { return size_; }

 private:
  const uint8_t* bytes_ = nullptr;
  size_t size_ = 0;
};

// Told how long every op took; used for profiling. Of ops that ran at the same time each gets a
// share of the time that all of them took together.
class Observer {
 public:
  virtual ~Observer() = default;
  // A clock in units of the observer's choice. May be called by several threads at once.
  virtual uint64_t Now() = 0;
  // Once an op, in the order of the plan.
  virtual void Took(uint32_t op, std::string_view name, uint64_t time) = 0;
};

// Runs a plan. Owns the arena. Not thread-safe: one run at a time.
class Executor {
 public:
  // The plan's bytes and the pool must outlive the executor.
  static Status Create(const Plan& plan, ThreadPool* pool, std::unique_ptr<Executor>* out);
  ~Executor();
  // inputs[i] / outputs[i]: dense float32 buffers with the dims of plan.input(i) / plan.output(i).
  Status Run(const float* const* inputs, size_t n_inputs, float* const* outputs, size_t n_outputs,
             Observer* observer = nullptr);

 private:
  Executor(const Plan& plan, ThreadPool* pool);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace edge
