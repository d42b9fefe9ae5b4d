// The delegate for programs that link it, rather than load it as a library.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tflite_abi.h"

namespace edge {

// One run of one op `EdgeKernels`.
struct DelegateRun {
  struct Op {
    std::string name;  // module path
    int64_t ns;
  };
  std::string node;  // the op's name in LiteRT's profile: "EdgeKernels#3"
  std::vector<Op> ops;
};

// A delegate that runs the plans with `threads` threads, and appends every run to `log` if there is
// one. The log must outlive the delegate.
TfLiteDelegate* CreateDelegate(size_t threads, std::vector<DelegateRun>* log);

// Takes a TfLiteDelegate, as LiteRT's deleters do.
void DestroyDelegate(void* delegate);

}  // namespace edge
