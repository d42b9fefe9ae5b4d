// Linear layers for AVX2: a vector holds four weights of each of 8 filters.
#pragma once
#include "kernels/int8/avx2/vec.h"

namespace edge::EDGE_X86_NAMESPACE {

// R rows of inputs at once; levels(i) are the weights of entry i.
template <int R, class Levels>
EDGE_INLINE void LinearRows(const Int8LinearJob& job, int64_t row, const Levels& levels) {
  __m256i sums[R];
  Unroll<R>([&](auto r) EDGE_INLINE_LAMBDA { sums[r.value] = _mm256_setzero_si256(); });
  const Quad* in = job.in + row * job.in_n;
  for (int64_t i = 0; i < job.n_entries; ++i) {
    const __m256i w = levels(i);
    const Quad* p = in + job.offsets[i];
    Unroll<R>([&](auto r) EDGE_INLINE_LAMBDA {
      const __m256i x = _mm256_set1_epi32(static_cast<int>(p[r.value * job.in_n]));
      const __m256i signed_w = _mm256_sign_epi8(w, x);
      sums[r.value] = Int8Vec8::Products(_mm256_abs_epi8(x), signed_w, sums[r.value]);
    });
  }
  Unroll<R>([&](auto r) EDGE_INLINE_LAMBDA {
    auto* to = reinterpret_cast<__m256i*>(job.sums + 8 * (row + r.value));
    _mm256_storeu_si256(to, sums[r.value]);
  });
}

template <class Levels>
EDGE_INLINE void LinearAll(const Int8LinearJob& job, const Levels& levels) {
  int64_t row = 0;
  for (; row + 4 <= job.rows; row += 4) LinearRows<4>(job, row, levels);
  for (; row < job.rows; ++row) LinearRows<1>(job, row, levels);
}

inline void RunLinearInt8(const Int8LinearJob& job) {
  LinearAll(job, [&](int64_t i) EDGE_INLINE_LAMBDA {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(job.weights) + i);
  });
}

// The codes of an entry, one a byte.
EDGE_INLINE __m256i Codes(const uint8_t* weights, int64_t i) {
  const __m128i two = _mm_loadu_si128(reinterpret_cast<const __m128i*>(weights) + i);
  const __m256i wide = _mm256_cvtepu8_epi16(two);
  return _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16(wide, 4)),
                          _mm256_set1_epi8(0x0f));
}

inline void RunLinearInt8Codes(const Int8LinearJob& job) {
  const auto table = [&](int i) EDGE_INLINE_LAMBDA {
    const auto* at = reinterpret_cast<const __m128i*>(job.tables) + i;
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(at));
  };
  const __m256i first = table(0), second = table(1);
  const __m256i books =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(job.codebooks)));
  const __m256i is_second = _mm256_cmpgt_epi32(books, _mm256_setzero_si256());
  const int mask = _mm256_movemask_epi8(is_second);
  if (mask == 0 || mask == -1) {
    const __m256i only = mask == 0 ? first : second;
    LinearAll(job, [&](int64_t i) EDGE_INLINE_LAMBDA {
      return _mm256_shuffle_epi8(only, Codes(job.weights, i));
    });
  } else {
    LinearAll(job, [&](int64_t i) EDGE_INLINE_LAMBDA {
      const __m256i codes = Codes(job.weights, i);
      return _mm256_blendv_epi8(_mm256_shuffle_epi8(first, codes),
                                _mm256_shuffle_epi8(second, codes), is_second);
    });
  }
}

}  // namespace edge::EDGE_X86_NAMESPACE
