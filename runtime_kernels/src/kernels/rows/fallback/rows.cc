// The row loops for fallback.
#define EDGE_ROWS_NAMESPACE fallback
#include "kernels/rows/rows.inc"
