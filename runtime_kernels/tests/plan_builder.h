// Builds small plans for tests, record by record. Nothing is shared or reused: every arena tensor
// gets its own memory.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "edge/plan_format.h"
#include "kernels/half/half.h"
#include "winograd_weights.h"

namespace edge::testing {

using Dims = std::array<int32_t, 4>;
using Halo = std::array<int32_t, 4>;  // top, bottom, left, right

inline size_t Count(const Dims& d) {
  return static_cast<size_t>(d[0]) * static_cast<size_t>(d[1]) * static_cast<size_t>(d[2]) *
         static_cast<size_t>(d[3]);
}

// Plan bytes with the alignment that Plan::Load asks for.
class PlanBytes {
 public:
  explicit PlanBytes(size_t size = 0) : words_((size + 7) / 8), size_(size) {}
  uint8_t* data() { return reinterpret_cast<uint8_t*>(words_.data()); }
  const uint8_t* data() const { return reinterpret_cast<const uint8_t*>(words_.data()); }
  size_t size() const { return size_; }
  Header& header() { return *reinterpret_cast<Header*>(data()); }
  TensorRec& tensor(uint32_t id) {
    return reinterpret_cast<TensorRec*>(data() + header().tensors_off)[id];
  }
  OpRec& op(uint32_t i) { return reinterpret_cast<OpRec*>(data() + header().ops_off)[i]; }
  uint32_t& index(uint32_t i) {
    return reinterpret_cast<uint32_t*>(data() + header().index_off)[i];
  }
  uint8_t* blob(uint32_t op_index) { return data() + header().data_off + op(op_index).data_off; }

 private:
  std::vector<uint64_t> words_;
  size_t size_;
};

// A dense (filters, channels, kh, kw) weight; zeros are not packed.
struct ConvWeights {
  Dims dims;
  std::vector<float> weights;
  std::vector<float> bias;
  int32_t dilation = 1;
  int32_t pad = 0;
  uint32_t block = 4;
};

class PlanBuilder {
 public:
  uint32_t Add(const TensorRec& t) {
    tensors_.push_back(t);
    return static_cast<uint32_t>(tensors_.size() - 1);
  }
  uint32_t Input(const Dims& dims) { return AddEnd(Storage::kInput, dims, &inputs_); }
  uint32_t Output(const Dims& dims) { return AddEnd(Storage::kOutput, dims, &outputs_); }
  uint32_t Const(const Dims& dims, const std::vector<float>& values) {
    TensorRec t = Dense(Storage::kConst, dims);
    t.offset = AddData(values.data(), values.size() * sizeof(float));
    return Add(t);
  }
  uint32_t Arena(const Dims& dims, const Halo& halo = {0, 0, 0, 0}) {
    TensorRec t = Dense(Storage::kArena, dims);
    std::copy(halo.begin(), halo.end(), t.halo);
    t.stride[2] = dims[3] + std::max(halo[2], halo[3]);
    t.stride[1] = (dims[2] + std::max(halo[0], halo[1])) * t.stride[2];
    t.stride[0] = dims[1] * t.stride[1];
    const int64_t before = halo[0] * t.stride[2] + halo[2];
    t.offset = arena_ + static_cast<uint64_t>(before) * sizeof(float);
    const int64_t after = dims[0] * t.stride[0] + (halo[1] + 1) * t.stride[2] + halo[3];
    arena_ += static_cast<uint64_t>((before + after + 15) / 16 * 64);
    return Add(t);
  }
  uint32_t HalfArena(const Dims& dims, const Halo& halo = {0, 0, 0, 0}) {
    const uint32_t id = Arena(dims, halo);  // twice the memory it needs
    tensors_[id].type = static_cast<uint32_t>(ElementType::kFloat16);
    return id;
  }
  bool IsHalf(uint32_t id) const {
    return tensors_[id].type == static_cast<uint32_t>(ElementType::kFloat16);
  }
  // The memory of an arena tensor with its halo as elements.
  uint32_t WithHalo(uint32_t id) {
    TensorRec t = tensors_[id];
    t.offset -= static_cast<uint64_t>(t.halo[0] * t.stride[2] + t.halo[2]) * (IsHalf(id) ? 2 : 4);
    t.dims[2] += t.halo[0] + t.halo[1];
    t.dims[3] += t.halo[2] + t.halo[3];
    std::fill(t.halo, t.halo + 4, 0);
    return Add(t);
  }
  TensorRec& tensor(uint32_t id) { return tensors_[id]; }
  uint64_t arena_bytes() const { return arena_; }

  // The reference is good until the next call.
  OpRec& Op(OpKind kind, const std::vector<uint32_t>& inputs, uint32_t output,
            const std::string& name = "op") {
    OpRec op = {};
    op.op = static_cast<uint32_t>(kind);
    op.name_off = static_cast<uint32_t>(strings_.size());
    op.name_len = static_cast<uint32_t>(name.size());
    strings_ += name;
    op.inputs_off = static_cast<uint32_t>(operands_.size());
    op.n_inputs = static_cast<uint32_t>(inputs.size());
    operands_.insert(operands_.end(), inputs.begin(), inputs.end());
    op.output = output;
    op.residual = kNone;
    ops_.push_back(op);
    return ops_.back();
  }
  OpRec& Copy(uint32_t from, uint32_t to) {
    OpRec& op = Op(OpKind::kCopy, {from}, to, "copy");
    op.p[0] = 1;
    return op;
  }
  // A convolution over `in`, or a linear layer over its elements when kind is kLinear (weight (f,
  // c, h, w) of one image).
  OpRec& Packed(OpKind kind, uint32_t in, uint32_t out, const ConvWeights& w,
                const std::string& name = "conv") {
    return WithData(kind, in, out, Pack(tensors_[in], w), name);
  }
  OpRec& WithData(OpKind kind, uint32_t in, uint32_t out, const std::vector<uint8_t>& data,
                  const std::string& name) {
    OpRec& op = Op(kind, {in}, out, name);
    op.data_off = AddData(data.data(), data.size());
    op.data_size = data.size();
    return op;
  }
  // The 3x3 convolution `w` by tiles of m x m pixels, at most `tiles` of them a block.
  OpRec& Winograd(uint32_t in, uint32_t out, const ConvWeights& w, int32_t m, int32_t tiles) {
    const int32_t size = (m + 2) * (m + 2), filters = w.dims[0], channels = w.dims[1];
    ConvWeights product{{size * filters, size * channels, 1, 1}, {}, {}};
    product.weights.resize(Count(product.dims));
    product.bias.resize(static_cast<size_t>(size * filters));
    product.block = w.block;
    for (int32_t f = 0; f < filters; ++f) {
      for (int32_t c = 0; c < channels; ++c) {
        const auto u =
            TransformedKernel(&w.weights[static_cast<size_t>((f * channels + c) * 9)], m);
        for (int32_t k = 0; k < size; ++k) {
          const int64_t row = k * filters + f, column = k * channels + c;
          product.weights[static_cast<size_t>(row * size * channels + column)] =
              static_cast<float>(u[static_cast<size_t>(k)]);
        }
      }
      product.bias[static_cast<size_t>((m + 3) * filters + f)] = w.bias[static_cast<size_t>(f)];
    }
    TensorRec coefficients = {};
    coefficients.stride[1] = tiles;
    OpRec& op = WithData(OpKind::kWinograd, in, out, Pack(coefficients, product), "conv");
    op.p[0] = m, op.p[1] = op.p[2] = w.pad, op.p[3] = tiles;
    return op;
  }
  // A k x k kernel (w.dims: c, 1, k, k) for each channel, padded on all sides as `w` says.
  OpRec& Depthwise(uint32_t in, uint32_t out, const ConvWeights& w, int32_t stride) {
    const size_t taps = static_cast<size_t>(w.dims[2] * w.dims[3]);
    std::vector<float> data;
    for (size_t c = 0; c < w.bias.size(); ++c) {
      data.push_back(w.bias[c]);
      const float* kernel = w.weights.data() + c * taps;
      data.insert(data.end(), kernel, kernel + taps);
    }
    OpRec& op = Op(OpKind::kDepthwise, {in}, out, "depthwise");
    op.p[0] = w.dims[2], op.p[1] = stride, op.p[2] = op.p[3] = w.pad;
    op.data_off = AddData(data.data(), data.size() * sizeof(float));
    op.data_size = data.size() * sizeof(float);
    return op;
  }
  // Keeps only so many rows of an arena tensor.
  void Window(uint32_t id, int32_t rows) {
    TensorRec& t = tensors_[id];
    t.offset -= static_cast<uint64_t>(t.halo[0] * t.stride[2]) * sizeof(float);
    t.window = rows;
  }
  // Ops from `first` on, one for each of the rows where they begin, in bands: pairs (end, base),
  // band by band.
  void Chain(uint32_t first, const std::vector<int32_t>& begin,
             const std::vector<std::array<int32_t, 2>>& bands, uint32_t part = 0) {
    const auto at = static_cast<uint32_t>(operands_.size());
    const auto n_ops = static_cast<uint32_t>(begin.size());
    chains_.push_back({first, n_ops, static_cast<uint32_t>(bands.size()) / n_ops, at, part, 0});
    for (int32_t value : begin) operands_.push_back(static_cast<uint32_t>(value));
    for (const auto& band : bands) {
      for (int32_t value : band) operands_.push_back(static_cast<uint32_t>(value));
    }
  }
  PlanBytes Finish() const;

 private:
  static TensorRec Dense(Storage storage, const Dims& dims) {
    TensorRec t = {};
    t.storage = static_cast<uint32_t>(storage);
    std::copy(dims.begin(), dims.end(), t.dims);
    t.stride[2] = dims[3];
    t.stride[1] = int64_t{dims[3]} * dims[2];
    t.stride[0] = t.stride[1] * dims[1];
    return t;
  }
  uint32_t AddEnd(Storage storage, const Dims& dims, std::vector<uint32_t>* ids) {
    TensorRec t = Dense(storage, dims);
    t.io_index = static_cast<uint32_t>(ids->size());
    ids->push_back(Add(t));
    return ids->back();
  }
  uint64_t AddData(const void* bytes, size_t size) {
    const size_t at = (data_.size() + 63) / 64 * 64;
    data_.resize(at + size);
    if (size > 0) std::memcpy(data_.data() + at, bytes, size);
    return at;
  }
  static std::vector<uint8_t> Pack(const TensorRec& in, const ConvWeights& w);

  std::vector<TensorRec> tensors_;
  std::vector<OpRec> ops_;
  std::vector<ChainRec> chains_;
  std::vector<uint32_t> inputs_, outputs_, operands_;
  std::string strings_;
  std::vector<uint8_t> data_;
  uint64_t arena_ = 0;
};

inline std::vector<uint8_t> PlanBuilder::Pack(const TensorRec& in, const ConvWeights& w) {
  const auto filters = static_cast<uint32_t>(w.dims[0]);
  const uint32_t blocks = (filters + w.block - 1) / w.block, lanes = blocks * w.block;
  const size_t taps = Count(w.dims) / filters;
  std::vector<uint32_t> row_ptr = {0}, order(lanes, kNone);
  std::vector<int32_t> offsets;
  std::vector<float> weights, bias(lanes, 0.0f);
  for (uint32_t f = 0; f < filters; ++f)
    order[f] = filters - 1 - f;  // not the identity, so that it matters
  for (uint32_t b = 0; b < blocks; ++b) {
    for (size_t tap = 0; tap < taps; ++tap) {
      std::vector<float> lane(w.block, 0.0f);
      for (uint32_t k = 0; k < w.block; ++k) {
        if (order[b * w.block + k] != kNone)
          lane[k] = w.weights[order[b * w.block + k] * taps + tap];
      }
      if (std::all_of(lane.begin(), lane.end(), [](float v) { return v == 0; })) continue;
      const auto at = static_cast<int64_t>(tap);
      const int64_t kx = at % w.dims[3], ky = at / w.dims[3] % w.dims[2],
                    c = at / w.dims[3] / w.dims[2];
      offsets.push_back(static_cast<int32_t>(
          c * in.stride[1] + (ky * w.dilation - w.pad) * in.stride[2] + kx * w.dilation - w.pad));
      weights.insert(weights.end(), lane.begin(), lane.end());
    }
    row_ptr.push_back(static_cast<uint32_t>(offsets.size()));
  }
  for (uint32_t i = 0; i < lanes; ++i) {
    if (order[i] != kNone) bias[i] = w.bias[order[i]];
  }
  PackedHeader h = {};
  h.block = w.block, h.n_blocks = blocks, h.n_filters = filters,
  h.n_entries = static_cast<uint32_t>(offsets.size());
  std::vector<uint8_t> blob(sizeof(PackedHeader));
  const auto append = [&blob](const void* bytes, size_t size) {
    const size_t at = (blob.size() + 63) / 64 * 64;
    blob.resize(at + size);
    if (size > 0) std::memcpy(blob.data() + at, bytes, size);
    return static_cast<uint64_t>(at);
  };
  h.row_ptr_off = append(row_ptr.data(), row_ptr.size() * sizeof(uint32_t));
  h.filters_off = append(order.data(), order.size() * sizeof(uint32_t));
  h.offsets_off = append(offsets.data(), offsets.size() * sizeof(int32_t));
  h.bias_off = append(bias.data(), bias.size() * sizeof(float));
  // Last, so that a kernel reading past the weights leaves the plan's memory.
  if (in.type == static_cast<uint32_t>(ElementType::kFloat16)) {
    std::vector<Half> halves;
    for (float v : weights) halves.push_back(ToHalf(v));
    h.weights_off = append(halves.data(), halves.size() * sizeof(Half));
  } else {
    h.weights_off = append(weights.data(), weights.size() * sizeof(float));
  }
  std::memcpy(blob.data(), &h, sizeof h);
  return blob;
}

inline PlanBytes PlanBuilder::Finish() const {
  std::vector<uint32_t> index(inputs_);
  index.insert(index.end(), outputs_.begin(), outputs_.end());
  const auto ends = static_cast<uint32_t>(index.size());
  index.insert(index.end(), operands_.begin(), operands_.end());
  std::vector<OpRec> ops(ops_);
  for (OpRec& op : ops) op.inputs_off += ends;
  std::vector<ChainRec> chains(chains_);
  for (ChainRec& chain : chains) chain.bands += ends;

  Header h = {};
  std::memcpy(h.magic, kPlanMagic, sizeof h.magic);
  h.version = kPlanVersion;
  h.n_tensors = static_cast<uint32_t>(tensors_.size());
  h.n_ops = static_cast<uint32_t>(ops.size());
  h.n_inputs = static_cast<uint32_t>(inputs_.size());
  h.n_outputs = static_cast<uint32_t>(outputs_.size());
  h.n_index = static_cast<uint32_t>(index.size());
  h.arena_size = arena_;
  h.tensors_off = sizeof(Header);
  h.ops_off = h.tensors_off + tensors_.size() * sizeof(TensorRec);
  h.chains_off = h.ops_off + ops.size() * sizeof(OpRec);
  h.n_chains = static_cast<uint32_t>(chains_.size());
  h.index_off = h.chains_off + chains_.size() * sizeof(ChainRec);
  h.strings_off = h.index_off + index.size() * sizeof(uint32_t);
  h.strings_size = strings_.size();
  h.data_off = (h.strings_off + h.strings_size + 63) / 64 * 64;
  h.data_size = data_.size();
  h.total_size = h.data_off + h.data_size;

  PlanBytes bytes(h.total_size);
  const auto put = [&bytes](uint64_t at, const void* from, size_t size) {
    if (size > 0) std::memcpy(bytes.data() + at, from, size);
  };
  put(0, &h, sizeof h);
  put(h.tensors_off, tensors_.data(), tensors_.size() * sizeof(TensorRec));
  put(h.ops_off, ops.data(), ops.size() * sizeof(OpRec));
  put(h.chains_off, chains.data(), chains.size() * sizeof(ChainRec));
  put(h.index_off, index.data(), index.size() * sizeof(uint32_t));
  put(h.strings_off, strings_.data(), strings_.size());
  put(h.data_off, data_.data(), data_.size());
  return bytes;
}

}  // namespace edge::testing
