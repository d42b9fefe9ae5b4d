#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "conv_problem.h"

namespace edge::conv_test {
namespace {

ThreadPool* Pool(int threads) {
  static ThreadPool one(1), two(2);
  return threads == 1 ? &one : &two;
}

// Every table against the naive convolution and against the fallback.
void Check(const Shape& shape, uint32_t seed, int threads = 1) {
  ConvProblem problem(shape, seed);
  std::vector<float> fallback;
  for (const NamedTable& table : Tables()) {
    ASSERT_EQ(problem.Run(*table.kernels, Pool(threads)), "")
        << table.name << ": " << shape.Describe() << " seed " << seed;
    if (fallback.empty()) fallback = problem.result();
    for (size_t i = 0; i < fallback.size(); ++i) {
      ASSERT_NEAR(problem.result()[i], fallback[i], problem.Tolerance(i)) << table.name;
    }
  }
}

class Draw {
 public:
  explicit Draw(uint32_t seed) : rng_(seed) {}
  int Int(int lo, int hi) { return lo + static_cast<int>(rng_() % (hi - lo + 1u)); }
  template <class T>
  T Of(std::initializer_list<T> choices) {
    return *(choices.begin() + rng_() % choices.size());
  }

 private:
  std::mt19937 rng_;
};

Shape RandomShape(int block, Draw* draw) {
  Shape s;
  s.block = block;
  s.n = draw->Of({1, 1, 1, 3});
  s.c = draw->Int(1, 8);
  s.h = draw->Int(1, 20);
  s.w = draw->Int(1, 100);
  s.k = draw->Of({1, 3, 3, 5});
  s.stride = draw->Of({1, 1, 2});
  s.dilation = draw->Of({1, 1, 2});
  s.f = draw->Int(1, 24);
  if (draw->Int(0, 4) == 0) {
    s.groups = draw->Int(2, 4);
    s.f = s.groups * draw->Int(1, 5);
  }
  s.kept = draw->Of({1.0, 0.5, 0.2, 0.05});
  s.dead = draw->Of({0.0, 0.0, 0.3});
  s.gaps = draw->Int(0, 1) == 1;
  s.aligned = draw->Int(0, 1) == 1;
  s.act = static_cast<ActKind>(draw->Int(0, 6));
  s.residual = static_cast<Residual>(draw->Int(0, 3));
  return s;
}

class ConvOfBlock : public testing::TestWithParam<int> {};

TEST_P(ConvOfBlock, AgreesWithTheNaiveConvolutionOnRandomShapes) {
  Draw draw(17u * GetParam());
  for (uint32_t seed = 0; seed < 120; ++seed) {
    const Shape shape = RandomShape(GetParam(), &draw);
    ASSERT_NO_FATAL_FAILURE(Check(shape, seed, draw.Int(1, 2)));
  }
}

TEST_P(ConvOfBlock, HandlesEveryWidth) {
  for (int w = 1; w <= 100; ++w) {
    Shape s;
    s.block = GetParam();
    s.f = GetParam() + 1;
    s.c = 2;
    s.h = 2;
    s.w = w;
    s.residual = w % 2 ? Residual::kAfterAct : Residual::kInPlace;
    for (bool gaps : {false, true}) {
      s.gaps = gaps;
      s.aligned = w / 2 % 2 == 1;
      ASSERT_NO_FATAL_FAILURE(Check(s, static_cast<uint32_t>(w)));
    }
  }
}

TEST_P(ConvOfBlock, AppliesEveryActivationWithEveryResidual) {
  for (int act = 0; act <= 6; ++act) {
    for (int residual = 0; residual < 4; ++residual) {
      Shape s;
      s.block = GetParam();
      s.f = 2 * GetParam();
      s.w = 37;
      s.act = static_cast<ActKind>(act);
      s.residual = static_cast<Residual>(residual);
      ASSERT_NO_FATAL_FAILURE(Check(s, 5));
    }
  }
}

TEST_P(ConvOfBlock, GivesTheActivatedBiasWhereAllWeightsAreZero) {
  Shape s;
  s.block = GetParam();
  s.f = 20;
  s.kept = 0;
  s.act = ActKind::kSilu;
  ASSERT_NO_FATAL_FAILURE(Check(s, 1));
}

TEST_P(ConvOfBlock, SplitsFewTilesOfManyFiltersOverThreads) {
  Shape s;
  s.block = GetParam();
  s.c = 30;
  s.f = 65;
  s.h = s.w = 5;
  for (bool gaps : {false, true}) {
    s.gaps = gaps;
    ASSERT_NO_FATAL_FAILURE(Check(s, 2, 2));
  }
}

TEST_P(ConvOfBlock, AddsUpThePassesOverAnInputLargerThanTheCache) {
  for (Residual residual : {Residual::kNone, Residual::kInPlace}) {
    for (bool gaps : {false, true}) {
      Shape s;
      s.block = GetParam();
      s.c = 96;
      s.f = 21;
      s.h = 9;
      s.w = 31;
      s.gaps = gaps;
      s.residual = residual;
      s.act = ActKind::kLeakyRelu;
      for (bool aligned : {false, true}) {
        s.aligned = aligned;
        ASSERT_NO_FATAL_FAILURE(Check(s, 4, 2));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, ConvOfBlock, testing::Values(1, 2, 4, 8, 16),
                         [](const auto& info) { return "B" + std::to_string(info.param); });

TEST(Conv, IsDepthwiseWithOneInputChannelAGroup) {
  for (int k : {3, 5}) {
    for (int stride : {1, 2}) {
      Shape s;
      s.block = s.c = 1;
      s.k = k;
      s.stride = stride;
      s.groups = s.f = 19;
      s.h = 14;
      s.w = 14;
      s.act = ActKind::kClamp;
      for (bool gaps : {false, true}) {
        s.gaps = gaps;
        ASSERT_NO_FATAL_FAILURE(Check(s, 3, 2));
      }
    }
  }
}

TEST(Conv, KeepsANanOfItsOperandsAndStaysFiniteForLargeOnes) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const uint32_t row_ptr[] = {0, 1}, filters[] = {0};
  const int32_t offsets[] = {0};
  const float weight = 1, bias = 0;
  for (int act = 0; act <= 6; ++act) {
    for (const NamedTable& table : Tables()) {
      std::vector<float> in(16 + kArenaSlack / sizeof(float), 0.0f), out(3);
      in[0] = nan;
      in[1] = 200;
      in[2] = -200;
      ConvArgs a{};
      a.packed = {1, 1, 1, 1, row_ptr, filters, offsets, &weight, &bias};
      a.epilogue = MakeEpilogue(static_cast<ActKind>(act), Residual::kNone);
      a.in = in.data();
      a.out = out.data();
      a.n = a.h = 1;
      a.w = 3;
      ConvWith(a, Pool(1), *table.kernels);
      EXPECT_TRUE(std::isnan(out[0])) << table.name << " act " << act;
      for (int i : {1, 2}) {
        const float want = Activate(a.epilogue.act, in[i], a.epilogue.lo, a.epilogue.hi);
        EXPECT_NEAR(out[i], want, 1e-5f * std::abs(want) + 1e-30f) << table.name << " act " << act;
      }
    }
  }
}

TEST(Isa, TheFallbackIsAlwaysThereAndTheActiveOneIsSupported) {
  EXPECT_TRUE(IsaSupported(Isa::kFallback));
  EXPECT_TRUE(IsaSupported(ActiveIsa()));
}

}  // namespace
}  // namespace edge::conv_test
