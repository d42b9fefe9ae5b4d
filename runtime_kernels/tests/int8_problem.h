// Random int8 convolutions and linear layers, packed as in a plan, and their naive solution,
// written from edge/plan_format.h.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "conv_problem.h"
#include "kernels/conv/schedule.h"
#include "kernels/int8/kernel_table.h"

namespace edge::conv_test {

struct Int8Shape {
  int n = 1, c = 3, f = 8, h = 3, w = 9;  // c: groups of four input channels; h, w: of the output
  int k = 3;
  int block = 8, bits = 8;
  double kept = 1.0;    // share of the (channels, position) entries that a block keeps
  bool shared = false;  // one list of offsets for all blocks
  bool gaps = false;    // may_write_gaps, with equal row strides
  bool to_float = false;
  bool extreme = false;  // bytes are -128 or 127, levels -127 or 127, biases any number
  ActKind act = ActKind::kNone;
  Residual residual = Residual::kNone;
  int zero = 0, residual_zero = 0;

  std::string Describe() const {
    std::ostringstream text;
    text << n << "x4*" << c << " -> " << f << "x" << h << "x" << w << " k" << k << " block "
         << block << " bits " << bits << " kept " << kept << " shared " << shared << " gaps "
         << gaps << " to_float " << to_float << " extreme " << extreme << " act "
         << static_cast<int>(act) << " residual " << static_cast<int>(residual) << " zero " << zero
         << ", " << residual_zero;
    return text.str();
  }
};

inline int32_t Byte(Quad quad, int64_t j) { return static_cast<int8_t>(quad >> (8 * j)); }

// rne(clamp(t, -128 - z, 127 - z)) + z
inline int32_t LevelOf(float t, int32_t zero) {
  const float least = static_cast<float>(-128 - zero), most = static_cast<float>(127 - zero);
  return static_cast<int32_t>(std::nearbyint(std::min(std::max(t, least), most))) + zero;
}

class Int8Problem {
 public:
  Int8Problem(const Int8Shape& shape, uint32_t seed)
      : s_(shape),
        rng_(seed),
        groups_((shape.f + 3) / 4),
        in_(shape.n, shape.c, shape.h + shape.k - 1, shape.w + shape.k - 1,
            shape.w + shape.k - 1 + Int(0, 3), kSlack, kSlack, &rng_),
        residual_(shape.n, groups_, shape.h, shape.w, OutRow(), kSlack, kSlack, &rng_) {
    for (Quad& q : in_.data) q = AnyQuad();
    for (Quad& q : residual_.data) q = AnyQuad();
    epilogue_ = {
        s_.act,           0,       0,          s_.residual == Residual::kAfterAct, Scale(1),
        s_.residual_zero, s_.zero, s_.to_float};
    if (s_.act == ActKind::kClamp) epilogue_.lo = -20.5f, epilogue_.hi = 60.25f;
    if (s_.act == ActKind::kLeakyRelu) epilogue_.lo = 0.1f;
    Pack();
    Solve();
  }

  // Through ConvInt8. Empty, or what is wrong with what it stored.
  std::string Run(Isa isa, ThreadPool* pool) {
    PlanesOf<Quad> out = Output();
    const PlanesOf<Quad> before = out;
    Int8Weights weights;
    if (!PrepareConvInt8(View(), isa, &weights)) return "no memory";
    Int8ConvArgs a = {};
    a.weights = &weights;
    a.epilogue = epilogue_;
    a.in = &in_.At(0, 0, 0, 0), a.in_n = in_.stride_n(), a.in_h = in_.stride_h();
    a.out = &out.At(0, 0, 0, 0);
    a.out_n = out.stride_n(), a.out_c = out.stride_c(), a.out_h = out.stride_h();
    if (s_.residual != Residual::kNone) {
      PlanesOf<Quad>& from = s_.residual == Residual::kInPlace ? out : residual_;
      a.residual = &from.At(0, 0, 0, 0);
      a.res_n = from.stride_n(), a.res_c = from.stride_c(), a.res_h = from.stride_h();
    }
    a.n = s_.n, a.h = s_.h, a.w = s_.w;
    a.may_write_gaps = s_.gaps;
    ConvInt8(a, PlanConvInt8(a, pool->threads(), isa), pool, isa);
    return Compare(before, out);
  }

  // Block by block, by kernels that take all lanes of one, and pixels as q + 128.
  std::string RunBlocks(const Int8Kernels& kernels) {
    PlanesOf<Quad> out = Output();
    const PlanesOf<Quad> before = out;
    const std::vector<int8_t> levels = Levels();
    for (int n = 0; n < s_.n; ++n) {
      for (size_t block = 0; block + 1 < row_ptr_.size(); ++block) {
        const size_t entry = row_ptr_[block], lanes = static_cast<size_t>(s_.block);
        std::vector<int32_t> bias(&bias_[block * lanes], &bias_[block * lanes] + lanes);
        for (size_t i = entry * lanes * 4; i < row_ptr_[block + 1] * lanes * 4; ++i)
          bias[i / 4 % lanes] = Wrapped(int64_t{bias[i / 4 % lanes]} - 128 * levels[i]);
        Int8ConvJob job = {};
        job.offsets = &offsets_[lists_[block]], job.n_entries = row_ptr_[block + 1] - entry;
        job.n_shifted = job.n_entries, job.weights_stride = s_.block * 4;
        job.weights = levels.data() + entry * lanes * 4;
        job.bias = bias.data(), job.scale = &scale_[block * lanes];
        job.groups = &group_of_[block * lanes / 4];
        job.in = &in_.At(n, 0, 0, 0), job.in_h = in_.stride_h();
        job.out = &out.At(n, 0, 0, 0), job.out_c = out.stride_c(), job.out_h = out.stride_h();
        if (s_.residual != Residual::kNone) {
          PlanesOf<Quad>& from = s_.residual == Residual::kInPlace ? out : residual_;
          job.residual = &from.At(n, 0, 0, 0);
          job.res_c = from.stride_c(), job.res_h = from.stride_h();
        }
        job.rows = s_.h, job.cols = s_.w, job.n_filters = s_.f;
        job.may_overlap = s_.residual != Residual::kInPlace;
        job.epilogue = &epilogue_;
        kernels.conv[s_.block / 8].run(job);
      }
    }
    return Compare(before, out);
  }

  // Through LinearInt8, of a map of one pixel; `in_registers`: codes stay codes.
  std::string RunLinear(bool in_registers, Isa isa, ThreadPool* pool) {
    PlanesOf<Quad> out = Output();
    const PlanesOf<Quad> before = out;
    Int8Weights weights;
    if (!PrepareLinearInt8(View(), in_registers, isa, &weights)) return "no memory";
    Int8LinearArgs a = {};
    a.weights = &weights;
    a.epilogue = epilogue_;
    a.in = &in_.At(0, 0, 0, 0), a.in_n = in_.stride_n();
    a.out = &out.At(0, 0, 0, 0), a.out_n = out.stride_n(), a.out_c = out.stride_c();
    if (s_.residual != Residual::kNone) {
      PlanesOf<Quad>& from = s_.residual == Residual::kInPlace ? out : residual_;
      a.residual = &from.At(0, 0, 0, 0), a.res_n = from.stride_n(), a.res_c = from.stride_c();
    }
    a.n = s_.n;
    LinearInt8(a, pool, isa);
    return Compare(before, out);
  }

 private:
  static constexpr int kSlack = kArenaSlack / sizeof(Quad);

  int Int(int low, int high) { return low + static_cast<int>(rng_() % (high - low + 1u)); }
  Quad AnyQuad() {
    const Quad any = static_cast<Quad>(rng_());
    return s_.extreme ? (any & 0x80808080u) ^ 0x7f7f7f7fu * (any >> 31 & 1) : any;
  }
  // Around `size`; often a power of two, for which there are ties.
  float Scale(double size) {
    const double scale = size * std::uniform_real_distribution<double>(0.3, 3)(rng_);
    return static_cast<float>(Int(0, 1) == 0 ? scale : std::exp2(std::floor(std::log2(scale))));
  }
  static int32_t Wrapped(int64_t x) { return static_cast<int32_t>(static_cast<uint32_t>(x)); }
  int64_t OutRow() { return s_.gaps ? in_.stride_h() : s_.w + Int(0, 3); }

  // In place of the residual when that is asked for.
  PlanesOf<Quad> Output() {
    PlanesOf<Quad> out(s_.n, s_.to_float ? s_.f : groups_, s_.h, s_.w, residual_.stride_h(), 64, 64,
                       &rng_);
    for (int n = 0; n < s_.n && s_.residual == Residual::kInPlace; ++n)
      for (int g = 0; g < groups_; ++g)
        for (int y = 0; y < s_.h; ++y)
          for (int x = 0; x < s_.w; ++x) out.At(n, g, y, x) = residual_.At(n, g, y, x);
    return out;
  }

  // Groups of filters in random order; where the last block has lanes left they are unused.
  void Pack() {
    const int in_block = s_.block / 4, blocks = (groups_ + in_block - 1) / in_block;
    group_of_.assign(static_cast<size_t>(blocks * in_block), kNone);
    for (int g = 0; g < groups_; ++g) group_of_[static_cast<size_t>(g)] = static_cast<uint32_t>(g);
    std::shuffle(group_of_.begin(), group_of_.begin() + groups_, rng_);
    const int widest = std::array<int, 3>{127, 64, 8}[rng_() % 3];
    for (int8_t& level : tables_) level = static_cast<int8_t>(Int(-widest, widest));
    std::vector<int32_t> all;
    for (int c = 0; c < s_.c; ++c)
      for (int ky = 0; ky < s_.k; ++ky)
        for (int kx = 0; kx < s_.k; ++kx)
          all.push_back(
              static_cast<int32_t>(in_.Position(0, c, ky, kx) - in_.Position(0, 0, 0, 0)));
    if (s_.shared) offsets_ = all;
    for (int block = 0; block < blocks; ++block) {
      std::vector<int32_t> mine;
      for (int32_t offset : all)
        if (Int(1, 1000) <= 1000 * s_.kept) mine.push_back(offset);
      if (s_.bits == 4 && mine.size() % 2 != 0) mine.pop_back();
      const size_t first = s_.shared ? rng_() % (all.size() - mine.size() + 1) : offsets_.size();
      if (!s_.shared) offsets_.insert(offsets_.end(), mine.begin(), mine.end());
      lists_.push_back(static_cast<uint32_t>(first));
      row_ptr_.push_back(row_ptr_.back() + static_cast<uint32_t>(mine.size()));
    }
    weights_.resize(size_t{row_ptr_.back()} * static_cast<size_t>(s_.block * 4 * s_.bits / 8));
    const size_t entry = static_cast<size_t>(s_.block) * 4;
    int most = 127;  // in every second entry so small that products fit 16 bits in pairs
    for (size_t i = 0; i < weights_.size(); ++i) {
      if (i % entry == 0) most = Int(0, 1) == 0 ? 127 : 64;
      const int level = s_.extreme ? (Int(0, 1) == 0 ? -most : most) : Int(-most, most);
      weights_[i] = static_cast<uint8_t>(s_.bits == 8 ? level : Int(0, 255));
    }
    const double sums = 4.0 * static_cast<double>(all.size()) * s_.kept + 1;
    for (int lane = 0; lane < blocks * s_.block; ++lane) {
      bias_.push_back(s_.extreme ? static_cast<int32_t>(rng_()) : Int(-30000, 30000));
      scale_.push_back(Scale(s_.extreme ? 1e-7 : 50 / (5400 * std::sqrt(sums))));
      codebooks_.push_back(static_cast<uint8_t>(Int(0, 1)));
    }
    offsets_.push_back(0);  // has an address
  }

  PackedInt8View View() const {
    PackedInt8View view = {};
    view.block = static_cast<uint32_t>(s_.block), view.bits = static_cast<uint32_t>(s_.bits);
    view.n_blocks = static_cast<uint32_t>(lists_.size());
    view.n_filters = static_cast<uint32_t>(s_.f);
    view.n_offsets = static_cast<uint32_t>(offsets_.size()), view.n_entries = row_ptr_.back();
    view.tables = tables_, view.row_ptr = row_ptr_.data(), view.lists = lists_.data();
    view.groups = group_of_.data(), view.offsets = offsets_.data();
    view.weights = weights_.data(), view.bias = bias_.data(), view.scale = scale_.data();
    view.codebooks = codebooks_.data();
    return view;
  }

  // [n_entries][block][4]
  std::vector<int8_t> Levels() const {
    std::vector<int8_t> levels(size_t{row_ptr_.back()} * static_cast<size_t>(s_.block) * 4 + 1);
    size_t block = 0;
    for (size_t i = 0; i + 1 < levels.size(); ++i) {
      const size_t lanes = static_cast<size_t>(s_.block);
      while (i / (4 * lanes) >= row_ptr_[block + 1]) ++block;
      const size_t entry = i / (4 * lanes);
      const int code = weights_[entry / 2 * 4 * lanes + i % (4 * lanes)] >> (entry % 2 * 4) & 15;
      const size_t book = codebooks_[block * lanes + i / 4 % lanes];
      levels[i] = s_.bits == 8 ? static_cast<int8_t>(weights_[i]) : tables_[16 * book + code];
    }
    return levels;
  }

  float Solved(const std::vector<int8_t>& levels, size_t lane, int n, int y, int x) {
    const auto lanes = static_cast<size_t>(s_.block);
    const size_t block = lane / lanes, filter = lane % lanes;
    int64_t sum = bias_[lane];
    for (size_t e = row_ptr_[block]; e < row_ptr_[block + 1]; ++e) {
      const Quad* in = &in_.At(n, 0, y, x) + offsets_[lists_[block] + e - row_ptr_[block]];
      for (size_t j = 0; j < 4; ++j)
        sum += int64_t{levels[(e * lanes + filter) * 4 + j]} * Byte(*in, static_cast<int64_t>(j));
    }
    const Quad r = residual_.At(n, group_of_[lane / 4], y, x);
    const float added =
        static_cast<float>(Byte(r, static_cast<int64_t>(lane % 4)) - s_.residual_zero) *
        epilogue_.residual_scale;
    float t = static_cast<float>(Wrapped(sum)) * scale_[lane];
    if (s_.residual != Residual::kNone && !epilogue_.residual_after_act) t = t + added;
    if (s_.act == ActKind::kClamp) t = std::min(std::max(t, epilogue_.lo), epilogue_.hi);
    if (s_.act == ActKind::kLeakyRelu && !(t > 0)) t = t * epilogue_.lo;
    if (s_.residual != Residual::kNone && epilogue_.residual_after_act) t = t + added;
    return s_.to_float ? t : static_cast<float>(LevelOf(t, s_.zero));
  }

  void Solve() {
    const std::vector<int8_t> levels = Levels();
    expected_.resize(static_cast<size_t>(s_.n) * s_.f * s_.h * s_.w);
    for (size_t lane = 0; lane < bias_.size(); ++lane) {
      const int64_t filter = int64_t{group_of_[lane / 4]} * 4 + static_cast<int64_t>(lane % 4);
      if (filter >= s_.f) continue;
      for (int n = 0; n < s_.n; ++n)
        for (int y = 0; y < s_.h; ++y)
          for (int x = 0; x < s_.w; ++x) {
            const int64_t at = ((int64_t{n} * s_.f + filter) * s_.h + y) * s_.w + x;
            expected_[static_cast<size_t>(at)] = Solved(levels, lane, n, y, x);
          }
    }
  }

  std::string Compare(const PlanesOf<Quad>& before, const PlanesOf<Quad>& out) const {
    std::vector<char> may_change(out.data.size(), 0);
    size_t i = 0;
    for (int n = 0; n < s_.n; ++n)
      for (int f = 0; f < s_.f; ++f)
        for (int y = 0; y < s_.h; ++y)
          for (int x = 0; x < s_.w; ++x, ++i) {
            const auto at = static_cast<size_t>(out.Position(n, s_.to_float ? f : f / 4, y, x));
            float got;  // whatever type it was stored as
            Quad quad;
            std::memcpy(&got, &out.data[at], sizeof got);
            std::memcpy(&quad, &out.data[at], sizeof quad);
            if (!s_.to_float) got = static_cast<float>(Byte(quad, f % 4));
            may_change[at] = 1;
            for (int64_t gap = s_.w; s_.gaps && y + 1 < s_.h && gap < out.stride_h(); ++gap)
              may_change[at - static_cast<size_t>(x) + static_cast<size_t>(gap)] = 1;
            if (got == expected_[i]) continue;
            std::ostringstream wrong;
            wrong << "output (" << n << ", " << f << ", " << y << ", " << x << ") is " << got
                  << " instead of " << expected_[i];
            return wrong.str();
          }
    for (size_t k = 0; k < may_change.size(); ++k) {
      if (!may_change[k] && std::memcmp(&before.data[k], &out.data[k], sizeof(Quad)) != 0)
        return "element " + std::to_string(k) + " of the output's memory was overwritten";
    }
    return "";
  }

  const Int8Shape s_;
  std::mt19937 rng_;
  const int groups_;
  PlanesOf<Quad> in_, residual_;
  Int8Epilogue epilogue_ = {};
  int8_t tables_[32];
  std::vector<uint32_t> row_ptr_{0}, lists_, group_of_;
  std::vector<int32_t> offsets_, bias_;
  std::vector<uint8_t> weights_, codebooks_;
  std::vector<float> scale_, expected_;
};

}  // namespace edge::conv_test
