// 32 registers: 24 sums (for one filter 8, and 9 over aligned vectors), the pixels or the weights
// of an entry, and one of the other. Blocks of 16 filters run as two of 8 over the same entries.
#define EDGE_X86_NAMESPACE avx512
#include "kernels/conv/avx2/vec.h"
#include "kernels/conv/avx512/vec.h"
#include "kernels/conv/conv_impl.h"
#include "kernels/conv/linear_impl.h"

namespace edge {

using avx512::Vec16;
using avx512::Vec4;
using avx512::Vec8;

const KernelTable kAvx512Kernels = {{{"f32-bsconv-1x128-avx512", 1, 128, 16, RunConv<Vec16, 1, 8>},
                                     {"f32-bsconv-2x192-avx512", 2, 192, 16, RunConv<Vec16, 2, 12>},
                                     {"f32-bsconv-4x96-avx512", 4, 96, 16, RunConv<Vec16, 4, 6>},
                                     {"f32-bsconv-8x48-avx512", 8, 48, 16, RunConv<Vec16, 8, 3>},
                                     {"f32-bsconv-8x48-avx512", 8, 48, 16, RunConv<Vec16, 8, 3>}},
                                    {{"f32-bslinear-1-avx512", RunLinearDot<Vec16, 1>},
                                     {"f32-bslinear-2-avx512", RunLinearDot<Vec16, 2>},
                                     {"f32-bslinear-4-avx512", RunLinear<Vec4, 1>},
                                     {"f32-bslinear-8-avx512", RunLinear<Vec8, 1>},
                                     {"f32-bslinear-16-avx512", RunLinear<Vec16, 1>}}};

}  // namespace edge
