// The row loops for avx2.
#define EDGE_ROWS_NAMESPACE avx2
#include "kernels/rows/rows.inc"
