// The activations, one float at a time: what every vector epilogue is tested against.
#pragma once
#include <cmath>

#include "edge/plan_format.h"

namespace edge {

// y = act(x). kClamp: lo, hi are the bounds; kLeakyRelu: lo is the slope; the others take no
// parameter. NaN stays NaN.
inline float Activate(ActKind act, float x, float lo, float hi) {
  switch (act) {
    case ActKind::kNone:
      return x;
    case ActKind::kClamp:
      return x < lo ? lo : (x > hi ? hi : x);
    case ActKind::kLeakyRelu:
      return x > 0 ? x : x * lo;
    case ActKind::kHardswish: {
      const float t = x + 3.0f;
      return x * (t < 0.0f ? 0.0f : (t > 6.0f ? 6.0f : t)) / 6.0f;
    }
    case ActKind::kSigmoid:
      return 1.0f / (1.0f + std::exp(-x));
    case ActKind::kMish: {
      // tanh(log(1 + e)) = (e^2 + 2e) / (e^2 + 2e + 2) with e = exp(x); beyond 20 it is 1 in float,
      // and e^2 stays finite.
      const float e = std::exp(x > 20.0f ? 20.0f : x);
      const float t = e * (e + 2.0f);
      return x * (t / (t + 2.0f));
    }
    case ActKind::kSilu:
      return x / (1.0f + std::exp(-x));
  }
  return x;
}

}  // namespace edge
