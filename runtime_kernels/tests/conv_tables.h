// The kernels under test.
#pragma once
#include <vector>

#include "kernels/conv/kernel_table.h"

namespace edge::conv_test {

struct NamedTable {
  const char* name;
  const KernelTable* kernels;
};

// 16 lanes over plain arrays (conv_wide_test.cc): what AVX-512 runs, on any CPU.
extern const KernelTable kWideKernels;

// The fallback, every other ISA that this CPU supports, and the wide table.
inline std::vector<NamedTable> Tables() {
  std::vector<NamedTable> tables;
  for (Isa isa : {Isa::kFallback, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    if (IsaSupported(isa)) tables.push_back({IsaName(isa), &KernelsOf(isa)});
  }
  tables.push_back({"wide", &kWideKernels});
  return tables;
}

}  // namespace edge::conv_test
