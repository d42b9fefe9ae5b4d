// Depthwise convolutions in plain C++.
#include "kernels/activation.h"
#include "kernels/depthwise/kernel_table.h"

namespace edge {
namespace {

template <int K, int S>
void Run(const DepthwiseJob& job) {
  const Epilogue& e = *job.epilogue;
  for (int64_t y = 0; y < job.rows; ++y) {
    for (int64_t x = 0; x < job.cols; ++x) {
      const float* window = job.in + y * S * job.in_h + x * S;
      float sum = job.weights[0];
      for (int ky = 0; ky < K; ++ky) {
        for (int kx = 0; kx < K; ++kx)
          sum += window[ky * job.in_h + kx] * job.weights[1 + ky * K + kx];
      }
      job.out[y * job.out_h + x] = Activate(e.act, sum, e.lo, e.hi);
    }
  }
}

}  // namespace

const DepthwiseKernels kFallbackDepthwise = {{{Run<3, 1>, Run<3, 2>}, {Run<5, 1>, Run<5, 2>}}};

}  // namespace edge
