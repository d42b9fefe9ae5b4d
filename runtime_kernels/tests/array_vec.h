// A vector of N floats over a plain array: what the kernel templates do with registers wider than
// this CPU's.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/conv/simd.h"

namespace edge::conv_test {

template <int N>
struct ArrayVec {
  struct Reg {
    float lane[N];
  };
  static constexpr int kLanes = N, kEntries = 2;
  static constexpr bool kMerges = true;

  template <class F>
  static Reg Each(const F& f) {
    Reg r;
    for (int i = 0; i < N; ++i) r.lane[i] = f(i);
    return r;
  }
  static EDGE_NOINLINE Reg Load(const float* p) {
    return Each([&](int i) { return p[i]; });
  }
  static Reg LoadAligned(const float* p) { return Load(p); }
  static int From(int place) { return place; }
  static Reg Merge(const Reg& a, const Reg& b, int place) {
    return Each([&](int i) { return i + place < N ? a.lane[i + place] : b.lane[i + place - N]; });
  }
  static EDGE_NOINLINE void Store(float* p, const Reg& x) { std::memcpy(p, x.lane, sizeof x.lane); }
  static void Keep(Reg&) {}
  static EDGE_NOINLINE Reg LoadPart(const float* p, int n) {
    return Each([&](int i) { return i < n ? p[i] : 0.0f; });
  }
  static EDGE_NOINLINE void StorePart(float* p, const Reg& x, int n) {
    std::copy(x.lane, x.lane + n, p);
  }
  static EDGE_NOINLINE Reg Set(float x) {
    return Each([&](int) { return x; });
  }
  static EDGE_NOINLINE Reg Add(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static EDGE_NOINLINE Reg Sub(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static EDGE_NOINLINE Reg Mul(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static EDGE_NOINLINE Reg Div(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static EDGE_NOINLINE Reg Fma(const Reg& a, const Reg& b, const Reg& c) {
    return Each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static EDGE_NOINLINE Reg Max(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static EDGE_NOINLINE Reg Min(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static EDGE_NOINLINE Reg Round(const Reg& x) {
    return Each([&](int i) { return std::nearbyint(x.lane[i]); });
  }
  static EDGE_NOINLINE Reg PowerOfTwo(const Reg& n) {
    return Each([&](int i) { return std::ldexp(1.0f, static_cast<int>(n.lane[i])); });
  }
  static EDGE_NOINLINE Reg Gather(const float* p, const int32_t* offsets) {
    return Each([&](int i) { return p[offsets[i]]; });
  }
  static EDGE_NOINLINE Reg GatherPairs(const float* p, const int32_t* offsets) {
    return Each([&](int i) { return p[offsets[i / 2]]; });
  }

  template <int M>
  static EDGE_NOINLINE void Split(const float* p, Reg* x) {
    for (int m = 0; m < M; ++m) x[m] = Each([&](int i) { return p[i * M + m]; });
  }
  template <int M>
  static EDGE_NOINLINE void Join(float* p, const Reg* x) {
    for (int i = 0; i < N * M; ++i) p[i] = x[i % M].lane[i / M];
  }

  template <int B>
  struct Weights {
    explicit Weights(const float* w) : p(w) {}
    template <int b>
    Reg Fma(const Reg& x, const Reg& acc) const {
      return ArrayVec::Fma(x, Set(p[b]), acc);
    }
    const float* p;
  };
};

}  // namespace edge::conv_test
