// Int8 convolutions and linear layers, bit for bit.
#include <gtest/gtest.h>

#include <string>

#include "int8_problem.h"
#include "int8_tables.h"
#include "kernels/int8/fallback/vec.h"
#include "kernels/int8/table.h"

namespace edge::conv_test {
namespace {

struct UnsignedArray : Int8ArrayVec<16> {
  struct Dots : Int8ArrayVec<16>::Dots {
    static Pixels Load(const Quad* p) {
      Pixels pixels = LoadPixels(p);
      for (auto& channel : pixels.x) {
        for (int32_t& x : channel) x += 128;
      }
      return pixels;
    }
  };
  template <int B, int NV>
  static void Accumulate(const Int8ConvJob& job, const Quad* in, Sum (&sums)[B][NV]) {
    AccumulateInt8<Dots, 16>(job, 0, job.n_entries, in, sums);
  }
};

}  // namespace

const Int8Kernels kWideInt8 = Int8Table<UnsignedArray, 4, 8, 2>(
    "wide", Shifted::kAll, LinearInt8Fallback, LinearInt8CodesFallback);

namespace {

ThreadPool* Pool(int threads) {
  static ThreadPool one(1), two(2);
  return threads == 1 ? &one : &two;
}

void Check(const Int8Shape& shape, uint32_t seed, int threads = 1) {
  Int8Problem problem(shape, seed);
  for (Isa isa : Int8Isas()) {
    ASSERT_EQ(problem.Run(isa, Pool(threads)), "")
        << IsaName(isa) << ": " << shape.Describe() << " seed " << seed;
  }
  if (!shape.gaps) {
    ASSERT_EQ(problem.RunBlocks(kWideInt8), "") << shape.Describe() << " seed " << seed;
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

Int8Shape RandomShape(int block, Draw* draw) {
  Int8Shape s;
  s.block = block;
  s.bits = draw->Of({4, 8, 8});
  s.n = draw->Of({1, 1, 3});
  s.c = draw->Int(1, 6);
  s.f = draw->Int(1, 40);
  s.h = draw->Int(1, 12);
  s.w = draw->Int(1, 80);
  s.k = draw->Of({1, 3, 3, 5});
  s.kept = draw->Of({1.0, 0.5, 0.1, 0.02});
  s.shared = draw->Int(0, 1) == 1;
  s.gaps = draw->Int(0, 1) == 1;
  s.to_float = draw->Int(0, 3) == 0;
  s.extreme = draw->Int(0, 3) == 0;
  s.act = draw->Of({ActKind::kNone, ActKind::kClamp, ActKind::kLeakyRelu});
  s.residual = static_cast<Residual>(draw->Int(0, s.to_float ? 2 : 3));
  s.zero = draw->Of({-128, 127, 0, -3, 40});
  s.residual_zero = draw->Of({-128, 127, 0, 11});
  return s;
}

class Int8ConvOfBlock : public testing::TestWithParam<int> {};

TEST_P(Int8ConvOfBlock, IsItsDefinitionForRandomShapes) {
  Draw draw(31u * GetParam());
  for (uint32_t seed = 0; seed < 250; ++seed) {
    const Int8Shape shape = RandomShape(GetParam(), &draw);
    ASSERT_NO_FATAL_FAILURE(Check(shape, seed, draw.Int(1, 2)));
  }
}

TEST_P(Int8ConvOfBlock, HandlesEveryWidth) {
  for (int w = 1; w <= 100; ++w) {
    Int8Shape s;
    s.block = GetParam();
    s.f = GetParam() + 1;
    s.c = 1;
    s.h = 2;
    s.w = w;
    s.residual = w % 2 ? Residual::kAfterAct : Residual::kInPlace;
    for (bool gaps : {false, true}) {
      s.gaps = gaps;
      ASSERT_NO_FATAL_FAILURE(Check(s, static_cast<uint32_t>(w)));
    }
    s.residual = w % 2 ? Residual::kBeforeAct : Residual::kNone;
    s.to_float = true;
    ASSERT_NO_FATAL_FAILURE(Check(s, static_cast<uint32_t>(w)));
  }
}

TEST_P(Int8ConvOfBlock, AppliesEveryActivationWithEveryResidual) {
  for (ActKind act : {ActKind::kNone, ActKind::kClamp, ActKind::kLeakyRelu}) {
    for (int residual = 0; residual < 4; ++residual) {
      for (int zero : {-128, 0, 127}) {
        Int8Shape s;
        s.block = GetParam();
        s.f = 2 * GetParam() - 1;
        s.w = 37;
        s.act = act;
        s.residual = static_cast<Residual>(residual);
        s.zero = zero;
        s.residual_zero = -zero > 127 ? 127 : -zero;
        ASSERT_NO_FATAL_FAILURE(Check(s, 5));
      }
    }
  }
}

// What overflows sums of pairs in 16 bits, and wraps sums of 32.
TEST_P(Int8ConvOfBlock, TakesTheLargestLevelsAndAnyBias) {
  for (uint32_t seed = 0; seed < 10; ++seed) {
    Int8Shape s;
    s.block = GetParam();
    s.f = 3 * GetParam();
    s.c = 20;
    s.w = 21;
    s.extreme = true;
    s.to_float = seed % 2 == 0;
    ASSERT_NO_FATAL_FAILURE(Check(s, seed));
  }
}

TEST_P(Int8ConvOfBlock, GivesTheActivatedBiasWhereThereAreNoEntries) {
  for (int bits : {4, 8}) {
    Int8Shape s;
    s.block = GetParam();
    s.bits = bits;
    s.f = 20;
    s.kept = 0;
    s.act = ActKind::kClamp;
    ASSERT_NO_FATAL_FAILURE(Check(s, 1));
  }
}

TEST_P(Int8ConvOfBlock, SplitsFewTilesOfManyFiltersOverThreads) {
  for (bool gaps : {false, true}) {
    Int8Shape s;
    s.block = GetParam();
    s.c = 30;
    s.f = 130;
    s.h = s.w = 5;
    s.gaps = gaps;
    s.shared = gaps;
    ASSERT_NO_FATAL_FAILURE(Check(s, 2, 2));
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, Int8ConvOfBlock, testing::Values(4, 8),
                         [](const auto& info) { return "B" + std::to_string(info.param); });

void CheckLinear(const Int8Shape& shape, uint32_t seed, int threads) {
  Int8Problem problem(shape, seed);
  for (Isa isa : Int8Isas()) {
    for (bool in_registers : {false, true}) {
      ASSERT_EQ(problem.RunLinear(in_registers, isa, Pool(threads)), "")
          << IsaName(isa) << " in registers " << in_registers << ": " << shape.Describe()
          << " seed " << seed;
    }
  }
}

TEST(Int8Linear, IsItsDefinitionWithLevelsAndCodes) {
  Draw draw(7);
  for (uint32_t seed = 0; seed < 300; ++seed) {
    Int8Shape s = RandomShape(8, &draw);
    s.n = draw.Int(1, 40);
    s.c = draw.Int(1, 60);
    s.h = s.w = s.k = 1;
    s.gaps = false;
    ASSERT_NO_FATAL_FAILURE(CheckLinear(s, seed, draw.Int(1, 2)));
  }
}

TEST(Int8Linear, SplitsItsFiltersOverThreads) {
  for (int bits : {4, 8}) {
    Int8Shape s;
    s.bits = bits;
    s.c = 300;
    s.f = 1001;
    s.h = s.w = s.k = 1;
    s.to_float = bits == 8;
    ASSERT_NO_FATAL_FAILURE(CheckLinear(s, 3, 2));
  }
}

}  // namespace
}  // namespace edge::conv_test
