// A float tensor as the kernels see it: (n, c, h, w) with strides in elements, the innermost
// being 1.
#pragma once
#include <cstdint>

namespace edge {

template <typename T>
struct BasicView {
  T* data;  // element (0, 0, 0, 0)
  int32_t n, c, h, w;
  int64_t sn, sc, sh;

  T* Plane(int64_t in, int64_t ic) const { return data + in * sn + ic * sc; }
  T* Row(int64_t in, int64_t ic, int64_t y) const { return Plane(in, ic) + y * sh; }
};
using View = BasicView<float>;
using ConstView = BasicView<const float>;

}  // namespace edge
