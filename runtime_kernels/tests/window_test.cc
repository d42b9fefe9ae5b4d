// The pools and the upsamplings against their definitions, which are PyTorch's.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "op_harness.h"

namespace edge::testing {
namespace {

constexpr uint32_t kSeeds = 80;

struct Axis {
  int32_t kernel, stride, pad, dilation, out;
};

// A window along an axis of `size`, sometimes with the extra output of ceil_mode.
Axis RandomAxis(Random* random, int32_t size, bool dilated) {
  Axis a;
  a.kernel = random->Int(1, 5);
  a.dilation = dilated ? random->Int(1, 2) : 1;
  a.stride = random->Int(1, 3);
  a.pad = random->Int(0, a.kernel / 2);
  const int32_t span = (a.kernel - 1) * a.dilation + 1;
  const int32_t room = std::max(0, size + 2 * a.pad - span);
  a.out = room / a.stride + 1;
  if (random->Int(0, 1) == 1 && a.out * a.stride - a.pad < size) ++a.out;
  return a;
}

TEST(MaxPool, TakesTheLargestOfEveryWindow) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    Tensor x = random.Uniform(random.SmallDims());
    if (seed % 4 == 0) x.values[x.values.size() / 2] = NAN;
    const Axis v = RandomAxis(&random, x.dims[2], true), h = RandomAxis(&random, x.dims[3], true);
    const Dims dims = {x.dims[0], x.dims[1], v.out, h.out};
    Tensor expected(dims, -std::numeric_limits<float>::infinity());
    ForEach(dims, [&](int32_t n, int32_t c, int32_t r, int32_t q) {
      float& most = expected.at(n, c, r, q);
      for (int32_t i = 0; i < v.kernel; ++i) {
        for (int32_t j = 0; j < h.kernel; ++j) {
          const int32_t y = r * v.stride - v.pad + i * v.dilation,
                        column = q * h.stride - h.pad + j * h.dilation;
          if (y < 0 || y >= x.dims[2] || column < 0 || column >= x.dims[3]) continue;
          const float value = x.at(n, c, y, column);
          if (value > most || std::isnan(value)) most = value;
        }
      }
    });
    ExpectNear(harness.Run({x}, dims,
                           [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             OpRec& op = plan.Op(OpKind::kMaxPool, in, out);
                             const int32_t p[] = {v.kernel, h.kernel, v.stride,   h.stride,
                                                  v.pad,    h.pad,    v.dilation, h.dilation};
                             std::copy(std::begin(p), std::end(p), op.p);
                             return op;
                           }),
               expected, 0);
  }
}

TEST(MaxPool, HandlesTheLargeWindowsOfSpatialPyramids) {
  Random random(5);
  const Tensor x = random.Uniform({1, 2, 13, 5000});  // wider than one tile
  for (int32_t k : {5, 9, 13}) {
    OpHarness harness(static_cast<uint32_t>(k));
    Tensor expected(x.dims);
    ForEach(x.dims, [&](int32_t n, int32_t c, int32_t r, int32_t q) {
      float most = -10;
      for (int32_t y = std::max(0, r - k / 2); y <= std::min(x.dims[2] - 1, r + k / 2); ++y) {
        for (int32_t i = std::max(0, q - k / 2); i <= std::min(x.dims[3] - 1, q + k / 2); ++i) {
          most = std::max(most, x.at(n, c, y, i));
        }
      }
      expected.at(n, c, r, q) = most;
    });
    ExpectNear(harness.Run({x}, x.dims,
                           [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             OpRec& op = plan.Op(OpKind::kMaxPool, in, out);
                             const int32_t p[] = {k, k, 1, 1, k / 2, k / 2, 1, 1};
                             std::copy(std::begin(p), std::end(p), op.p);
                             return op;
                           }),
               expected, 0);
  }
}

TEST(AvgPool, DividesByTheTapsThatPyTorchCounts) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    const Tensor x = random.Uniform(random.SmallDims());
    const Axis v = RandomAxis(&random, x.dims[2], false), h = RandomAxis(&random, x.dims[3], false);
    const bool with_padding = random.Int(0, 1) == 1;
    const int32_t fixed = random.Int(0, 3) == 0 ? random.Int(1, 9) : 0;
    const Dims dims = {x.dims[0], x.dims[1], v.out, h.out};
    Tensor expected(dims);
    ForEach(dims, [&](int32_t n, int32_t c, int32_t r, int32_t q) {
      double sum = 0;
      int32_t inside = 0;
      const int32_t y0 = r * v.stride - v.pad, x0 = q * h.stride - h.pad;
      const int32_t y1 = std::min(y0 + v.kernel, x.dims[2] + v.pad),
                    x1 = std::min(x0 + h.kernel, x.dims[3] + h.pad);
      for (int32_t y = std::max(y0, 0); y < std::min(y1, x.dims[2]); ++y) {
        for (int32_t i = std::max(x0, 0); i < std::min(x1, x.dims[3]); ++i)
          sum += x.at(n, c, y, i), ++inside;
      }
      const int32_t taps = fixed != 0 ? fixed : with_padding ? (y1 - y0) * (x1 - x0) : inside;
      expected.at(n, c, r, q) = static_cast<float>(sum / taps);
    });
    ExpectNear(harness.Run({x}, dims,
                           [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             OpRec& op = plan.Op(OpKind::kAvgPool, in, out);
                             const int32_t p[] = {v.kernel, h.kernel, v.stride,     h.stride,
                                                  v.pad,    h.pad,    with_padding, fixed,
                                                  v.pad,    h.pad};
                             std::copy(std::begin(p), std::end(p), op.p);
                             return op;
                           }),
               expected);
  }
}

TEST(AdaptiveAvgPool, AveragesOverlappingSharesOfThePlane) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    const Tensor x = random.Uniform(random.SmallDims());
    Dims dims = {x.dims[0], x.dims[1], random.Int(1, 7), random.Int(1, 7)};
    if (seed % 3 == 0) dims[2] = dims[3] = 1;
    Tensor expected(dims);
    ForEach(dims, [&](int32_t n, int32_t c, int32_t r, int32_t q) {
      const int32_t y0 = r * x.dims[2] / dims[2],
                    y1 = ((r + 1) * x.dims[2] + dims[2] - 1) / dims[2];
      const int32_t x0 = q * x.dims[3] / dims[3],
                    x1 = ((q + 1) * x.dims[3] + dims[3] - 1) / dims[3];
      double sum = 0;
      for (int32_t y = y0; y < y1; ++y) {
        for (int32_t i = x0; i < x1; ++i) sum += x.at(n, c, y, i);
      }
      expected.at(n, c, r, q) = static_cast<float>(sum / ((y1 - y0) * (x1 - x0)));
    });
    ExpectNear(harness.Run({x}, dims,
                           [](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             return plan.Op(OpKind::kAdaptiveAvgPool, in, out);
                           }),
               expected);
  }
}

TEST(UpsampleNearest, RepeatsTheSourcePixel) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    const Tensor x = random.Uniform(random.SmallDims());
    Dims dims = {x.dims[0], x.dims[1], random.Int(1, 30), random.Int(1, 50)};
    if (seed % 2 == 0) dims[2] = x.dims[2] * 2, dims[3] = x.dims[3] * random.Int(1, 4);
    const float fy = static_cast<float>(x.dims[2]) / static_cast<float>(dims[2]);
    const float fx = static_cast<float>(x.dims[3]) / static_cast<float>(dims[3]);
    Tensor expected(dims);
    ForEach(dims, [&](int32_t n, int32_t c, int32_t r, int32_t q) {
      const int32_t y =
          std::min(static_cast<int32_t>(std::floor(static_cast<float>(r) * fy)), x.dims[2] - 1);
      const int32_t i =
          std::min(static_cast<int32_t>(std::floor(static_cast<float>(q) * fx)), x.dims[3] - 1);
      expected.at(n, c, r, q) = x.at(n, c, y, i);
    });
    ExpectNear(harness.Run({x}, dims,
                           [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             OpRec& op = plan.Op(OpKind::kUpsampleNearest, in, out);
                             op.f[0] = fy, op.f[1] = fx;
                             return op;
                           }),
               expected, 0);
  }
}

TEST(UpsampleBilinear, MixesTheFourNeighbours) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    const Tensor x = random.Uniform(random.SmallDims());
    const bool align = seed % 2 == 0;
    const Dims dims = {x.dims[0], x.dims[1], random.Int(1, 30),
                       seed % 5 == 0 ? 1100 : random.Int(1, 50)};
    const auto ratio = [align](int32_t in, int32_t out) {
      if (align) return out > 1 ? static_cast<float>(in - 1) / static_cast<float>(out - 1) : 0.0f;
      return static_cast<float>(in) / static_cast<float>(out);
    };
    const float fy = ratio(x.dims[2], dims[2]), fx = ratio(x.dims[3], dims[3]);
    Tensor expected(dims);
    ForEach(dims, [&](int32_t n, int32_t c, int32_t r, int32_t q) {
      const auto source = [align](int32_t dst, float f) {
        const float at = static_cast<float>(dst);
        return align ? at * f : std::max(0.0f, f * (at + 0.5f) - 0.5f);
      };
      const float sy = source(r, fy), sx = source(q, fx);
      const int32_t y0 = std::min(static_cast<int32_t>(sy), x.dims[2] - 1),
                    y1 = std::min(y0 + 1, x.dims[2] - 1);
      const int32_t x0 = std::min(static_cast<int32_t>(sx), x.dims[3] - 1),
                    x1 = std::min(x0 + 1, x.dims[3] - 1);
      const float ty = std::min(sy - static_cast<float>(y0), 1.0f),
                  tx = std::min(sx - static_cast<float>(x0), 1.0f);
      expected.at(n, c, r, q) =
          (1 - ty) * ((1 - tx) * x.at(n, c, y0, x0) + tx * x.at(n, c, y0, x1)) +
          ty * ((1 - tx) * x.at(n, c, y1, x0) + tx * x.at(n, c, y1, x1));
    });
    ExpectNear(harness.Run({x}, dims,
                           [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             OpRec& op = plan.Op(OpKind::kUpsampleBilinear, in, out);
                             op.p[0] = align ? 1 : 0;
                             op.f[0] = fy, op.f[1] = fx;
                             return op;
                           }),
               expected);
  }
}

}  // namespace
}  // namespace edge::testing
