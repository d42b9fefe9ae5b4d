// A small fixed pool of threads for loops over independent pieces of work.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>

namespace edge {

class ThreadPool {
 public:
  // `threads` counts the calling thread: 1 starts none. Throws std::system_error when the system
  // refuses one.
  explicit ThreadPool(size_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  size_t threads() const;
  // Calls body(begin, end) over a partition of [0, n) into pieces of at least `grain`, and returns
  // when all are done. The body must not throw.
  void ParallelFor(size_t n, size_t grain, const std::function<void(size_t, size_t)>& body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace edge
