// Winograd's transforms in plain C++: the matrices of F(2, 3) and F(4, 3) with the points 0, 1, -1
// (, 2, -2) and infinity.
#include "kernels/activation.h"
#include "kernels/winograd/kernel_table.h"

namespace edge {
namespace {

template <int M>
struct Matrices;

template <>
struct Matrices<2> {
  static constexpr float kBt[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
  static constexpr float kAt[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
};

template <>
struct Matrices<4> {
  static constexpr float kBt[6][6] = {{4, 0, -5, 0, 1, 0},  {0, -4, -4, 1, 1, 0},
                                      {0, 4, -4, -1, 1, 0}, {0, -2, -1, 2, 1, 0},
                                      {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
  static constexpr float kAt[4][6] = {
      {1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}};
};

// left x left^T, `left` being R x C; element (i, j) of the result is x(i, j) summed that way.
template <int R, int C>
void Sandwich(const float (&left)[R][C], const float (&x)[C][C], float (&y)[R][R]) {
  float half[R][C] = {};
  for (int i = 0; i < R; ++i) {
    for (int k = 0; k < C; ++k) {
      for (int j = 0; j < C; ++j) half[i][j] += left[i][k] * x[k][j];
    }
  }
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < R; ++j) {
      y[i][j] = 0;
      for (int k = 0; k < C; ++k) y[i][j] += half[i][k] * left[j][k];
    }
  }
}

template <int M>
void In(const WinogradInJob& job) {
  constexpr int kPatch = M + 2;
  for (int64_t tile = 0; tile < job.tile_rows * job.tiles; ++tile) {
    const int64_t row = tile / job.tiles, column = tile % job.tiles;
    float d[kPatch][kPatch] = {}, v[kPatch][kPatch];
    for (int i = 0; i < kPatch; ++i) {
      for (int j = 0; j < kPatch; ++j) {
        const int64_t y = row * M - job.top + i, x = column * M - job.left + j;
        if (y >= 0 && y < job.h && x >= 0 && x < job.w) d[i][j] = job.in[y * job.in_h + x];
      }
    }
    Sandwich(Matrices<M>::kBt, d, v);
    for (int k = 0; k < kPatch * kPatch; ++k) {
      job.out[k * job.out_k + row * job.out_h + column] = v[k / kPatch][k % kPatch];
    }
  }
}

float Finish(float y, const float* residual, const Epilogue& e) {
  if (residual != nullptr && !e.residual_after_act) y += *residual;
  y = Activate(e.act, y, e.lo, e.hi);
  return residual != nullptr && e.residual_after_act ? y + *residual : y;
}

template <int M>
void Out(const WinogradOutJob& job) {
  constexpr int kPatch = M + 2;
  for (int64_t tile = 0; tile < job.tile_rows * job.tiles; ++tile) {
    const int64_t row = tile / job.tiles, column = tile % job.tiles;
    float m[kPatch][kPatch], pixels[M][M];
    for (int k = 0; k < kPatch * kPatch; ++k) {
      m[k / kPatch][k % kPatch] = job.in[k * job.in_k + row * job.in_h + column];
    }
    Sandwich(Matrices<M>::kAt, m, pixels);
    for (int64_t y = row * M; y < (row + 1) * M && y < job.h; ++y) {
      for (int64_t x = column * M; x < (column + 1) * M && x < job.w; ++x) {
        const float* r = job.residual == nullptr ? nullptr : job.residual + y * job.res_h + x;
        job.out[y * job.out_h + x] = Finish(pixels[y - row * M][x - column * M], r, *job.epilogue);
      }
    }
  }
}

}  // namespace

const WinogradKernels kFallbackWinograd = {{In<2>, In<4>}, {Out<2>, Out<4>}};

}  // namespace edge
