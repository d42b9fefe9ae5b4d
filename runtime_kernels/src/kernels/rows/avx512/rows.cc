// The row loops for avx512.
#define EDGE_ROWS_NAMESPACE avx512
#include "kernels/rows/rows.inc"
