// Small valid plans that together hold every kind of op, for edge_fuzz_plan --self.
#pragma once
#include <cstdint>
#include <random>
#include <vector>

#include "chain_plan.h"
#include "int8_plan.h"
#include "plan_builder.h"

namespace edge::testing {

inline ConvWeights FuzzWeights(const Dims& dims, uint32_t block, uint32_t seed) {
  std::mt19937 random(seed);
  ConvWeights w{dims, std::vector<float>(Count(dims)),
                std::vector<float>(static_cast<size_t>(dims[0]), 0.25f)};
  for (float& v : w.weights)
    v = random() % 2 == 0 ? static_cast<float>(random() % 200) / 100.0f - 1.0f : 0.0f;
  w.pad = (dims[2] - 1) / 2;
  w.block = block;
  return w;
}

// Convolutions with residuals and activations, a space-to-depth copy, a pixel shuffle: a
// super-resolution network.
inline PlanBytes ConvFuzzPlan(uint32_t block) {
  PlanBuilder plan;
  const Halo halo = {1, 1, 1, 1};
  const uint32_t x = plan.Input({1, 3, 10, 14});
  const uint32_t phases = plan.Arena({1, 12, 5, 7}, halo), a = plan.Arena({1, 8, 5, 7}, halo),
                 b = plan.Arena({1, 8, 5, 7}, halo);
  plan.Op(OpKind::kCopy, {x}, phases, "space_to_depth").p[0] = 2;
  OpRec& first =
      plan.Packed(OpKind::kConv, phases, a, FuzzWeights({8, 12, 3, 3}, block, 1), "head");
  first.act = static_cast<uint32_t>(ActKind::kClamp);
  first.act_param[1] = 6.0f;
  OpRec& second = plan.Packed(OpKind::kConv, a, b, FuzzWeights({8, 8, 3, 3}, block, 2), "body");
  second.residual = a;
  second.act = static_cast<uint32_t>(ActKind::kMish);
  const uint32_t wide = plan.Arena({1, 12, 5, 7});
  plan.Packed(OpKind::kConv, b, wide, FuzzWeights({12, 8, 1, 1}, block, 3), "tail").act =
      static_cast<uint32_t>(ActKind::kLeakyRelu);
  plan.Op(OpKind::kPixelShuffle, {wide}, plan.Output({1, 3, 9, 13}), "shuffle").p[0] = 2;
  return plan.Finish();
}

// Pools, upsamplings, a concatenation and elementwise ops: a detector's neck.
inline PlanBytes NeckFuzzPlan() {
  PlanBuilder plan;
  const Dims dims = {2, 3, 8, 9};
  const uint32_t x = plan.Input(dims);
  const uint32_t most = plan.Arena(dims, {1, 0, 1, 0}), mean = plan.Arena({2, 3, 4, 5}),
                 near = plan.Arena(dims);
  const int32_t max_window[] = {5, 5, 1, 1, 2, 2, 1, 1},
                mean_window[] = {3, 3, 2, 2, 1, 1, 1, 0, 1, 1};
  std::copy(std::begin(max_window), std::end(max_window),
            plan.Op(OpKind::kMaxPool, {x}, most, "spp").p);
  std::copy(std::begin(mean_window), std::end(mean_window),
            plan.Op(OpKind::kAvgPool, {x}, mean, "mean").p);
  OpRec& nearest = plan.Op(OpKind::kUpsampleNearest, {mean}, near, "nearest");
  nearest.f[0] = 0.5f, nearest.f[1] = 5.0f / 9.0f;
  const uint32_t smooth = plan.Arena(dims, {0, 2, 0, 1}), all = plan.Arena({2, 9, 8, 9});
  OpRec& bilinear = plan.Op(OpKind::kUpsampleBilinear, {mean}, smooth, "bilinear");
  bilinear.f[0] = 0.5f, bilinear.f[1] = 5.0f / 9.0f;
  plan.Op(OpKind::kConcat, {most, near, smooth}, all, "cat").p[0] = 1;
  const uint32_t scale = plan.Const({1, 9, 1, 1}, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  plan.Op(OpKind::kMul, {all, scale}, all, "scale").act = static_cast<uint32_t>(ActKind::kSilu);
  plan.Op(OpKind::kAdd, {scale, all}, plan.Output({2, 9, 8, 9}), "add");
  return plan.Finish();
}

// An adaptive pool, linear layers and a softmax: a classifier's end.
inline PlanBytes HeadFuzzPlan(uint32_t block) {
  PlanBuilder plan;
  const uint32_t x = plan.Input({2, 5, 6, 7}), act = plan.Arena({2, 5, 6, 7}),
                 pooled = plan.Arena({2, 5, 2, 2});
  plan.Op(OpKind::kUnary, {x}, act, "act").act = static_cast<uint32_t>(ActKind::kHardswish);
  plan.Op(OpKind::kAdaptiveAvgPool, {act}, pooled, "pool");
  const uint32_t hidden = plan.Arena({2, 10, 1, 1}), scores = plan.Arena({2, 6, 1, 1});
  plan.Packed(OpKind::kLinear, pooled, hidden, FuzzWeights({10, 5, 2, 2}, block, 4), "fc1");
  plan.Packed(OpKind::kLinear, hidden, scores, FuzzWeights({6, 10, 1, 1}, block, 5), "fc2").act =
      static_cast<uint32_t>(ActKind::kSigmoid);
  plan.Op(OpKind::kSoftmax, {scores}, plan.Output({2, 6, 1, 1}), "softmax");
  return plan.Finish();
}

// A convolution by Winograd's tiles, in several blocks and with a residual.
inline PlanBytes WinogradFuzzPlan(int32_t m, uint32_t block) {
  PlanBuilder plan;
  const Dims dims = {1, 3, 11, 9};
  const uint32_t x = plan.Input(dims), copy = plan.Arena(dims, {0, 1, 0, 2});
  plan.Copy(x, copy);
  OpRec& op = plan.Winograd(copy, plan.Output(dims), FuzzWeights({3, 3, 3, 3}, block, 6), m, 4);
  op.residual = copy;
  op.act = static_cast<uint32_t>(ActKind::kClamp);
  op.act_param[1] = 1.0f;
  return plan.Finish();
}

// Depthwise convolutions, of both sizes and strides.
inline PlanBytes DepthwiseFuzzPlan() {
  PlanBuilder plan;
  const uint32_t x = plan.Input({2, 3, 9, 11}), copy = plan.Arena({2, 3, 9, 11}, {2, 2, 2, 2}),
                 half = plan.Arena({2, 3, 5, 6}, {1, 1, 1, 1});
  plan.Copy(x, copy);
  plan.Depthwise(copy, half, FuzzWeights({3, 1, 5, 5}, 1, 7), 2).act =
      static_cast<uint32_t>(ActKind::kHardswish);
  plan.Depthwise(half, plan.Output({2, 3, 5, 6}), FuzzWeights({3, 1, 3, 3}, 1, 8), 1);
  return plan.Finish();
}

// Float16: convolutions, one strided and one depthwise, a linear layer, and what moves and adds.
inline PlanBytes HalfFuzzPlan(uint32_t block) {
  PlanBuilder plan;
  const Halo halo = {1, 1, 1, 1};
  const Dims dims = {1, 8, 5, 7};
  const uint32_t x = plan.Input({1, 3, 10, 14}), phases = plan.HalfArena({1, 12, 5, 7}, halo),
                 a = plan.HalfArena(dims, halo), b = plan.HalfArena(dims, halo),
                 c = plan.HalfArena(dims), d = plan.HalfArena({1, 16, 5, 7}),
                 e = plan.HalfArena({1, 16, 10, 14}), mean = plan.HalfArena({1, 16, 1, 1});
  plan.Op(OpKind::kCopy, {x}, phases, "space_to_depth").p[0] = 2;
  OpRec& first =
      plan.Packed(OpKind::kConv, phases, a, FuzzWeights({8, 12, 3, 3}, block, 1), "head");
  first.act = static_cast<uint32_t>(ActKind::kClamp);
  first.act_param[1] = 6.0f;
  plan.Depthwise(a, b, FuzzWeights({8, 1, 3, 3}, 1, 2), 1);
  plan.Packed(OpKind::kConv, b, c, FuzzWeights({8, 8, 1, 1}, block, 3), "body").residual = a;
  plan.Op(OpKind::kAdd, {c, b}, c, "add").act = static_cast<uint32_t>(ActKind::kSilu);
  plan.Op(OpKind::kConcat, {c, a}, d, "cat").p[0] = 1;
  OpRec& nearest = plan.Op(OpKind::kUpsampleNearest, {d}, e, "nearest");
  nearest.f[0] = nearest.f[1] = 0.5f;
  const int32_t window[] = {3, 3, 2, 2, 1, 1, 1, 1};
  std::copy(std::begin(window), std::end(window), plan.Op(OpKind::kMaxPool, {e}, d, "most").p);
  plan.Op(OpKind::kPixelShuffle, {d}, plan.Output({1, 4, 10, 14}), "shuffle").p[0] = 2;
  plan.Op(OpKind::kAdaptiveAvgPool, {d}, mean, "mean");
  plan.Packed(OpKind::kLinear, mean, plan.Output({1, 6, 1, 1}),
              FuzzWeights({6, 16, 1, 1}, block, 4), "fc");
  return plan.Finish();
}

inline std::vector<std::vector<uint8_t>> FuzzPlans() {
  std::vector<PlanBytes> plans = {NeckFuzzPlan(),         ChainPlan(13, 9, 2),
                                  ChainPlan(24, 9, 3, 2), WinogradFuzzPlan(2, 4),
                                  WinogradFuzzPlan(4, 1), DepthwiseFuzzPlan()};
  for (uint32_t block : {1, 2, 4, 8, 16}) {
    plans.push_back(ConvFuzzPlan(block));
    plans.push_back(HeadFuzzPlan(block));
    plans.push_back(HalfFuzzPlan(block));
  }
  for (uint32_t bits : {4, 8}) {
    plans.push_back(Int8Plan(4, bits, false));
    plans.push_back(Int8Plan(8, bits, true));
  }
  plans.push_back(ChainPlan(13, 9, 2, 1, true));
  plans.push_back(ChainPlan(24, 9, 3, 2, true));
  plans.push_back(Int8ChainPlan(13, 9, 2));
  plans.push_back(Int8ChainPlan(24, 9, 3, 2));
  std::vector<std::vector<uint8_t>> bytes;
  for (const PlanBytes& plan : plans) bytes.emplace_back(plan.data(), plan.data() + plan.size());
  return bytes;
}

}  // namespace edge::testing
