#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <tuple>

#include "conv_problem.h"

namespace edge::conv_test {
namespace {

struct LinearShape {
  int rows, features, filters, block;
  double kept;
  ActKind act;
  Residual residual;
};

// Runs one random problem on every table. Inputs that no entry names are NaN, and so is everything
// around them.
class LinearProblem {
 public:
  LinearProblem(const LinearShape& shape, uint32_t seed) : s_(shape), rng_(seed) {
    in_n_ = s_.features + 3;
    in_.assign(static_cast<size_t>(in_n_) * s_.rows, Poison());
    const int blocks = (s_.filters + s_.block - 1) / s_.block;
    for (int b = 0; b < blocks; ++b) PackBlock(b);
    out_c_ = 1 + static_cast<int>(rng_() % 2);
    out_n_ = s_.filters * out_c_ + 2;
    residual_.resize(static_cast<size_t>(out_n_) * s_.rows);
    for (float& r : residual_) r = Random();
  }

  void Check(const NamedTable& table, ThreadPool* pool) {
    std::vector<float> out(residual_.size(), -77.0f);
    if (s_.residual == Residual::kInPlace) out = residual_;
    const std::vector<float> before = out;
    LinearArgs a{};
    a.packed = packed_.View(s_.block, s_.filters);
    a.epilogue = MakeEpilogue(s_.act, s_.residual);
    a.in = in_.data();
    a.in_n = in_n_;
    a.out = out.data();
    a.out_n = out_n_;
    a.out_c = out_c_;
    if (s_.residual != Residual::kNone) {
      a.residual = s_.residual == Residual::kInPlace ? out.data() : residual_.data();
      a.res_n = out_n_;
      a.res_c = out_c_;
    }
    a.n = s_.rows;
    LinearWith(a, pool, *table.kernels);
    for (int n = 0; n < s_.rows; ++n) {
      for (int i = 0; i < out_n_; ++i) {
        const size_t at = static_cast<size_t>(n) * out_n_ + i;
        if (i % out_c_ != 0 || i / out_c_ >= s_.filters) {
          ASSERT_EQ(out[at], before[at]) << table.name << " wrote between its outputs";
        } else {
          Compare(table, n, i / out_c_, residual_[at], out[at]);
        }
      }
    }
  }

 private:
  float Random() { return std::uniform_real_distribution<float>(-1, 1)(rng_); }

  void PackBlock(int block) {
    for (int lane = 0; lane < s_.block; ++lane) {
      const int f =
          s_.filters - 1 - (block * s_.block + lane);  // some order that is not the trivial one
      packed_.filters.push_back(f >= 0 ? static_cast<uint32_t>(f) : kNone);
      packed_.bias.push_back(f >= 0 ? Random() : Poison());
    }
    for (int c = 0; c < s_.features; ++c) {
      if (std::uniform_real_distribution<double>(0, 1)(rng_) >= s_.kept) continue;
      packed_.offsets.push_back(c);
      for (int n = 0; n < s_.rows; ++n) {
        float& x = in_[static_cast<size_t>(n) * in_n_ + c];
        if (std::isnan(x)) x = Random();
      }
      for (int lane = 0; lane < s_.block; ++lane) {
        const bool used = packed_.filters[block * s_.block + lane] != kNone;
        packed_.weights.push_back(used ? Random() : Poison());
      }
    }
    packed_.row_ptr.push_back(static_cast<uint32_t>(packed_.offsets.size()));
  }

  void Compare(const NamedTable& table, int n, int f, float residual, float got) const {
    const int lane = s_.filters - 1 - f, block = lane / s_.block;
    double sum = packed_.bias[lane], magnitude = std::abs(sum);
    for (uint32_t e = packed_.row_ptr[block]; e < packed_.row_ptr[block + 1]; ++e) {
      const double term = static_cast<double>(packed_.weights[e * s_.block + lane % s_.block]) *
                          in_[static_cast<size_t>(n) * in_n_ + packed_.offsets[e]];
      sum += term;
      magnitude += std::abs(term);
    }
    const Epilogue e = MakeEpilogue(s_.act, s_.residual);
    const double r = s_.residual == Residual::kNone ? 0.0 : residual;
    const double before = e.residual_after_act ? 0.0 : r;
    double want = Activate(e.act, static_cast<float>(sum + before), e.lo, e.hi);
    if (e.residual_after_act) want += r;
    ASSERT_NEAR(got, want, 1e-5 * (magnitude + std::abs(r)) + 1e-6)
        << table.name << " block " << s_.block << " row " << n << " of " << s_.rows << " filter "
        << f << " of " << s_.filters << " features " << s_.features;
  }

  LinearShape s_;
  std::mt19937 rng_;
  int in_n_ = 0, out_n_ = 0, out_c_ = 1;
  std::vector<float> in_, residual_;
  Packed packed_;
};

class LinearOfBlock : public testing::TestWithParam<int> {};

TEST_P(LinearOfBlock, AgreesWithTheNaiveSumOnRandomShapes) {
  ThreadPool one(1), two(2);
  std::mt19937 rng(static_cast<uint32_t>(GetParam()));
  for (uint32_t seed = 0; seed < 150; ++seed) {
    LinearShape s{};
    s.block = GetParam();
    s.rows = 1 + static_cast<int>(rng() % 9);
    s.features = 1 + static_cast<int>(rng() % 200);
    s.filters = 1 + static_cast<int>(rng() % 50);
    s.kept = std::initializer_list<double>{1.0, 0.5, 0.2, 0.0}.begin()[rng() % 4];
    s.act = static_cast<ActKind>(rng() % 7);
    s.residual = static_cast<Residual>(rng() % 4);
    LinearProblem problem(s, seed);
    for (const NamedTable& table : Tables()) {
      ASSERT_NO_FATAL_FAILURE(problem.Check(table, seed % 2 ? &one : &two));
    }
  }
}

TEST_P(LinearOfBlock, SplitsALargeLayerOverThreads) {
  ThreadPool two(2);
  LinearProblem problem({2, 700, 300, GetParam(), 0.6, ActKind::kNone, Residual::kNone}, 1);
  for (const NamedTable& table : Tables()) {
    ASSERT_NO_FATAL_FAILURE(problem.Check(table, &two));
  }
}

TEST_P(LinearOfBlock, ActivatesWhatIsAlmostInfinite) {
  ThreadPool one(1);
  const auto block = static_cast<uint32_t>(GetParam());
  for (ActKind act : {ActKind::kSigmoid, ActKind::kMish, ActKind::kSilu}) {
    for (float x : {-3e38f, -1e30f, -90.0f, 90.0f, 1e30f, 3e38f}) {
      Packed packed;
      packed.row_ptr.push_back(0);
      for (uint32_t f = 0; f < block; ++f) packed.filters.push_back(f);
      packed.bias.assign(block, x);
      const float in = 0;
      std::vector<float> out(block);
      LinearArgs a{};
      a.packed = packed.View(GetParam(), GetParam());
      a.epilogue.act = act;
      a.in = &in;
      a.out = out.data();
      a.out_n = GetParam(), a.out_c = 1, a.n = 1;
      const float want = Activate(act, x, 0, 0);
      for (const NamedTable& table : Tables()) {
        LinearWith(a, &one, *table.kernels);
        for (float got : out) EXPECT_NEAR(got, want, 1e-5 * (1 + want)) << table.name << " " << x;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, LinearOfBlock, testing::Values(1, 2, 4, 8, 16),
                         [](const auto& info) { return "B" + std::to_string(info.param); });

}  // namespace
}  // namespace edge::conv_test
