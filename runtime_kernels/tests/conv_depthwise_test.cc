// The depthwise kernels against the convolution that they stand for.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "array_vec.h"
#include "conv_problem.h"
#include "conv_tables.h"
#include "kernels/depthwise/depthwise_impl.h"

namespace edge::conv_test {
namespace {

// What AVX-512 runs, on any CPU; in an order as mixed up as AVX2's.
struct UnzippingArray : ArrayVec<16> {
  static void Unzip(const float* p, Reg* even, Reg* odd) {
    *even = Each([&](int i) { return p[2 * (15 - i)]; });
    *odd = Each([&](int i) { return p[2 * (15 - i) + 1]; });
  }
  static Reg Ordered(const Reg& x) {
    return Each([&](int i) { return x.lane[15 - i]; });
  }
};

using NamedDepthwise = Named<DepthwiseKernels>;
std::vector<NamedDepthwise> DepthwiseTables() {
  return OfEveryIsa(DepthwiseKernelsOf, DepthwiseTable<UnzippingArray>());
}

// One plane. What is in no window is poison, as is the output before.
void CheckPlane(const NamedDepthwise& table, int k, int stride, int h, int w, ActKind act) {
  SCOPED_TRACE(::testing::Message() << table.name << " k " << k << " stride " << stride << " h "
                                    << h << " w " << w << " act " << static_cast<int>(act));
  constexpr int kRow = 300, kOutRow = 150;
  std::mt19937 rng(static_cast<uint32_t>(h * 1000 + w));
  std::uniform_real_distribution<float> random(-1, 1);
  const int rows = (h - 1) * stride + k, cols = (w - 1) * stride + k;
  std::vector<float> in(static_cast<size_t>(rows * kRow + 64), Poison());
  for (int y = 0; y < rows; ++y) {
    for (int x = 0; x < cols; ++x) in[static_cast<size_t>(y * kRow + x)] = random(rng);
  }
  std::vector<float> weights(static_cast<size_t>(1 + k * k));
  for (float& v : weights) v = random(rng);
  std::vector<float> out(static_cast<size_t>((h + 2) * kOutRow), Poison());
  const auto at = [](int y, int x) { return static_cast<size_t>((y + 1) * kOutRow + x + 1); };
  const Epilogue epilogue = MakeEpilogue(act, Residual::kNone);
  DepthwiseJob job = {};
  job.in = in.data(), job.in_h = kRow;
  job.out = &out[at(0, 0)], job.out_h = kOutRow;
  job.rows = h, job.cols = w;
  job.weights = weights.data(), job.epilogue = &epilogue;
  table.kernels.run[k / 5][stride - 1](job);
  for (int y = -1; y <= h; ++y) {
    for (int x = -1; x <= w; ++x) {
      const float got = out[at(y, x)];
      if (y < 0 || y == h || x < 0 || x == w) {
        ASSERT_TRUE(std::isnan(got)) << "wrote " << y << ", " << x;
        continue;
      }
      double sum = weights[0];
      for (int i = 0; i < k * k; ++i) {
        const int iy = y * stride + i / k, ix = x * stride + i % k;
        sum += weights[static_cast<size_t>(1 + i)] * in[static_cast<size_t>(iy * kRow + ix)];
      }
      const float expected = Activate(act, static_cast<float>(sum), epilogue.lo, epilogue.hi);
      ASSERT_NEAR(got, expected, 2e-5) << y << ", " << x;
    }
  }
}

TEST(Depthwise, IsTheConvolutionForEveryWidth) {
  for (const NamedDepthwise& table : DepthwiseTables()) {
    for (int k : {3, 5}) {
      for (int stride : {1, 2}) {
        for (int w = 1; w <= 100; ++w) {
          CheckPlane(table, k, stride, 1 + w % 11, w, ActKind::kNone);
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(Depthwise, TakesEveryActivation) {
  for (const NamedDepthwise& table : DepthwiseTables()) {
    for (int act = 0; act <= static_cast<int>(ActKind::kSilu); ++act) {
      for (int stride : {1, 2}) {
        CheckPlane(table, 3, stride, 6, 21, static_cast<ActKind>(act));
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace edge::conv_test
