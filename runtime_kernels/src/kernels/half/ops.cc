// The ops without weights where a tensor is float16. What only moves elements moves their bits;
// the others compute in float32, a run of a row at a time.
#include "kernels/ops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "kernels/half/kernel_table.h"
#include "kernels/nest.h"
#include "kernels/pool/window.h"

namespace edge {
namespace {

constexpr int64_t kTile = 1024;  // elements of a row that wait in a buffer

// Calls f(T()) with the type of the elements of a view.
template <class F>
void WithType(const RealView& v, const F& f) {
  if (v.half) {
    f(Half());
  } else {
    f(float());
  }
}

// n elements of either type to the other one, or the same.
void Convert(const HalfKernels& k, float* y, const Half* x, int64_t n) {
  k.widen(y, x, static_cast<size_t>(n));
}
void Convert(const HalfKernels& k, Half* y, const float* x, int64_t n) {
  k.narrow(y, x, static_cast<size_t>(n));
}
template <class T>
void Convert(const HalfKernels&, T* y, const T* x, int64_t n) {
  std::memcpy(y, x, static_cast<size_t>(n) * sizeof(T));
}

// The same `step` elements apart in x.
template <class To, class From>
void ConvertStrided(const HalfKernels& k, To* y, const From* x, int64_t step, int64_t n) {
  if (step == 1) return Convert(k, y, x, n);
  From taken[kTile];
  for (int64_t at = 0; at < n; at += kTile) {
    const int64_t count = std::min(kTile, n - at);
    const From* from = x + at * step;
    if (step == 2) {
      for (int64_t i = 0; i < count; ++i) taken[i] = from[2 * i];
    } else {
      for (int64_t i = 0; i < count; ++i) taken[i] = from[i * step];
    }
    Convert(k, y + at, taken, count);
  }
}

// Elements of a row as floats: where they are, or in `buffer`.
const float* AsFloats(const HalfKernels&, const float* x, float*, int64_t) { return x; }
const float* AsFloats(const HalfKernels& k, const Half* x, float* buffer, int64_t n) {
  k.widen(buffer, x, static_cast<size_t>(n));
  return buffer;
}

template <class To, class From>
void CopyAll(const HalfKernels& k, const BasicView<const From>& in, const BasicView<To>& out,
             ThreadPool* pool) {
  const auto dims = DimsOf(out);
  const Nest<2> nest(dims, {StridesOf(out, dims), StridesOf(in, dims)});
  const int64_t to = nest.step(0), from = nest.step(1);
  nest.ForEachRun(pool, [&](const std::array<int64_t, 2>& at, size_t n) {
    To* y = out.data + at[0];
    const From* x = in.data + at[1];
    if (to == 1) return ConvertStrided(k, y, x, from, static_cast<int64_t>(n));
    for (int64_t i = 0; i < static_cast<int64_t>(n); ++i) Convert(k, y + i * to, x + i * from, 1);
  });
}

template <class To, class From>
void Copy(const HalfCall& call, const HalfKernels& k) {
  const auto in = call.in[0].As<const From>();
  const auto out = call.out.As<To>();
  const int64_t s = call.op.p[0], pad_top = call.op.p[1], pad_left = call.op.p[2];
  if (s == 1 && pad_top == 0 && pad_left == 0 && DimsOf(in) == DimsOf(out))
    return CopyAll(k, in, out, call.pool);
  ForEachRow(out, static_cast<size_t>(out.w), call.pool, [&](int64_t n, int64_t c, int64_t r) {
    const int64_t phase = c / in.c, y = r * s + phase / s - pad_top, shift = phase % s - pad_left;
    To* row = out.Row(n, c, r);
    // Columns [first, last) lie inside of the input.
    const int64_t w = out.w;
    const int64_t first = shift >= 0 ? 0 : std::min(w, (-shift + s - 1) / s);
    int64_t last = shift >= in.w ? first : std::clamp((in.w - shift + s - 1) / s, first, w);
    if (y < 0 || y >= in.h) last = first;
    std::fill(row, row + first, To());
    std::fill(row + last, row + w, To());
    if (first < last)
      ConvertStrided(k, row + first, in.Row(n, c % in.c, y) + first * s + shift, s, last - first);
  });
}

template <class To>
void Concat(const HalfCall& call, const HalfKernels& k) {
  const int axis = call.op.p[0];
  BasicView<To> part = call.out.As<To>();
  for (uint32_t i = 0; i < call.op.n_inputs; ++i) {
    const RealView& in = call.in[i];
    part.n = in.n, part.c = in.c, part.h = in.h, part.w = in.w;
    WithType(in, [&](auto from) { CopyAll(k, in.As<const decltype(from)>(), part, call.pool); });
    const int64_t sizes[4] = {in.n, in.c, in.h, in.w};
    const int64_t steps[4] = {part.sn, part.sc, part.sh, 1};
    part.data += sizes[axis] * steps[axis];
  }
}

// y[i * R + k] = x[k][i].
template <int R, class T>
void Interleave(T* y, const T* const (&x)[4], int64_t n) {
  const T *a = x[0], *b = x[1], *c = x[2], *d = x[3];
  for (int64_t i = 0; i < n; ++i) {
    y[R * i] = a[i];
    y[R * i + 1] = b[i];
    if constexpr (R == 4) y[R * i + 2] = c[i], y[R * i + 3] = d[i];
  }
}

template <class To, class From>
void PixelShuffle(const HalfCall& call, const HalfKernels& k) {
  const auto in = call.in[0].As<const From>();
  const auto out = call.out.As<To>();
  const int64_t r = call.op.p[0], top = call.op.p[1], left = call.op.p[2];
  const bool whole = (r == 2 || r == 4) && left == 0 && out.w % r == 0;
  ForEachRow(out, static_cast<size_t>(out.w), call.pool, [&](int64_t n, int64_t c, int64_t y) {
    From tile[kTile];
    To* row = out.Row(n, c, y);
    for (int64_t x0 = 0; x0 < out.w; x0 += kTile) {
      const int64_t width = std::min<int64_t>(kTile, out.w - x0);
      const bool same = std::is_same_v<To, From>;
      From* to = same ? reinterpret_cast<From*>(row + x0) : tile;
      if (whole) {
        const From* phases[4] = {};
        for (int64_t i = 0; i < r; ++i) {
          phases[i] = in.Row(n, (c * r + (y + top) % r) * r + i, (y + top) / r) + x0 / r;
        }
        (r == 2 ? Interleave<2, From> : Interleave<4, From>)(to, phases, width / r);
      }
      for (int64_t phase = 0; phase < r && !whole; ++phase) {
        // The first column of this phase in the tile, and where it comes from.
        const int64_t first = ((phase - left - x0) % r + r) % r;
        if (first >= width) continue;
        const int64_t count = (width - first + r - 1) / r;
        const From* x =
            in.Row(n, (c * r + (y + top) % r) * r + phase, (y + top) / r) + (x0 + first + left) / r;
        for (int64_t i = 0; i < count; ++i) to[first + r * i] = x[i];
      }
      if (!same) Convert(k, row + x0, tile, width);
    }
  });
}

// n elements from x on, `step` apart, as floats in a row.
template <class T>
const float* Operand(const HalfKernels& k, const T* x, int64_t step, float* buffer, int64_t n) {
  if (step == 1) return AsFloats(k, x, buffer, n);
  if (step == 0) {
    Convert(k, buffer, x, 1);
    std::fill(buffer + 1, buffer + n, buffer[0]);
  } else {
    ConvertStrided(k, buffer, x, step, n);
  }
  return buffer;
}

const float* OperandOf(const HalfKernels& k, const RealView& v, int64_t at, int64_t step,
                       float* buffer, int64_t n) {
  return v.half ? Operand(k, static_cast<const Half*>(v.data) + at, step, buffer, n)
                : Operand(k, static_cast<const float*>(v.data) + at, step, buffer, n);
}

// kUnary, kAdd and kMul, a run of the output as floats at a time.
template <class To, class F>
void Elementwise(const HalfCall& call, const HalfKernels& k, const F& combine) {
  const BasicView<To> out = call.out.As<To>();
  const RealView &a = call.in[0], &b = call.in[call.op.n_inputs - 1];
  const auto dims = DimsOf(out);
  const Nest<3> nest(dims, {StridesOf(out, dims), StridesOf(a.As<const char>(), dims),
                            StridesOf(b.As<const char>(), dims)});
  const auto act = static_cast<ActKind>(call.op.act);
  const float lo = call.op.act_param[0], hi = call.op.act_param[1];
  nest.ForEachRun(call.pool, [&](const std::array<int64_t, 3>& at, size_t total) {
    float left[kTile], right[kTile], result[kTile];
    for (int64_t i = 0; i < static_cast<int64_t>(total); i += kTile) {
      const int64_t n = std::min<int64_t>(kTile, static_cast<int64_t>(total) - i);
      const auto operand = [&](const RealView& v, size_t which, float* buffer) {
        const int64_t step = nest.step(which);
        return OperandOf(k, v, at[which] + i * step, step, buffer, n);
      };
      const auto count = static_cast<size_t>(n);
      const float* u = operand(a, 1, left);
      combine(result, u, call.op.n_inputs == 2 ? operand(b, 2, right) : u, count);
      call.rows.activate(act, lo, hi, result, result, count);
      To* y = out.data + at[0] + i * nest.step(0);
      if (nest.step(0) == 1) {
        Convert(k, y, result, n);
      } else {
        for (int64_t j = 0; j < n; ++j) Convert(k, y + j * nest.step(0), result + j, 1);
      }
    }
  });
}

template <class To>
void Unary(const HalfCall& call, const HalfKernels& k) {
  Elementwise<To>(call, k,
                  [](float* y, const float* a, const float*, size_t n) { std::copy(a, a + n, y); });
}

void MaxPool(const HalfCall& call, const HalfKernels& k) {
  const int32_t* p = call.op.p;
  const WindowAxis vertical = {p[0], p[2], p[4], p[6]}, horizontal = {p[1], p[3], p[5], p[7]};
  const auto in = call.in[0].As<const Half>();
  const auto out = call.out.As<Half>();
  constexpr float kEmpty = -std::numeric_limits<float>::infinity();
  const int64_t tile = std::min(kTile, WindowsATile(horizontal));
  const auto cost = static_cast<size_t>(out.w * (vertical.kernel + horizontal.kernel));
  ForEachRow(out, cost, call.pool, [&](int64_t n, int64_t c, int64_t r) {
    float most[kTile], buffer[kWindowTile];
    const auto fetch = [&](int64_t y, int64_t x, int64_t count) {
      k.widen(buffer, in.Row(n, c, y) + x, static_cast<size_t>(count));
      return static_cast<const float*>(buffer);
    };
    for (int64_t q0 = 0; q0 < out.w; q0 += tile) {
      const int64_t q1 = std::min<int64_t>(q0 + tile, out.w);
      WindowAxis moved = horizontal;  // the tile's first window is its 0th
      moved.pad -= q0 * moved.stride;
      ReduceRows(call.rows, call.rows.max, kEmpty, fetch, in.h, in.w, vertical, moved, r, 0,
                 q1 - q0, most);
      k.narrow(out.Row(n, c, r) + q0, most, static_cast<size_t>(q1 - q0));
    }
  });
}

template <class To, class From>
void AdaptiveAvgPool(const HalfCall& call, const HalfKernels& k) {
  const auto in = call.in[0].As<const From>();
  const auto out = call.out.As<To>();
  const int64_t ih = in.h, iw = in.w;
  const auto cost = static_cast<size_t>((ih + out.h - 1) / out.h * iw);
  ForEachRow(out, cost, call.pool, [&](int64_t n, int64_t c, int64_t r) {
    float buffer[kTile];
    const int64_t y0 = r * ih / out.h, y1 = ((r + 1) * ih + out.h - 1) / out.h;
    for (int64_t q = 0; q < out.w; ++q) {
      const int64_t x0 = q * iw / out.w, x1 = ((q + 1) * iw + out.w - 1) / out.w;
      double sum = 0;
      for (int64_t y = y0; y < y1; ++y) {
        for (int64_t x = x0; x < x1; x += kTile) {
          const int64_t count = std::min(kTile, x1 - x);
          const float* row = AsFloats(k, in.Row(n, c, y) + x, buffer, count);
          sum += call.rows.sum(row, static_cast<size_t>(count));
        }
      }
      const auto mean = static_cast<float>(sum / static_cast<double>((y1 - y0) * (x1 - x0)));
      Convert(k, out.Row(n, c, r) + q, &mean, 1);
    }
  });
}

void UpsampleNearest(const HalfCall& call) {
  const auto in = call.in[0].As<const Half>();
  const auto out = call.out.As<Half>();
  const float rows_ratio = call.op.f[0], columns_ratio = call.op.f[1];
  const int64_t factor =
      out.w == 2 * in.w && columns_ratio == 0.5f ? 2 : 0;  // as most networks have it
  ForEachRow(out, static_cast<size_t>(out.w), call.pool, [&](int64_t n, int64_t c, int64_t r) {
    const Half* x = in.Row(n, c, NearestSource(r, rows_ratio, in.h));
    Half* y = out.Row(n, c, r);
    if (factor == 2) {
      for (int64_t i = 0; i < in.w; ++i) y[2 * i] = y[2 * i + 1] = x[i];
    } else {
      for (int64_t q = 0; q < out.w; ++q) y[q] = x[NearestSource(q, columns_ratio, in.w)];
    }
  });
}

}  // namespace

void RunHalfOp(const HalfCall& call) {
  const HalfKernels& k = HalfKernelsOf(call.isa);
  const auto kind = static_cast<OpKind>(call.op.op);
  if (kind == OpKind::kMaxPool) return MaxPool(call, k);
  if (kind == OpKind::kUpsampleNearest) return UpsampleNearest(call);
  WithType(call.out, [&](auto to) {
    using To = decltype(to);
    if (kind == OpKind::kConcat) return Concat<To>(call, k);
    if (kind == OpKind::kUnary) return Unary<To>(call, k);
    if (kind == OpKind::kAdd) return Elementwise<To>(call, k, call.rows.add);
    if (kind == OpKind::kMul) return Elementwise<To>(call, k, call.rows.mul);
    WithType(call.in[0], [&](auto from) {
      using From = decltype(from);
      if (kind == OpKind::kCopy) return Copy<To, From>(call, k);
      if (kind == OpKind::kPixelShuffle) return PixelShuffle<To, From>(call, k);
      AdaptiveAvgPool<To, From>(call, k);
    });
  });
}

}  // namespace edge
