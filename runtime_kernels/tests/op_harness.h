// Runs one op on dense tensors through a whole plan, in memory layouts drawn at random, and checks
// what every op owes: its halo is zero.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "edge/plan.h"
#include "plan_builder.h"

namespace edge::testing {

struct Tensor {
  Dims dims;
  std::vector<float> values;

  explicit Tensor(const Dims& d, float value = 0) : dims(d), values(Count(d), value) {}
  float& at(int64_t n, int64_t c, int64_t y, int64_t x) { return values[Flat(n, c, y, x)]; }
  float at(int64_t n, int64_t c, int64_t y, int64_t x) const { return values[Flat(n, c, y, x)]; }

 private:
  size_t Flat(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return static_cast<size_t>(((n * dims[1] + c) * dims[2] + y) * dims[3] + x);
  }
};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int32_t Int(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(engine_);
  }
  float Float(float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(engine_);
  }
  Dims SmallDims() { return {Int(1, 2), Int(1, 5), Int(1, 12), Int(1, 20)}; }
  Tensor Uniform(const Dims& dims, float low = -2, float high = 2) {
    Tensor t(dims);
    for (float& v : t.values) v = Float(low, high);
    return t;
  }

 private:
  std::mt19937 engine_;
};

// Calls f(n, c, y, x) for every element of `dims`.
template <typename F>
void ForEach(const Dims& dims, F f) {
  for (int32_t n = 0; n < dims[0]; ++n) {
    for (int32_t c = 0; c < dims[1]; ++c) {
      for (int32_t y = 0; y < dims[2]; ++y) {
        for (int32_t x = 0; x < dims[3]; ++x) f(n, c, y, x);
      }
    }
  }
}

inline void ExpectNear(const Tensor& actual, const Tensor& expected, float tolerance = 1e-5f) {
  ASSERT_EQ(actual.dims, expected.dims);
  for (size_t i = 0; i < expected.values.size(); ++i) {
    const float want = expected.values[i], got = actual.values[i];
    if (std::isnan(want) || std::isinf(want)) {
      ASSERT_TRUE(std::isnan(want) ? std::isnan(got) : got == want)
          << "element " << i << " is " << got;
    } else {
      ASSERT_NEAR(got, want, tolerance * std::max(1.0f, std::abs(want))) << "element " << i;
    }
  }
}

inline Status RunPlan(const PlanBytes& bytes, const std::vector<Tensor>& inputs,
                      std::vector<Tensor>* outputs, size_t threads = 1,
                      Observer* observer = nullptr) {
  Plan plan;
  const Status status = Plan::Load(bytes.data(), bytes.size(), &plan);
  if (status != Status::kOk) return status;
  ThreadPool pool(threads);
  std::unique_ptr<Executor> executor;
  const Status created = Executor::Create(plan, &pool, &executor);
  if (created != Status::kOk) return created;
  std::vector<const float*> in;
  std::vector<float*> out;
  for (const Tensor& t : inputs) in.push_back(t.values.data());
  for (Tensor& t : *outputs) out.push_back(t.values.data());
  return executor->Run(in.data(), in.size(), out.data(), out.size(), observer);
}

class OpHarness {
 public:
  explicit OpHarness(uint32_t seed) : random_(seed), threads_(1 + seed % 2) {}

  // Builds the op; called with the builder, the tensor ids of the operands and of the output.
  using Configure =
      std::function<OpRec&(PlanBuilder& plan, const std::vector<uint32_t>& in, uint32_t out)>;

  // With `needs_arena`, operands are laid out in the arena with at least `band` zeros on every
  // side.
  Tensor Run(const std::vector<Tensor>& operands, const Dims& out_dims, const Configure& configure,
             bool needs_arena = false, int32_t band = 0) {
    PlanBuilder plan;
    std::vector<uint32_t> sources, in;
    for (const Tensor& t : operands) sources.push_back(plan.Input(t.dims));
    for (size_t i = 0; i < operands.size(); ++i) {
      const bool arena = needs_arena || random_.Int(0, 1) == 1;
      in.push_back(arena ? plan.Arena(operands[i].dims, RandomHalo(band)) : sources[i]);
    }
    const bool out_in_arena = random_.Int(0, 2) > 0;
    const uint32_t result = plan.Output(out_dims);
    const uint32_t out = out_in_arena ? plan.Arena(out_dims, RandomHalo(0)) : result;
    std::vector<Tensor> inputs(operands), outputs = {Tensor(out_dims, NAN)};
    if (plan.arena_bytes() > 0) AddGarbage(&plan, &inputs);
    for (size_t i = 0; i < in.size(); ++i) {
      if (in[i] != sources[i]) plan.Copy(sources[i], in[i]);
    }
    configure(plan, in, out);
    if (out_in_arena) {
      plan.Copy(out, result);
      const uint32_t whole = plan.WithHalo(out);
      const TensorRec t = plan.tensor(whole);
      const Dims dims = {t.dims[0], t.dims[1], t.dims[2], t.dims[3]};
      plan.Copy(whole, plan.Output(dims));
      outputs.emplace_back(dims);
    }
    const PlanBytes bytes = plan.Finish();
    const Status status = RunPlan(bytes, inputs, &outputs, threads_);
    EXPECT_EQ(status, Status::kOk) << StatusMessage(status);
    if (out_in_arena) ExpectZeroHalo(plan.tensor(out), outputs[1]);
    return outputs[0];
  }

  Random& random() { return random_; }

 private:
  Halo RandomHalo(int32_t band) {
    Halo halo;
    for (int32_t& h : halo) h = band + (random_.Int(0, 1) == 1 ? random_.Int(0, 3) : 0);
    return halo;
  }

  // Fills the whole arena with ones first, as if other tensors had lived there.
  static void AddGarbage(PlanBuilder* plan, std::vector<Tensor>* inputs) {
    const Dims dims = {1, 1, 1, static_cast<int32_t>(plan->arena_bytes() / sizeof(float))};
    TensorRec t = {};
    t.storage = static_cast<uint32_t>(Storage::kArena);
    std::copy(dims.begin(), dims.end(), t.dims);
    std::fill(t.stride, t.stride + 3, dims[3]);
    plan->Copy(plan->Input(dims), plan->Add(t));
    inputs->emplace_back(dims, 1.0f);
  }

  static void ExpectZeroHalo(const TensorRec& t, const Tensor& whole) {
    ForEach(whole.dims, [&](int32_t n, int32_t c, int32_t y, int32_t x) {
      const bool inside = y >= t.halo[0] && y < t.halo[0] + t.dims[2] && x >= t.halo[2] &&
                          x < t.halo[2] + t.dims[3];
      if (inside) return;
      EXPECT_EQ(whole.at(n, c, y, x), 0.0f) << "halo at " << y << ", " << x;
    });
  }

  Random random_;
  size_t threads_;
};

}  // namespace edge::testing
