// Winograd's transforms for AArch64 NEON.
#define EDGE_ARM_NAMESPACE neon
#include "kernels/conv/neon/vec.h"
#include "kernels/winograd/winograd_impl.h"

namespace edge {
namespace neon {

struct SplittingVec4 : Vec4 {
  template <int M>
  static EDGE_INLINE void Split(const float* p, Reg* x) {
    if constexpr (M == 2) {
      const float32x4x2_t all = vld2q_f32(p);
      x[0] = all.val[0], x[1] = all.val[1];
    } else {
      const float32x4x4_t all = vld4q_f32(p);
      x[0] = all.val[0], x[1] = all.val[1], x[2] = all.val[2], x[3] = all.val[3];
    }
  }

  template <int M>
  static EDGE_INLINE void Join(float* p, const Reg* x) {
    if constexpr (M == 2) {
      const float32x4x2_t all = {{x[0], x[1]}};  // in Clang the stores are macros
      vst2q_f32(p, all);
    } else {
      const float32x4x4_t all = {{x[0], x[1], x[2], x[3]}};
      vst4q_f32(p, all);
    }
  }
};

}  // namespace neon

const WinogradKernels kNeonWinograd = WinogradTable<neon::SplittingVec4>();

}  // namespace edge
