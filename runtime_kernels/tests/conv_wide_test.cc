// The kernel templates with 16 lanes and AVX-512's tiles, over plain arrays: tested on CPUs that
// have no such registers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "conv_tables.h"
#include "kernels/conv/conv_impl.h"
#include "kernels/conv/linear_impl.h"

namespace edge::conv_test {
namespace {

template <int N>
struct ArrayVec {
  struct Reg {
    float lane[N];
  };
  static constexpr int kLanes = N;

  template <class F>
  static Reg Each(const F& f) {
    Reg r;
    for (int i = 0; i < N; ++i) r.lane[i] = f(i);
    return r;
  }
  static EDGE_NOINLINE Reg Load(const float* p) {
    return Each([&](int i) { return p[i]; });
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

using Vec16 = ArrayVec<16>;

}  // namespace

const KernelTable kWideKernels = {{{"f32-bsconv-1x256-wide", 1, 256, 16, RunConv<Vec16, 1, 16>},
                                   {"f32-bsconv-2x192-wide", 2, 192, 16, RunConv<Vec16, 2, 12>},
                                   {"f32-bsconv-4x96-wide", 4, 96, 16, RunConv<Vec16, 4, 6>},
                                   {"f32-bsconv-8x48-wide", 8, 48, 16, RunConv<Vec16, 8, 3>},
                                   {"f32-bsconv-8x48-wide", 8, 48, 16, RunConv<Vec16, 8, 3>}},
                                  {{"f32-bslinear-1-wide", RunLinearDot<Vec16, 1>},
                                   {"f32-bslinear-2-wide", RunLinearDot<Vec16, 2>},
                                   {"f32-bslinear-4-wide", RunLinear<ArrayVec<4>, 1>},
                                   {"f32-bslinear-8-wide", RunLinear<ArrayVec<8>, 1>},
                                   {"f32-bslinear-16-wide", RunLinear<Vec16, 1>}}};

#ifdef EDGE_HAVE_AVX512
TEST(WideKernels, HaveTheTilesOfAvx512) {
  for (int i = 0; i < kBlockSizes; ++i) {
    EXPECT_EQ(kWideKernels.conv[i].lanes, kAvx512Kernels.conv[i].lanes);
    EXPECT_EQ(kWideKernels.conv[i].tile, kAvx512Kernels.conv[i].tile);
    EXPECT_EQ(kWideKernels.conv[i].vector, kAvx512Kernels.conv[i].vector);
  }
}
#endif

}  // namespace edge::conv_test
