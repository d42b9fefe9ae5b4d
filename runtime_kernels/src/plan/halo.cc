// Filling of halos: the border rows and columns of every plane.
#include "plan/halo.h"

#include <algorithm>
#include <cstring>

#include "kernels/half/half.h"
#include "kernels/nest.h"

namespace edge {
namespace {

template <class T>
void FillPlane(T* plane, T value, int64_t h, int64_t w, int64_t row, int64_t top, int64_t bottom,
               int64_t left, int64_t right) {
  const auto fill = [plane, value](int64_t begin, int64_t end) {
    std::fill(plane + begin, plane + end, value);
  };
  const T four[4] = {value, value, value, value};
  const auto fill_few = [plane, &four](int64_t begin, int64_t end) {  // without a call
    for (; begin + 4 <= end; begin += 4) std::memcpy(plane + begin, four, sizeof(four));
    for (; begin < end; ++begin) std::memcpy(plane + begin, four, sizeof(T));
  };
  for (int64_t y = -top; y < 0; ++y) fill(y * row - left, y * row + w + right);
  for (int64_t y = 0; y < h && left + right > 0; ++y) {
    fill_few(y * row - left, y * row);
    fill_few(y * row + w, y * row + w + right);
  }
  for (int64_t y = h; y < h + bottom; ++y) fill(y * row - left, y * row + w + right);
}

}  // namespace

float FillOf(const TensorRec& t) {
  float value;
  std::memcpy(&value, &t.fill, sizeof(value));
  return value;
}

template <class T>
void FillHalo(const TensorRec& t, const BasicView<T>& view, int64_t y, ThreadPool* pool) {
  const int64_t top = y == 0 ? t.halo[0] : 0, bottom = y + view.h == t.dims[2] ? t.halo[1] : 0;
  const int64_t left = t.halo[2], right = t.halo[3];
  if (top + bottom + left + right == 0) return;
  T value;
  std::memcpy(&value, &t.fill, sizeof(value));
  const size_t planes = static_cast<size_t>(view.n) * static_cast<size_t>(view.c);
  const size_t border = static_cast<size_t>(top + bottom) * static_cast<size_t>(view.w) +
                        16 * static_cast<size_t>(view.h);
  pool->ParallelFor(
      planes, std::max<size_t>(1, kGrainFloats / border), [&](size_t begin, size_t end) {
        for (size_t i = begin; i < end; ++i) {
          const int64_t n = static_cast<int64_t>(i) / view.c, c = static_cast<int64_t>(i) % view.c;
          FillPlane(view.Plane(n, c), value, view.h, view.w, view.sh, top, bottom, left, right);
        }
      });
}

template void FillHalo(const TensorRec&, const BasicView<float>&, int64_t, ThreadPool*);
template void FillHalo(const TensorRec&, const BasicView<Half>&, int64_t, ThreadPool*);

}  // namespace edge
