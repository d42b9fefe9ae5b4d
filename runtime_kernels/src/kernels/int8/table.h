// The kernels of a vector type V as a table.
#pragma once
#include "kernels/int8/int8_impl.h"

namespace edge {

// Tiles of V4 and V8 vectors of pixels for blocks of 4 and 8 filters, the latter L filters at a
// time.
template <class V, int V4, int L, int V8>
constexpr Int8Kernels Int8Table(const char* name, Shifted shifted,
                                void (*linear)(const Int8LinearJob&),
                                void (*linear_codes)(const Int8LinearJob&),
                                void (*linear_small_codes)(const Int8LinearJob&) = nullptr) {
  return {name,
          shifted,
          {{4, V4 * V::kLanes, RunConvInt8<V, 4, V4>}, {L, V8 * V::kLanes, RunConvInt8<V, L, V8>}},
          V::kLanes,
          linear,
          linear_codes,
          linear_small_codes,
          {{RunDepthwiseInt8<V, 3, 1>, RunDepthwiseInt8<V, 3, 2>},
           {RunDepthwiseInt8<V, 5, 1>, RunDepthwiseInt8<V, 5, 2>}},
          RunQuantize<V>,
          RunDequantize<V>,
          RunMax<V>};
}

}  // namespace edge
