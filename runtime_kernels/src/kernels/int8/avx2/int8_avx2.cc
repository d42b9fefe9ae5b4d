// 16 registers: 8 sums, the pixels of an entry with their magnitudes, and the steps of a product.
#define EDGE_X86_NAMESPACE avx2
#include "kernels/int8/avx2/linear.h"
#include "kernels/int8/table.h"

namespace edge {

const Int8Kernels kAvx2Int8 =
    Int8Table<avx2::Int8Vec8, 2, 1>("avx2", false, avx2::RunLinearInt8, avx2::RunLinearInt8Codes);

}  // namespace edge
