// The activation functions over a vector type (simd.h), for the epilogues of the kernels.
#pragma once
#include "kernels/conv/conv.h"
#include "kernels/conv/simd.h"

namespace edge {

// e^x within 2 ulp for x in [-87.3, 88.3], which x is clamped to: Cephes' expf. NaN stays NaN.
template <class V>
EDGE_INLINE typename V::Reg Exp(typename V::Reg x) {
  using Reg = typename V::Reg;
  x = V::Min(V::Set(88.3f), V::Max(V::Set(-87.3f), x));
  const Reg n = V::Round(V::Mul(x, V::Set(1.44269504088896341f)));
  Reg r = V::Fma(n, V::Set(-0.693359375f), x);  // ln 2 in two parts: the first one exact
  r = V::Fma(n, V::Set(2.12194440e-4f), r);
  Reg p = V::Set(1.9875691500e-4f);
  p = V::Fma(p, r, V::Set(1.3981999507e-3f));
  p = V::Fma(p, r, V::Set(8.3334519073e-3f));
  p = V::Fma(p, r, V::Set(4.1665795894e-2f));
  p = V::Fma(p, r, V::Set(1.6666665459e-1f));
  p = V::Fma(p, r, V::Set(5.0000001201e-1f));
  p = V::Add(V::Fma(V::Mul(r, r), p, r), V::Set(1.0f));
  return V::Mul(p, V::PowerOfTwo(n));
}

template <class V>
EDGE_INLINE typename V::Reg Activate(typename V::Reg x, const Epilogue& e) {
  using Reg = typename V::Reg;
  const Reg zero = V::Set(0.0f), one = V::Set(1.0f);
  switch (e.act) {
    case ActKind::kNone:
      return x;
    case ActKind::kClamp:
      return V::Min(V::Set(e.hi), V::Max(V::Set(e.lo), x));
    case ActKind::kLeakyRelu:
      return V::Fma(V::Min(zero, x), V::Set(e.lo), V::Max(zero, x));
    case ActKind::kHardswish: {
      const Reg gate = V::Min(V::Set(6.0f), V::Max(zero, V::Add(x, V::Set(3.0f))));
      return V::Mul(V::Mul(x, gate), V::Set(1.0f / 6.0f));
    }
    case ActKind::kSigmoid:
      return V::Div(one, V::Add(one, Exp<V>(V::Sub(zero, x))));
    case ActKind::kSilu:
      // Exp does not reach infinity: x must not go on growing where it has stopped.
      return V::Div(V::Max(V::Set(-88.3f), x), V::Add(one, Exp<V>(V::Sub(zero, x))));
    case ActKind::kMish: {  // x tanh(log(1 + e^x)) with tanh(log(1 + t)) = t (t + 2) / (t (t + 2) +
                            // 2); 1 in float from 20 on
      const Reg t = Exp<V>(V::Min(V::Set(20.0f), x));
      const Reg u = V::Mul(t, V::Add(t, V::Set(2.0f)));
      return V::Mul(V::Max(V::Set(-87.3f), x), V::Div(u, V::Add(u, V::Set(2.0f))));
    }
  }
  return x;
}

// In place over `count` whole vectors.
template <class V>
EDGE_NOINLINE void ActivateVectors(float* x, int count, const Epilogue& e) {
  for (int i = 0; i < count; ++i) {
    V::Store(x + i * V::kLanes, Activate<V>(V::Load(x + i * V::kLanes), e));
  }
}

// Floats that the activations are computed in: V, or V::Floats where its registers hold others.
template <class V, class = void>
struct FloatsOf {
  using Type = V;
};
template <class V>
struct FloatsOf<V, decltype(void(sizeof(typename V::Floats)))> {
  using Type = typename V::Floats;
};

// Of the N registers on which `all` calls what it is given, as f(register, its number). The cheap
// activations in registers; the others through a buffer, which keeps them out of every kernel.
template <class V, int N, class All>
EDGE_INLINE void ActivateAll(const Epilogue& e, const All& all) {
  using Reg = typename V::Reg;
  if (e.act == ActKind::kNone) return;
  if (e.act == ActKind::kClamp) {
    const Reg lo = V::Set(e.lo), hi = V::Set(e.hi);
    all([&](Reg& x, int) EDGE_INLINE_LAMBDA { x = V::Min(hi, V::Max(lo, x)); });
    return;
  }
  alignas(64) float buffer[N * V::kLanes];
  all([&](Reg& x, int i) EDGE_INLINE_LAMBDA { V::Store(buffer + i * V::kLanes, x); });
  using F = typename FloatsOf<V>::Type;
  ActivateVectors<F>(buffer, N * V::kLanes / F::kLanes, e);
  all([&](Reg& x, int i) EDGE_INLINE_LAMBDA { x = V::Load(buffer + i * V::kLanes); });
}

}  // namespace edge
