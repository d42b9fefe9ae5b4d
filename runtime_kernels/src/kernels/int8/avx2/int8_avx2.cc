// 16 registers: 8 sums, two vectors of pixels, perhaps with their magnitudes, a weight and the
// steps of a product. 4 filters over 2 vectors load less than 8 over 1.
#define EDGE_X86_NAMESPACE avx2
#include "kernels/int8/avx2/linear.h"
#include "kernels/int8/table.h"

namespace edge {

const Int8Kernels kAvx2Int8 =
    Int8Table<avx2::Int8Vec8, 2, 4, 2>("avx2", Shifted::kPairs, avx2::RunLinearInt8,
                                       avx2::RunLinearInt8Codes, avx2::RunLinearInt8SmallCodes);

}  // namespace edge
