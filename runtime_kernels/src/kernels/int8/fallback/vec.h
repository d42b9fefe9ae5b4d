// Vectors of N pixels over plain arrays: what runs on any CPU.
#pragma once
#include <cstdint>
#include <cstring>

#include "kernels/int8/int8_impl.h"

namespace edge {

template <int N>
struct Int8ArrayVec {
  static constexpr int kLanes = N;
  struct Sum {
    int32_t x[N];
  };
  struct Quads {
    Quad x[N];
  };
  struct Real {
    float x[N];
  };
  struct Pixels {
    int32_t x[4][N];  // by channel
  };

  static int32_t Byte(Quad quad, int j) { return static_cast<int8_t>(quad >> (8 * j)); }
  template <class To, class F>
  static EDGE_INLINE To Each(const F& f) {
    To result;
    for (int i = 0; i < N; ++i) result.x[i] = f(i);
    return result;
  }
  static int32_t Wrap(int64_t x) { return static_cast<int32_t>(static_cast<uint32_t>(x)); }

  static EDGE_INLINE Pixels LoadPixels(const Quad* p) {
    Pixels pixels;
    for (int j = 0; j < 4; ++j) {
      for (int i = 0; i < N; ++i) pixels.x[j][i] = Byte(p[i], j);
    }
    return pixels;
  }
  template <int B>
  struct Weights {
    explicit EDGE_INLINE Weights(const int8_t* w) : p(w) {}
    template <int b>
    EDGE_INLINE Sum Dot(const Pixels& pixels, Sum sum) const {
      const int32_t w[4] = {p[4 * b], p[4 * b + 1], p[4 * b + 2], p[4 * b + 3]};
      for (int i = 0; i < N; ++i) {
        const int32_t four = w[0] * pixels.x[0][i] + w[1] * pixels.x[1][i] + w[2] * pixels.x[2][i] +
                             w[3] * pixels.x[3][i];
        sum.x[i] =
            static_cast<int32_t>(static_cast<uint32_t>(sum.x[i]) + static_cast<uint32_t>(four));
      }
      return sum;
    }
    const int8_t* p;
  };
  struct Dots {
    using Pixels = Int8ArrayVec::Pixels;
    static EDGE_INLINE Pixels Load(const Quad* p) { return LoadPixels(p); }
    template <int B>
    using Weights = Int8ArrayVec::Weights<B>;
  };
  template <int B, int NV>
  static EDGE_INLINE void Accumulate(const Int8ConvJob& job, const Quad* in, Sum (&sums)[B][NV]) {
    AccumulateInt8<Dots, N>(job, 0, job.n_entries, in, sums);
  }

  static EDGE_INLINE Sum SetSum(int32_t x) {
    return Each<Sum>([&](int) { return x; });
  }
  static EDGE_INLINE Sum AddSum(const Sum& a, const Sum& b) {
    return Each<Sum>([&](int i) { return Wrap(int64_t{a.x[i]} + b.x[i]); });
  }
  static EDGE_INLINE Real ToReal(const Sum& a) {
    return Each<Real>([&](int i) { return static_cast<float>(a.x[i]); });
  }
  static EDGE_INLINE Sum Round(const Real& a) {
    return Each<Sum>([&](int i) { return static_cast<int32_t>(__builtin_lrintf(a.x[i])); });
  }
  static EDGE_INLINE Real SetReal(float x) {
    return Each<Real>([&](int) { return x; });
  }
  static EDGE_INLINE Real Mul(const Real& a, const Real& b) {
    return Each<Real>([&](int i) { return a.x[i] * b.x[i]; });
  }
  static EDGE_INLINE Real Add(const Real& a, const Real& b) {
    return Each<Real>([&](int i) { return a.x[i] + b.x[i]; });
  }
  static EDGE_INLINE Real Max(const Real& a, const Real& b) {
    return Each<Real>([&](int i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; });
  }
  static EDGE_INLINE Real Min(const Real& a, const Real& b) {
    return Each<Real>([&](int i) { return a.x[i] < b.x[i] ? a.x[i] : b.x[i]; });
  }
  static EDGE_INLINE Quads Pack(const Sum& s0, const Sum& s1, const Sum& s2, const Sum& s3) {
    return Each<Quads>([&](int i) {
      const auto byte = [](int32_t x) { return static_cast<Quad>(x) & 0xffu; };
      return byte(s0.x[i]) | byte(s1.x[i]) << 8 | byte(s2.x[i]) << 16 | byte(s3.x[i]) << 24;
    });
  }
  template <int j>
  static EDGE_INLINE Sum Channel(const Quads& a) {
    return Each<Sum>([&](int i) { return Byte(a.x[i], j); });
  }
  static EDGE_INLINE Quads Load(const Quad* p) {
    return Each<Quads>([&](int i) { return p[i]; });
  }
  static EDGE_INLINE void Store(Quad* p, const Quads& a) { std::memcpy(p, a.x, sizeof(a.x)); }
  static EDGE_INLINE void StorePart(Quad* p, const Quads& a, int n) {
    for (int i = 0; i < n; ++i) p[i] = a.x[i];
  }
  static EDGE_INLINE Real LoadReal(const float* p) {
    return Each<Real>([&](int i) { return p[i]; });
  }
  static EDGE_INLINE Real LoadPartReal(const float* p, int n) {
    return Each<Real>([&](int i) { return i < n ? p[i] : 0.0f; });
  }
  static EDGE_INLINE void StoreReal(float* p, const Real& a) { std::memcpy(p, a.x, sizeof(a.x)); }
  static EDGE_INLINE void StorePartReal(float* p, const Real& a, int n) {
    for (int i = 0; i < n; ++i) p[i] = a.x[i];
  }
  static EDGE_INLINE Quads TakeEven(const Quad* p) {
    return Each<Quads>([&](int i) { return p[2 * i]; });
  }
  static EDGE_INLINE Quads MaxBytes(const Quads& a, const Quads& b) {
    return Each<Quads>([&](int i) {
      Quad most = 0;
      for (int j = 0; j < 4; ++j) {
        const int32_t x = Byte(a.x[i], j), y = Byte(b.x[i], j);
        most |= (static_cast<Quad>(x > y ? x : y) & 0xffu) << (8 * j);
      }
      return most;
    });
  }

  template <int K, int S>
  class Depthwise {
   public:
    explicit Depthwise(const Int8DepthwiseJob& job) : e_(*job.epilogue) {
      std::memcpy(bias_, job.weights, sizeof(bias_));
      std::memcpy(scale_, job.weights + 16, sizeof(scale_));
      taps_ = reinterpret_cast<const Quad*>(job.weights + 32);
    }
    EDGE_INLINE Quads Run(const Quad* in, int64_t in_h) const {
      Sum sums[4];
      for (int j = 0; j < 4; ++j) {
        sums[j] = SetSum(bias_[j]);
        for (int tap = 0; tap < K * K; ++tap) {
          const Quad* p = in + tap / K * in_h + tap % K;
          const int32_t w = Byte(taps_[tap], j);
          for (int i = 0; i < N; ++i) {
            sums[j].x[i] = Wrap(int64_t{sums[j].x[i]} + w * Byte(p[i * S], j));
          }
        }
      }
      const Int8Finish<Int8ArrayVec> finish(e_);
      Real t[4];
      finish.Reals(sums, [&](auto j) { return SetReal(scale_[j.value]); }, nullptr, t);
      return Pack(finish.Level(t[0]), finish.Level(t[1]), finish.Level(t[2]), finish.Level(t[3]));
    }

   private:
    const Int8Epilogue& e_;
    int32_t bias_[4];
    float scale_[4];
    const Quad* taps_;
  };
};

template <class Level>
void LinearInt8Arrays(const Int8LinearJob& job, const Level& level) {
  for (int64_t row = 0; row < job.rows; ++row) {
    const Quad* in = job.in + row * job.in_n;
    uint32_t sums[8] = {};
    for (int64_t i = 0; i < job.n_entries; ++i) {
      const Quad x = in[job.offsets[i]];
      for (int lane = 0; lane < 8; ++lane) {
        for (int j = 0; j < 4; ++j) {
          const int32_t w = level(lane, i * 32 + lane * 4 + j);
          sums[lane] += static_cast<uint32_t>(w * static_cast<int8_t>(x >> (8 * j)));
        }
      }
    }
    std::memcpy(job.sums + 8 * row, sums, sizeof(sums));
  }
}

inline void LinearInt8Fallback(const Int8LinearJob& job) {
  LinearInt8Arrays(job, [&](int, int64_t i) { return static_cast<int8_t>(job.weights[i]); });
}

inline void LinearInt8CodesFallback(const Int8LinearJob& job) {
  LinearInt8Arrays(job, [&](int lane, int64_t i) {
    const int code = job.weights[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
    return job.tables[16 * job.codebooks[lane] + code];
  });
}

}  // namespace edge
