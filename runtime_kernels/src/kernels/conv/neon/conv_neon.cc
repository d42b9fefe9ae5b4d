// 32 registers: 20 or 24 sums, the pixels or the weights of an entry, and one or two of the other.
// Blocks of 16 filters run as two of 8 over the same entries. One filter loads a vector for every
// multiply-add, so the loads bound it; the more sums, the less its weight and its offset add.
#define EDGE_ARM_NAMESPACE neon
#include "kernels/conv/conv_impl.h"
#include "kernels/conv/linear_impl.h"
#include "kernels/conv/neon/vec.h"

namespace edge {

using neon::Vec4;

const KernelTable kNeonKernels = {{{"f32-bsconv-1x80-neon", 1, 80, 4, RunConv<Vec4, 1, 20>},
                                   {"f32-bsconv-2x40-neon", 2, 40, 4, RunConv<Vec4, 2, 10>},
                                   {"f32-bsconv-4x24-neon", 4, 24, 4, RunConv<Vec4, 4, 6>},
                                   {"f32-bsconv-8x12-neon", 8, 12, 4, RunConv<Vec4, 8, 3>},
                                   {"f32-bsconv-8x12-neon", 8, 12, 4, RunConv<Vec4, 8, 3>}},
                                  {{"f32-bslinear-1-neon", RunLinearDot<Vec4, 1>},
                                   {"f32-bslinear-2-neon", RunLinearDot<Vec4, 2>},
                                   {"f32-bslinear-4-neon", RunLinear<Vec4, 1>},
                                   {"f32-bslinear-8-neon", RunLinear<Vec4, 2>},
                                   {"f32-bslinear-16-neon", RunLinear<Vec4, 4>}}};

}  // namespace edge
