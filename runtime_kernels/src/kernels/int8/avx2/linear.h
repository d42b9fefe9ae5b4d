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

// The tables of 8 lanes.
class Codebooks {
 public:
  explicit EDGE_INLINE Codebooks(const Int8LinearJob& job) {
    const auto* tables = reinterpret_cast<const __m128i*>(job.tables);
    first_ = _mm256_broadcastsi128_si256(_mm_loadu_si128(tables));
    second_ = _mm256_broadcastsi128_si256(_mm_loadu_si128(tables + 1));
    const auto* books = reinterpret_cast<const __m128i*>(job.codebooks);
    is_second_ =
        _mm256_cmpgt_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(books)), _mm256_setzero_si256());
  }

  // Calls run(decode) with what decodes codes of these lanes.
  template <class Run>
  EDGE_INLINE void With(const Run& run) const {
    const int mask = _mm256_movemask_epi8(is_second_);
    if (mask == 0 || mask == -1) {
      const __m256i only = mask == 0 ? first_ : second_;
      run([&](__m256i codes) EDGE_INLINE_LAMBDA { return _mm256_shuffle_epi8(only, codes); });
    } else {
      run([&](__m256i codes) EDGE_INLINE_LAMBDA {
        return _mm256_blendv_epi8(_mm256_shuffle_epi8(first_, codes),
                                  _mm256_shuffle_epi8(second_, codes), is_second_);
      });
    }
  }

 private:
  __m256i first_, second_, is_second_;
};

// The codes of entry 2 i, or of entry 2 i + 1, one a byte.
template <bool odd>
EDGE_INLINE __m256i Codes(const Int8LinearJob& job, int64_t i) {
  const __m256i two = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(job.weights) + i);
  return _mm256_and_si256(odd ? _mm256_srli_epi16(two, 4) : two, _mm256_set1_epi8(0x0f));
}

inline void RunLinearInt8Codes(const Int8LinearJob& job) {
  Codebooks(job).With([&](const auto& decode) EDGE_INLINE_LAMBDA {
    LinearAll(job, [&](int64_t i) EDGE_INLINE_LAMBDA {
      return decode(i % 2 == 0 ? Codes<false>(job, i / 2) : Codes<true>(job, i / 2));
    });
  });
}

// Inputs as q + 128 and levels of at most 8: the products of eight entries fit 16 bits.
inline void RunLinearInt8SmallCodes(const Int8LinearJob& job) {
  static_assert(255 * 2 * kSmallLevel * 8 < 1 << 15);
  const __m256i flip = _mm256_set1_epi8(-128), ones = _mm256_set1_epi16(1);
  Codebooks(job).With([&](const auto& decode) EDGE_INLINE_LAMBDA {
    for (int64_t row = 0; row < job.rows; ++row) {
      const Quad* in = job.in + row * job.in_n;
      const auto product = [&](__m256i levels, int32_t offset) EDGE_INLINE_LAMBDA {
        const __m256i x = _mm256_set1_epi32(static_cast<int>(in[offset]));
        return _mm256_maddubs_epi16(_mm256_xor_si256(x, flip), levels);
      };
      __m256i sum = _mm256_setzero_si256();
      const int64_t pairs = job.n_entries / 2;
      for (int64_t i = 0; i < pairs;) {
        const int64_t end = i + 4 < pairs ? i + 4 : pairs;
        __m256i even = _mm256_setzero_si256(), odd = even;
        for (; i < end; ++i) {
          const int32_t* offsets = job.offsets + 2 * i;
          even = _mm256_add_epi16(even, product(decode(Codes<false>(job, i)), offsets[0]));
          odd = _mm256_add_epi16(odd, product(decode(Codes<true>(job, i)), offsets[1]));
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(even, odd), ones));
      }
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(job.sums + 8 * row), sum);
    }
  });
}

}  // namespace edge::EDGE_X86_NAMESPACE
