// Int8 tensors and operations for PlanBuilder, and plans with all of them.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "plan_builder.h"

namespace edge::testing {

// Dense (filters, channels, kh, kw) levels, or codes where `bits` is 4, with numbers from a seed.
struct Int8Weights {
  Dims dims;
  uint32_t block = 8, bits = 8;
  int32_t pad = 0;
  bool shared = false;  // one list of offsets for all blocks
  float scale = 0.01f;
  uint32_t seed = 1;
};

// Of so many channels, with the zero point in its halo.
inline uint32_t Int8Arena(PlanBuilder* plan, const Dims& dims, const Halo& halo, int32_t zero) {
  const uint32_t id = plan->Arena({dims[0], (dims[1] + 3) / 4, dims[2], dims[3]}, halo);
  plan->tensor(id).type = static_cast<uint32_t>(ElementType::kInt8x4);
  plan->tensor(id).fill = 0x01010101u * static_cast<uint8_t>(zero);
  return id;
}

inline OpRec& Quantize(PlanBuilder* plan, uint32_t in, uint32_t out, float inverse, int32_t zero) {
  OpRec& op = plan->Op(OpKind::kQuantize, {in}, out, "quantize");
  op.p[0] = zero, op.f[0] = inverse;
  return op;
}

inline OpRec& Dequantize(PlanBuilder* plan, uint32_t in, uint32_t out, float scale, int32_t zero) {
  OpRec& op = plan->Op(OpKind::kDequantize, {in}, out, "dequantize");
  op.p[0] = zero, op.f[0] = scale;
  return op;
}

// The packed blob for a convolution over `in`, or a linear layer over its elements.
inline std::vector<uint8_t> PackInt8(const TensorRec& in, const Int8Weights& w) {
  std::mt19937 random(w.seed);
  const auto filters = static_cast<uint32_t>(w.dims[0]);
  const uint32_t groups = (filters + 3) / 4, in_block = w.block / 4;
  const uint32_t blocks = (groups + in_block - 1) / in_block, lanes = blocks * w.block;
  std::vector<int32_t> taps;
  for (int32_t c = 0; c < (w.dims[1] + 3) / 4; ++c)
    for (int32_t ky = 0; ky < w.dims[2]; ++ky)
      for (int32_t kx = 0; kx < w.dims[3]; ++kx)
        taps.push_back(
            static_cast<int32_t>(c * in.stride[1] + (ky - w.pad) * in.stride[2] + kx - w.pad));
  if (w.bits == 4 && taps.size() % 2 != 0) taps.push_back(taps.back());  // codes come in pairs
  const auto count = static_cast<uint32_t>(taps.size());
  std::vector<uint32_t> row_ptr, lists, order;
  std::vector<int32_t> offsets, bias;
  for (uint32_t i = 0; i < blocks * in_block; ++i)
    order.push_back(i < groups ? groups - 1 - i : kNone);  // not the identity, so that it matters
  for (uint32_t block = 0; block <= blocks; ++block) row_ptr.push_back(block * count);
  for (uint32_t block = 0; block < blocks; ++block) {
    lists.push_back(w.shared ? 0 : static_cast<uint32_t>(offsets.size()));
    if (block == 0 || !w.shared) offsets.insert(offsets.end(), taps.begin(), taps.end());
  }
  std::vector<uint8_t> weights(size_t{blocks} * count * w.block * 4 * w.bits / 8);
  for (uint8_t& v : weights) {
    const auto any = static_cast<uint8_t>(random());
    v = w.bits == 8 && any == 0x80 ? 0 : any;
  }
  for (uint32_t lane = 0; lane < lanes; ++lane)
    bias.push_back(static_cast<int32_t>(random() % 2001) - 1000);
  const std::vector<float> scale(lanes, w.scale);
  std::vector<uint8_t> codebooks(lanes);
  for (uint8_t& book : codebooks) book = static_cast<uint8_t>(random() % 2);
  PackedInt8Header h = {};
  h.block = w.block, h.n_blocks = blocks, h.n_filters = filters, h.bits = w.bits;
  h.n_offsets = static_cast<uint32_t>(offsets.size()), h.n_entries = row_ptr.back();
  for (int code = 0; code < 16; ++code) {
    h.tables[0][code] = static_cast<int8_t>(code - 8);
    h.tables[1][code] = static_cast<int8_t>(15 * code - 112);
  }
  std::vector<uint8_t> blob(sizeof h);
  const auto append = [&blob](const auto& values) {
    const size_t at = (blob.size() + 63) / 64 * 64, bytes = values.size() * sizeof(values[0]);
    blob.resize(at + bytes);
    if (bytes > 0) std::memcpy(blob.data() + at, values.data(), bytes);
    return static_cast<uint64_t>(at);
  };
  h.row_ptr_off = append(row_ptr), h.lists_off = append(lists), h.groups_off = append(order);
  h.offsets_off = append(offsets), h.bias_off = append(bias), h.scale_off = append(scale);
  h.codebooks_off = append(codebooks);
  // Last, so that a kernel reading past the weights leaves the plan's memory.
  h.weights_off = append(weights);
  std::memcpy(blob.data(), &h, sizeof h);
  return blob;
}

inline OpRec& PackedInt8(PlanBuilder* plan, OpKind kind, uint32_t in, uint32_t out,
                         const Int8Weights& w, int32_t zero) {
  OpRec& op = plan->WithData(kind, in, out, PackInt8(plan->tensor(in), w), "packed_int8");
  op.p[0] = zero;
  return op;
}

// A k x k kernel for each of so many groups of four channels.
inline OpRec& DepthwiseInt8(PlanBuilder* plan, uint32_t in, uint32_t out, int32_t k, int32_t stride,
                            int32_t zero) {
  std::mt19937 random(9);
  const auto bytes = static_cast<size_t>(32 + (4 * k * k + 15) / 16 * 16);
  std::vector<uint8_t> data;
  for (int32_t c = 0; c < plan->tensor(in).dims[1]; ++c) {
    std::vector<uint8_t> four(bytes);
    for (uint8_t& v : four) v = static_cast<uint8_t>(static_cast<int>(random() % 255) - 127);
    const int32_t bias[4] = {100, -2000, 0, 5};
    const float scale[4] = {0.01f, 0.02f, 0.005f, 0.015f};
    std::memcpy(four.data(), bias, sizeof bias);
    std::memcpy(four.data() + sizeof bias, scale, sizeof scale);
    data.insert(data.end(), four.begin(), four.end());
  }
  OpRec& op = plan->WithData(OpKind::kDepthwiseInt8, in, out, data, "depthwise_int8");
  op.p[0] = k, op.p[1] = stride, op.p[2] = op.p[3] = k / 2, op.p[4] = zero;
  return op;
}

// A small classifier of images (2, 3, 9, 11) with 6 scores, and its last map.
inline PlanBytes Int8Plan(uint32_t block, uint32_t bits, bool shared) {
  PlanBuilder plan;
  const Halo halo = {1, 1, 1, 1};
  const Dims dims = {2, 10, 9, 11};
  const uint32_t image = plan.Input({2, 3, 9, 11}),
                 levels = Int8Arena(&plan, {2, 3, 9, 11}, halo, 4);
  const uint32_t hidden = Int8Arena(&plan, dims, halo, -128), sum = Int8Arena(&plan, dims, halo, 3);
  const uint32_t half = Int8Arena(&plan, {2, 10, 5, 6}, {0, 0, 0, 0}, 0);
  const uint32_t most = Int8Arena(&plan, {2, 10, 5, 6}, {0, 0, 0, 0}, 0);
  const uint32_t mean = Int8Arena(&plan, {2, 10, 1, 1}, {0, 0, 0, 0}, 0);
  const uint32_t features = Int8Arena(&plan, {2, 18, 1, 1}, {0, 0, 0, 0}, 0);
  Quantize(&plan, image, levels, 50.0f, 4);
  OpRec& first = PackedInt8(&plan, OpKind::kConvInt8, levels, hidden,
                            {{10, 3, 3, 3}, block, bits, 1, shared, 0.004f, 2}, -128);
  first.act = static_cast<uint32_t>(ActKind::kClamp);
  first.act_param[1] = 200.0f;
  OpRec& second = PackedInt8(&plan, OpKind::kConvInt8, hidden, sum,
                             {{10, 10, 3, 3}, block, bits, 1, shared, 0.003f, 3}, 3);
  second.residual = hidden;
  second.p[1] = -128, second.f[0] = 0.5f;
  DepthwiseInt8(&plan, sum, half, 3, 2, -7).act = static_cast<uint32_t>(ActKind::kLeakyRelu);
  const int32_t window[] = {3, 3, 1, 1, 1, 1, 1, 1};
  std::copy(std::begin(window), std::end(window), plan.Op(OpKind::kMaxPool, {half}, most).p);
  OpRec& pooled = plan.Op(OpKind::kMeanInt8, {most}, mean, "mean");
  pooled.p[0] = 5, pooled.p[1] = -7, pooled.f[0] = 1.0f / 30;
  PackedInt8(&plan, OpKind::kLinearInt8, mean, features,
             {{18, 10, 1, 1}, 8, bits, 0, shared, 0.02f, 4}, 0)
      .p[2] = 1;
  PackedInt8(&plan, OpKind::kLinearInt8, features, plan.Output({2, 6, 1, 1}),
             {{6, 18, 1, 1}, 8, bits, 0, shared, 0.01f, 5}, 0);
  Dequantize(&plan, most, plan.Output({2, 10, 5, 6}), 0.25f, -7);
  return plan.Finish();
}

// input (1, 3, h, w) -> levels -> 3x3 -> 3x3 with a residual -> 3x3 maximum -> depthwise 3x3 ->
// float32, as ChainPlan (chain_plan.h) does it in bands of rows and in parts.
inline PlanBytes Int8ChainPlan(int32_t h, int32_t w, int32_t rows, int32_t parts = 1) {
  PlanBuilder plan;
  const Dims dims = {1, 3, h, w};
  const uint32_t x = plan.Input(dims), y = plan.Output(dims);
  std::array<uint64_t, 3> weights_at = {};
  std::array<int32_t, 5> most = {};  // rows of a window, of all parts
  std::vector<std::array<uint32_t, 5>> windows;
  for (int32_t part = 0; part < parts; ++part) {
    const auto shared = [&](OpRec& op, size_t i) -> OpRec& {
      if (part == 0) weights_at[i] = op.data_off;
      op.data_off = weights_at[i];
      return op;
    };
    const std::array<int32_t, 5> zero = {4, -100, 7, 7, -3}, halo = {1, 1, 0, 1, 0};
    std::array<uint32_t, 5> t = {};
    for (size_t i = 0; i < 5; ++i)
      t[i] = Int8Arena(&plan, dims, {halo[i], halo[i], halo[i], halo[i]}, zero[i]);
    const int32_t first_row = h * part / parts, last_row = h * (part + 1) / parts;
    std::vector<int32_t> begin(6, first_row);
    for (int32_t i = 0; i < 4; ++i) begin[static_cast<size_t>(i)] = std::max(0, first_row - 4 + i);
    std::array<int32_t, 6> end, base = {};
    std::copy(begin.begin(), begin.end(), end.begin());
    for (size_t i = 0; i < 5; ++i) base[i] = begin[i] == 0 ? -halo[i] : begin[i];
    std::vector<std::array<int32_t, 2>> bands;
    while (rows > 0 && end[5] < last_row) {
      if (!bands.empty()) {
        const std::array<int32_t, 5> needed = {std::min(end[1] - 1, end[2]), end[2] - 1, end[3] - 1,
                                               end[4] - 1, end[5]};
        for (size_t i = 0; i < 5; ++i) base[i] = std::max(base[i], needed[i]);
      }
      end[4] = end[5] = std::min(last_row, end[5] + rows);
      for (size_t i : {3, 2, 1, 0}) end[i] = std::min(h, end[i + 1] + 1);
      for (size_t i = 0; i < 6; ++i) bands.push_back({end[i], base[i]});
      for (size_t i = 0; i < 5; ++i)
        most[i] = std::max(most[i], end[i] + (end[i] == h ? halo[i] : 0) - base[i]);
    }
    Quantize(&plan, x, t[0], 50.0f, zero[0]);
    shared(PackedInt8(&plan, OpKind::kConvInt8, t[0], t[1],
                      {{3, 3, 3, 3}, 4, 8, 1, false, 0.004f, 6}, zero[1]),
           0);
    OpRec& second = shared(PackedInt8(&plan, OpKind::kConvInt8, t[1], t[2],
                                      {{3, 3, 3, 3}, 8, 4, 1, true, 0.02f, 7}, zero[2]),
                           1);
    second.residual = t[0];
    second.p[1] = zero[0], second.f[0] = 0.75f;
    const int32_t window[] = {3, 3, 1, 1, 1, 1, 1, 1};
    std::copy(std::begin(window), std::end(window), plan.Op(OpKind::kMaxPool, {t[2]}, t[3]).p);
    shared(DepthwiseInt8(&plan, t[3], t[4], 3, 1, zero[4]), 2);
    Dequantize(&plan, t[4], y, 0.125f, zero[4]);
    if (rows > 0)
      plan.Chain(6 * static_cast<uint32_t>(part), begin, bands, static_cast<uint32_t>(part));
    windows.push_back(t);
  }
  for (const auto& tensors : windows) {
    for (size_t i = 0; rows > 0 && i < 5; ++i) {
      if (most[i] < h) plan.Window(tensors[i], most[i]);
    }
  }
  return plan.Finish();
}

}  // namespace edge::testing
