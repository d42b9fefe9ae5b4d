// Random convolution problems in memory where everything that a kernel must not touch is poisoned,
// and their naive solution.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "conv_tables.h"
#include "kernels/activation.h"
#include "kernels/half/half.h"

namespace edge::conv_test {

enum class Residual { kNone, kBeforeAct, kAfterAct, kInPlace };

// A convolution with "same" padding, as PyTorch sees it: n x (groups * c) x h * stride x w * stride
// -> n x f x h x w.
struct Shape {
  int n = 1, c = 3, f = 8, h = 8, w = 8;  // c: input channels of a group; h, w: of the output
  int k = 3, stride = 1, dilation = 1, groups = 1;
  int block = 4;
  double kept = 1.0;     // share of the (channel, position) entries that a block keeps
  double dead = 0.0;     // share of filters that are all zero
  bool gaps = false;     // may_write_gaps, with equal row strides
  bool aligned = false;  // entries by their place in a vector, rows of whole cache lines
  ActKind act = ActKind::kNone;
  Residual residual = Residual::kNone;

  std::string Describe() const {
    std::ostringstream text;
    text << n << "x" << c * groups << " -> " << f << "x" << h << "x" << w << " k" << k << " s"
         << stride << " d" << dilation << " g" << groups << " block " << block << " kept " << kept
         << " dead " << dead << " gaps " << gaps << " aligned " << aligned << " act "
         << static_cast<int>(act) << " residual " << static_cast<int>(residual);
    return text.str();
  }
};

inline float Poison() {
  const uint32_t bits = 0x7fc0dead;  // a quiet NaN
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline Epilogue MakeEpilogue(ActKind act, Residual residual) {
  Epilogue e;
  e.act = act;
  if (act == ActKind::kClamp) e.lo = -0.5f, e.hi = 1.5f;
  if (act == ActKind::kLeakyRelu) e.lo = 0.1f;
  e.residual_after_act = residual == Residual::kAfterAct;
  return e;
}

// Channel planes of elements in memory: poison everywhere, until somebody stores.
template <class T>
class PlanesOf {
 public:
  PlanesOf(int n, int channels, int rows, int cols, int64_t row_stride, int lead, int tail,
           std::mt19937* rng, int64_t gap = 1)
      : h_(row_stride), lead_(lead) {
    c_ = rows * h_ + gap * static_cast<int64_t>((*rng)() % 5);
    n_ = channels * c_ + gap * static_cast<int64_t>((*rng)() % 5);
    const int64_t last = Position(n - 1, channels - 1, rows - 1, cols - 1);
    T poison;
    const float bits = Poison();
    std::memcpy(&poison, reinterpret_cast<const char*>(&bits) + sizeof(bits) - sizeof(poison),
                sizeof poison);  // the upper half of a NaN is one too
    data.assign(static_cast<size_t>(last + 1 + tail), poison);
  }
  int64_t Position(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return lead_ + n * n_ + c * c_ + y * h_ + x;
  }
  T& At(int64_t n, int64_t c, int64_t y, int64_t x) {
    return data[static_cast<size_t>(Position(n, c, y, x))];
  }
  int64_t stride_n() const { return n_; }
  int64_t stride_c() const { return c_; }
  int64_t stride_h() const { return h_; }

  std::vector<T> data;

 private:
  int64_t n_, c_, h_, lead_;
};
using Planes = PlanesOf<float>;

struct Packed {
  std::vector<uint32_t> row_ptr{0}, filters;
  std::vector<int32_t> offsets;
  std::vector<float> weights, bias;

  PackedView View(int block, int n_filters) const {
    return {static_cast<uint32_t>(block),
            static_cast<uint32_t>(row_ptr.size() - 1),
            static_cast<uint32_t>(offsets.size()),
            static_cast<uint32_t>(n_filters),
            row_ptr.data(),
            filters.data(),
            offsets.data(),
            weights.data(),
            bias.data()};
  }
};

class ConvProblem {
 public:
  virtual ~ConvProblem() = default;
  // `half`: all numbers but biases are those that float16 has.
  ConvProblem(const Shape& shape, uint32_t seed, bool half = false)
      : s_(shape), rng_(seed), half_(half), pad_(shape.dilation * (shape.k / 2)), in_(MakeInput()) {
    MakeWeights();
    Pack();
    Solve();
  }

  // Runs the convolution. Empty, or what is wrong with what it stored.
  std::string Run(const KernelTable& kernels, ThreadPool* pool) {
    const int64_t out_h = s_.gaps ? in_.stride_h() : s_.w + static_cast<int64_t>(rng_() % 4);
    Planes out(s_.n, s_.f, s_.h, s_.w, out_h, 64, 64, &rng_);
    Planes residual(s_.n, s_.f, s_.h, s_.w, out_h, 0, 0, &rng_);
    ForEachOutput([&](int n, int f, int y, int x, size_t i) {
      residual.At(n, f, y, x) = residual_[i];
      if (s_.residual == Residual::kInPlace) out.At(n, f, y, x) = residual_[i];
    });
    const Planes before = out;
    ConvArgs a{};
    a.packed = packed_.View(s_.block, s_.f);
    a.epilogue = MakeEpilogue(s_.act, s_.residual);
    a.in = &in_.At(0, 0, 0, 0);
    a.in_n = in_.stride_n();
    a.in_h = in_.stride_h();
    a.out = &out.At(0, 0, 0, 0);
    a.out_n = out.stride_n();
    a.out_c = out.stride_c();
    a.out_h = out_h;
    if (s_.residual != Residual::kNone) {
      Planes& from = s_.residual == Residual::kInPlace ? out : residual;
      a.residual = &from.At(0, 0, 0, 0);
      a.res_n = from.stride_n();
      a.res_c = from.stride_c();
      a.res_h = from.stride_h();
    }
    a.n = s_.n;
    a.h = s_.h;
    a.w = s_.w;
    a.may_write_gaps = s_.gaps;
    a.may_read_around = true;
    ConvWith(a, pool, kernels);
    return Compare(before, &out);
  }

  const std::vector<float>& result() const { return result_; }  // of the last run, dense
  virtual double Tolerance(size_t i) const { return 1e-5 * magnitude_[i] + 1e-6; }

 protected:
  float Random() {
    const float x = std::uniform_real_distribution<float>(-1, 1)(rng_);
    return half_ ? ToFloat(ToHalf(x)) : x;
  }
  bool Chance(double p) { return std::uniform_real_distribution<double>(0, 1)(rng_) < p; }
  size_t Weight(int f, int c, int ky, int kx) const {
    return ((static_cast<size_t>(f) * s_.c + c) * s_.k + ky) * s_.k + kx;
  }
  template <class F>
  void ForEachOutput(const F& f) const {
    size_t i = 0;
    for (int n = 0; n < s_.n; ++n)
      for (int c = 0; c < s_.f; ++c)
        for (int y = 0; y < s_.h; ++y)
          for (int x = 0; x < s_.w; ++x) f(n, c, y, x, i++);
  }

  // Channel phase * channels + c holds x[c][r * stride + py - pad][q * stride + px - pad], zero
  // outside x (kCopy's layout).
  Planes MakeInput() {
    const int channels = s_.c * s_.groups, reach = (s_.k - 1) * s_.dilation / s_.stride;
    const int rows = s_.h + reach, cols = s_.w + reach;
    in_rows_ = (s_.h - 1) * s_.stride + 1;
    in_cols_ = (s_.w - 1) * s_.stride + 1;
    logical_.resize(static_cast<size_t>(s_.n) * channels * in_rows_ * in_cols_);
    for (float& x : logical_) x = Random();
    // With stride 1 the right halo of a row may be the left one of the next.
    const int shared = s_.stride == 1 ? pad_ : 0;
    const int64_t least = cols - shared + static_cast<int64_t>(rng_() % 4);
    const int64_t row_stride = s_.aligned ? (least + kLine - 1) / kLine * kLine : least;
    constexpr int kSlack = kArenaSlack / sizeof(float);
    Planes in(s_.n, s_.stride * s_.stride * channels, rows, cols, row_stride, kSlack, kSlack, &rng_,
              s_.aligned ? kLine : 1);
    for (int n = 0; n < s_.n; ++n)
      for (int phase = 0; phase < s_.stride * s_.stride; ++phase)
        for (int c = 0; c < channels; ++c)
          for (int r = 0; r < rows; ++r)
            for (int q = 0; q < cols; ++q) {
              const int y = r * s_.stride + phase / s_.stride - pad_;
              const int x = q * s_.stride + phase % s_.stride - pad_;
              in.At(n, phase * channels + c, r, q) = static_cast<float>(Logical(n, c, y, x));
            }
    return in;
  }

  double Logical(int n, int c, int y, int x) const {
    if (y < 0 || y >= in_rows_ || x < 0 || x >= in_cols_) return 0;
    const size_t plane = static_cast<size_t>(n) * s_.c * s_.groups + c;
    return logical_[(plane * in_rows_ + y) * in_cols_ + x];
  }

  // Filters in random order, cut into blocks whose members keep the same entries of their own
  // group's channels.
  void MakeWeights() {
    order_.resize(s_.f);
    for (int f = 0; f < s_.f; ++f) order_[f] = static_cast<uint32_t>(f);
    std::shuffle(order_.begin(), order_.end(), rng_);
    weights_.assign(static_cast<size_t>(s_.f) * s_.c * s_.k * s_.k, 0.0f);
    std::vector<char> keep(static_cast<size_t>(s_.c) * s_.k * s_.k);
    for (int i = 0; i < s_.f; ++i) {
      if (i % s_.block == 0) {
        for (char& k : keep) k = Chance(s_.kept);
      }
      const bool dead = Chance(s_.dead);
      for (size_t e = 0; e < keep.size(); ++e) {
        if (keep[e] && !dead) weights_[order_[i] * keep.size() + e] = Random();
      }
    }
    bias_.resize(s_.f);
    for (float& b : bias_) b = Random();
    residual_.resize(static_cast<size_t>(s_.n) * s_.f * s_.h * s_.w);
    for (float& r : residual_) r = Random();
  }

  void Pack() {
    const int blocks = (s_.f + s_.block - 1) / s_.block;
    for (int b = 0; b < blocks; ++b) {
      for (int lane = 0; lane < s_.block; ++lane) {
        const int i = b * s_.block + lane;
        packed_.filters.push_back(i < s_.f ? order_[i] : kNone);
        packed_.bias.push_back(i < s_.f ? bias_[order_[i]] : Poison());
      }
      for (int c = 0; c < s_.c * s_.groups; ++c)
        for (int ky = 0; ky < s_.k; ++ky)
          for (int kx = 0; kx < s_.k; ++kx) PackEntry(b, c, ky, kx);
      if (s_.aligned) SortEntries(packed_.row_ptr.back());
      packed_.row_ptr.push_back(static_cast<uint32_t>(packed_.offsets.size()));
    }
  }

  void PackEntry(int block, int c, int ky, int kx) {
    std::vector<float> w(s_.block, Poison());
    bool any = false;
    for (int lane = 0; lane < s_.block && block * s_.block + lane < s_.f; ++lane) {
      const int f = static_cast<int>(order_[block * s_.block + lane]);
      const bool mine = f / (s_.f / s_.groups) == c / s_.c;
      w[lane] = mine ? weights_[Weight(f, c % s_.c, ky, kx)] : 0.0f;
      any = any || w[lane] != 0;
    }
    if (!any) return;
    const int y = ky * s_.dilation, x = kx * s_.dilation;
    const int phase = y % s_.stride * s_.stride + x % s_.stride;
    const int64_t offset =
        in_.Position(0, phase * s_.c * s_.groups + c, y / s_.stride, x / s_.stride) -
        in_.Position(0, 0, 0, 0);
    packed_.offsets.push_back(static_cast<int32_t>(offset));
    packed_.weights.insert(packed_.weights.end(), w.begin(), w.end());
  }

  // Those from the first-th on.
  void SortEntries(size_t first) {
    std::vector<size_t> order(packed_.offsets.size() - first);
    for (size_t i = 0; i < order.size(); ++i) order[i] = first + i;
    const auto key = [&](size_t i) {
      return std::make_pair(packed_.offsets[i] & (kLine - 1), packed_.offsets[i]);
    };
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) < key(b); });
    const Packed before = packed_;
    for (size_t i = 0; i < order.size(); ++i) {
      packed_.offsets[first + i] = before.offsets[order[i]];
      for (int lane = 0; lane < s_.block; ++lane)
        packed_.weights[(first + i) * s_.block + lane] = before.weights[order[i] * s_.block + lane];
    }
  }

  void Solve() {
    ForEachOutput([&](int n, int f, int y, int x, size_t i) {
      double sum = bias_[f], magnitude = std::abs(sum);
      const int group = f / (s_.f / s_.groups);
      for (int c = 0; c < s_.c; ++c)
        for (int ky = 0; ky < s_.k; ++ky)
          for (int kx = 0; kx < s_.k; ++kx) {
            const double term =
                weights_[Weight(f, c, ky, kx)] * Logical(n, group * s_.c + c,
                                                         y * s_.stride + ky * s_.dilation - pad_,
                                                         x * s_.stride + kx * s_.dilation - pad_);
            sum += term;
            magnitude += std::abs(term);
          }
      const double r = s_.residual == Residual::kNone ? 0.0 : residual_[i];
      const Epilogue e = MakeEpilogue(s_.act, s_.residual);
      const double before = e.residual_after_act ? 0.0 : r;
      const double y_act = Activate(e.act, static_cast<float>(sum + before), e.lo, e.hi);
      expected_.push_back(e.residual_after_act ? y_act + r : y_act);
      magnitude_.push_back(magnitude + std::abs(r));
    });
  }

  std::string Compare(const Planes& before, Planes* out) {
    std::ostringstream wrong;
    result_.clear();
    std::vector<char> may_change(before.data.size(), 0);
    ForEachOutput([&](int n, int f, int y, int x, size_t i) {
      const float got = out->At(n, f, y, x);
      result_.push_back(got);
      may_change[out->Position(n, f, y, x)] = 1;
      if (!(std::abs(got - expected_[i]) <= Tolerance(i)) && wrong.str().empty()) {
        wrong << "output (" << n << ", " << f << ", " << y << ", " << x << ") is " << got
              << " instead of " << expected_[i];
      }
      for (int64_t gap = s_.w; s_.gaps && y + 1 < s_.h && gap < out->stride_h(); ++gap) {
        may_change[out->Position(n, f, y, gap)] = 1;
      }
    });
    for (size_t i = 0; i < may_change.size(); ++i) {
      if (!may_change[i] && std::memcmp(&before.data[i], &out->data[i], sizeof(float)) != 0) {
        wrong << " float " << i << " of the output's memory was overwritten";
        break;
      }
    }
    return wrong.str();
  }

  static constexpr int kLine = 16;

  const Shape s_;
  std::mt19937 rng_;
  const bool half_;
  const int pad_;
  int in_rows_ = 0, in_cols_ = 0;
  std::vector<float> logical_;
  Planes in_;
  std::vector<uint32_t> order_;
  std::vector<float> weights_, bias_, residual_, result_;
  std::vector<double> expected_, magnitude_;
  Packed packed_;
};

}  // namespace edge::conv_test
