// Ops on float16 tensors in whole plans: what they give is what the same op gives on float32
// tensors, rounded.
#include <gtest/gtest.h>

#include <cmath>

#include "chain_plan.h"
#include "op_harness.h"

namespace edge::testing {
namespace {

// The plan of an op; `arena` makes the tensors that it is about.
using Make = std::function<uint32_t(PlanBuilder& plan, const std::vector<uint32_t>& in,
                                    const std::function<uint32_t(const Dims&)>& arena)>;

// Runs input -> copies -> op -> copy -> output with float16 tensors for the inputs whose bit in
// `halves` is set, and for the output with the last bit.
Tensor RunHalves(const std::vector<Tensor>& inputs, uint32_t halves, bool half_out,
                 const Make& make) {
  PlanBuilder plan;
  const Halo halo = {1, 2, 3, 1};
  std::vector<uint32_t> in;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const uint32_t x = plan.Input(inputs[i].dims);
    const bool half = (halves >> i & 1) != 0;
    in.push_back(half ? plan.HalfArena(inputs[i].dims, halo) : plan.Arena(inputs[i].dims, halo));
    plan.Copy(x, in.back());
  }
  const uint32_t made = make(plan, in, [&](const Dims& dims) {
    return half_out ? plan.HalfArena(dims, halo) : plan.Arena(dims, halo);
  });
  const uint32_t whole = plan.WithHalo(made);
  const TensorRec t = plan.tensor(made), all = plan.tensor(whole);
  const Dims dims = {t.dims[0], t.dims[1], t.dims[2], t.dims[3]},
             wide = {all.dims[0], all.dims[1], all.dims[2], all.dims[3]};
  plan.Copy(made, plan.Output(dims));
  plan.Copy(whole, plan.Output(wide));
  std::vector<Tensor> outputs = {Tensor(dims), Tensor(wide)};
  EXPECT_EQ(RunPlan(plan.Finish(), inputs, &outputs, 2), Status::kOk);
  ForEach(wide, [&](int32_t n, int32_t c, int32_t y, int32_t x) {
    const bool inside = y >= 1 && y < 1 + dims[2] && x >= 3 && x < 3 + dims[3];
    if (inside) return;
    EXPECT_EQ(outputs[1].at(n, c, y, x), 0.0f) << "halo at " << y << ", " << x;
  });
  return outputs[0];
}

// In the mixtures of types that the op takes: all the same, or any. `rounds`: a compiler may round
// what the op computes in another way for the one type than for the other.
void Check(std::vector<Tensor> inputs, bool any, const Make& make, bool rounds = false) {
  for (Tensor& t : inputs) {
    for (float& v : t.values) v = ToFloat(ToHalf(v));
  }
  const Tensor exact = RunHalves(inputs, 0, false, make);
  const uint32_t all = (1u << inputs.size()) - 1;
  for (uint32_t halves = any ? 0 : all; halves <= all; ++halves) {
    for (bool half_out : {false, true}) {
      if (!any && !half_out) continue;
      const Tensor got = RunHalves(inputs, halves, half_out, make);
      for (size_t i = 0; i < exact.values.size(); ++i) {
        const float want = half_out ? ToFloat(ToHalf(exact.values[i])) : exact.values[i];
        if (std::isnan(want)) {
          ASSERT_TRUE(std::isnan(got.values[i]));
        } else {
          const float slack = rounds ? std::abs(want) * (half_out ? 0x1p-10f : 0x1p-21f) : 0.0f;
          ASSERT_TRUE(got.values[i] == want || std::abs(got.values[i] - want) <= slack)
              << got.values[i] << ", not " << want << " at " << i << " halves " << halves << " out "
              << half_out;
        }
      }
    }
  }
}

constexpr uint32_t kSeeds = 40;

TEST(HalfOps, CopiesConvertAndSplitIntoPhases) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    const Tensor x = random.Uniform(random.SmallDims());
    const int32_t s = random.Int(1, 3), top = random.Int(-1, 2), left = random.Int(-2, 3);
    const Dims dims = {x.dims[0], s * s * x.dims[1], (x.dims[2] + s + 1) / s,
                       (x.dims[3] + s + 2) / s};
    Check({x}, true, [&](PlanBuilder& plan, const auto& in, const auto& arena) {
      const uint32_t out = arena(dims);
      OpRec& op = plan.Op(OpKind::kCopy, {in[0]}, out);
      op.p[0] = s, op.p[1] = top, op.p[2] = left;
      return out;
    });
  }
}

TEST(HalfOps, AdditionsAndProductsBroadcastBothTypes) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    const Dims dims = random.SmallDims();
    Dims a = dims, b = dims;
    for (int d = 0; d < 4; ++d) {
      if (random.Int(0, 3) == 0) (random.Int(0, 1) == 0 ? a : b)[d] = 1;
    }
    const auto kind = seed % 2 == 0 ? OpKind::kAdd : OpKind::kMul;
    Check({random.Uniform(a), random.Uniform(b)}, true,
          [&](PlanBuilder& plan, const auto& in, const auto& arena) {
            const uint32_t out = arena(dims);
            OpRec& op = plan.Op(kind, {in[0], in[1]}, out);
            op.act = static_cast<uint32_t>(ActKind::kLeakyRelu);
            op.act_param[0] = 0.25f;
            return out;
          });
  }
}

TEST(HalfOps, ActivationsConcatenationsAndShufflesTakeBothTypes) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    Dims dims = random.SmallDims();
    const Tensor x = random.Uniform(dims);
    Check(
        {x}, true,
        [&](PlanBuilder& plan, const auto& in, const auto& arena) {
          const uint32_t out = arena(dims);
          plan.Op(OpKind::kUnary, {in[0]}, out).act = 1 + seed % 6;
          return out;
        },
        true);
    const int32_t axis = random.Int(0, 3);
    Dims other = dims, both = dims;
    other[axis] = random.Int(1, 4);
    both[axis] += other[axis];
    Check({x, random.Uniform(other)}, true,
          [&](PlanBuilder& plan, const auto& in, const auto& arena) {
            const uint32_t out = arena(both);
            plan.Op(OpKind::kConcat, {in[0], in[1]}, out).p[0] = axis;
            return out;
          });
    const int32_t r = random.Int(1, 4), crop_y = random.Int(0, r - 1),
                  crop_x = random.Int(0, r - 1);
    const Tensor deep = random.Uniform({dims[0], dims[1] * r * r, dims[2], dims[3]});
    Check({deep}, true, [&](PlanBuilder& plan, const auto& in, const auto& arena) {
      const uint32_t out = arena({dims[0], dims[1], dims[2] * r - crop_y, dims[3] * r - crop_x});
      OpRec& op = plan.Op(OpKind::kPixelShuffle, {in[0]}, out);
      op.p[0] = r, op.p[1] = crop_y, op.p[2] = crop_x;
      return out;
    });
  }
}

TEST(HalfOps, PoolsAndNearestNeighboursStayWhatTheyAre) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    Tensor x = random.Uniform(random.SmallDims());
    if (seed % 4 == 0) x.values[x.values.size() / 2] = NAN;
    const int32_t k = random.Int(1, 4), stride = random.Int(1, 2), pad = random.Int(0, k / 2);
    const int32_t h = (x.dims[2] + 2 * pad - std::min(k, x.dims[2] + 2 * pad)) / stride + 1;
    const int32_t w = (x.dims[3] + 2 * pad - std::min(k, x.dims[3] + 2 * pad)) / stride + 1;
    Check({x}, false, [&](PlanBuilder& plan, const auto& in, const auto& arena) {
      const uint32_t out = arena({x.dims[0], x.dims[1], h, w});
      const int32_t p[] = {k, k, stride, stride, pad, pad, 1, 1};
      std::copy(std::begin(p), std::end(p), plan.Op(OpKind::kMaxPool, {in[0]}, out).p);
      return out;
    });
    const Dims large = {x.dims[0], x.dims[1], x.dims[2] * 2, x.dims[3] * random.Int(1, 3)};
    Check({x}, false, [&](PlanBuilder& plan, const auto& in, const auto& arena) {
      const uint32_t out = arena(large);
      OpRec& op = plan.Op(OpKind::kUpsampleNearest, {in[0]}, out);
      op.f[0] = 0.5f;
      op.f[1] = static_cast<float>(x.dims[3]) / static_cast<float>(large[3]);
      return out;
    });
  }
}

TEST(HalfOps, MeansAreTakenInFloat32) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    const Tensor x = random.Uniform(random.SmallDims());
    const Dims dims = {x.dims[0], x.dims[1], random.Int(1, x.dims[2]), random.Int(1, x.dims[3])};
    const Make make = [&](PlanBuilder& plan, const auto& in, const auto& arena) {
      const uint32_t out = arena(dims);
      plan.Op(OpKind::kAdaptiveAvgPool, {in[0]}, out);
      return out;
    };
    Tensor rounded = x;
    for (float& v : rounded.values) v = ToFloat(ToHalf(v));
    const Tensor exact = RunHalves({rounded}, 0, false, make);
    ExpectNear(RunHalves({rounded}, 1, false, make), exact, 1e-6f);
    ExpectNear(RunHalves({rounded}, 1, true, make), exact, 5e-4f);
  }
}

TEST(HalfOps, ChainsInBandsAndPartsComputeWhatWholeTensorsDo) {
  for (int32_t h : {13, 24, 41}) {
    Tensor x({1, 4, h, 33});
    for (size_t i = 0; i < x.values.size(); ++i)
      x.values[i] = static_cast<float>(i * 7919 % 256) / 64.0f - 2.0f;
    const auto run = [&](int32_t rows, size_t threads, int32_t parts, bool halves) {
      std::vector<Tensor> outputs = {Tensor({1, 1, h, 33})};
      const PlanBytes plan = ChainPlan(h, 33, rows, parts, halves);
      EXPECT_EQ(RunPlan(plan, {x}, &outputs, threads), Status::kOk);
      return outputs[0];
    };
    const Tensor whole = run(0, 1, 1, true);
    ExpectNear(whole, run(0, 1, 1, false), 0.1f);
    for (int32_t rows : {2, 3, 5}) {
      ExpectNear(run(rows, 1, 1, true), whole, 0.02f);
      ExpectNear(run(rows, 2, 1, true), whole, 0.02f);
      if (h > 13) ExpectNear(run(rows, 2, 2, true), whole, 0.02f);
    }
  }
}

// A plan with a float16 tensor where there may be none, or of the wrong size.
TEST(HalfPlans, AreRefusedWhereAnOpDoesNotTakeThem) {
  const Dims dims = {1, 4, 5, 6};
  const auto load = [](const PlanBytes& bytes) {
    Plan plan;
    return Plan::Load(bytes.data(), bytes.size(), &plan);
  };
  const auto with = [&](OpKind kind, bool half_in, bool half_out) {
    PlanBuilder plan;
    const uint32_t x = plan.Input(dims);
    const uint32_t a = half_in ? plan.HalfArena(dims) : plan.Arena(dims);
    const uint32_t b = half_out ? plan.HalfArena(dims) : plan.Arena(dims);
    plan.Copy(x, a);
    OpRec& op = plan.Op(kind, {a}, b);
    if (kind == OpKind::kAvgPool) op.p[0] = op.p[1] = op.p[2] = op.p[3] = 1;
    if (kind == OpKind::kMaxPool) op.p[0] = op.p[1] = op.p[2] = op.p[3] = op.p[6] = op.p[7] = 1;
    if (kind == OpKind::kUpsampleBilinear || kind == OpKind::kUpsampleNearest)
      op.f[0] = op.f[1] = 1;
    plan.Copy(b, plan.Output(dims));
    return load(plan.Finish());
  };
  for (OpKind kind : {OpKind::kAvgPool, OpKind::kUpsampleBilinear, OpKind::kSoftmax}) {
    EXPECT_EQ(with(kind, false, false), Status::kOk);
    EXPECT_EQ(with(kind, true, true), Status::kBadValue);
    EXPECT_EQ(with(kind, true, false), Status::kBadValue);
    EXPECT_EQ(with(kind, false, true), Status::kBadValue);
  }
  for (OpKind kind : {OpKind::kMaxPool, OpKind::kUpsampleNearest}) {
    EXPECT_EQ(with(kind, true, true), Status::kOk);
    EXPECT_EQ(with(kind, true, false), Status::kBadValue);
    EXPECT_EQ(with(kind, false, true), Status::kBadValue);
  }
  PlanBuilder plan;
  const uint32_t x = plan.Input(dims), y = plan.Output(dims);
  plan.Copy(x, y);
  PlanBytes bytes = plan.Finish();
  bytes.tensor(x).type = static_cast<uint32_t>(ElementType::kFloat16);
  EXPECT_EQ(load(bytes), Status::kBadValue);  // an input
  PlanBuilder odd;
  const uint32_t in = odd.Input(dims), half = odd.HalfArena(dims);
  odd.Copy(in, half);
  odd.Copy(half, odd.Output(dims));
  PlanBytes crooked = odd.Finish();
  EXPECT_EQ(load(crooked), Status::kOk);
  crooked.tensor(half).offset += 1;
  EXPECT_EQ(load(crooked), Status::kBadOffset);
}

}  // namespace
}  // namespace edge::testing
