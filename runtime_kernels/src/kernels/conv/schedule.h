// In which pieces and in which order a convolution is run.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/conv/kernel_table.h"

namespace edge {

// A plane of `rows` rows of `cols` pixels is cut into strips of strip_rows x strip_cols, the list
// of sub-blocks into groups. A task is one group over one strip. Inside a task the entries are cut
// into passes whose input stays in L1 while all the sub-blocks of the group run over it; their sums
// wait in memory from one pass to the next.
struct ConvSchedule {
  int32_t rows, cols;
  int32_t strip_rows, strip_cols;
  int64_t strips;      // of all n planes
  int64_t group_size;  // sub-blocks a group
  int64_t groups;
  bool filters_outer;  // order of tasks: all strips of a group, then the next group; otherwise all
                       // groups of a strip first
  bool aligned;        // ConvJob's
  int64_t passes;
  // Block b runs entries [pass_ptr[b * passes + i], pass_ptr[b * passes + i + 1]) in pass i. Empty
  // with a single pass.
  std::vector<uint32_t> pass_ptr;
  // Elements, counted from a strip's first pixel, whose cache lines the next strip will bring from
  // memory: fetched while this one is computed. Empty where the input is small.
  std::vector<int32_t> next_lines;
};

ConvSchedule PlanConv(const ConvArgs& args, const ConvKernel& kernel, size_t threads);

}  // namespace edge
