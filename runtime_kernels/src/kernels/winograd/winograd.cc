// kWinogradIn and kWinogradOut: cuts them into rows of tiles.
#include "kernels/winograd/winograd.h"

#include <algorithm>

#include "kernels/nest.h"
#include "kernels/ops.h"

namespace edge {
namespace {

// Calls body(n, c) for every image and `channels` channels, on the pool's threads. `tiles` holds
// the patch * patch coefficients of each.
template <typename T, typename F>
void ForEachPlane(const BasicView<T>& tiles, int64_t channels, int64_t patch, ThreadPool* pool,
                  F body) {
  BasicView<T> planes = tiles;
  planes.c = static_cast<int32_t>(channels);
  planes.h = 1;
  const size_t cost = static_cast<size_t>(patch * patch * tiles.h * tiles.w);
  ForEachRow(planes, cost, pool, [&](int64_t n, int64_t c, int64_t) { body(n, c); });
}

}  // namespace

const WinogradKernels& WinogradKernelsOf(Isa isa) {
  switch (isa) {
#ifdef EDGE_HAVE_AVX2
    case Isa::kAvx2:
      return kAvx2Winograd;
#endif
#ifdef EDGE_HAVE_AVX512
    case Isa::kAvx512:
      return kAvx512Winograd;
#endif
#ifdef EDGE_HAVE_NEON
    case Isa::kNeon:
      return kNeonWinograd;
#endif
    default:
      return kFallbackWinograd;
  }
}

void WinogradInWith(const OpCall& call, const WinogradKernels& kernels) {
  const ConstView& in = call.in[0];
  const View& out = call.out;
  const int64_t m = call.op.p[0], patch = m + 2;
  ForEachPlane(out, in.c, patch, call.pool, [&](int64_t n, int64_t c) {
    WinogradInJob job = {};
    job.in = in.Plane(n, c);
    job.in_h = in.sh, job.h = in.h, job.w = in.w;
    job.top = call.op.p[1], job.left = call.op.p[2];
    job.tile_rows = out.h, job.tiles = out.w;
    job.out = out.Plane(n, c);
    job.out_k = in.c * out.sc, job.out_h = out.sh;
    kernels.in[m / 4](job);
  });
}

void WinogradOutWith(const OpCall& call, const WinogradKernels& kernels) {
  const ConstView& in = call.in[0];
  const View& out = call.out;
  const int64_t m = call.op.p[0], patch = m + 2;
  const ConstView* residual = call.op.residual == kNone ? nullptr : &call.in[call.op.n_inputs];
  const Epilogue epilogue = EpilogueOf(call.op);
  ForEachPlane(in, out.c, patch, call.pool, [&](int64_t n, int64_t f) {
    WinogradOutJob job = {};
    job.in = in.Plane(n, f);
    job.in_k = out.c * in.sc, job.in_h = in.sh;
    job.tile_rows = (out.h + m - 1) / m, job.tiles = (out.w + m - 1) / m;
    job.out = out.Plane(n, f);
    job.out_h = out.sh, job.h = out.h, job.w = out.w;
    if (residual != nullptr) {
      job.residual = residual->Plane(n, f);
      job.res_h = residual->sh;
    }
    job.epilogue = &epilogue;
    kernels.out[m / 4](job);
  });
}

void RunWinogradIn(const OpCall& call) { WinogradInWith(call, WinogradKernelsOf(ActiveIsa())); }

void RunWinogradOut(const OpCall& call) { WinogradOutWith(call, WinogradKernelsOf(ActiveIsa())); }

}  // namespace edge
