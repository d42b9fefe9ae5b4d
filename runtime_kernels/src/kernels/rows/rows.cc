// Picks the row loops of the active instruction set.
#include "kernels/rows/rows.h"

#include "kernels/conv/conv.h"

namespace edge {

const RowOps& ActiveRowOps() {
  switch (FloatIsa(ActiveIsa())) {
#if defined(EDGE_HAVE_AVX2)
    case Isa::kAvx2:
      return avx2::kRowOps;
#endif
#if defined(EDGE_HAVE_AVX512)
    case Isa::kAvx512:
      return avx512::kRowOps;
#endif
    default:  // on arm64 the baseline has NEON already
      return fallback::kRowOps;
  }
}

}  // namespace edge
