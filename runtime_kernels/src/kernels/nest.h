// A loop nest over up to four dimensions of K tensors at once, with dimensions merged wherever all
// of them are contiguous.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "edge/thread_pool.h"
#include "kernels/view.h"

namespace edge {

// Pieces of work below this many floats are not worth another thread.
constexpr size_t kGrainFloats = 8192;
// Runs are no longer than this, so that two passes over one stay in the first-level cache.
constexpr size_t kMaxRunFloats = 4096;

template <size_t K>
class Nest {
 public:
  // `dims` are looped over, outermost first; strides[k][d] is tensor k's step along dimension d (0:
  // broadcast).
  Nest(const std::array<int64_t, 4>& dims, const std::array<std::array<int64_t, 4>, K>& strides) {
    for (size_t d = 0; d < 4; ++d) {
      if (dims[d] == 1) continue;
      std::array<int64_t, K> step;
      for (size_t k = 0; k < K; ++k) step[k] = strides[k][d];
      if (rank_ > 0 && Merges(step, dims[d])) {
        dims_[rank_ - 1] *= dims[d];
        steps_[rank_ - 1] = step;
      } else {
        dims_[rank_] = dims[d];
        steps_[rank_++] = step;
      }
    }
    if (rank_ == 0) {
      dims_[0] = 1;
      steps_[0].fill(1);
      rank_ = 1;
    }
  }

  // The innermost step of tensor k: 1 when its runs are contiguous, 0 when it is broadcast along
  // them.
  int64_t step(size_t k) const { return steps_[rank_ - 1][k]; }

  // Calls body(offsets, n) for runs of n innermost elements, which start at offsets[k] of tensor k;
  // runs go to the pool's threads.
  template <typename F>
  void ForEachRun(ThreadPool* pool, F body) const {
    size_t total = 1;
    for (size_t d = 0; d < rank_; ++d) total *= static_cast<size_t>(dims_[d]);
    const size_t inner = static_cast<size_t>(dims_[rank_ - 1]);
    pool->ParallelFor(total, kGrainFloats, [this, inner, &body](size_t begin, size_t end) {
      while (begin < end) {
        const size_t n = std::min({end - begin, inner - begin % inner, kMaxRunFloats});
        body(OffsetsOf(begin), n);
        begin += n;
      }
    });
  }

 private:
  bool Merges(const std::array<int64_t, K>& inner, int64_t dim) const {
    for (size_t k = 0; k < K; ++k) {
      if (steps_[rank_ - 1][k] != inner[k] * dim) return false;
    }
    return true;
  }

  std::array<int64_t, K> OffsetsOf(size_t flat) const {
    std::array<int64_t, K> offsets = {};
    for (size_t d = rank_; d-- > 0;) {
      const int64_t i = static_cast<int64_t>(flat % static_cast<size_t>(dims_[d]));
      flat /= static_cast<size_t>(dims_[d]);
      for (size_t k = 0; k < K; ++k) offsets[k] += i * steps_[d][k];
    }
    return offsets;
  }

  size_t rank_ = 0;
  std::array<int64_t, 4> dims_ = {};
  std::array<std::array<int64_t, K>, 4> steps_ = {};
};

template <typename T>
std::array<int64_t, 4> DimsOf(const BasicView<T>& v) {
  return {v.n, v.c, v.h, v.w};
}

// The strides of `v` for a loop over `dims`: 0 along the dimensions that it broadcasts.
template <typename T>
std::array<int64_t, 4> StridesOf(const BasicView<T>& v, const std::array<int64_t, 4>& dims) {
  const std::array<int64_t, 4> own = DimsOf(v);
  std::array<int64_t, 4> strides = {v.sn, v.sc, v.sh, 1};
  for (size_t d = 0; d < 4; ++d) {
    if (own[d] != dims[d]) strides[d] = 0;
  }
  return strides;
}

// Calls body(n, c, begin, end) for runs of rows [begin, end) of a plane, which together are all
// rows of `v`, on the pool's threads; `cost` is in floats a row.
template <typename T, typename F>
void ForEachRun(const BasicView<T>& v, size_t cost, ThreadPool* pool, F body) {
  const size_t h = static_cast<size_t>(v.h);
  const size_t rows = static_cast<size_t>(v.n) * static_cast<size_t>(v.c) * h;
  const size_t grain = std::max<size_t>(1, kGrainFloats / std::max<size_t>(1, cost));
  pool->ParallelFor(rows, grain, [&v, &body, h](size_t begin, size_t end) {
    for (size_t plane = begin / h; begin < end; ++plane) {
      const size_t last = std::min(end, (plane + 1) * h);
      body(static_cast<int64_t>(plane) / v.c, static_cast<int64_t>(plane) % v.c,
           static_cast<int64_t>(begin - plane * h), static_cast<int64_t>(last - plane * h));
      begin = last;
    }
  });
}

// The same row by row: body(n, c, y).
template <typename T, typename F>
void ForEachRow(const BasicView<T>& v, size_t cost, ThreadPool* pool, F body) {
  ForEachRun(v, cost, pool, [&body](int64_t n, int64_t c, int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) body(n, c, y);
  });
}

}  // namespace edge
