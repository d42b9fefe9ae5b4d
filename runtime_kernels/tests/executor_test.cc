// The executor: order and names for its observer, arguments, repeated runs, memory.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "chain_plan.h"
#include "op_harness.h"

namespace edge::testing {
namespace {

const Dims kDims = {1, 2, 3, 4};

// input -> relu -> plus one half -> output
PlanBytes TwoOps() {
  PlanBuilder plan;
  const uint32_t x = plan.Input(kDims), middle = plan.Arena(kDims, {1, 1, 1, 1});
  OpRec& relu = plan.Op(OpKind::kUnary, {x}, middle, "head.relu");
  relu.act = static_cast<uint32_t>(ActKind::kClamp);
  relu.act_param[1] = 100.0f;
  plan.Op(OpKind::kAdd, {middle, plan.Const({1, 1, 1, 1}, {0.5f})}, plan.Output(kDims),
          "body.0.add");
  return plan.Finish();
}

class Log : public Observer {
 public:
  uint64_t Now() override { return ++now_; }
  void Took(uint32_t op, std::string_view name, uint64_t time) override {
    text += std::to_string(op) + " " + std::string(name) + (time > 0 ? ", " : " in no time, ");
  }
  std::string text;

 private:
  std::atomic<uint64_t> now_{0};
};

TEST(Executor, TellsTheObserverEveryOpByItsModulePath) {
  Log log;
  std::vector<Tensor> outputs = {Tensor(kDims)};
  ASSERT_EQ(RunPlan(TwoOps(), {Tensor(kDims, -1)}, &outputs, 1, &log), Status::kOk);
  EXPECT_EQ(log.text, "0 head.relu, 1 body.0.add, ");
}

TEST(Executor, RunsAgainAndAgainWithNewBuffers) {
  const PlanBytes bytes = TwoOps();
  Plan plan;
  ASSERT_EQ(Plan::Load(bytes.data(), bytes.size(), &plan), Status::kOk);
  ThreadPool pool(2);
  std::unique_ptr<Executor> executor;
  ASSERT_EQ(Executor::Create(plan, &pool, &executor), Status::kOk);
  for (float value : {-3.0f, 0.0f, 7.0f}) {
    const Tensor x(kDims, value);
    Tensor y(kDims);
    const float* in[] = {x.values.data()};
    float* out[] = {y.values.data()};
    ASSERT_EQ(executor->Run(in, 1, out, 1), Status::kOk);
    for (float v : y.values) EXPECT_EQ(v, std::max(value, 0.0f) + 0.5f);
  }
}

TEST(Executor, RefusesMissingBuffers) {
  const PlanBytes bytes = TwoOps();
  Plan plan;
  ASSERT_EQ(Plan::Load(bytes.data(), bytes.size(), &plan), Status::kOk);
  ThreadPool pool(1);
  std::unique_ptr<Executor> executor;
  EXPECT_EQ(Executor::Create(plan, nullptr, &executor), Status::kBadArgument);
  EXPECT_EQ(Executor::Create(Plan(), &pool, &executor), Status::kBadArgument);
  ASSERT_EQ(Executor::Create(plan, &pool, &executor), Status::kOk);
  Tensor x(kDims), y(kDims);
  const float* in[] = {x.values.data()};
  float* out[] = {y.values.data()};
  const float* no_in[] = {nullptr};
  float* no_out[] = {nullptr};
  EXPECT_EQ(executor->Run(in, 0, out, 1), Status::kBadArgument);
  EXPECT_EQ(executor->Run(in, 1, out, 0), Status::kBadArgument);
  EXPECT_EQ(executor->Run(nullptr, 1, out, 1), Status::kBadArgument);
  EXPECT_EQ(executor->Run(in, 1, nullptr, 1), Status::kBadArgument);
  EXPECT_EQ(executor->Run(no_in, 1, out, 1), Status::kBadArgument);
  EXPECT_EQ(executor->Run(in, 1, no_out, 1), Status::kBadArgument);
  const float* crooked_in[] = {
      reinterpret_cast<const float*>(reinterpret_cast<uintptr_t>(x.values.data()) + 1)};
  float* crooked_out[] = {
      reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(y.values.data()) + 2)};
  EXPECT_EQ(executor->Run(crooked_in, 1, out, 1), Status::kBadArgument);
  EXPECT_EQ(executor->Run(in, 1, crooked_out, 1), Status::kBadArgument);
}

TEST(Executor, ChannelSlicesOfOneTensorMakeAConcatenationForFree) {
  PlanBuilder plan;
  const Dims whole_dims = {2, 4, 3, 5}, half = {2, 2, 3, 5};
  const uint32_t x = plan.Input(half), whole = plan.Arena(whole_dims, {1, 1, 1, 1});
  TensorRec first = plan.tensor(whole);
  first.dims[1] = 2;
  TensorRec second = first;
  second.offset += static_cast<uint64_t>(2 * second.stride[1]) * sizeof(float);
  const uint32_t a = plan.Add(first), b = plan.Add(second);
  plan.Copy(x, a);
  ConvWeights w{{2, 2, 3, 3}, std::vector<float>(36, 0.0f), {1.0f, 2.0f}};
  w.weights[4] = w.weights[31] =
      1.0f;  // the centre taps of filter 0 on channel 0, filter 1 on channel 1
  w.pad = 1;
  plan.Packed(OpKind::kConv, a, b, w);
  plan.Copy(whole, plan.Output(whole_dims));
  Random random(4);
  const Tensor input = random.Uniform(half);
  std::vector<Tensor> outputs = {Tensor(whole_dims)};
  ASSERT_EQ(RunPlan(plan.Finish(), {input}, &outputs, 2), Status::kOk);
  ForEach(half, [&](int32_t n, int32_t c, int32_t y, int32_t q) {
    EXPECT_EQ(outputs[0].at(n, c, y, q), input.at(n, c, y, q));
    EXPECT_EQ(outputs[0].at(n, 2 + c, y, q), input.at(n, c, y, q) + static_cast<float>(1 + c));
  });
}

Tensor RunChainPlan(int32_t h, int32_t w, int32_t rows, size_t threads, int32_t parts = 1) {
  Tensor x({1, 4, h, w});
  for (size_t i = 0; i < x.values.size(); ++i)
    x.values[i] = static_cast<float>(i * 7919 % 256) / 64.0f - 2.0f;
  std::vector<Tensor> outputs = {Tensor({1, 1, h, w})};
  EXPECT_EQ(RunPlan(ChainPlan(h, w, rows, parts), {x}, &outputs, threads, nullptr), Status::kOk);
  return outputs[0];
}

TEST(Executor, WinogradsTilesComputeTheConvolutionHoweverTheyAreCut) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const int32_t m = seed % 2 == 0 ? 2 : 4, c = random.Int(1, 5), f = random.Int(1, 9);
    const int32_t h = random.Int(1, 30), w = random.Int(1, 40), n = random.Int(1, 2);
    ConvWeights weights{{f, c, 3, 3}, random.Uniform({f, c, 3, 3}).values, {}};
    weights.bias = random.Uniform({1, f, 1, 1}).values;
    weights.pad = 1;
    weights.block = 1u << random.Int(0, 4);
    const std::vector<Tensor> inputs = {random.Uniform({n, c, h, w}), random.Uniform({n, f, h, w})};
    const auto run = [&](int32_t tiles, int threads) {
      PlanBuilder plan;
      const uint32_t x = plan.Input({n, c, h, w}), r = plan.Input({n, f, h, w}),
                     copy = plan.Arena({n, c, h, w}, {1, 1, 1, 1}), y = plan.Output({n, f, h, w});
      plan.Copy(x, copy);
      OpRec& op = tiles == 0 ? plan.Packed(OpKind::kConv, copy, y, weights)
                             : plan.Winograd(copy, y, weights, m, tiles);
      op.residual = r;
      op.act = static_cast<uint32_t>(ActKind::kHardswish);
      std::vector<Tensor> outputs = {Tensor({n, f, h, w})};
      EXPECT_EQ(RunPlan(plan.Finish(), inputs, &outputs, threads), Status::kOk);
      return outputs[0];
    };
    const Tensor direct = run(0, 1);
    for (int32_t tiles : {1, 5, 24, 1000}) {
      SCOPED_TRACE(seed);
      for (int threads : {1, 3}) ExpectNear(run(tiles, threads), direct, 1e-4f);
    }
  }
}

TEST(Executor, BandsOfRowsComputeWhatWholeTensorsDo) {
  for (int32_t h : {1, 2, 5, 13, 24}) {
    for (int32_t w : {1, 9, 33}) {
      const Tensor whole = RunChainPlan(h, w, 0, 1);
      for (int32_t rows : {1, 2, 3, 7}) {
        for (size_t threads : {1, 3}) {
          const Tensor banded = RunChainPlan(h, w, rows, threads);
          for (size_t i = 0; i < whole.values.size(); ++i) {
            ASSERT_NEAR(banded.values[i], whole.values[i], 1e-4f)
                << h << "x" << w << " in bands of " << rows << " rows, element " << i;
          }
        }
      }
    }
  }
}

TEST(Executor, PartsOfAChainComputeWhatTheWholeDoes) {
  for (int32_t h : {24, 37}) {
    const Tensor whole = RunChainPlan(h, 33, 0, 1);
    for (int32_t parts : {2, 3}) {
      for (int32_t rows : {1, 4}) {
        for (size_t threads : {1, 2, 4}) {
          SCOPED_TRACE(::testing::Message()
                       << h << " rows, " << parts << " parts, bands of " << rows);
          ExpectNear(RunChainPlan(h, 33, rows, threads, parts), whole, 1e-4f);
        }
      }
    }
  }
}

Status LoadChanged(const std::function<void(PlanBytes*)>& change, int32_t parts = 1) {
  PlanBytes bytes = ChainPlan(13, 9, 2, parts);
  change(&bytes);
  Plan plan;
  return Plan::Load(bytes.data(), bytes.size(), &plan);
}

TEST(Executor, RefusesBandsThatLeaveTheirWindows) {
  const auto pair = [](PlanBytes* bytes, uint32_t band, uint32_t op) {
    const auto& chain =
        *reinterpret_cast<const ChainRec*>(bytes->data() + bytes->header().chains_off);
    return &bytes->index(chain.bands + chain.n_ops + 2 * (band * chain.n_ops + op));
  };
  EXPECT_EQ(LoadChanged([](PlanBytes*) {}), Status::kOk);
  EXPECT_EQ(LoadChanged([&](PlanBytes* b) { pair(b, 0, 0)[0] = 13; }), Status::kBadValue);
  EXPECT_EQ(LoadChanged([&](PlanBytes* b) { pair(b, 2, 1)[0] = 0; }), Status::kBadValue);
  EXPECT_EQ(LoadChanged([&](PlanBytes* b) { pair(b, 2, 1)[1] += 3; }), Status::kBadValue);
  EXPECT_EQ(LoadChanged([&](PlanBytes* b) { pair(b, 6, 4)[0] = 24; }), Status::kBadValue);
  EXPECT_EQ(LoadChanged([&](PlanBytes* b) { b->tensor(1).window -= 1; }), Status::kBadValue);
  EXPECT_NE(LoadChanged([&](PlanBytes* b) { b->header().n_chains = 0; }), Status::kOk);
}

TEST(Executor, RefusesPartsThatAreNoParts) {
  const auto changed = [](const std::function<void(PlanBytes*, ChainRec*)>& change) {
    return LoadChanged(
        [&](PlanBytes* b) {
          change(b, reinterpret_cast<ChainRec*>(b->data() + b->header().chains_off));
        },
        2);
  };
  const Status bad = Status::kBadValue;
  EXPECT_EQ(changed([](PlanBytes*, ChainRec*) {}), Status::kOk);
  EXPECT_EQ(changed([](PlanBytes*, ChainRec* c) { c[0].part = 1; }), bad);
  EXPECT_EQ(changed([](PlanBytes*, ChainRec* c) { c[1].part = 0; }), bad);
  EXPECT_EQ(changed([](PlanBytes*, ChainRec* c) { c[1].part = 2; }), bad);
  EXPECT_EQ(changed([](PlanBytes*, ChainRec* c) { c[1].n_ops -= 1; }), bad);
  // the output begins a row later, or early enough to be written twice
  for (uint32_t more : {1u, ~0u}) {
    EXPECT_EQ(changed([=](PlanBytes* b, ChainRec* c) { b->index(c[1].bands + 5) += more; }), bad);
  }
  // another window, or what else differs, where they change places
  EXPECT_EQ(changed([](PlanBytes* b, ChainRec* c) {
              b->tensor(b->op(c[1].first_op).output).stride[1] += 16;
            }),
            bad);
  EXPECT_EQ(changed([](PlanBytes* b, ChainRec* c) { b->op(c[1].first_op + 1).data_off += 64; }),
            bad);
  EXPECT_EQ(changed([](PlanBytes* b, ChainRec* c) { b->op(c[1].first_op).p[2] = 1; }), bad);
  // both parts use the first one's window
  EXPECT_EQ(changed([](PlanBytes* b, ChainRec* c) {
              b->op(c[1].first_op).output = b->op(c[0].first_op).output;
            }),
            bad);
  // a part reads what both of them write
  EXPECT_EQ(changed([](PlanBytes* b, ChainRec* c) {
              b->op(c[1].first_op).inputs_off = b->op(c[1].first_op + 5).inputs_off;
              b->op(c[1].first_op).residual = b->op(c[1].first_op + 5).output;
            }),
            bad);
}

}  // namespace
}  // namespace edge::testing
