// 16 registers: 12 sums, 3 vectors of pixels and a weight, or 12 sums, the weights and a vector of
// pixels. Blocks of 8 and 16 filters run as blocks of 4 over the same entries.
#define EDGE_X86_NAMESPACE avx2
#include "kernels/conv/avx2/vec.h"
#include "kernels/conv/conv_impl.h"
#include "kernels/conv/linear_impl.h"

namespace edge {

using avx2::Vec4;
using avx2::Vec8;

const KernelTable kAvx2Kernels = {{{"f32-bsconv-1x96-avx2", 1, 96, 8, RunConv<Vec8, 1, 12>},
                                   {"f32-bsconv-2x48-avx2", 2, 48, 8, RunConv<Vec8, 2, 6>},
                                   {"f32-bsconv-4x24-avx2", 4, 24, 8, RunConv<Vec8, 4, 3>},
                                   {"f32-bsconv-4x24-avx2", 4, 24, 8, RunConv<Vec8, 4, 3>},
                                   {"f32-bsconv-4x24-avx2", 4, 24, 8, RunConv<Vec8, 4, 3>}},
                                  {{"f32-bslinear-1-avx2", RunLinearDot<Vec8, 1>},
                                   {"f32-bslinear-2-avx2", RunLinearDot<Vec8, 2>},
                                   {"f32-bslinear-4-avx2", RunLinear<Vec4, 1>},
                                   {"f32-bslinear-8-avx2", RunLinear<Vec8, 1>},
                                   {"f32-bslinear-16-avx2", RunLinear<Vec8, 2>}}};

}  // namespace edge
