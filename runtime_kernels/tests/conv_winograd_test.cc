// Winograd's transforms, with the product of the coefficients between them, against the convolution
// that they stand for.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "array_vec.h"
#include "conv_problem.h"
#include "conv_tables.h"
#include "kernels/winograd/winograd_impl.h"
#include "winograd_weights.h"

namespace edge::conv_test {
namespace {

using NamedWinograd = Named<WinogradKernels>;
std::vector<NamedWinograd> WinogradTables() {
  return OfEveryIsa(WinogradKernelsOf, WinogradTable<ArrayVec<16>>());
}

struct Case {
  int m, h, w, top, left;  // h, w: of the output
  int in_h, in_w;
  ActKind act;
  Residual residual;
};

// One channel, one filter; whatever is no pixel of the input is poison, as is the output before.
class WinogradProblem {
 public:
  WinogradProblem(const Case& c, uint32_t seed) : c_(c), rng_(seed) {
    in_.assign(static_cast<size_t>((c.in_h + 2) * kInRow), Poison());
    for (int y = 0; y < c.in_h; ++y) {
      for (int x = 0; x < c.in_w; ++x) In(y, x) = Random();
    }
    out_.assign(static_cast<size_t>((c.h + 2) * kOutRow), Poison());
    residual_ = out_;
    for (int y = 0; y < c.h; ++y) {
      for (int x = 0; x < c.w; ++x) {
        residual_[At(y, x)] = Random();
        if (c.residual == Residual::kInPlace) out_[At(y, x)] = residual_[At(y, x)];
      }
    }
    for (double& g : kernel_) g = Random();
  }

  void Check(const NamedWinograd& table) {
    const int64_t rows = (c_.h + c_.m - 1) / c_.m, tiles = (c_.w + c_.m - 1) / c_.m;
    const int64_t size = (c_.m + 2) * (c_.m + 2), plane = rows * tiles;
    std::vector<float> patches(static_cast<size_t>(size * plane + 1), Poison());
    WinogradInJob in = {};
    in.in = &In(0, 0), in.in_h = kInRow, in.h = c_.in_h, in.w = c_.in_w;
    in.top = c_.top, in.left = c_.left, in.tile_rows = rows, in.tiles = tiles;
    in.out = patches.data(), in.out_k = plane, in.out_h = tiles;
    table.kernels.in[c_.m / 4](in);
    ASSERT_TRUE(std::isnan(patches.back())) << "wrote behind the last plane";
    const std::vector<double> u = testing::TransformedKernel(kernel_.data(), c_.m);
    for (int64_t i = 0; i < size * plane; ++i) {
      ASSERT_FALSE(std::isnan(patches[i]))
          << "coefficient " << i / plane << " of tile " << i % plane;
      patches[i] *= static_cast<float>(u[i / plane]);
    }
    const Epilogue epilogue = MakeEpilogue(c_.act, c_.residual);
    WinogradOutJob out = {};
    out.in = patches.data(), out.in_k = plane, out.in_h = tiles;
    out.tile_rows = rows, out.tiles = tiles;
    out.out = &out_[At(0, 0)], out.out_h = kOutRow, out.h = c_.h, out.w = c_.w;
    if (c_.residual != Residual::kNone) {
      const bool in_place = c_.residual == Residual::kInPlace;
      out.residual = in_place ? out.out : &residual_[At(0, 0)];
      out.res_h = kOutRow;
    }
    out.epilogue = &epilogue;
    table.kernels.out[c_.m / 4](out);
    for (int y = -1; y <= c_.h; ++y) {
      for (int x = -1; x <= c_.w; ++x) {
        const float got = out_[At(y, x)];
        if (y < 0 || y == c_.h || x < 0 || x == c_.w) {
          ASSERT_TRUE(std::isnan(got)) << "wrote " << y << ", " << x;
        } else {
          ASSERT_NEAR(got, Expected(y, x, epilogue), 1e-4) << y << ", " << x;
        }
      }
    }
  }

 private:
  static constexpr int kInRow = 320, kOutRow = 320;

  float Random() { return std::uniform_real_distribution<float>(-1, 1)(rng_); }
  float& In(int y, int x) { return in_[static_cast<size_t>((y + 1) * kInRow + x + 8)]; }
  static size_t At(int y, int x) { return static_cast<size_t>((y + 1) * kOutRow + x + 8); }

  float Expected(int y, int x, const Epilogue& e) {
    double sum = 0;
    for (int i = 0; i < 9; ++i) {
      const int iy = y - c_.top + i / 3, ix = x - c_.left + i % 3;
      const bool inside = iy >= 0 && iy < c_.in_h && ix >= 0 && ix < c_.in_w;
      if (inside) sum += kernel_[i] * In(iy, ix);
    }
    const double r = c_.residual == Residual::kNone ? 0 : residual_[At(y, x)];
    if (!e.residual_after_act) sum += r;
    sum = Activate(e.act, static_cast<float>(sum), e.lo, e.hi);
    return static_cast<float>(e.residual_after_act ? sum + r : sum);
  }

  const Case c_;
  std::mt19937 rng_;
  std::vector<float> in_, out_, residual_;
  std::array<double, 9> kernel_;
};

TEST(Winograd, IsTheConvolutionForEveryWidth) {
  for (const NamedWinograd& table : WinogradTables()) {
    for (int m : {2, 4}) {
      for (int w = 1; w <= 100; ++w) {
        SCOPED_TRACE(::testing::Message() << table.name << " m " << m << " w " << w);
        WinogradProblem({m, 1 + w % 11, w, 1, 1, 1 + w % 11, w, ActKind::kNone, Residual::kNone}, 1)
            .Check(table);
        if (HasFatalFailure()) return;
      }
      WinogradProblem({m, 9, 300, 1, 1, 9, 300, ActKind::kNone, Residual::kNone}, 1).Check(table);
    }
  }
}

TEST(Winograd, TakesAnyPaddingActivationAndResidual) {
  std::mt19937 rng(7);
  const auto pick = [&rng](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(rng);
  };
  for (int i = 0; i < 400; ++i) {
    Case c = {};
    c.m = pick(0, 1) == 0 ? 2 : 4;
    c.h = pick(1, 20), c.w = pick(1, 60), c.top = pick(-2, 4), c.left = pick(-2, 9);
    c.in_h = pick(1, 24), c.in_w = pick(1, 70);
    c.act = static_cast<ActKind>(pick(0, static_cast<int>(ActKind::kSilu)));
    c.residual = static_cast<Residual>(pick(0, 3));
    for (const NamedWinograd& table : WinogradTables()) {
      SCOPED_TRACE(::testing::Message() << table.name << " case " << i);
      WinogradProblem(c, static_cast<uint32_t>(i)).Check(table);
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace edge::conv_test
