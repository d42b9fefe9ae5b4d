#include "kernels/int8/fallback/vec.h"
#include "kernels/int8/table.h"

namespace edge {

const Int8Kernels kFallbackInt8 = Int8Table<Int8ArrayVec<8>, 1, 8, 1>(
    "scalar", Shifted::kNone, LinearInt8Fallback, LinearInt8CodesFallback);

}  // namespace edge
