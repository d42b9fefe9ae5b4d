// The kernels under test.
#pragma once
#include <vector>

#include "kernels/conv/kernel_table.h"

namespace edge::conv_test {

template <class Kernels>
struct Named {
  const char* name;
  Kernels kernels;
};

// What `of` gives for the fallback and for every other ISA that this CPU supports, and the wide
// kernels.
template <class Kernels, class Of>
std::vector<Named<Kernels>> OfEveryIsa(const Of& of, const Kernels& wide) {
  std::vector<Named<Kernels>> tables;
  for (Isa isa : {Isa::kFallback, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    if (IsaSupported(isa)) tables.push_back({IsaName(isa), of(isa)});
  }
  tables.push_back({"wide", wide});
  return tables;
}

// 16 lanes over plain arrays (conv_wide_test.cc): what AVX-512 runs, on any CPU.
extern const KernelTable kWideKernels;

using NamedTable = Named<const KernelTable*>;
inline std::vector<NamedTable> Tables() {
  return OfEveryIsa<const KernelTable*>([](Isa isa) { return &KernelsOf(isa); }, &kWideKernels);
}

}  // namespace edge::conv_test
