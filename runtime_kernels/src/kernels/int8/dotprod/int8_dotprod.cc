// 32 registers: up to 24 sums, the pixels and the weights of an entry.
#define EDGE_ARM_NAMESPACE dotprod
#include "kernels/int8/dotprod/vec.h"
#include "kernels/int8/table.h"

namespace edge {

const Int8Kernels kDotprodInt8 = Int8Table<dotprod::Int8Vec4, 4, 8, 3>(
    "dotprod", Shifted::kNone, dotprod::RunLinearInt8, dotprod::RunLinearInt8Codes);

}  // namespace edge
