// Float16 tensors on NEON without float16 arithmetic: sums are float32.
#define EDGE_ARM_NAMESPACE half_neon
#include "kernels/half/neon/vec.h"

namespace edge {

using half_neon::Half4;

const HalfKernels kNeonHalf = {
    {{"f16-bsconv-1x80-neon", 1, 80, 4, RunConvHalf<Half4, 1, 20>},
     {"f16-bsconv-2x40-neon", 2, 40, 4, RunConvHalf<Half4, 2, 10>},
     {"f16-bsconv-4x24-neon", 4, 24, 4, RunConvHalf<Half4, 4, 6>},
     {"f16-bsconv-8x12-neon", 8, 12, 4, RunConvHalf<Half4, 8, 3>},
     {"f16-bsconv-8x12-neon", 8, 12, 4, RunConvHalf<Half4, 8, 3>}},
    {RunLinearHalfScalar<Half4, 1>, RunLinearHalfScalar<Half4, 2>, RunLinearHalf<Half4, 4>,
     RunLinearHalf<Half4, 8>, RunLinearHalf<Half4, 16>},
    {{DepthwisePlane<Half4, 3, 1, Half>::Run, DepthwisePlane<Half4, 3, 2, Half>::Run},
     {DepthwisePlane<Half4, 5, 1, Half>::Run, DepthwisePlane<Half4, 5, 2, Half>::Run}},
    ActivateFloats<Half4>,
    WidenHalves<Half4>,
    NarrowHalves<Half4>};

}  // namespace edge
