// Plans of int8 operations: what the executor computes.
#include "int8_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "op_harness.h"

namespace edge::testing {
namespace {

int32_t LevelOf(float t, int32_t zero) {
  const float least = static_cast<float>(-128 - zero), most = static_cast<float>(127 - zero);
  return static_cast<int32_t>(std::nearbyint(std::min(std::max(t, least), most))) + zero;
}

// What plan_format.h says of the blob that PackInt8 made, at one output; `levels(c, y, x)` is the
// input with its padding.
float Definition(const std::vector<uint8_t>& blob, const Int8Weights& w, int32_t f,
                 const std::function<int32_t(int32_t, int32_t, int32_t)>& levels) {
  const auto& h = *reinterpret_cast<const PackedInt8Header*>(blob.data());
  const auto* groups = reinterpret_cast<const uint32_t*>(blob.data() + h.groups_off);
  const auto* bias = reinterpret_cast<const int32_t*>(blob.data() + h.bias_off);
  const auto* scale = reinterpret_cast<const float*>(blob.data() + h.scale_off);
  const uint8_t* weights = blob.data() + h.weights_off;
  uint32_t lane = 0;
  while (groups[lane / 4] != static_cast<uint32_t>(f / 4)) lane += 4;
  lane += static_cast<uint32_t>(f % 4);
  const uint32_t taps = h.n_entries / h.n_blocks;
  int64_t sum = bias[lane];
  for (uint32_t tap = 0; tap < taps; ++tap) {
    const int32_t kernel = w.dims[2] * w.dims[3], last = (w.dims[1] + 3) / 4 * kernel - 1;
    const int32_t at = std::min(static_cast<int32_t>(tap), last);  // codes come in pairs
    for (int32_t j = 0; j < 4; ++j) {
      const uint32_t entry = lane / h.block * taps + tap;
      const uint32_t of_lane = lane % h.block * 4 + static_cast<uint32_t>(j);
      const uint8_t book = blob[h.codebooks_off + lane];
      const uint8_t level = weights[entry * h.block * 4 + of_lane];
      const uint8_t codes = weights[entry / 2 * h.block * 4 + of_lane];
      const int32_t weight =
          h.bits == 8 ? static_cast<int8_t>(level) : h.tables[book][codes >> (entry % 2 * 4) & 15];
      const int32_t x = levels(at / kernel * 4 + j, at % kernel / w.dims[3], at % w.dims[3]);
      sum += int64_t{weight} * x;
    }
  }
  return static_cast<float>(static_cast<int32_t>(sum)) * scale[lane];
}

TEST(Int8Plan, AConvolutionPadsWithTheZeroPointAndAddsItsResidual) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const int32_t c = random.Int(1, 9), f = random.Int(1, 17), h = random.Int(1, 6),
                  w = random.Int(1, 25), in_zero = random.Int(-128, 127),
                  zero = random.Int(-128, 127), added_zero = random.Int(-128, 127);
    const Int8Weights weights = {
        {f, c, 3, 3}, seed % 2 == 0 ? 4u : 8u, seed % 3 == 0 ? 4u : 8u, 1, seed % 5 == 0, 0.003f,
        seed};
    const Tensor x = random.Uniform({2, c, h, w}), r = random.Uniform({2, f, h, w});
    PlanBuilder plan;
    const uint32_t in = Int8Arena(&plan, x.dims, {1, 1, 1, 1}, in_zero);
    const uint32_t added = Int8Arena(&plan, r.dims, {0, 1, 0, 0}, 0);
    const uint32_t sum = seed % 4 == 0 ? added : Int8Arena(&plan, r.dims, {1, 0, 1, 1}, zero);
    Quantize(&plan, plan.Input(x.dims), in, 60.0f, in_zero);
    Quantize(&plan, plan.Input(r.dims), added, 60.0f, added_zero);
    OpRec& op = PackedInt8(&plan, OpKind::kConvInt8, in, sum, weights, zero);
    op.residual = added;
    op.p[1] = added_zero, op.f[0] = 0.3f;
    op.act = static_cast<uint32_t>(ActKind::kClamp);
    op.act_param[0] = -40, op.act_param[1] = 70;
    op.residual_after_act = seed / 2 % 2;
    Dequantize(&plan, sum, plan.Output(r.dims), 1.0f, 0);
    const std::vector<uint8_t> blob = PackInt8(plan.tensor(in), weights);
    std::vector<Tensor> outputs = {Tensor(r.dims)};
    ASSERT_EQ(RunPlan(plan.Finish(), {x, r}, &outputs, 1 + seed % 2), Status::kOk);
    ForEach(r.dims, [&](int32_t n, int32_t k, int32_t y, int32_t q) {
      float t = Definition(blob, weights, k, [&](int32_t channel, int32_t ky, int32_t kx) {
        const int32_t row = y + ky - 1, column = q + kx - 1;
        if (row < 0 || row >= h || column < 0 || column >= w) return in_zero;
        return LevelOf(channel < c ? x.at(n, channel, row, column) * 60.0f : 0.0f, in_zero);
      });
      const float residual =
          static_cast<float>(LevelOf(r.at(n, k, y, q) * 60.0f, added_zero) - added_zero) * 0.3f;
      if (op.residual_after_act == 0) t = t + residual;
      t = std::min(std::max(t, -40.0f), 70.0f);
      if (op.residual_after_act != 0) t = t + residual;
      ASSERT_EQ(outputs[0].at(n, k, y, q), static_cast<float>(LevelOf(t, zero))) << "seed " << seed;
    });
  }
}

TEST(Int8Plan, GivesTheSameOnAnyNumberOfThreadsInAnyPacking) {
  Random random(1);
  const Tensor x = random.Uniform({2, 3, 9, 11});
  for (uint32_t bits : {4, 8}) {
    std::vector<Tensor> first;
    for (uint32_t block : {4, 8}) {
      for (size_t threads : {1, 3}) {
        std::vector<Tensor> outputs = {Tensor({2, 6, 1, 1}), Tensor({2, 10, 5, 6})};
        ASSERT_EQ(RunPlan(Int8Plan(block, bits, threads == 1), {x}, &outputs, threads),
                  Status::kOk);
        if (threads == 1) first = outputs;
        for (size_t i : {0, 1}) ExpectNear(outputs[i], first[i], 0);
      }
    }
  }
}

// A linear layer that decodes codes as it reads them, and a convolution that needs them decoded.
TEST(Int8Plan, SharesItsWeightsAmongLayersThatReadThemDifferently) {
  Random random(2);
  const Dims dims = {1, 8, 1, 1};
  const Tensor x = random.Uniform(dims);
  const auto run = [&](bool in_registers) {
    PlanBuilder plan;
    const uint32_t in = Int8Arena(&plan, dims, {0, 0, 0, 0}, 0);
    Quantize(&plan, plan.Input(dims), in, 60.0f, 0);
    const Int8Weights weights = {{8, 8, 1, 1}, 8, 4, 0, false, 0.01f, 3};
    OpRec& linear = PackedInt8(&plan, OpKind::kLinearInt8, in, plan.Output(dims), weights, 0);
    linear.p[2] = in_registers ? 1 : 0;
    const uint64_t at = linear.data_off;
    PackedInt8(&plan, OpKind::kConvInt8, in, plan.Output(dims), weights, 0).data_off = at;
    std::vector<Tensor> outputs = {Tensor(dims), Tensor(dims)};
    EXPECT_EQ(RunPlan(plan.Finish(), {x}, &outputs), Status::kOk);
    ExpectNear(outputs[0], outputs[1], 0);
    return outputs[0];
  };
  ExpectNear(run(true), run(false), 0);
}

Tensor RunChain(int32_t h, int32_t w, int32_t rows, size_t threads, int32_t parts) {
  Tensor x({1, 3, h, w});
  for (size_t i = 0; i < x.values.size(); ++i)
    x.values[i] = static_cast<float>(i * 7919 % 256) / 64.0f - 2.0f;
  std::vector<Tensor> outputs = {Tensor(x.dims)};
  EXPECT_EQ(RunPlan(Int8ChainPlan(h, w, rows, parts), {x}, &outputs, threads), Status::kOk);
  return outputs[0];
}

TEST(Int8Plan, BandsAndPartsComputeWhatWholeTensorsDo) {
  for (int32_t h : {1, 2, 5, 24, 37}) {
    for (int32_t w : {1, 9, 33}) {
      const Tensor whole = RunChain(h, w, 0, 1, 1);
      for (int32_t rows : {1, 2, 7}) {
        for (int32_t parts : {1, 2}) {
          if (parts > 1 && h < 24) continue;
          SCOPED_TRACE(::testing::Message()
                       << h << "x" << w << ", " << parts << " parts, bands of " << rows);
          for (size_t threads : {1, 3}) ExpectNear(RunChain(h, w, rows, threads, parts), whole, 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace edge::testing
