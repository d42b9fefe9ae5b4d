// The kernel templates with 16 lanes and AVX-512's tiles, over plain arrays: tested on CPUs that
// have no such registers.
#include <gtest/gtest.h>

#include "array_vec.h"
#include "conv_tables.h"
#include "kernels/conv/conv_impl.h"
#include "kernels/conv/linear_impl.h"

namespace edge::conv_test {
namespace {

using Vec16 = ArrayVec<16>;

}  // namespace

const KernelTable kWideKernels = {{{"f32-bsconv-1x256-wide", 1, 256, 16, RunConv<Vec16, 1, 16>},
                                   {"f32-bsconv-2x192-wide", 2, 192, 16, RunConv<Vec16, 2, 12>},
                                   {"f32-bsconv-4x96-wide", 4, 96, 16, RunConv<Vec16, 4, 6>},
                                   {"f32-bsconv-8x48-wide", 8, 48, 16, RunConv<Vec16, 8, 3>},
                                   {"f32-bsconv-8x48-wide", 8, 48, 16, RunConv<Vec16, 8, 3>}},
                                  {{"f32-bslinear-1-wide", RunLinearDot<Vec16, 1>},
                                   {"f32-bslinear-2-wide", RunLinearDot<Vec16, 2>},
                                   {"f32-bslinear-4-wide", RunLinear<ArrayVec<4>, 1>},
                                   {"f32-bslinear-8-wide", RunLinear<ArrayVec<8>, 1>},
                                   {"f32-bslinear-16-wide", RunLinear<Vec16, 1>}}};

#ifdef EDGE_HAVE_AVX512
TEST(WideKernels, HaveTheTilesOfAvx512) {
  for (int i = 0; i < kBlockSizes; ++i) {
    EXPECT_EQ(kWideKernels.conv[i].lanes, kAvx512Kernels.conv[i].lanes);
    EXPECT_EQ(kWideKernels.conv[i].tile, kAvx512Kernels.conv[i].tile);
    EXPECT_EQ(kWideKernels.conv[i].vector, kAvx512Kernels.conv[i].vector);
  }
}
#endif

}  // namespace edge::conv_test
