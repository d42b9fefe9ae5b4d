// The binary layout of a plan: one delegated subgraph, written by edgectl.lowering.plan and run by
// edge::Executor.
//
// Little-endian, position-independent, fixed-size records. Every offset is in bytes from the start
// of the file unless it says otherwise. A reader must validate everything before use
// (src/plan/plan.cc does).
//
//   Header | TensorRec[n_tensors] | OpRec[n_ops] | ChainRec[n_chains] | u32 index table | strings |
//   data (64-byte aligned)
#pragma once
#include <cstdint>

namespace edge {

constexpr char kPlanMagic[8] = {'E', 'D', 'G', 'E', 'P', 'L', 'A', 'N'};
constexpr uint32_t kPlanVersion = 7;
constexpr uint32_t kNone = 0xffffffffu;

enum class Storage : uint32_t { kArena = 0, kInput = 1, kOutput = 2, kConst = 3 };

enum class OpKind : uint32_t {
  kCopy = 0,     // p: factor s, pad_top, pad_left. See below.
  kConv = 1,     // packed blob; input must be in the arena
  kLinear = 2,   // packed blob; vectorised over filters; input dims (rows, features, 1, 1) or a (n,
                 // c, h, w) map
  kUnary = 3,    // the activation alone
  kAdd = 4,      // two inputs, numpy broadcasting over 4-D dims
  kMul = 5,      // the same
  kConcat = 6,   // p: axis
  kMaxPool = 7,  // p: kh kw sh sw pad_top pad_left dil_h dil_w
  kAvgPool = 8,  // p: kh kw sh sw pad_top pad_left count_include_pad divisor_override (0: none)
                 // pad_bottom pad_right
  kAdaptiveAvgPool = 9,  // output dims say it all (global mean: 1x1)
  kUpsampleNearest =
      10,  // f: in/out ratio of rows, of columns; src = min(floor(dst * f), size - 1)
  kUpsampleBilinear = 11,  // p: align_corners; f: ratio of rows, of columns (PyTorch's
                           // area_pixel_compute_source_index)
  kPixelShuffle = 12,      // p: r, crop_top, crop_left
  kSoftmax = 13,           // over dim 1 of (n, c, h, w)
  kWinograd = 14,          // p: m, pad_top, pad_left, tiles; packed blob
  kDepthwise = 15,         // p: k, stride, pad_top, pad_left; weights
  // Of int8 tensors; z is the zero point of the output.
  kQuantize = 16,       // p: z; f: 1 / scale. float32 to int8
  kDequantize = 17,     // p: zero point of the input; f: scale. int8 to float32
  kConvInt8 = 18,       // p: z, zero point of the residual; f: scale of the residual; packed blob
  kLinearInt8 = 19,     // the same, then whether codes are decoded as they are read
  kDepthwiseInt8 = 20,  // p: k, stride, pad_top, pad_left, z; weights
  kMeanInt8 = 21,       // p: z, zero point of the input; f: scale. Of a whole map, to 1x1
};

enum class ElementType : uint32_t {
  kFloat32 = 0,
  kInt8x4 = 1,  // the same pixel of four channels, the first in the lowest byte
  kFloat16 = 2,
};

// y = act(x). kClamp covers relu (0, inf) and relu6 (0, 6).
enum class ActKind : uint32_t {
  kNone = 0,
  kClamp = 1,
  kLeakyRelu = 2,
  kHardswish = 3,
  kSigmoid = 4,
  kMish = 5,
  kSilu = 6
};

struct Header {  // 128 bytes
  char magic[8];
  uint32_t version;
  uint32_t n_tensors;
  uint32_t n_ops;
  uint32_t n_inputs;
  uint32_t n_outputs;
  uint32_t n_index;     // entries in the index table
  uint64_t total_size;  // of the whole plan
  uint64_t tensors_off;
  uint64_t ops_off;
  uint64_t index_off;  // u32 tensor ids: first n_inputs ids of the inputs, then n_outputs ids, then
                       // op operand lists and the bands of chains
  uint64_t strings_off;
  uint64_t strings_size;
  uint64_t data_off;  // 64-byte aligned
  uint64_t data_size;
  uint64_t arena_size;  // bytes; the executor adds kArenaSlack readable bytes before and after
  uint64_t chains_off;
  uint32_t n_chains;
  uint8_t reserved[12];
};
static_assert(sizeof(Header) == 128);

// Kernels may read (never write) this far outside the arena: tails of vectors.
constexpr uint64_t kArenaSlack = 1024;

// A tensor of 32-bit elements, or of 16-bit ones where it is float16, always seen as (n, c, h, w);
// the innermost stride is 1. Tensors of other ranks are dense and viewed as four dimensions.
// Several records may name the same arena bytes (views). Int8 tensors lie in the arena, and have a
// quarter of the channels, rounded up; channels beyond the last one may hold anything. Float16
// tensors lie in the arena too. The halo is a band that is guaranteed to hold `fill`, zeros in a
// float tensor and the zero point in an int8 one, around every channel plane: rows [-top, h +
// bottom), columns [-left, w + right) at offset + y * stride[2] + x. Halos of neighbouring rows may
// overlap (stride[2] >= w + max(left, right)). Whatever op writes the tensor leaves its halo so.
// The columns between the rows of an arena tensor belong to it: what is not halo there may hold
// anything. An op does not write over what it reads, but kUnary, kAdd, kMul (an operand) and kConv,
// kLinear, kWinograd, kConvInt8, kLinearInt8 (the residual) may when both are the same view.
// With a window, only that many rows of every plane are in memory at a time, the halo's rows among
// them: `offset` is where the lowest of them begins, and which row that is, the chain says that the
// tensor belongs to (it is written and read in no other place).
struct TensorRec {    // 96 bytes
  uint32_t storage;   // Storage
  uint32_t io_index;  // which input or output, for kInput / kOutput
  int32_t dims[4];
  int32_t halo[4];    // top, bottom, left, right; zero unless in the arena
  int64_t stride[3];  // of n, c, h, in elements
  uint64_t offset;    // bytes to element (0,0,0,0) from the arena's (kArena) or the data section's
                      // (kConst) start; 0 for inputs, outputs
  int32_t window;     // rows in memory; 0: all
  uint32_t type;      // ElementType
  uint32_t fill;      // the bits of an element of the halo
  uint8_t reserved[12];
};
static_assert(sizeof(TensorRec) == 96);

struct OpRec {         // 160 bytes
  uint32_t op;         // OpKind
  uint32_t act;        // ActKind, applied to the result of kConv, kLinear, kUnary, kAdd, kMul,
                       // kWinograd, kDepthwise
  float act_param[2];  // clamp: lo, hi; leaky relu: slope
  uint32_t name_off;   // into the strings: the PyTorch module path, not terminated
  uint32_t name_len;
  uint32_t inputs_off;  // first entry in the index table
  uint32_t n_inputs;
  uint32_t output;    // tensor id
  uint32_t residual;  // tensor id with the output's dims, or kNone; kConv, kLinear, kWinograd
  uint32_t residual_after_act;  // 0: y = act(conv + r); 1: y = act(conv) + r
  int32_t p[12];
  float f[4];
  uint32_t pad0;
  uint64_t data_off;  // weights from the start of the data section, 64-byte aligned
  uint64_t data_size;
  uint8_t reserved[32];
};
static_assert(sizeof(OpRec) == 160);

// Operations that run depth-first: a band of rows of each, then the next band of each, so that what
// one writes is still in the cache when the next reads it. Band after band, operation i of the
// chain computes the rows of its output from where it was up to `end`. In the index table there is
// first u32 begin[n_ops], the row where each of them starts, and then the bands as pairs, band by
// band, and in a band operation by operation:
//
//   u32 end;   // the operation's output is complete up to this row
//   i32 base;  // of an output with a window: the row where its memory begins from now on; rows
//              // from it on that were computed before are kept. In the first band `begin`, or
//              // -halo[0] where that is 0.
//
// The rows of a chain's outputs may be divided among several chains, its parts, which follow each
// other and may run at the same time. They have windows of their own; an output without a window is
// computed by all of them, each from where the one before ended, and read by none of them. The last
// part ends such outputs at their last rows.
//
// kCopy, kConv, kUnary, kAdd, kMul, kConcat (axis 1), kMaxPool, kPixelShuffle (not cropped at the
// top), kDepthwise, kQuantize, kDequantize, kConvInt8, kDepthwiseInt8 can be part of a chain.
struct ChainRec {  // 24 bytes
  uint32_t first_op;
  uint32_t n_ops;
  uint32_t n_bands;
  uint32_t bands;  // first entry in the index table
  uint32_t part;   // 0 for the first part of a chain, or the only one; then 1, 2, ...
  uint32_t reserved;
};
static_assert(sizeof(ChainRec) == 24);

// kCopy, kConcat, kMaxPool and kUpsampleNearest take int8 tensors too, all their tensors being of
// one type; what kCopy calls zero is then the output's `fill`.
//
// Float16 tensors: kMaxPool, kUpsampleNearest, kConv and kDepthwise take them when all their
// tensors are float16. kCopy, kConcat, kUnary, kAdd, kMul, kAdaptiveAvgPool and kPixelShuffle take
// float32 and float16 in any mixture, which they convert; kLinear with a float16 input (and
// residual) may have an output of either. What a float16 tensor is given is rounded to the nearest,
// ties to even, and is infinite beyond 65504. How exact sums are, kernels/half/half.h says.
//
// kCopy: with input x (n, c, h, w), factor s and padding (pt, pl), the output (n, k * c, rows,
// cols) holds the first k of the s * s phases, phase = py * s + px:
//
//   out[phase * c + ch][r][q] = x[ch][r * s + py - pt][q * s + px - pl], zero outside x.
//
// s = 1, no padding: a plain copy (into a tensor with a halo, or out of one). A convolution with
// stride s becomes a stride-1 convolution over the phases.
//
// kPixelShuffle:
//
//   out[c][y][x] = in[c * r * r + ((y + ct) % r) * r + (x + cl) % r][(y + ct) / r][(x + cl) / r].
//
// A transposed convolution with stride r is a convolution with r * r times the filters, then this.
//
// kWinograd: a 3x3 convolution with stride 1 as F(m x m, 3 x 3) (Winograd, 1980; Lavin and Gray,
// 2015), m = 2 or 4, a = m + 2. The output is cut into tiles of m x m pixels, each computed from a
// patch d of a x a inputs that begins pad_top rows above and pad_left columns left of it, zero
// outside of the input:
//
//   tile = act(A^T [sum over channels of U * (B^T d B)] A (+ r)),
//
// with B and A for the points 0, 1, -1 (, 2, -2), infinity. The packed blob holds U, and the bias
// in coefficient (1, 1): it is a kConv over blocks of at most `tiles` tiles, with (a * a * c)
// planes of `tiles` elements as input and (a * a * f) as output, coefficients outermost.
//
// kDepthwise: a convolution with a k x k kernel for each channel, k = 3 or 5, and stride s = 1 or
// 2. Its weights are f32[c][1 + k * k]: the bias, then the kernel row by row. The padding is the
// input's halo:
//
//   out[c][y][x] = act(bias[c] + sum w[c][ky][kx] * in[c][y * s + ky - pt][x * s + kx - pl]).
//
// kConv, with the sum over the entries e of f's block:
//
//   out[f][y][x] = act(bias[f] + sum w[e][lane of f] * in[offset[e] + y * in.stride[2] + x] (+ r)),
//
// where in[0] is element (n, 0, 0, 0) and offset[e] already contains channel, kernel position,
// dilation, padding and phase. Always stride 1. Depthwise and grouped convolutions are the same
// format with fewer entries a block.
//
// kLinear: the same blob; for every n, with out's h = w = 1:
//
//   out[n][f] = act(bias[f] + sum w[e][lane] * in[n * in.stride[0] + offset[e]] (+ r)).
struct PackedHeader {  // 64 bytes, at OpRec::data_off; the offsets below are from this header's
                       // start, 64-byte aligned
  uint32_t block;      // B: 1, 2, 4, 8 or 16 filters share one list of entries
  uint32_t n_blocks;
  uint32_t n_entries;    // of all blocks together
  uint32_t n_filters;    // output channels; every one appears exactly once in `filters`
  uint64_t row_ptr_off;  // u32[n_blocks + 1]: block i owns entries [row_ptr[i], row_ptr[i + 1])
  uint64_t filters_off;  // u32[n_blocks * B]: output channel of every lane; kNone: unused, last
  uint64_t offsets_off;  // i32[n_entries]: input offsets in elements
  uint64_t weights_off;  // f32[n_entries * B]: B weights an entry; f16 where the input is float16
  uint64_t bias_off;     // f32[n_blocks * B]
  uint64_t reserved;
};
static_assert(sizeof(PackedHeader) == 64);

// Int8 operations. An int8 value q stands for scale * (q - zero point). All steps in float are of
// float32 with one rounding each (no fused multiply-adds), rne rounds to nearest, ties to even:
//
//   kQuantize:   q = rne(clamp(x * f[0], -128 - z, 127 - z)) + z
//   kDequantize: x = float(q - p[0]) * f[0]
//   kMeanInt8:   q = rne(clamp(float(sum - pixels * p[1]) * f[0], -128 - z, 127 - z)) + z
//
// kConvInt8 is like kConv over int8 tensors: an entry is an element, four channels, and each of its
// filters has four weights for it, whose products are summed in 32-bit integers (mod 2^32):
//
//   t = float(bias[f] + sum w[e][lane of f][j] * in[offset[e] + y * in.stride[2] + x].byte[j])
//   t = act(t * scale[f] (+ float(r - p[1]) * f[0]))      (or the residual after the activation)
//   out[f / 4][y][x].byte[f % 4] = rne(clamp(t, -128 - z, 127 - z)) + z.
//
// Into a float32 output: out[f][y][x] = t. Zero points of the input are in the bias; activations
// are kNone, kClamp and kLeakyRelu. kLinearInt8 relates to it as kLinear to kConv; kDepthwiseInt8
// to kDepthwise. The weights of the latter are for every four channels i32 bias[4], f32 scale[4],
// and int8[k * k][4] rounded up to a multiple of 16 bytes.
//
// Weights are levels from -127 to 127: bytes, or codes of four bits that a table gives a level.
// `codebooks` says which table a lane has. Codes are those of two entries, the first in the lower
// halves of the bytes: then every block has an even number of entries.
struct PackedInt8Header {  // 128 bytes, at OpRec::data_off; the offsets below are from this
                           // header's start, 64-byte aligned
  uint32_t block;          // B: 4 or 8 filters share one list of entries
  uint32_t n_blocks;
  uint32_t n_filters;  // output channels
  uint32_t n_offsets;  // in the list of offsets
  uint32_t n_entries;  // of all blocks together
  uint32_t bits;       // 8: levels; 4: codes
  int8_t tables[2][16];
  uint64_t row_ptr_off;    // u32[n_blocks + 1]: block i owns entries [row_ptr[i], row_ptr[i + 1])
  uint64_t lists_off;      // u32[n_blocks]: the first of its offsets; blocks may share them
  uint64_t groups_off;     // u32[n_blocks * B / 4]: which four output channels the lanes are, every
                           // one exactly once; kNone: unused, last
  uint64_t offsets_off;    // i32[n_offsets]: input offsets in elements
  uint64_t weights_off;    // [n_entries][B][4] levels, or [n_entries / 2][B][4] pairs of codes
  uint64_t bias_off;       // i32[n_blocks * B]
  uint64_t scale_off;      // f32[n_blocks * B]
  uint64_t codebooks_off;  // u8[n_blocks * B]: 0 or 1
  uint64_t reserved;
};
static_assert(sizeof(PackedInt8Header) == 128);

}  // namespace edge
