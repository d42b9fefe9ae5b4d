// The most that cores can do: float operations, by independent multiply-adds on registers, and
// bytes read from memory, by sums over a buffer that no cache holds.
#pragma once
#include <time.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "edge/thread_pool.h"
#include "kernels/conv/conv.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace edge {

// Each returns the number of float operations it did; the sums go through an empty asm so that they
// are needed.
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) inline double RunFmas256(int64_t rounds) {
  __m256 sum[12];
  for (int i = 0; i < 12; ++i) sum[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1.0f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sum[i] = _mm256_fmadd_ps(sum[i], a, b);
  }
  for (int i = 0; i < 12; ++i) asm volatile("" ::"x"(sum[i]));
  return 2.0 * 8 * 12 * static_cast<double>(rounds);
}

__attribute__((target("avx512f"))) inline double RunFmas512(int64_t rounds) {
  __m512 sum[12];
  for (int i = 0; i < 12; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1.0f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sum[i] = _mm512_fmadd_ps(sum[i], a, b);
  }
  for (int i = 0; i < 12; ++i) asm volatile("" ::"v"(sum[i]));
  return 2.0 * 16 * 12 * static_cast<double>(rounds);
}
#elif defined(__aarch64__)
inline double RunFmas128(int64_t rounds) {
  float32x4_t sum[16];
  for (int i = 0; i < 16; ++i) sum[i] = vdupq_n_f32(static_cast<float>(i));
  const float32x4_t a = vdupq_n_f32(0.5f), b = vdupq_n_f32(1.0f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) sum[i] = vfmaq_f32(sum[i], a, b);  // fmla adds in place
  }
  for (int i = 0; i < 16; ++i) asm volatile("" ::"w"(sum[i]));
  return 2.0 * 4 * 16 * static_cast<double>(rounds);
}
#endif

// With the vectors of `isa`; for the fallback with the narrowest ones that the CPU has.
inline double RunFmas(Isa isa, int64_t rounds) {
#if defined(__x86_64__)
  if (FloatIsa(isa) == Isa::kAvx512) return RunFmas512(rounds);
  if (IsaSupported(Isa::kAvx2)) return RunFmas256(rounds);
#elif defined(__aarch64__)
  if (isa != Isa::kAvx2) return RunFmas128(rounds);
#endif
  (void)isa;
  float sum = 0;
  for (int64_t r = 0; r < rounds; ++r) {
    sum = sum * 0.5f + 1.0f;
    asm volatile("" : "+m"(sum));
  }
  return 2.0 * static_cast<double>(rounds);
}

// One thread is measured in its CPU time, which other programs disturb less; several on the wall.
template <class Body>
double PoolSeconds(const ThreadPool& pool, const Body& body) {
  const auto now = [clock = pool.threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC] {
    timespec time;
    clock_gettime(clock, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  };
  const double start = now();
  body();
  return now() - start;
}

// Measures the peak of all threads of a pool in bursts of about 0.2 ms, short enough to take turns
// with what is compared to it: on a machine shared with others the peak changes by the second.
class FmaPeak {
 public:
  FmaPeak(Isa isa, ThreadPool* pool) : isa_(isa), pool_(pool), pieces_(8 * pool->threads()) {
    while (SecondsOf([this] { Burst(); }) < 2e-4) rounds_ *= 2;
  }

  template <class Body>
  double SecondsOf(const Body& body) const {
    return PoolSeconds(*pool_, body);
  }

  // Float operations a second.
  double Measure() const {
    const double flops =
        RunFmas(isa_, 1) * static_cast<double>(rounds_) * static_cast<double>(pieces_);
    return flops / SecondsOf([this] { Burst(); });
  }

 private:
  void Burst() const {
    pool_->ParallelFor(pieces_, 1, [this](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) RunFmas(isa_, rounds_);
    });
  }

  const Isa isa_;
  ThreadPool* const pool_;
  const size_t pieces_;
  int64_t rounds_ = 64;  // of a piece
};

// Reads `words` numbers, a multiple of 16; sixteen sums, so that no addition waits for another.
inline void ReadWords(const uint64_t* from, size_t words) {
  constexpr size_t kSums = 16;
  uint64_t sums[kSums] = {};
  for (size_t i = 0; i < words; i += kSums) {
    for (size_t k = 0; k < kSums; ++k) sums[k] += from[i + k];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  asm volatile("" ::"r"(total));  // it is needed
}

// Measures how fast all threads of a pool together read a buffer of some MiB, once, in order.
class ReadPeak {
 public:
  // Throws std::bad_alloc. The buffer is written, or all its pages would be the same one of zeros.
  ReadPeak(size_t mebibytes, ThreadPool* pool) : pool_(pool), buffer_(mebibytes * kPiece, 1) {}

  // Bytes a second.
  double Measure() const {
    const double seconds = PoolSeconds(*pool_, [this] {
      pool_->ParallelFor(buffer_.size() / kPiece, 1, [this](size_t begin, size_t end) {
        ReadWords(buffer_.data() + begin * kPiece, (end - begin) * kPiece);
      });
    });
    return static_cast<double>(buffer_.size() * sizeof(uint64_t)) / seconds;
  }

 private:
  static constexpr size_t kPiece = (1 << 20) / sizeof(uint64_t);

  ThreadPool* const pool_;
  const std::vector<uint64_t> buffer_;
};

}  // namespace edge
