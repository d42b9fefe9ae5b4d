// The float16 kernels against exact sums, within the error that kernels/half/half.h promises.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "conv_problem.h"
#include "half_vec.h"
#include "kernels/half/kernel_table.h"

namespace edge::half_test {
namespace {

using conv_test::ConvProblem;
using conv_test::MakeEpilogue;
using conv_test::Named;
using conv_test::PlanesOf;
using conv_test::Residual;
using conv_test::Shape;

using Vec = HalfSumsVec;

// The tiles of the kernels with float16 sums.
const HalfKernels kSumsKernels = {
    {{"1x160", 1, 160, 8, RunConvHalf<Vec, 1, 20>},
     {"2x80", 2, 80, 8, RunConvHalf<Vec, 2, 10>},
     {"4x48", 4, 48, 8, RunConvHalf<Vec, 4, 6>},
     {"8x24", 8, 24, 8, RunConvHalf<Vec, 8, 3>},
     {"8x24", 8, 24, 8, RunConvHalf<Vec, 8, 3>}},
    {RunLinearHalfScalar<Vec, 1>, RunLinearHalfScalar<Vec, 2>, RunLinearHalf<HalfArrayVec<4>, 4>,
     RunLinearSums<Vec, 8>, RunLinearSums<Vec, 16>},
    {{DepthwisePlane<Vec, 3, 1, Half>::Run, DepthwisePlane<Vec, 3, 2, Half>::Run},
     {DepthwisePlane<Vec, 5, 1, Half>::Run, DepthwisePlane<Vec, 5, 2, Half>::Run}},
    ActivateFloats<HalfArrayVec<8>>,
    WidenHalves<HalfArrayVec<8>>,
    NarrowHalves<HalfArrayVec<8>>};

std::vector<Named<const HalfKernels*>> Tables() {
  std::vector<Named<const HalfKernels*>> tables;
  for (Isa isa : {Isa::kFallback, Isa::kAvx2, Isa::kNeon, Isa::kFp16}) {
    if (IsaSupported(isa)) tables.push_back({IsaName(isa), &HalfKernelsOf(isa)});
  }
  tables.push_back({"float16 sums", &kSumsKernels});
  return tables;
}

// What half.h promises, for activations whose slope is at most 1.5.
double Bound(double magnitude, double entries, double output) {
  const double unit = std::ldexp(1, -11), least = std::ldexp(1, -25);
  const double grouped = std::min<double>(entries, kHalfGroup);
  return 1.5 * (unit * ((grouped + 4) * magnitude + std::abs(output)) + least * (entries + 4));
}

ThreadPool* Pool(int threads) {
  static ThreadPool one(1), two(2);
  return threads == 1 ? &one : &two;
}

class HalfConvProblem : public ConvProblem {
 public:
  HalfConvProblem(const Shape& shape, uint32_t seed) : ConvProblem(shape, seed, true) {}

  double Tolerance(size_t i) const override {
    return Bound(magnitude_[i], s_.c * s_.k * s_.k, expected_[i]);
  }

  // As ConvProblem::Run.
  std::string RunHalf(const HalfKernels& kernels, ThreadPool* pool) {
    const int64_t out_h = s_.gaps ? in_.stride_h() : s_.w + static_cast<int64_t>(rng_() % 4);
    PlanesOf<Half> out(s_.n, s_.f, s_.h, s_.w, out_h, 64, 64, &rng_);
    PlanesOf<Half> residual(s_.n, s_.f, s_.h, s_.w, out_h, 0, 0, &rng_);
    ForEachOutput([&](int n, int f, int y, int x, size_t i) {
      residual.At(n, f, y, x) = ToHalf(residual_[i]);
      if (s_.residual == Residual::kInPlace) out.At(n, f, y, x) = ToHalf(residual_[i]);
    });
    std::vector<Half> in, weights;
    for (float v : in_.data) in.push_back(ToHalf(v));
    for (float v : packed_.weights) weights.push_back(ToHalf(v));
    HalfConvArgs a{};
    a.packed = packed_.View(s_.block, s_.f);
    a.weights = weights.data();
    a.epilogue = MakeEpilogue(s_.act, s_.residual);
    a.in = in.data() + in_.Position(0, 0, 0, 0);
    a.in_n = in_.stride_n(), a.in_h = in_.stride_h();
    a.out = &out.At(0, 0, 0, 0);
    a.out_n = out.stride_n(), a.out_c = out.stride_c(), a.out_h = out_h;
    if (s_.residual != Residual::kNone) {
      PlanesOf<Half>& from = s_.residual == Residual::kInPlace ? out : residual;
      a.residual = &from.At(0, 0, 0, 0);
      a.res_n = from.stride_n(), a.res_c = from.stride_c(), a.res_h = from.stride_h();
    }
    a.n = s_.n, a.h = s_.h, a.w = s_.w;
    a.may_write_gaps = s_.gaps;
    const PlanesOf<Half> untouched = out;
    ConvHalfWith(a, pool, kernels);
    return Compare(untouched, &out);
  }

 private:
  std::string Compare(const PlanesOf<Half>& before, PlanesOf<Half>* out) {
    std::ostringstream wrong;
    std::vector<char> may_change(before.data.size(), 0);
    ForEachOutput([&](int n, int f, int y, int x, size_t i) {
      const float got = ToFloat(out->At(n, f, y, x));
      may_change[out->Position(n, f, y, x)] = 1;
      if (!(std::abs(got - expected_[i]) <= Tolerance(i)) && wrong.str().empty()) {
        wrong << "output (" << n << ", " << f << ", " << y << ", " << x << ") is " << got
              << " instead of " << expected_[i] << ", allowed " << Tolerance(i);
      }
      for (int64_t gap = s_.w; s_.gaps && y + 1 < s_.h && gap < out->stride_h(); ++gap)
        may_change[out->Position(n, f, y, gap)] = 1;
    });
    for (size_t i = 0; i < may_change.size(); ++i) {
      if (may_change[i] || before.data[i].bits == out->data[i].bits) continue;
      wrong << " element " << i << " of the output's memory was overwritten";
      break;
    }
    return wrong.str();
  }
};

void Check(const Shape& shape, uint32_t seed, int threads = 1) {
  HalfConvProblem problem(shape, seed);
  for (const auto& table : Tables()) {
    ASSERT_EQ(problem.RunHalf(*table.kernels, Pool(threads)), "")
        << table.name << ": " << shape.Describe() << " seed " << seed;
  }
}

class HalfConvOfBlock : public testing::TestWithParam<int> {
 protected:
  int Int(int lo, int hi) { return lo + static_cast<int>(rng_() % (hi - lo + 1u)); }
  std::mt19937 rng_{static_cast<uint32_t>(GetParam())};
};

TEST_P(HalfConvOfBlock, AgreesWithTheExactConvolutionOnRandomShapes) {
  for (uint32_t seed = 0; seed < 120; ++seed) {
    Shape s;
    s.block = GetParam();
    s.n = Int(0, 3) == 0 ? 3 : 1;
    s.c = Int(1, 8), s.h = Int(1, 20), s.w = Int(1, 100), s.f = Int(1, 24);
    s.k = 1 + 2 * Int(0, 2);
    s.stride = Int(0, 2) == 0 ? 2 : 1;
    s.dilation = Int(0, 2) == 0 ? 2 : 1;
    if (Int(0, 4) == 0) s.groups = Int(2, 4), s.f = s.groups * Int(1, 5);
    s.kept = 1.0 / Int(1, 8);
    s.dead = Int(0, 2) == 0 ? 0.3 : 0.0;
    s.gaps = Int(0, 1) == 1;
    s.act = static_cast<ActKind>(Int(0, 6));
    s.residual = static_cast<Residual>(Int(0, 3));
    ASSERT_NO_FATAL_FAILURE(Check(s, seed, Int(1, 2)));
  }
}

TEST_P(HalfConvOfBlock, HandlesEveryWidth) {
  for (int w = 1; w <= 180; w += w < 100 ? 1 : 7) {
    Shape s;
    s.block = GetParam();
    s.f = GetParam() + 1, s.c = 2, s.h = 2, s.w = w;
    s.residual = w % 2 ? Residual::kAfterAct : Residual::kInPlace;
    for (bool gaps : {false, true}) {
      s.gaps = gaps;
      ASSERT_NO_FATAL_FAILURE(Check(s, static_cast<uint32_t>(w)));
    }
  }
}

TEST_P(HalfConvOfBlock, AppliesEveryActivationWithEveryResidual) {
  for (int act = 0; act <= 6; ++act) {
    for (int residual = 0; residual < 4; ++residual) {
      Shape s;
      s.block = GetParam();
      s.f = 2 * GetParam(), s.w = 37;
      s.act = static_cast<ActKind>(act);
      s.residual = static_cast<Residual>(residual);
      ASSERT_NO_FATAL_FAILURE(Check(s, 5));
    }
  }
}

TEST_P(HalfConvOfBlock, AddsUpGroupsOfEntriesHoweverManyThereAre) {
  for (int channels : {14, 15, 28, 29, 43, 96}) {  // 126, 135, 252, 261, 387 and 864 entries
    Shape s;
    s.block = GetParam();
    s.c = channels, s.f = 21, s.h = 9, s.w = 31;
    s.gaps = channels % 2 == 0;
    s.residual = channels % 3 == 0 ? Residual::kInPlace : Residual::kNone;
    ASSERT_NO_FATAL_FAILURE(Check(s, 4, 2));
  }
}

TEST_P(HalfConvOfBlock, GivesTheActivatedBiasWhereAllWeightsAreZero) {
  Shape s;
  s.block = GetParam();
  s.f = 20, s.kept = 0;
  s.act = ActKind::kSilu;
  ASSERT_NO_FATAL_FAILURE(Check(s, 1));
}

INSTANTIATE_TEST_SUITE_P(Blocks, HalfConvOfBlock, testing::Values(1, 2, 4, 8, 16),
                         [](const auto& info) { return "B" + std::to_string(info.param); });

// Errors over the root mean square of the exact outputs, for a layer with `channels` x 3 x 3
// inputs.
double RelativeError(const HalfKernels& kernels, int channels) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0, 1);
  const int n = channels * 9, pixels = 8, block = 8;
  std::vector<Half> in(static_cast<size_t>(n * pixels + 512)), weights;
  for (Half& x : in) x = ToHalf(std::max(0.0f, normal(rng)));  // as after a ReLU
  const float scale = std::sqrt(2.0f / static_cast<float>(n));
  for (int i = 0; i < n * block; ++i) weights.push_back(ToHalf(scale * normal(rng)));
  std::vector<int32_t> offsets;
  for (int i = 0; i < n; ++i) offsets.push_back(i * pixels);
  const uint32_t row_ptr[] = {0, static_cast<uint32_t>(n)};
  std::vector<uint32_t> filters;
  for (uint32_t f = 0; f < 8; ++f) filters.push_back(f);
  const std::vector<float> bias(8, 0.0f);
  std::vector<Half> out(64);
  HalfConvArgs a{};
  a.packed = {
      8,       1,          static_cast<uint32_t>(n), 8, row_ptr, filters.data(), offsets.data(),
      nullptr, bias.data()};
  a.weights = weights.data();
  a.in = in.data(), a.in_h = pixels;
  a.out = out.data(), a.out_c = a.out_h = pixels;
  a.n = a.h = 1, a.w = pixels;
  ConvHalfWith(a, Pool(1), kernels);
  double squares = 0, errors = 0;
  for (int f = 0; f < block; ++f) {
    for (int x = 0; x < pixels; ++x) {
      double sum = 0;
      for (int e = 0; e < n; ++e)
        sum += double{ToFloat(weights[e * block + f])} * ToFloat(in[e * pixels + x]);
      squares += sum * sum;
      errors += std::pow(ToFloat(out[f * pixels + x]) - sum, 2);
    }
  }
  return std::sqrt(errors / squares);
}

TEST(HalfConv, LosesLittleOnLayersAsDeepAsResNets) {
  for (const auto& table : Tables()) {
    for (int channels : {64, 128, 256, 512}) {
      const double error = RelativeError(*table.kernels, channels);
      std::printf("%-12s %3d channels: relative error %.2e\n", table.name, channels, error);
      EXPECT_LT(error, 4e-3) << table.name << " " << channels;
    }
  }
}

TEST(HalfLinear, AgreesWithExactSumsForEveryBlock) {
  std::mt19937 rng(3);
  std::uniform_real_distribution<float> random(-1, 1);
  for (int block : {1, 2, 4, 8, 16}) {
    for (int features : {1, 5, 31, 128, 129, 700}) {
      for (int act : {0, 1, 4}) {
        const int filters = 2 * block + 1, rows = 3, blocks = 3;
        std::vector<uint32_t> row_ptr = {0}, order(static_cast<size_t>(blocks * block), kNone);
        std::vector<float> bias(order.size());
        std::vector<int32_t> offsets;
        std::vector<Half> weights, in(static_cast<size_t>(rows * features)), added;
        for (int f = 0; f < filters; ++f) order[f] = static_cast<uint32_t>(filters - 1 - f);
        for (float& b : bias) b = random(rng);
        for (int b = 0; b < blocks; ++b) {
          for (int i = 0; i < features; ++i) {
            if (b == 1 && i % 3 == 0) continue;
            offsets.push_back(i);
            for (int lane = 0; lane < block; ++lane) weights.push_back(ToHalf(random(rng)));
          }
          row_ptr.push_back(static_cast<uint32_t>(offsets.size()));
        }
        for (Half& x : in) x = ToHalf(random(rng));
        for (int i = 0; i < rows * filters; ++i) added.push_back(ToHalf(random(rng)));
        for (const auto& table : Tables()) {
          for (bool to_half : {false, true}) {
            std::vector<Half> halves(static_cast<size_t>(rows * filters));
            std::vector<float> floats(halves.size());
            HalfLinearArgs a{};
            a.packed = {static_cast<uint32_t>(block),
                        3,
                        static_cast<uint32_t>(offsets.size()),
                        static_cast<uint32_t>(filters),
                        row_ptr.data(),
                        order.data(),
                        offsets.data(),
                        nullptr,
                        bias.data()};
            a.weights = weights.data();
            a.epilogue = MakeEpilogue(static_cast<ActKind>(act), Residual::kNone);
            a.in = in.data(), a.in_n = features;
            a.residual = added.data(), a.res_n = filters, a.res_c = 1;
            void* out = to_half ? static_cast<void*>(halves.data()) : floats.data();
            a.out = {out, rows, filters, 1, 1, filters, 1, 1, to_half};
            LinearHalfWith(a, Pool(2), *table.kernels);
            for (int i = 0; i < blocks * block; ++i) {
              if (order[i] == kNone) continue;
              for (int n = 0; n < rows; ++n) {
                const int at = n * filters + static_cast<int>(order[i]);
                double sum = bias[i] + ToFloat(added[at]), size = std::abs(sum) + 1;
                for (uint32_t e = row_ptr[i / block]; e < row_ptr[i / block + 1]; ++e) {
                  const double term = double{ToFloat(weights[e * block + i % block])} *
                                      ToFloat(in[n * features + offsets[e]]);
                  sum += term, size += std::abs(term);
                }
                const float want =
                    Activate(a.epilogue.act, static_cast<float>(sum), a.epilogue.lo, a.epilogue.hi);
                const float got = to_half ? ToFloat(halves[at]) : floats[at];
                ASSERT_NEAR(got, want, Bound(size, features, want))
                    << table.name << " block " << block << " features " << features;
              }
            }
          }
        }
      }
    }
  }
}

TEST(HalfDepthwise, IsTheConvolutionForEveryWidth) {
  std::mt19937 rng(4);
  std::uniform_real_distribution<float> random(-1, 1);
  constexpr int kRow = 300, kOutRow = 150;
  for (const auto& table : Tables()) {
    for (int k : {3, 5}) {
      for (int stride : {1, 2}) {
        for (int w = 1; w <= 100; ++w) {
          const int h = 1 + w % 11, rows = (h - 1) * stride + k, cols = (w - 1) * stride + k;
          std::vector<Half> in(static_cast<size_t>(rows * kRow + 64), Half{0x7e00}),
              out(static_cast<size_t>((h + 2) * kOutRow), Half{0x7e00});
          for (int y = 0; y < rows; ++y)
            for (int x = 0; x < cols; ++x) in[y * kRow + x] = ToHalf(random(rng));
          std::vector<float> weights;
          for (int i = 0; i <= k * k; ++i) weights.push_back(random(rng));
          const auto act = static_cast<ActKind>(w % 7);
          const Epilogue e = MakeEpilogue(act, Residual::kNone);
          HalfDepthwiseJob job = {};
          job.in = in.data(), job.in_h = kRow;
          job.out = &out[kOutRow + 1], job.out_h = kOutRow;
          job.rows = h, job.cols = w;
          job.weights = weights.data(), job.epilogue = &e;
          table.kernels->depthwise[k / 5][stride - 1](job);
          for (int y = -1; y <= h; ++y) {
            for (int x = -1; x <= w; ++x) {
              const float got = ToFloat(out[(y + 1) * kOutRow + x + 1]);
              if (y < 0 || y == h || x < 0 || x == w) {
                ASSERT_TRUE(std::isnan(got)) << table.name << " wrote " << y << ", " << x;
                continue;
              }
              double sum = weights[0], size = std::abs(sum);
              for (int i = 0; i < k * k; ++i) {
                const float v = ToFloat(in[(y * stride + i / k) * kRow + x * stride + i % k]);
                sum += double{weights[1 + i]} * v, size += std::abs(double{weights[1 + i]} * v);
              }
              const float want = Activate(act, static_cast<float>(sum), e.lo, e.hi);
              // The weights are rounded as well.
              ASSERT_NEAR(got, want, Bound(size, k * k + 1, want)) << table.name << " k " << k;
            }
          }
        }
      }
    }
  }
}

TEST(Half, IsConvertedToTheNearestAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Half half = {static_cast<uint16_t>(bits)};
    const float value = ToFloat(half);
    const bool nan = (bits & 0x7fff) > 0x7c00;
    EXPECT_EQ(std::isnan(value), nan);
    if (nan) continue;
    EXPECT_EQ(ToHalf(value).bits, bits);
    if ((bits & 0x7fff) >= 0x7bff) continue;  // the next one is infinite
    const float next = ToFloat({static_cast<uint16_t>(bits + 1)}), middle = (value + next) / 2;
    EXPECT_EQ(ToHalf(middle).bits, bits + bits % 2) << bits;  // to even
    EXPECT_EQ(ToHalf(std::nextafter(middle, value)).bits, bits);
    EXPECT_EQ(ToHalf(std::nextafter(middle, next)).bits, bits + 1);
  }
  EXPECT_EQ(ToHalf(65519.0f).bits, 0x7bff);
  EXPECT_EQ(ToHalf(-65520.0f).bits, 0xfc00);
}

TEST(Half, RowsAreConvertedAsNumbersAre) {
  std::mt19937 rng(6);
  for (const auto& table : Tables()) {
    for (size_t n : {0, 1, 3, 8, 9, 31, 64}) {
      std::vector<float> floats(n + 1), back(n + 1, -1.0f);
      std::vector<Half> halves(n + 1, Half{0x1234});
      for (float& x : floats)
        x = std::ldexp(static_cast<float>(rng()), -40 + static_cast<int>(rng() % 24));
      table.kernels->narrow(halves.data(), floats.data(), n);
      table.kernels->widen(back.data(), halves.data(), n);
      for (size_t i = 0; i < n; ++i) {
        EXPECT_EQ(halves[i].bits, ToHalf(floats[i]).bits) << table.name << " " << floats[i];
        EXPECT_EQ(back[i], ToFloat(halves[i]));
      }
      EXPECT_EQ(halves[n].bits, 0x1234);
      EXPECT_EQ(back[n], -1.0f);
    }
  }
}

}  // namespace
}  // namespace edge::half_test
