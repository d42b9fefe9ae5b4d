// What convolution kernels of all types do alike around their sums: a row cut into tiles, whose
// last vector may be partly used, and residuals and results of a tile of B filters x NV vectors.
#pragma once
#include <cstdint>

#include "kernels/conv/simd.h"

namespace edge {

// Calls f(Index<vectors>) for 1 <= vectors <= NV.
template <int NV, class F>
EDGE_INLINE void WithVectors(int64_t vectors, const F& f) {
  if (vectors == NV) {
    f(Index<NV>{});
  } else if constexpr (NV > 1) {
    WithVectors<NV - 1>(vectors, f);
  }
}

// Cuts `cols` pixels into tiles of at most NV vectors: run(Index<vectors>, x, tiles, last) is for
// so many tiles from pixel x on, the last vector of which has `last` pixels. A tile at the end that
// may overlap the one before it is whole.
template <int NV, int kLanes, class F>
EDGE_INLINE void CutRow(int64_t cols, bool may_overlap, const F& run) {
  constexpr int64_t kPixels = NV * kLanes;
  // Two tiles of about the same size at the end rather than a whole and a narrow one, which would
  // wait for its own sums.
  const int64_t whole = cols % kPixels == 0 || cols < kPixels ? cols / kPixels : cols / kPixels - 1;
  int64_t x = whole * kPixels;
  if (whole > 0) run(Index<NV>{}, int64_t{0}, whole, kLanes);
  while (x < cols) {
    const int64_t left = (cols - x + kLanes - 1) / kLanes;
    const int64_t vectors = left <= NV ? left : (left + 1) / 2;
    const int64_t width = vectors * kLanes;
    int64_t last = kLanes;
    if (x + width > cols) {
      if (may_overlap && cols >= width) {
        x = cols - width;
      } else {
        last -= x + width - cols;
      }
    }
    WithVectors<NV>(vectors, [&](auto nv) EDGE_INLINE_LAMBDA {
      run(nv, x, int64_t{1}, static_cast<int>(last));
    });
    x += width;
  }
}

// Adds the pixels from x on of each filter's residual; of the last vector `last`, unless it is
// whole.
template <class V, int B, int NV, class T>
EDGE_INLINE void AddResidual(const T* const (&residual)[B], int64_t x, bool whole, int last,
                             typename V::Reg (&acc)[B][NV]) {
  Unroll<B>([&](auto b) EDGE_INLINE_LAMBDA {
    const T* p = residual[b.value] + x;
    Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
      const T* at = p + v.value * V::kLanes;
      typename V::Reg& sum = acc[b.value][v.value];
      sum = V::Add(sum, v.value < NV - 1 || whole ? V::Load(at) : V::LoadPart(at, last));
    });
  });
}

// Stores them likewise.
template <class V, int B, int NV, class T>
EDGE_INLINE void StoreAll(T* const (&out)[B], int64_t x, bool whole, int last,
                          typename V::Reg (&acc)[B][NV]) {
  Unroll<B>([&](auto i) EDGE_INLINE_LAMBDA {
    constexpr int b = B - 1 - i.value;  // the last lanes may be unused
    T* p = out[b] + x;
    Unroll<NV>([&](auto v) EDGE_INLINE_LAMBDA {
      if (v.value < NV - 1 || whole) {
        V::Store(p + v.value * V::kLanes, acc[b][v.value]);
      } else {
        V::StorePart(p + v.value * V::kLanes, acc[b][v.value], last);
      }
    });
  });
}

}  // namespace edge
