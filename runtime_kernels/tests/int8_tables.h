// The int8 kernels under test.
#pragma once
#include <vector>

#include "conv_tables.h"
#include "kernels/int8/kernel_table.h"

namespace edge::conv_test {

// Those with int8 kernels of their own that this CPU supports.
inline std::vector<Isa> Int8Isas() {
  std::vector<Isa> isas = {Isa::kFallback};
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512Vnni, Isa::kDotprod, Isa::kI8mm}) {
    if (IsaSupported(isa)) isas.push_back(isa);
  }
  return isas;
}

// 16 lanes and unsigned pixels over plain arrays (int8_test.cc): what AVX-512 runs, on any CPU.
extern const Int8Kernels kWideInt8;

inline std::vector<Named<Int8Kernels>> Int8Tables() {
  std::vector<Named<Int8Kernels>> tables = {{"wide", kWideInt8}};
  for (Isa isa : Int8Isas()) tables.push_back({IsaName(isa), Int8KernelsOf(isa)});
  return tables;
}

}  // namespace edge::conv_test
