// Int8 depthwise convolutions, quantisation, pools and means, bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "int8_problem.h"
#include "int8_tables.h"

namespace edge::conv_test {
namespace {

constexpr Quad kUntouched = 0x5a17c3e9u;
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<Quad> RandomQuads(size_t count, std::mt19937* rng) {
  std::vector<Quad> quads(count);
  for (Quad& q : quads) q = static_cast<Quad>((*rng)());
  return quads;
}

Quad Join(const int32_t (&levels)[4]) {
  Quad quad = 0;
  for (int j = 0; j < 4; ++j) quad |= (static_cast<Quad>(levels[j]) & 0xffu) << (8 * j);
  return quad;
}

BasicView<const Quad> Reading(const BasicView<Quad>& v) {
  return {v.data, v.n, v.c, v.h, v.w, v.sn, v.sc, v.sh};
}

// One plane of four channels.
void CheckDepthwise(const Named<Int8Kernels>& table, int k, int stride, int h, int w, bool extreme,
                    ActKind act) {
  SCOPED_TRACE(::testing::Message() << table.name << " k " << k << " stride " << stride << " h "
                                    << h << " w " << w << " act " << static_cast<int>(act));
  constexpr int kRow = 300, kOutRow = 150;
  std::mt19937 rng(static_cast<uint32_t>(h * 1000 + w));
  std::vector<Quad> in = RandomQuads(static_cast<size_t>(((h - 1) * stride + k) * kRow + 64), &rng);
  std::vector<uint8_t> weights(static_cast<size_t>(DepthwiseInt8Weights(k)));
  for (uint8_t& v : weights) v = static_cast<uint8_t>(static_cast<int>(rng() % 255) - 127);
  if (extreme) {
    for (Quad& q : in) q = rng() % 2 == 0 ? 0x80808080u : 0x7f807f80u;
    for (uint8_t& v : weights) v = rng() % 4 == 0 ? 0x7f : 0x81;
  }
  int32_t bias[4];
  float scale[4];
  for (int j = 0; j < 4; ++j) {
    bias[j] = static_cast<int32_t>(rng() % 20001) - 10000;
    scale[j] = static_cast<float>(j + 1) / 1024.0f;
  }
  std::memcpy(weights.data(), bias, sizeof bias);
  std::memcpy(weights.data() + sizeof bias, scale, sizeof scale);
  std::vector<Quad> out(static_cast<size_t>((h + 2) * kOutRow), kUntouched);
  const auto at = [](int y, int x) { return static_cast<size_t>((y + 1) * kOutRow + x + 1); };
  const int32_t zero = w % 3 == 0 ? -128 : w % 3 == 1 ? 127 : -5;
  const Int8Epilogue epilogue = {
      act, act == ActKind::kLeakyRelu ? 0.1f : -30.25f, 80.5f, false, 0, 0, zero, false};
  Int8DepthwiseJob job = {};
  job.weights = weights.data();
  job.in = in.data(), job.in_h = kRow;
  job.out = &out[at(0, 0)], job.out_h = kOutRow;
  job.rows = h, job.cols = w, job.epilogue = &epilogue;
  table.kernels.depthwise[k / 5][stride - 1](job);
  for (int y = -1; y <= h; ++y) {
    for (int x = -1; x <= w; ++x) {
      if (y < 0 || y == h || x < 0 || x == w) {
        ASSERT_EQ(out[at(y, x)], kUntouched) << "wrote " << y << ", " << x;
        continue;
      }
      for (int j = 0; j < 4; ++j) {
        int64_t sum = bias[j];
        for (int i = 0; i < k * k; ++i) {
          const Quad q = in[static_cast<size_t>((y * stride + i / k) * kRow + x * stride + i % k)];
          sum += int64_t{static_cast<int8_t>(weights[static_cast<size_t>(32 + 4 * i + j)])} *
                 Byte(q, j);
        }
        float t = static_cast<float>(sum) * scale[j];
        if (act == ActKind::kClamp) t = std::min(std::max(t, epilogue.lo), epilogue.hi);
        if (act == ActKind::kLeakyRelu && !(t > 0)) t = t * epilogue.lo;
        ASSERT_EQ(Byte(out[at(y, x)], j), LevelOf(t, zero)) << y << ", " << x << ", " << j;
      }
    }
  }
}

TEST(Int8Depthwise, IsItsDefinitionForEveryWidth) {
  for (const auto& table : Int8Tables()) {
    for (int k : {3, 5}) {
      for (int stride : {1, 2}) {
        for (int w = 1; w <= 70; ++w) {
          CheckDepthwise(table, k, stride, 1 + w % 7, w, w % 10 == 0, ActKind::kNone);
          if (HasFatalFailure()) return;
        }
        for (ActKind act : {ActKind::kClamp, ActKind::kLeakyRelu}) {
          CheckDepthwise(table, k, stride, 4, 21, false, act);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(Int8Quantize, RoundsTiesToEvenAndSaturates) {
  const float values[] = {0.0f,  -0.0f, 0.5f,   1.5f,   2.5f,   -0.5f,   -1.5f,
                          1e9f,  -1e9f, kInf,   -kInf,  127.5f, -128.5f, 0.49999997f,
                          -2.5f, 3e38f, 1e-40f, 126.5f, -127.5f};
  const size_t count = sizeof(values) / sizeof(values[0]);
  for (const auto& table : Int8Tables()) {
    for (int32_t zero : {-128, -1, 0, 127}) {
      for (int n = 1; n <= 40; ++n) {
        std::vector<float> channels[3];
        for (size_t j = 0; j < 3; ++j) {
          for (int x = 0; x < n; ++x)
            channels[j].push_back(values[(static_cast<size_t>(x) * 7 + j * 5) % count]);
        }
        const float* rows[4] = {channels[0].data(), nullptr, channels[1].data(),
                                channels[2].data()};
        const float inverse = n % 2 == 0 ? 1.0f : 0.3f;
        std::vector<Quad> out(static_cast<size_t>(n + 1), kUntouched);
        table.kernels.quantize(rows, out.data(), n, inverse, zero);
        for (int x = 0; x < n; ++x) {
          int32_t expected[4];
          for (int j = 0; j < 4; ++j)
            expected[j] = LevelOf((rows[j] == nullptr ? 0.0f : rows[j][x]) * inverse, zero);
          ASSERT_EQ(out[static_cast<size_t>(x)], Join(expected))
              << table.name << " zero " << zero << " pixel " << x << " of " << n;
        }
        ASSERT_EQ(out.back(), kUntouched) << table.name << " n " << n;
      }
    }
  }
}

// No number has no level, but all processors give it the same one.
TEST(Int8Quantize, TakesNaNForTheLeastLevel) {
  const std::vector<float> nans(20, std::numeric_limits<float>::quiet_NaN());
  const float* rows[4] = {nans.data(), nans.data(), nans.data(), nans.data()};
  for (const auto& table : Int8Tables()) {
    for (int32_t zero : {-128, 0, 127}) {
      std::vector<Quad> out(nans.size());
      table.kernels.quantize(rows, out.data(), static_cast<int64_t>(nans.size()), 2.0f, zero);
      for (Quad q : out) ASSERT_EQ(q, 0x80808080u) << table.name << " zero " << zero;
    }
  }
}

TEST(Int8Dequantize, ScalesTheDistanceFromTheZeroPoint) {
  std::mt19937 rng(3);
  for (const auto& table : Int8Tables()) {
    for (int32_t zero : {-128, 0, 127}) {
      for (int n = 1; n <= 40; ++n) {
        const std::vector<Quad> in = RandomQuads(static_cast<size_t>(n + 64), &rng);
        std::vector<float> channels[3];
        for (auto& channel : channels) channel.assign(static_cast<size_t>(n + 1), Poison());
        float* rows[4] = {channels[0].data(), channels[1].data(), channels[2].data(), nullptr};
        table.kernels.dequantize(in.data(), rows, n, 0.013f, zero);
        for (size_t j = 0; j < 3; ++j) {
          for (int x = 0; x < n; ++x) {
            const int32_t q = Byte(in[static_cast<size_t>(x)], static_cast<int64_t>(j));
            ASSERT_EQ(rows[j][x], static_cast<float>(q - zero) * 0.013f) << table.name;
          }
          ASSERT_TRUE(std::isnan(channels[j].back())) << table.name << " n " << n;
        }
      }
    }
  }
}

TEST(Int8Max, IsThatOfEveryByte) {
  std::mt19937 rng(4);
  for (const auto& table : Int8Tables()) {
    for (int stride : {1, 2, 3, 5}) {
      for (int n = 1; n <= 40; ++n) {
        const std::vector<Quad> in = RandomQuads(static_cast<size_t>(n * stride + 64), &rng);
        const std::vector<Quad> before = RandomQuads(static_cast<size_t>(n + 64), &rng);
        std::vector<Quad> out = before;
        table.kernels.max(out.data(), in.data(), n, stride);
        for (size_t x = 0; x < out.size(); ++x) {
          int32_t expected[4];
          for (int j = 0; j < 4; ++j) {
            expected[j] = Byte(before[x], j);
            if (x < static_cast<size_t>(n))
              expected[j] = std::max(expected[j], Byte(in[x * static_cast<size_t>(stride)], j));
          }
          ASSERT_EQ(out[x], Join(expected)) << table.name << " stride " << stride << " n " << n;
        }
      }
    }
  }
}

TEST(Int8MaxPool, TakesTheLargestOfEveryWindow) {
  ThreadPool pool(2);
  std::mt19937 rng(5);
  const auto draw = [&rng](int low, int high) {
    return low + static_cast<int32_t>(rng() % static_cast<uint32_t>(high - low + 1));
  };
  for (int round = 0; round < 150; ++round) {
    PlanesOf<Quad> in(2, 3, draw(1, 12), draw(1, 40), 60, 64, 1024, &rng);
    for (Quad& q : in.data) q = static_cast<Quad>(rng());
    const int32_t h = draw(1, 12), w = draw(1, 40);
    int32_t p[8];  // kh kw sh sw pad_top pad_left dil_h dil_w
    for (int d : {0, 1}) {
      p[d] = draw(1, 5), p[2 + d] = draw(1, 3), p[6 + d] = draw(1, 2);
      p[4 + d] = draw(0, (p[d] - 1) * p[6 + d]);
    }
    const BasicView<Quad> from = {&in.At(0, 0, 0, 0), 2, 3, h, w, in.stride_n(), in.stride_c(),
                                  in.stride_h()};
    const int32_t rows = draw(1, (h - 1 + p[4]) / p[2] + 1),
                  cols = draw(1, (w - 1 + p[5]) / p[3] + 1);
    for (Isa isa : Int8Isas()) {
      PlanesOf<Quad> out(2, 3, rows, cols, cols + 2, 64, 64, &rng);
      const Quad poison = out.data[0];
      const BasicView<Quad> to = {
          &out.At(0, 0, 0, 0), 2, 3, rows, cols, out.stride_n(), out.stride_c(), out.stride_h()};
      MaxPoolInt8(Reading(from), to, p, &pool, isa);
      for (int i = 0; i < 2 * 3 * rows * cols; ++i) {
        const int n = i / (3 * rows * cols), c = i / (rows * cols) % 3, r = i / cols % rows,
                  q = i % cols;
        int32_t most[4] = {-128, -128, -128, -128};
        for (int tap = 0; tap < p[0] * p[1]; ++tap) {
          const int y = r * p[2] - p[4] + tap / p[1] * p[6];
          const int x = q * p[3] - p[5] + tap % p[1] * p[7];
          if (y < 0 || y >= h || x < 0 || x >= w) continue;
          for (int j = 0; j < 4; ++j) most[j] = std::max(most[j], Byte(from.Row(n, c, y)[x], j));
        }
        ASSERT_EQ(out.At(n, c, r, q), Join(most)) << IsaName(isa) << " round " << round;
        out.At(n, c, r, q) = poison;
      }
      for (Quad q : out.data) ASSERT_EQ(q, poison) << "wrote outside, round " << round;
    }
  }
}

TEST(Int8Mean, RoundsTheMeanOfAMap) {
  ThreadPool pool(2);
  std::mt19937 rng(6);
  for (int round = 0; round < 60; ++round) {
    const int32_t h = 1 + round % 9, w = 1 + round % 37, c = 5;
    const int32_t in_zero = round % 3 == 0 ? -128 : 127, zero = round % 2 == 0 ? 9 : -128;
    PlanesOf<Quad> in(2, c, h, w, w + 3, 0, 64, &rng), out(2, c, 1, 1, 1, 0, 0, &rng);
    for (Quad& q : in.data) q = static_cast<Quad>(rng());
    const float scale = (round % 4 == 0 ? 1.0f : 1.7f) / static_cast<float>(h * w);
    const BasicView<Quad> from = {&in.At(0, 0, 0, 0), 2, c, h, w, in.stride_n(), in.stride_c(),
                                  in.stride_h()};
    MeanInt8(Reading(from), {&out.At(0, 0, 0, 0), 2, c, 1, 1, out.stride_n(), out.stride_c(), 1},
             scale, in_zero, zero, &pool);
    for (int n = 0; n < 2; ++n) {
      for (int quad = 0; quad < c; ++quad) {
        int32_t expected[4];
        for (int j = 0; j < 4; ++j) {
          int64_t sum = int64_t{-in_zero} * h * w;
          for (int y = 0; y < h; ++y) {
            for (int x = 0; x < w; ++x) sum += Byte(in.At(n, quad, y, x), j);
          }
          expected[j] = LevelOf(static_cast<float>(sum) * scale, zero);
        }
        ASSERT_EQ(out.At(n, quad, 0, 0), Join(expected)) << "round " << round;
      }
    }
  }
}

}  // namespace
}  // namespace edge::conv_test
