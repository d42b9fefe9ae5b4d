// A plan whose operations run in bands of rows, for the executor's tests and the fuzzer.
#pragma once
#include <algorithm>
#include <array>
#include <random>
#include <vector>

#include "plan_builder.h"

namespace edge::testing {

// input (1, 4, h, w) -> halo -> 3x3 -> 3x3 with a residual -> 3x3 maximum -> pixel shuffle by 2 ->
// depthwise 3x3 with stride 2, advancing `rows` rows of the output a band; 0: as whole tensors.
// Weights from a seed.
inline PlanBytes ChainPlan(int32_t h, int32_t w, int32_t rows) {
  PlanBuilder plan;
  std::mt19937 random(5);
  const auto weights = [&random](int32_t channels) {
    ConvWeights made{{channels, channels, 3, 3},
                     std::vector<float>(static_cast<size_t>(channels * channels * 9)),
                     {0.5f, -0.25f, 0.125f, 1.0f}};
    made.bias.resize(static_cast<size_t>(channels));
    for (float& v : made.weights) v = static_cast<float>(random() % 200) / 100.0f - 1.0f;
    made.pad = 1;
    return made;
  };
  const Dims dims = {1, 4, h, w};
  const Halo halo = {1, 1, 1, 1};
  const uint32_t x = plan.Input(dims), a = plan.Arena(dims, halo), b = plan.Arena(dims, halo),
                 c = plan.Arena(dims), d = plan.Arena(dims),
                 e = plan.Arena({1, 1, 2 * h, 2 * w}, {1, 0, 1, 0});
  std::vector<std::array<int32_t, 2>> bands;
  if (rows > 0) {
    std::array<int32_t, 6> end = {}, base = {-1, -1, 0, 0, -1, 0};
    std::array<int32_t, 5> most = {};
    const std::array<int32_t, 5> below = {1, 1, 0, 0, 0}, height = {h, h, h, h, 2 * h};
    while (end[5] < h) {
      if (!bands.empty()) {
        base = {std::max(-1, std::min(end[1] - 1, end[2])),
                std::max(-1, end[2] - 1),
                std::max(0, end[3] - 1),
                end[4] / 2,
                2 * end[5] - 1,
                0};
      }
      end[5] = std::min(h, end[5] + rows);
      end[4] = 2 * end[5];
      end[3] = end[5];
      for (size_t i : {2, 1, 0}) end[i] = std::min(h, end[i + 1] + 1);
      for (size_t i = 0; i < 6; ++i) bands.push_back({end[i], base[i]});
      for (size_t i = 0; i < 5; ++i)
        most[i] = std::max(most[i], end[i] + (end[i] == height[i] ? below[i] : 0) - base[i]);
    }
    const std::array<uint32_t, 5> tensors = {a, b, c, d, e};
    for (size_t i = 0; i < 5; ++i) {
      if (most[i] < height[i]) plan.Window(tensors[i], most[i]);
    }
  }
  plan.Copy(x, a);
  OpRec& first = plan.Packed(OpKind::kConv, a, b, weights(4), "first");
  first.act = static_cast<uint32_t>(ActKind::kClamp);
  first.act_param[1] = 2.0f;
  plan.Packed(OpKind::kConv, b, c, weights(4), "second").residual = a;
  const int32_t window[] = {3, 3, 1, 1, 1, 1, 1, 1};
  std::copy(std::begin(window), std::end(window), plan.Op(OpKind::kMaxPool, {c}, d, "most").p);
  plan.Op(OpKind::kPixelShuffle, {d}, e, "shuffle").p[0] = 2;
  plan.Depthwise(e, plan.Output({1, 1, h, w}), weights(1), 2);
  if (rows > 0) plan.Chain(0, 6, bands);
  return plan.Finish();
}

}  // namespace edge::testing
