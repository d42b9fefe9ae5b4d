// kConv and kLinear through whole plans: layouts, halos, residuals, activations.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/activation.h"
#include "op_harness.h"

namespace edge::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr uint32_t kBlocks[] = {1, 2, 4, 8, 16};

// Random weights with about two thirds of zeros.
ConvWeights RandomWeights(Random* random, const Dims& dims) {
  ConvWeights w{dims, std::vector<float>(Count(dims), 0.0f), {}};
  for (float& v : w.weights) v = random->Int(0, 2) == 0 ? random->Float(-1, 1) : 0.0f;
  for (int32_t f = 0; f < dims[0]; ++f) w.bias.push_back(random->Float(-1, 1));
  w.block = kBlocks[random->Int(0, 4)];
  return w;
}

Tensor Convolve(const Tensor& x, const ConvWeights& w, const Dims& dims) {
  Tensor y(dims);
  ForEach(dims, [&](int32_t n, int32_t f, int32_t r, int32_t q) {
    double sum = w.bias[static_cast<size_t>(f)];
    ForEach({1, w.dims[1], w.dims[2], w.dims[3]}, [&](int32_t, int32_t c, int32_t i, int32_t j) {
      const int32_t row = r + i * w.dilation - w.pad, column = q + j * w.dilation - w.pad;
      if (row < 0 || row >= x.dims[2] || column < 0 || column >= x.dims[3]) return;
      const size_t at = static_cast<size_t>(((f * w.dims[1] + c) * w.dims[2] + i) * w.dims[3] + j);
      sum += static_cast<double>(w.weights[at]) * x.at(n, c, row, column);
    });
    y.at(n, f, r, q) = static_cast<float>(sum);
  });
  return y;
}

void AddResidualAndActivate(Tensor* y, const Tensor* residual, const OpRec& op) {
  const auto act = static_cast<ActKind>(op.act);
  for (size_t i = 0; i < y->values.size(); ++i) {
    float v = y->values[i];
    const float r = residual == nullptr ? 0.0f : residual->values[i];
    v = Activate(act, op.residual_after_act == 0 ? v + r : v, op.act_param[0], op.act_param[1]);
    y->values[i] = op.residual_after_act == 0 ? v : v + r;
  }
}

OpRec RandomEpilogue(Random* random) {
  OpRec op = {};
  op.act = static_cast<uint32_t>(random->Int(0, 6));
  if (op.act == static_cast<uint32_t>(ActKind::kClamp))
    op.act_param[1] = random->Int(0, 1) == 1 ? kInf : 6.0f;
  if (op.act == static_cast<uint32_t>(ActKind::kLeakyRelu)) op.act_param[0] = 0.1f;
  op.residual_after_act = static_cast<uint32_t>(random->Int(0, 1));
  return op;
}

void CopyEpilogue(const OpRec& from, OpRec* to) {
  to->act = from.act;
  std::copy(from.act_param, from.act_param + 2, to->act_param);
  to->residual_after_act = from.residual_after_act;
}

TEST(Conv, MatchesTheDefinitionInAnyLayout) {
  for (uint32_t seed = 0; seed < 120; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    const Tensor x =
        random.Uniform({random.Int(1, 2), random.Int(1, 6), random.Int(1, 10), random.Int(1, 40)});
    const int32_t k = random.Int(0, 1) * 2 + 1;
    ConvWeights w = RandomWeights(&random, {random.Int(1, 19), x.dims[1], k, k});
    w.dilation = random.Int(1, 2);
    w.pad = (k - 1) * w.dilation / 2;
    const Dims dims = {x.dims[0], w.dims[0], x.dims[2], x.dims[3]};
    const OpRec epilogue = RandomEpilogue(&random);
    const bool with_residual = random.Int(0, 1) == 1;
    const Tensor residual = random.Uniform(dims);
    Tensor expected = Convolve(x, w, dims);
    AddResidualAndActivate(&expected, with_residual ? &residual : nullptr, epilogue);
    std::vector<Tensor> operands = {x};
    if (with_residual) operands.push_back(residual);
    ExpectNear(harness.Run(
                   operands, dims,
                   [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                     OpRec& op = plan.Packed(OpKind::kConv, in[0], out, w);
                     CopyEpilogue(epilogue, &op);
                     if (with_residual) op.residual = in[1];
                     return op;
                   },
                   true, w.pad),
               expected, 2e-5f);
  }
}

TEST(Linear, MatchesTheDefinitionForRowsAndMaps) {
  for (uint32_t seed = 0; seed < 80; ++seed) {
    OpHarness harness(seed);
    Random& random = harness.random();
    const bool map = random.Int(0, 1) == 1;
    const Tensor x = random.Uniform({random.Int(1, 6), random.Int(1, 40),
                                     map ? random.Int(1, 4) : 1, map ? random.Int(1, 4) : 1});
    const ConvWeights w =
        RandomWeights(&random, {random.Int(1, 40), x.dims[1], x.dims[2], x.dims[3]});
    const Dims dims = {x.dims[0], w.dims[0], 1, 1};
    const OpRec epilogue = RandomEpilogue(&random);
    const Tensor residual = random.Uniform(dims);
    const bool with_residual = random.Int(0, 1) == 1;
    Tensor expected = Convolve(x, w, dims);
    AddResidualAndActivate(&expected, with_residual ? &residual : nullptr, epilogue);
    std::vector<Tensor> operands = {x};
    if (with_residual) operands.push_back(residual);
    ExpectNear(harness.Run(operands, dims,
                           [&](PlanBuilder& plan, const auto& in, uint32_t out) -> OpRec& {
                             OpRec& op = plan.Packed(OpKind::kLinear, in[0], out, w);
                             CopyEpilogue(epilogue, &op);
                             if (with_residual) op.residual = in[1];
                             return op;
                           }),
               expected, 2e-5f);
  }
}

TEST(Conv, MayAddIntoItsResidualInPlace) {
  Random random(3);
  const Dims dims = {1, 5, 9, 21};
  const Tensor x = random.Uniform(dims), residual = random.Uniform(dims);
  ConvWeights w = RandomWeights(&random, {5, 5, 3, 3});
  w.pad = 1;
  PlanBuilder plan;
  const uint32_t in = plan.Arena(dims, {1, 1, 1, 1}), sum = plan.Arena(dims, {1, 1, 1, 1});
  plan.Copy(plan.Input(dims), in);
  plan.Copy(plan.Input(dims), sum);
  plan.Packed(OpKind::kConv, in, sum, w).residual = sum;
  plan.Copy(sum, plan.Output(dims));
  Tensor expected = Convolve(x, w, dims);
  AddResidualAndActivate(&expected, &residual, OpRec{});
  std::vector<Tensor> outputs = {Tensor(dims)};
  ASSERT_EQ(RunPlan(plan.Finish(), {x, residual}, &outputs, 2), Status::kOk);
  ExpectNear(outputs[0], expected, 2e-5f);
}

TEST(Conv, ItsEpilogueAgreesWithTheActivationsOnTheirOwn) {
  const Dims dims = {1, 1, 1, 4001};
  Tensor x(dims);
  for (size_t i = 0; i < x.values.size(); ++i)
    x.values[i] = (static_cast<float>(i) - 2000.0f) * 0.05f;
  for (uint32_t act = 0; act <= static_cast<uint32_t>(ActKind::kSilu); ++act) {
    PlanBuilder plan;
    const uint32_t in = plan.Input(dims), staged = plan.Arena(dims);
    plan.Copy(in, staged);
    const auto set = [act](OpRec& op) {
      op.act = act;
      op.act_param[0] = act == static_cast<uint32_t>(ActKind::kLeakyRelu) ? 0.1f : -1.0f;
      op.act_param[1] = 6.0f;
    };
    set(plan.Packed(OpKind::kConv, staged, plan.Output(dims),
                    ConvWeights{{1, 1, 1, 1}, {1.0f}, {0.0f}}));
    set(plan.Op(OpKind::kUnary, {staged}, plan.Output(dims)));
    std::vector<Tensor> outputs = {Tensor(dims), Tensor(dims)};
    ASSERT_EQ(RunPlan(plan.Finish(), {x}, &outputs), Status::kOk);
    const float lo = act == static_cast<uint32_t>(ActKind::kLeakyRelu) ? 0.1f : -1.0f;
    Tensor expected(dims);
    for (size_t i = 0; i < x.values.size(); ++i) {
      expected.values[i] = Activate(static_cast<ActKind>(act), x.values[i], lo, 6.0f);
    }
    ExpectNear(outputs[0], expected, 5e-6f);
    ExpectNear(outputs[1], expected, 5e-6f);
  }
}

TEST(Conv, NaNWeightsSpoilTheirFilterAndNothingElse) {
  const Dims dims = {1, 2, 3, 9};
  ConvWeights w{{2, 2, 1, 1}, {NAN, kInf, 1.0f, 1.0f}, {0.0f, 0.5f}};
  w.block = 1;
  PlanBuilder plan;
  const uint32_t in = plan.Arena(dims, {1, 1, 1, 1}), out = plan.Arena(dims, {0, 0, 1, 1});
  plan.Copy(plan.Input(dims), in);
  plan.Packed(OpKind::kConv, in, out, w);
  plan.Copy(out, plan.Output(dims));
  std::vector<Tensor> outputs = {Tensor(dims)};
  ASSERT_EQ(RunPlan(plan.Finish(), {Tensor(dims, 1.0f)}, &outputs, 2), Status::kOk);
  ForEach(dims, [&](int32_t n, int32_t c, int32_t y, int32_t x) {
    if (c == 0) {
      EXPECT_TRUE(std::isnan(outputs[0].at(n, c, y, x)));
    } else {
      EXPECT_EQ(outputs[0].at(n, c, y, x), 2.5f);
    }
  });
}

}  // namespace
}  // namespace edge::testing
