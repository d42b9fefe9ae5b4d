// kCopy, kUnary, kAdd, kMul, kConcat, kPixelShuffle, kSoftmax against their definitions.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/activation.h"
#include "op_harness.h"

namespace edge::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr uint32_t kSeeds = 60;

TEST(Copy, GathersPhasesAndPadsWithZeros) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    const Tensor x = random.Uniform(random.SmallDims());
    const int32_t s = random.Int(1, 3), phases = random.Int(1, s * s), top = random.Int(-2, 3),
                  left = random.Int(-2, 3);
    const Dims dims = {x.dims[0], x.dims[1] * phases, random.Int(1, 9), random.Int(1, 14)};
    Tensor expected(dims);
    ForEach(dims, [&](int32_t n, int32_t c, int32_t r, int32_t q) {
      const int32_t phase = c / x.dims[1];
      const int32_t y = r * s + phase / s - top, column = q * s + phase % s - left;
      if (y < 0 || y >= x.dims[2] || column < 0 || column >= x.dims[3]) return;
      expected.at(n, c, r, q) = x.at(n, c % x.dims[1], y, column);
    });
    ExpectNear(harness.Run({x}, dims,
                           [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             OpRec& op = plan.Op(OpKind::kCopy, in, out);
                             op.p[0] = s, op.p[1] = top, op.p[2] = left;
                             return op;
                           }),
               expected, 0);
  }
}

struct NamedActivation {
  ActKind act;
  float lo, hi;
};
const NamedActivation kActivations[] = {
    {ActKind::kNone, 0, 0},         {ActKind::kClamp, 0, kInf},  {ActKind::kClamp, 0, 6},
    {ActKind::kLeakyRelu, 0.1f, 0}, {ActKind::kHardswish, 0, 0}, {ActKind::kSigmoid, 0, 0},
    {ActKind::kMish, 0, 0},         {ActKind::kSilu, 0, 0},
};

TEST(Unary, AppliesEveryActivationWithinOnePartIn100000) {
  for (uint32_t seed = 0; seed < 8; ++seed) {
    for (const NamedActivation& a : kActivations) {
      OpHarness harness(seed);
      Tensor x = harness.random().Uniform(harness.random().SmallDims(), -12, 12);
      x.values[0] = seed % 2 == 0 ? 100.0f : -100.0f;
      Tensor expected(x.dims);
      for (size_t i = 0; i < x.values.size(); ++i)
        expected.values[i] = Activate(a.act, x.values[i], a.lo, a.hi);
      ExpectNear(harness.Run({x}, x.dims,
                             [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                               OpRec& op = plan.Op(OpKind::kUnary, in, out);
                               op.act = static_cast<uint32_t>(a.act);
                               op.act_param[0] = a.lo, op.act_param[1] = a.hi;
                               return op;
                             }),
                 expected);
    }
  }
}

TEST(Unary, TheReferenceIsTheTextbookFormula) {
  for (double x = -30; x <= 30; x += 0.37) {
    const auto f = [x](ActKind act) { return Activate(act, static_cast<float>(x), 0, 0); };
    const double scale = std::max(1e-30, std::abs(x));
    EXPECT_NEAR(f(ActKind::kSigmoid), 1 / (1 + std::exp(-x)), 2e-6 / (1 + std::exp(-x)));
    EXPECT_NEAR(f(ActKind::kMish), x * std::tanh(std::log1p(std::exp(x))),
                2e-6 * scale * std::tanh(std::log1p(std::exp(x))));
    EXPECT_NEAR(f(ActKind::kSilu), x / (1 + std::exp(-x)), 2e-6 * scale / (1 + std::exp(-x)));
    EXPECT_NEAR(f(ActKind::kHardswish), x * std::min(std::max(x + 3, 0.0), 6.0) / 6, 2e-6 * scale);
  }
}

TEST(Unary, NaNStaysNaNAndExtremesStayFinite) {
  for (const NamedActivation& a : kActivations) {
    OpHarness harness(1);
    const Dims dims = {1, 1, 1, 19};
    Tensor x(dims, NAN);
    x.values[3] = 3e38f, x.values[4] = -3e38f, x.values[17] = 3e38f;
    const Tensor y =
        harness.Run({x}, dims, [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
          OpRec& op = plan.Op(OpKind::kUnary, in, out);
          op.act = static_cast<uint32_t>(a.act);
          op.act_param[0] = a.lo, op.act_param[1] = a.hi;
          return op;
        });
    for (size_t i : {0, 5, 16, 18}) EXPECT_TRUE(std::isnan(y.values[i])) << i;
    if (a.act == ActKind::kMish || a.act == ActKind::kSilu) {
      EXPECT_EQ(y.values[3], 3e38f);
      EXPECT_NEAR(y.values[4], 0.0f, 1e-3f);
    }
  }
}

void CheckBinary(OpKind kind, float (*f)(float, float)) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    const Dims dims = random.SmallDims();
    Dims a_dims = dims, b_dims = dims;
    for (size_t d = 0; d < 4; ++d) {
      const int32_t kept = random.Int(0, 3);
      if (kept == 0) a_dims[d] = 1;
      if (kept == 1) b_dims[d] = 1;
    }
    const Tensor a = random.Uniform(a_dims), b = random.Uniform(b_dims);
    Tensor expected(dims);
    ForEach(dims, [&](int32_t n, int32_t c, int32_t y, int32_t x) {
      const auto pick = [&](const Tensor& t) {
        return t.at(t.dims[0] == 1 ? 0 : n, t.dims[1] == 1 ? 0 : c, t.dims[2] == 1 ? 0 : y,
                    t.dims[3] == 1 ? 0 : x);
      };
      expected.at(n, c, y, x) = Activate(ActKind::kSilu, f(pick(a), pick(b)), 0, 0);
    });
    ExpectNear(harness.Run({a, b}, dims,
                           [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             OpRec& op = plan.Op(kind, in, out);
                             op.act = static_cast<uint32_t>(ActKind::kSilu);
                             return op;
                           }),
               expected);
  }
}

TEST(Add, BroadcastsLikeNumpyThenActivates) {
  CheckBinary(OpKind::kAdd, [](float a, float b) { return a + b; });
}

TEST(Mul, BroadcastsLikeNumpyThenActivates) {
  CheckBinary(OpKind::kMul, [](float a, float b) { return a * b; });
}

TEST(Add, MayWriteOverItsFirstOperand) {
  PlanBuilder plan;
  const Dims dims = {1, 3, 5, 7};
  const uint32_t x = plan.Input(dims), a = plan.Arena(dims, {1, 1, 1, 1});
  plan.Copy(x, a);
  plan.Op(OpKind::kAdd, {a, x}, a);
  plan.Copy(a, plan.Output(dims));
  Random random(1);
  const Tensor input = random.Uniform(dims);
  std::vector<Tensor> outputs = {Tensor(dims)};
  ASSERT_EQ(RunPlan(plan.Finish(), {input}, &outputs, 2), Status::kOk);
  for (size_t i = 0; i < input.values.size(); ++i)
    EXPECT_EQ(outputs[0].values[i], 2 * input.values[i]);
}

TEST(Mul, ReadsConstants) {
  PlanBuilder plan;
  const Dims dims = {1, 2, 1, 3};
  plan.Op(OpKind::kMul, {plan.Input(dims), plan.Const({1, 2, 1, 1}, {2, -1})}, plan.Output(dims));
  std::vector<Tensor> outputs = {Tensor(dims)};
  ASSERT_EQ(RunPlan(plan.Finish(), {Tensor(dims, 3)}, &outputs), Status::kOk);
  EXPECT_EQ(outputs[0].values, (std::vector<float>{6, 6, 6, -3, -3, -3}));
}

TEST(Concat, PutsTheInputsOneAfterAnotherAlongAnyAxis) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    const auto axis = static_cast<size_t>(random.Int(0, 3));
    Dims dims = random.SmallDims();
    std::vector<Tensor> inputs;
    int32_t total = 0;
    for (int32_t i = random.Int(1, 4); i > 0; --i) {
      dims[axis] = random.Int(1, 6);
      total += dims[axis];
      inputs.push_back(random.Uniform(dims));
    }
    dims[axis] = total;
    Tensor expected(dims);
    ForEach(dims, [&](int32_t n, int32_t c, int32_t y, int32_t x) {
      std::array<int32_t, 4> at = {n, c, y, x};
      size_t i = 0;
      while (at[axis] >= inputs[i].dims[axis]) at[axis] -= inputs[i++].dims[axis];
      expected.at(n, c, y, x) = inputs[i].at(at[0], at[1], at[2], at[3]);
    });
    ExpectNear(harness.Run(inputs, dims,
                           [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             OpRec& op = plan.Op(OpKind::kConcat, in, out);
                             op.p[0] = static_cast<int32_t>(axis);
                             return op;
                           }),
               expected, 0);
  }
}

TEST(PixelShuffle, InterleavesChannelsAndCropsTheStart) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    const int32_t r = random.Int(1, 4), top = random.Int(0, r), left = random.Int(0, r);
    const Dims small = {random.Int(1, 2), random.Int(1, 3) * r * r, random.Int(2, 6),
                        random.Int(2, 9)};
    const Tensor x = random.Uniform(small);
    const Dims dims = {small[0], small[1] / r / r, random.Int(1, small[2] * r - top),
                       random.Int(1, small[3] * r - left)};
    Tensor expected(dims);
    ForEach(dims, [&](int32_t n, int32_t c, int32_t y, int32_t q) {
      const int32_t phase = (y + top) % r * r + (q + left) % r;
      expected.at(n, c, y, q) = x.at(n, c * r * r + phase, (y + top) / r, (q + left) / r);
    });
    ExpectNear(harness.Run({x}, dims,
                           [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             OpRec& op = plan.Op(OpKind::kPixelShuffle, in, out);
                             op.p[0] = r, op.p[1] = top, op.p[2] = left;
                             return op;
                           }),
               expected, 0);
  }
}

TEST(Softmax, SumsToOneOverTheChannels) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    Dims dims = random.SmallDims();
    if (seed % 3 == 0) dims = {2, random.Int(1, 700), 1, 1};
    const Tensor x = random.Uniform(dims, -30, 30);
    Tensor expected(dims);
    ForEach({dims[0], 1, dims[2], dims[3]}, [&](int32_t n, int32_t, int32_t y, int32_t q) {
      double sum = 0;
      for (int32_t c = 0; c < dims[1]; ++c) sum += std::exp(static_cast<double>(x.at(n, c, y, q)));
      for (int32_t c = 0; c < dims[1]; ++c) {
        expected.at(n, c, y, q) =
            static_cast<float>(std::exp(static_cast<double>(x.at(n, c, y, q))) / sum);
      }
    });
    ExpectNear(harness.Run({x}, dims,
                           [](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             return plan.Op(OpKind::kSoftmax, in, out);
                           }),
               expected);
  }
}

}  // namespace
}  // namespace edge::testing
