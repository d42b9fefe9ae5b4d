// Vectors of N pixels as plain arrays, their sums in float32: the specification of all others.
#pragma once
#include "kernels/half/half_impl.h"

namespace edge {

template <int N>
struct HalfArrayVec {
  struct Reg {
    float x[N];
  };
  using Floats = HalfArrayVec;
  static constexpr int kLanes = N;
  static constexpr bool kHalfSums = false;

  template <class F>
  static EDGE_INLINE Reg Each(const F& f) {
    Reg result;
    for (int i = 0; i < N; ++i) result.x[i] = f(i);
    return result;
  }
  static EDGE_INLINE Reg Load(const Half* p) {
    return Each([&](int i) { return ToFloat(p[i]); });
  }
  static EDGE_INLINE Reg LoadPart(const Half* p, int n) {
    return Each([&](int i) { return i < n ? ToFloat(p[i]) : 0.0f; });
  }
  static EDGE_INLINE void Store(Half* p, const Reg& a) { StorePart(p, a, N); }
  static EDGE_INLINE void StorePart(Half* p, const Reg& a, int n) {
    for (int i = 0; i < n; ++i) p[i] = ToHalf(a.x[i]);
  }
  static EDGE_INLINE Reg Load(const float* p) {
    return Each([&](int i) { return p[i]; });
  }
  static EDGE_INLINE void Store(float* p, const Reg& a) {
    for (int i = 0; i < N; ++i) p[i] = a.x[i];
  }
  static EDGE_INLINE void Keep(Reg&) {}
  static EDGE_INLINE Reg Set(float x) {
    return Each([&](int) { return x; });
  }
  static EDGE_INLINE Reg Add(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.x[i] + b.x[i]; });
  }
  static EDGE_INLINE Reg Sub(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.x[i] - b.x[i]; });
  }
  static EDGE_INLINE Reg Mul(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.x[i] * b.x[i]; });
  }
  static EDGE_INLINE Reg Div(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.x[i] / b.x[i]; });
  }
  static EDGE_INLINE Reg Fma(const Reg& a, const Reg& b, const Reg& c) {
    return Each([&](int i) { return a.x[i] * b.x[i] + c.x[i]; });
  }
  static EDGE_INLINE Reg Max(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; });
  }
  static EDGE_INLINE Reg Min(const Reg& a, const Reg& b) {
    return Each([&](int i) { return a.x[i] < b.x[i] ? a.x[i] : b.x[i]; });
  }
  static EDGE_INLINE Reg Round(const Reg& a) {
    return Each([&](int i) { return __builtin_nearbyintf(a.x[i]); });
  }
  static EDGE_INLINE Reg PowerOfTwo(const Reg& n) {
    return Each([&](int i) { return __builtin_ldexpf(1.0f, static_cast<int>(n.x[i])); });
  }
  static EDGE_INLINE void Unzip(const Half* p, Reg* even, Reg* odd) {
    *even = Each([&](int i) { return ToFloat(p[2 * i]); });
    *odd = Each([&](int i) { return ToFloat(p[2 * i + 1]); });
  }
  static EDGE_INLINE Reg Ordered(const Reg& x) { return x; }

  template <int B>
  struct Weights {
    explicit EDGE_INLINE Weights(const Half* w) {
      for (int b = 0; b < B; ++b) x[b] = ToFloat(w[b]);
    }
    template <int b>
    EDGE_INLINE Reg Fma(const Reg& pixels, const Reg& acc) const {
      return Each([&](int i) { return pixels.x[i] * x[b] + acc.x[i]; });
    }
    float x[B];
  };

  static EDGE_INLINE Reg LoadHalf(const Half* p) { return Load(p); }
  static EDGE_INLINE void StoreHalf(Half* p, const Reg& a) { Store(p, a); }
  static EDGE_INLINE Reg SetHalf(const Half* p) { return Set(ToFloat(*p)); }
  static EDGE_INLINE float One(uint16_t bits) { return ToFloat({bits}); }
  static EDGE_INLINE uint16_t OneHalf(float x) { return ToHalf(x).bits; }
};

}  // namespace edge
