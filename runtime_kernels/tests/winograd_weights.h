// A 3x3 kernel in Winograd's domain.
#pragma once
#include <vector>

namespace edge::testing {

// G g G^T, with the points 0, 1, -1 (, 2, -2) and infinity.
template <typename T>
std::vector<double> TransformedKernel(const T* g, int m) {
  const std::vector<double> g2 = {1, 0, 0, .5, .5, .5, .5, -.5, .5, 0, 0, 1};
  const std::vector<double> g4 = {1. / 4,  0,        0,       -1. / 6, -1. / 6, -1. / 6,
                                  -1. / 6, 1. / 6,   -1. / 6, 1. / 24, 1. / 12, 1. / 6,
                                  1. / 24, -1. / 12, 1. / 6,  0,       0,       1};
  const std::vector<double>& left = m == 2 ? g2 : g4;
  const int a = m + 2;
  std::vector<double> u(static_cast<size_t>(a * a));
  for (int k = 0; k < a * a; ++k) {
    for (int i = 0; i < 9; ++i) u[k] += left[k / a * 3 + i / 3] * g[i] * left[k % a * 3 + i % 3];
  }
  return u;
}

}  // namespace edge::testing
