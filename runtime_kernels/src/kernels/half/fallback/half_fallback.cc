// The float16 kernels in plain C++.
#include "kernels/half/fallback/vec.h"

namespace edge {

using Vec = HalfArrayVec<8>;
using Vec4 = HalfArrayVec<4>;

const HalfKernels kFallbackHalf = {
    {{"f16-bsconv-1x32-scalar", 1, 32, 8, RunConvHalf<Vec, 1, 4>},
     {"f16-bsconv-2x16-scalar", 2, 16, 8, RunConvHalf<Vec, 2, 2>},
     {"f16-bsconv-4x16-scalar", 4, 16, 8, RunConvHalf<Vec, 4, 2>},
     {"f16-bsconv-8x8-scalar", 8, 8, 8, RunConvHalf<Vec, 8, 1>},
     {"f16-bsconv-8x8-scalar", 8, 8, 8, RunConvHalf<Vec, 8, 1>}},
    {RunLinearHalfScalar<Vec, 1>, RunLinearHalfScalar<Vec, 2>, RunLinearHalf<Vec4, 4>,
     RunLinearHalf<Vec, 8>, RunLinearHalf<Vec, 16>},
    {{DepthwisePlane<Vec, 3, 1, Half>::Run, DepthwisePlane<Vec, 3, 2, Half>::Run},
     {DepthwisePlane<Vec, 5, 1, Half>::Run, DepthwisePlane<Vec, 5, 2, Half>::Run}},
    ActivateFloats<Vec>,
    WidenHalves<Vec>,
    NarrowHalves<Vec>};

}  // namespace edge
