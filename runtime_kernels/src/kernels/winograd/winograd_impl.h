// Winograd's transforms over a vector of tiles.
//
// Besides what conv/simd.h asks for, a vector type V has Split<M>(p, x): x[i] takes p[i], p[M + i],
// p[2 M + i], ... for i < M; and its inverse, Join<M>(p, x).
#pragma once
#include "kernels/conv/activation_impl.h"
#include "kernels/conv/simd.h"
#include "kernels/winograd/kernel_table.h"

namespace edge {

// Tiles of a row that are transformed together: what is between the vertical and the horizontal
// pass stays in L1.
constexpr int64_t kWinogradTiles = 64;

// One dimension of the transforms, in place: B^T x, and A^T x in the first M elements.
template <class V, int M>
struct WinogradMatrices;

template <class V>
struct WinogradMatrices<V, 2> {
  using Reg = typename V::Reg;

  static EDGE_INLINE void In(Reg (&x)[4]) {
    const Reg x1 = x[1], x2 = x[2];
    x[0] = V::Sub(x[0], x2);
    x[1] = V::Add(x1, x2);
    x[2] = V::Sub(x2, x1);
    x[3] = V::Sub(x1, x[3]);
  }
  static EDGE_INLINE void Out(Reg (&x)[4]) {
    x[0] = V::Add(x[0], V::Add(x[1], x[2]));
    x[1] = V::Sub(V::Sub(x[1], x[2]), x[3]);
  }
};

template <class V>
struct WinogradMatrices<V, 4> {
  using Reg = typename V::Reg;

  static EDGE_INLINE void In(Reg (&x)[6]) {
    const Reg two = V::Set(2.0f), four = V::Set(4.0f), minus_four = V::Set(-4.0f),
              minus_five = V::Set(-5.0f);
    const Reg even4 = V::Fma(x[2], minus_four, x[4]), odd4 = V::Fma(x[1], minus_four, x[3]);
    const Reg even1 = V::Sub(x[4], x[2]), odd2 = V::Mul(two, V::Sub(x[3], x[1]));
    x[0] = V::Fma(x[0], four, V::Fma(x[2], minus_five, x[4]));
    x[5] = V::Fma(x[1], four, V::Fma(x[3], minus_five, x[5]));
    x[1] = V::Add(even4, odd4);
    x[2] = V::Sub(even4, odd4);
    x[3] = V::Add(even1, odd2);
    x[4] = V::Sub(even1, odd2);
  }
  static EDGE_INLINE void Out(Reg (&x)[6]) {
    const Reg sum1 = V::Add(x[1], x[2]), difference1 = V::Sub(x[1], x[2]);
    const Reg sum2 = V::Add(x[3], x[4]), difference2 = V::Sub(x[3], x[4]);
    x[0] = V::Add(x[0], V::Add(sum1, sum2));
    x[1] = V::Fma(difference2, V::Set(2.0f), difference1);
    x[2] = V::Fma(sum2, V::Set(4.0f), sum1);
    x[3] = V::Fma(difference2, V::Set(8.0f), V::Add(difference1, x[5]));
  }
};

// f(i, load, store) for the first elements i of vectors that cover [0, n). load(p) and store(p, x)
// do not touch what is `room` >= n elements or more after the start.
template <class V, class F>
EDGE_INLINE void ForVectors(int64_t n, int64_t room, const F& f) {
  int64_t i = 0;
  for (; i < n && i + V::kLanes <= room; i += V::kLanes) {
    f(
        i, [](const float* p) EDGE_INLINE_LAMBDA { return V::Load(p); },
        [](float* p, typename V::Reg x) EDGE_INLINE_LAMBDA { V::Store(p, x); });
  }
  if (i < n) {
    const int rest = static_cast<int>(room - i);
    f(
        i, [rest](const float* p) EDGE_INLINE_LAMBDA { return V::LoadPart(p, rest); },
        [rest](float* p, typename V::Reg x) EDGE_INLINE_LAMBDA { V::StorePart(p, x, rest); });
  }
}

template <class V, int M>
class WinogradIn {
 public:
  // Some rows of tiles at a time: where rows are short, those that share cache lines.
  static void Run(const WinogradInJob& job) {
    alignas(64) float columns[kPatch][kColumns];
    const int64_t width = job.tiles < kWinogradTiles ? job.tiles : kWinogradTiles;
    const int64_t pitch = Columns(width) + kLanes, most = kColumns / pitch;
    for (int64_t row = 0; row < job.tile_rows; row += most) {
      const int64_t rows = job.tile_rows - row < most ? job.tile_rows - row : most;
      for (int64_t first = 0; first < job.tiles; first += kWinogradTiles) {
        const int64_t left = job.tiles - first, tiles = left < width ? left : width;
        for (int64_t r = 0; r < rows; ++r) {
          Vertical(job, row + r, first * M - job.left, tiles, columns, r * pitch);
        }
        for (int ky = 0; ky < kPatch; ++ky) {
          float* out = job.out + ky * kPatch * job.out_k + row * job.out_h + first;
          for (int64_t r = 0; r < rows; ++r, out += job.out_h) {
            const int64_t room = (job.tile_rows - 1 - row - r) * job.out_h + left;
            Horizontal(columns[ky] + r * pitch, tiles, out, job.out_k, room);
          }
        }
      }
    }
  }

 private:
  using Reg = typename V::Reg;
  static constexpr int kPatch = M + 2, kLanes = V::kLanes;
  // What Horizontal reads of a row.
  static constexpr int64_t Columns(int64_t tiles) {
    return ((tiles + kLanes - 1) / kLanes * kLanes + 1) * M;
  }
  static constexpr int64_t kColumns = Columns(kWinogradTiles) + kLanes;

  // B^T over the columns of a row of patches, of which the first is the input's column `x`, to
  // columns[...][at].
  static EDGE_INLINE void Vertical(const WinogradInJob& job, int64_t row, int64_t x, int64_t tiles,
                                   float (&columns)[kPatch][kColumns], int64_t at) {
    static constexpr float kZeros[kColumns] = {};
    const int64_t span = tiles * M + 2, top = row * M - job.top;
    const int64_t begin = x >= 0 ? 0 : -x < span ? -x : span;
    const int64_t end = job.w - x >= span ? span : job.w - x > begin ? job.w - x : begin;
    // Zeros left of the input, which may reach too far as long as nothing else is there, and right
    // of it from behind the last vector, which ends with zeros.
    const int64_t after = begin + (end - begin + kLanes - 1) / kLanes * kLanes;
    const Reg zero = V::Set(0.0f);
    const float* rows[kPatch];
    for (int i = 0; i < kPatch; ++i) {
      const bool inside = top + i >= 0 && top + i < job.h;
      rows[i] = inside ? job.in + (top + i) * job.in_h + (x + begin) : kZeros;
      float* out = columns[i] + at;
      for (int64_t c = 0; c < begin; c += kLanes) V::Store(out + c, zero);
      for (int64_t c = after; c < Columns(tiles); c += kLanes) V::Store(out + c, zero);
    }
    const int64_t n = end - begin;
    ForVectors<V>(n, n, [&](int64_t c, const auto& load, const auto&) EDGE_INLINE_LAMBDA {
      Reg d[kPatch];
      Unroll<kPatch>([&](auto i) EDGE_INLINE_LAMBDA { d[i.value] = load(rows[i.value] + c); });
      WinogradMatrices<V, M>::In(d);
      Unroll<kPatch>([&](auto i) EDGE_INLINE_LAMBDA {
        V::Store(columns[i.value] + at + begin + c, d[i.value]);
      });
    });
  }

  // The other side's B, for one row of V.
  static EDGE_INLINE void Horizontal(const float* row, int64_t tiles, float* out, int64_t out_k,
                                     int64_t room) {
    ForVectors<V>(tiles, room, [&](int64_t t, const auto&, const auto& store) EDGE_INLINE_LAMBDA {
      Reg d[kPatch], next[M];
      V::template Split<M>(row + t * M, d);
      V::template Split<M>(row + (t + 1) * M, next);
      d[M] = next[0];
      d[M + 1] = next[1];
      WinogradMatrices<V, M>::In(d);
      Unroll<kPatch>([&](auto k)
                         EDGE_INLINE_LAMBDA { store(out + k.value * out_k + t, d[k.value]); });
    });
  }
};

template <class V, int M>
class WinogradOut {
 public:
  // Some rows of tiles at a time, as one: what is between them is computed too.
  static void Run(const WinogradOutJob& job) {
    alignas(64) float columns[M][kPatch][kWinogradTiles];
    alignas(64) float pixels[kWinogradTiles * M + kLanes];  // rows are read in whole vectors
    const int64_t pitch = job.tile_rows == 1 ? job.tiles : job.in_h;
    const int64_t most = pitch <= kWinogradTiles ? kWinogradTiles / pitch : 1;
    for (int64_t row = 0; row < job.tile_rows; row += most) {
      const int64_t rows = job.tile_rows - row < most ? job.tile_rows - row : most;
      for (int64_t first = 0; first < job.tiles; first += kWinogradTiles) {
        const int64_t left = job.tiles - first;
        const int64_t tiles = left < kWinogradTiles ? (rows - 1) * pitch + left : kWinogradTiles;
        const int64_t room = (job.tile_rows - 1 - row) * pitch + left;
        const float* in = job.in + row * job.in_h + first;
        for (int kx = 0; kx < kPatch; ++kx) {
          Vertical(in + kx * job.in_k, kPatch * job.in_k, tiles, room, kx, columns);
        }
        for (int y = 0; y < M; ++y) {
          Horizontal(columns[y], tiles, pixels);
          for (int64_t r = 0; r < rows && (row + r) * M + y < job.h; ++r) {
            Finish(job, pixels + r * pitch * M, (row + r) * M + y, first * M);
          }
        }
      }
    }
  }

 private:
  using Reg = typename V::Reg;
  static constexpr int kPatch = M + 2, kLanes = V::kLanes;

  static EDGE_INLINE void Vertical(const float* in, int64_t in_ky, int64_t tiles, int64_t room,
                                   int kx, float (&columns)[M][kPatch][kWinogradTiles]) {
    ForVectors<V>(tiles, room, [&](int64_t t, const auto& load, const auto&) EDGE_INLINE_LAMBDA {
      Reg d[kPatch];
      Unroll<kPatch>([&](auto ky)
                         EDGE_INLINE_LAMBDA { d[ky.value] = load(in + ky.value * in_ky + t); });
      WinogradMatrices<V, M>::Out(d);
      Unroll<M>([&](auto y) EDGE_INLINE_LAMBDA { V::Store(&columns[y.value][kx][t], d[y.value]); });
    });
  }

  static EDGE_INLINE void Horizontal(const float (&row)[kPatch][kWinogradTiles], int64_t tiles,
                                     float* pixels) {
    for (int64_t t = 0; t < tiles; t += kLanes) {
      Reg d[kPatch];
      Unroll<kPatch>([&](auto k) EDGE_INLINE_LAMBDA { d[k.value] = V::Load(&row[k.value][t]); });
      WinogradMatrices<V, M>::Out(d);
      V::template Join<M>(pixels + t * M, d);
    }
  }

  static EDGE_INLINE void Finish(const WinogradOutJob& job, const float* pixels, int64_t y,
                                 int64_t x) {
    const Epilogue e = *job.epilogue;
    const int64_t cols = job.w - x < kWinogradTiles * M ? job.w - x : kWinogradTiles * M;
    float* out = job.out + y * job.out_h + x;
    const float* residual = job.residual == nullptr ? nullptr : job.residual + y * job.res_h + x;
    ForVectors<V>(cols, cols,
                  [&](int64_t i, const auto& load, const auto& store) EDGE_INLINE_LAMBDA {
                    Reg v = V::Load(pixels + i);
                    if (residual != nullptr && !e.residual_after_act)
                      v = V::Add(v, load(residual + i));
                    v = Activate<V>(v, e);
                    if (residual != nullptr && e.residual_after_act)
                      v = V::Add(v, load(residual + i));
                    store(out + i, v);
                  });
  }
};

template <class V>
constexpr WinogradKernels WinogradTable() {
  return {{WinogradIn<V, 2>::Run, WinogradIn<V, 4>::Run},
          {WinogradOut<V, 2>::Run, WinogradOut<V, 4>::Run}};
}

}  // namespace edge
