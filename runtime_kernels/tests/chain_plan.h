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
// Weights from a seed. `halves`: all but the input and the output are float16. A part must have so
// many rows that its windows are smaller than the maps.
inline PlanBytes ChainPlan(int32_t h, int32_t w, int32_t rows, int32_t parts = 1,
                           bool halves = false) {
  PlanBuilder plan;
  const Dims dims = {1, 4, h, w};
  const Halo halo = {1, 1, 1, 1};
  const uint32_t x = plan.Input(dims), result = plan.Output({1, 1, h, w});
  const auto arena = [&](const Dims& d, const Halo& around = {0, 0, 0, 0}) {
    return halves ? plan.HalfArena(d, around) : plan.Arena(d, around);
  };
  const uint32_t y = halves ? arena({1, 1, h, w}) : result;
  std::array<uint64_t, 3> weights_at = {};
  const std::array<int32_t, 5> height = {h, h, h, h, 2 * h};
  std::array<int32_t, 5> most = {};  // rows of a window, of all parts
  std::vector<std::array<uint32_t, 5>> windows;
  for (int32_t part = 0; part < parts; ++part) {
    // The parts have the weights of the first one.
    const auto shared = [&](OpRec& op, size_t i) -> OpRec& {
      if (part == 0) weights_at[i] = op.data_off;
      op.data_off = weights_at[i];
      return op;
    };
    const std::array<uint32_t, 5> tensors = {arena(dims, halo), arena(dims, halo), arena(dims),
                                             arena(dims),
                                             arena({1, 1, 2 * h, 2 * w}, {1, 0, 1, 0})};
    const auto [a, b, c, d, e] = tensors;
    const int32_t first_row = h * part / parts, last_row = h * (part + 1) / parts;
    std::vector<int32_t> begin(6);
    std::vector<std::array<int32_t, 2>> bands;
    if (rows > 0) {
      begin = {std::max(0, first_row - 4),     std::max(0, first_row - 3),
               std::max(0, first_row - 2),     std::max(0, first_row - 1),
               std::max(0, 2 * first_row - 2), first_row};
      const std::array<int32_t, 5> top = {1, 1, 0, 0, 1}, bottom = {1, 1, 0, 0, 0};
      std::array<int32_t, 6> end, base = {};
      std::copy(begin.begin(), begin.end(), end.begin());
      for (size_t i = 0; i < 5; ++i) base[i] = begin[i] == 0 ? -top[i] : begin[i];
      while (end[5] < last_row) {
        if (!bands.empty()) {
          const std::array<int32_t, 5> needed = {std::min(end[1] - 1, end[2]), end[2] - 1,
                                                 end[3] - 1, end[4] / 2, 2 * end[5] - 1};
          for (size_t i = 0; i < 5; ++i) base[i] = std::max(base[i], needed[i]);
        }
        end[5] = std::min(last_row, end[5] + rows);
        end[4] = 2 * end[5];
        end[3] = end[5];
        for (size_t i : {2, 1, 0}) end[i] = std::min(h, end[i + 1] + 1);
        for (size_t i = 0; i < 6; ++i) bands.push_back({end[i], base[i]});
        for (size_t i = 0; i < 5; ++i)
          most[i] = std::max(most[i], end[i] + (end[i] == height[i] ? bottom[i] : 0) - base[i]);
      }
      windows.push_back(tensors);
    }
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
    plan.Copy(x, a);
    OpRec& first = shared(plan.Packed(OpKind::kConv, a, b, weights(4), "first"), 0);
    first.act = static_cast<uint32_t>(ActKind::kClamp);
    first.act_param[1] = 2.0f;
    shared(plan.Packed(OpKind::kConv, b, c, weights(4), "second"), 1).residual = a;
    const int32_t window[] = {3, 3, 1, 1, 1, 1, 1, 1};
    std::copy(std::begin(window), std::end(window), plan.Op(OpKind::kMaxPool, {c}, d, "most").p);
    plan.Op(OpKind::kPixelShuffle, {d}, e, "shuffle").p[0] = 2;
    shared(plan.Depthwise(e, y, weights(1), 2), 2);
    if (rows > 0)
      plan.Chain(6 * static_cast<uint32_t>(part), begin, bands, static_cast<uint32_t>(part));
  }
  for (const auto& tensors : windows) {
    for (size_t i = 0; i < 5; ++i) {
      if (most[i] < height[i]) plan.Window(tensors[i], most[i]);
    }
  }
  if (halves) plan.Copy(y, result);
  return plan.Finish();
}

}  // namespace edge::testing
