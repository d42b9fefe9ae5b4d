// What the kernel templates need of the compiler. Every template here is instantiated with a vector
// type that lives in its ISA's own namespace, so nothing compiled with wider -m flags can be linked
// in for another ISA.
//
// A vector type V has: Reg; kLanes; kEntries (1 or 2: how many a turn of the convolution's loop
// takes); Load, Store, LoadPart, StorePart (the first n lanes, 1 <= n <= kLanes; no byte beyond is
// touched, the other loaded lanes are zero); kMerges, and where that is true LoadAligned and
// Merge(a, b, From(i)), the lanes of a and then b from the i-th on; Keep(x) (loads x once, however
// many multiply-adds could read it from memory); Set; Add, Sub, Mul, Div; Fma(a, b, c) = a * b + c;
// Max, Min (NaN in the second operand stays NaN); Round (to nearest); PowerOfTwo (2^n of
// integral n in [-126, 127]); Gather(p, offsets) and GatherPairs(p, offsets), where kLanes / 2
// elements fill two lanes each; Weights<B>(p) with Fma<b>(x, acc) = x * p[b] + acc.
#pragma once

#define EDGE_INLINE inline __attribute__((always_inline))
#define EDGE_NOINLINE __attribute__((noinline))
#define EDGE_INLINE_LAMBDA __attribute__((always_inline))

namespace edge {

template <int I>
struct Index {
  static constexpr int value = I;
};

// f(Index<0>), f(Index<1>), ..., f(Index<N - 1>): a loop whose counter is a constant, so that
// arrays of registers stay registers.
template <int N, int I = 0, class F>
EDGE_INLINE void Unroll(const F& f) {
  if constexpr (I < N) {
    f(Index<I>{});
    Unroll<N, I + 1>(f);
  }
}

}  // namespace edge
