// Vectors of 8 pixels over arrays whose sums are float16: the kernels of CPUs with float16
// arithmetic, tested on any.
#pragma once
#include "kernels/half/fallback/vec.h"

namespace edge::half_test {

struct HalfSumsVec : HalfArrayVec<8> {
  using Base = HalfArrayVec<8>;
  using Floats = Base;
  static constexpr bool kHalfSums = true;
  using Base::Load;
  using Base::Store;

  static Reg Rounded(Reg x) {
    for (float& v : x.x) v = ToFloat(ToHalf(v));
    return x;
  }
  static Reg Load(const float* p) { return Rounded(Base::Load(p)); }
  static Reg Set(float x) { return Rounded(Base::Set(x)); }
  static Reg Add(const Reg& a, const Reg& b) { return Rounded(Base::Add(a, b)); }
  static Reg Fma(const Reg& a, const Reg& b, const Reg& c) { return Rounded(Base::Fma(a, b, c)); }
  static void AddTo(float* p, const Reg& x, bool first) {
    for (int i = 0; i < kLanes; ++i) p[i] = x.x[i] + (first ? 0.0f : p[i]);
  }
  static Reg LoadRow(const Half* p) { return Load(p); }
  static Reg SetRow(const Half* p) { return Set(ToFloat(*p)); }

  template <int B>
  struct Weights : Base::Weights<B> {
    using Base::Weights<B>::Weights;
    template <int b>
    Reg Fma(const Reg& pixels, const Reg& acc) const {
      return Rounded(Base::Weights<B>::template Fma<b>(pixels, acc));
    }
  };
};

}  // namespace edge::half_test
