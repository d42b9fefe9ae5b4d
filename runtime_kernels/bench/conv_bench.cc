// Convolutions and linear layers of real networks, dense and sparse: GFLOP/s on the weights that
// are there, and the fraction of what this machine's FMA units can do. Names:
// KERNEL/SHAPE/kept:1/K/block:B/threads:N. Set EDGE_ISA to choose the kernels.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "fma_peak.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/kernel_table.h"

namespace edge {
namespace {

struct Layer {
  const char* name;
  int c, f, k, h, w;
  bool depthwise;
};

constexpr Layer kConvs[] = {
    {"24->144 1x1 180x320", 24, 144, 1, 180, 320, false},
    {"144->20 1x1 180x320", 144, 20, 1, 180, 320, false},
    {"20->24 3x3 180x320", 20, 24, 3, 180, 320, false},
    {"64->64 3x3 180x320", 64, 64, 3, 180, 320, false},
    {"256->256 3x3 52x52", 256, 256, 3, 52, 52, false},
    {"512->512 3x3 13x13", 512, 512, 3, 13, 13, false},
    {"dw32 3x3 112x112", 32, 32, 3, 112, 112, true},
};

constexpr Layer kLinears[] = {
    {"linear 1280->1000", 1280, 1000, 1, 1, 1, false},
    {"linear 512->512 x16", 512, 512, 1, 16, 1, false},
};

// A layer packed in blocks of `block` filters that keep 1 in `rate` of their entries, and memory to
// run it in.
class Workload {
 public:
  Workload(const Layer& layer, int block, int rate) : layer_(layer), block_(block) {
    std::mt19937 rng(7);
    halo_ = layer.k / 2;
    row_ = layer.w + halo_;
    plane_ = (layer.h + 2 * halo_ + 1) * row_;
    const int blocks = (layer.f + block - 1) / block;
    row_ptr_.push_back(0);
    for (int b = 0; b < blocks; ++b) {
      for (int c = 0; c < layer.c; ++c) {
        if (layer.depthwise && c != b) continue;
        for (int tap = 0; tap < layer.k * layer.k; ++tap) {
          if (rng() % static_cast<unsigned>(rate) != 0) continue;
          offsets_.push_back(
              static_cast<int32_t>(c * plane_ + tap / layer.k * row_ + tap % layer.k));
        }
      }
      row_ptr_.push_back(static_cast<uint32_t>(offsets_.size()));
    }
    for (int i = 0; i < blocks * block; ++i) {
      filters_.push_back(i < layer.f ? static_cast<uint32_t>(i) : kNone);
      bias_.push_back(0.1f);
    }
    weights_.assign(offsets_.size() * block, 0.01f);
    in_.assign(layer.c * plane_ + kArenaSlack, 0.5f);
    out_.assign(layer.f * plane_ + kArenaSlack, 0.0f);
  }

  ConvArgs Conv() {
    ConvArgs a{};
    a.packed = View();
    a.epilogue.act = ActKind::kClamp;
    a.epilogue.hi = 6;
    a.in = in_.data();
    a.in_h = row_;
    a.out = out_.data();
    a.out_c = plane_;
    a.out_h = row_;
    a.n = 1;
    a.h = layer_.h;
    a.w = layer_.w;
    a.may_write_gaps = true;
    return a;
  }

  LinearArgs Linear() {
    linear_in_.assign(static_cast<size_t>(layer_.c) * layer_.h, 0.5f);
    for (size_t i = 0; i < offsets_.size(); ++i) offsets_[i] /= static_cast<int32_t>(plane_);
    LinearArgs a{};
    a.packed = View();
    a.in = linear_in_.data();
    a.in_n = layer_.c;
    a.out = out_.data();
    a.out_n = layer_.f;
    a.out_c = 1;
    a.n = layer_.h;
    return a;
  }

  // Of the weights that are there, zeros inside a kept entry included.
  double Flops() const {
    double flops = 0;
    for (size_t b = 0; b + 1 < row_ptr_.size(); ++b) {
      const int filters = std::min<int>(block_, layer_.f - static_cast<int>(b) * block_);
      flops += 2.0 * (row_ptr_[b + 1] - row_ptr_[b]) * filters * layer_.h * layer_.w;
    }
    return flops;
  }

 private:
  PackedView View() const {
    return {static_cast<uint32_t>(block_),
            static_cast<uint32_t>(row_ptr_.size() - 1),
            static_cast<uint32_t>(offsets_.size()),
            static_cast<uint32_t>(layer_.f),
            row_ptr_.data(),
            filters_.data(),
            offsets_.data(),
            weights_.data(),
            bias_.data()};
  }

  const Layer layer_;
  const int block_;
  int64_t halo_, row_, plane_;
  std::vector<uint32_t> row_ptr_, filters_;
  std::vector<int32_t> offsets_;
  std::vector<float> weights_, bias_, in_, out_, linear_in_;
};

// The best of a few tenths of a second: other programs only ever make it slower.
double MeasureFmaPeak(Isa isa) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (int i = 0; i < 30; ++i) {
    const auto start = Clock::now();
    const double flops = RunFmas(isa, 200000);
    const std::chrono::duration<double> seconds = Clock::now() - start;
    best = std::max(best, flops / seconds.count());
  }
  return best;
}

template <class Body>
void Measure(benchmark::State& state, double flops, double peak, int threads, const Body& body) {
  for (auto _ : state) {
    body();
    benchmark::ClobberMemory();
  }
  using benchmark::Counter;
  state.counters["GFLOP/s"] = Counter(flops / 1e9, Counter::kIsIterationInvariantRate);
  state.counters["of_peak"] = Counter(flops / (peak * threads), Counter::kIsIterationInvariantRate);
}

std::string Name(const char* kernel, const Layer& layer, int rate, int block, int threads) {
  return std::string(kernel) + "/" + layer.name + "/kept:1/" + std::to_string(rate) +
         "/block:" + std::to_string(block) + "/threads:" + std::to_string(threads);
}

// One thread is measured in its CPU time, which other programs disturb less.
template <class Body>
void Register(const std::string& name, int threads, const Body& body) {
  auto* bench = benchmark::RegisterBenchmark(name.c_str(), body);
  if (threads > 1) bench->UseRealTime();
}

void RegisterConvs(Isa isa, double peak, ThreadPool* pool) {
  const int threads = static_cast<int>(pool->threads());
  for (const Layer& layer : kConvs) {
    for (int rate : {1, 4, 6}) {
      for (int block : {1, 4, 8}) {
        if (layer.depthwise && (block > 1 || rate > 1)) continue;
        const char* kernel = KernelsOf(isa).conv[BlockIndex(block)].name;
        const auto body = [=](benchmark::State& state) {
          Workload work(layer, block, rate);
          const ConvArgs args = work.Conv();
          Measure(state, work.Flops(), peak, threads, [&] { Conv(args, pool, isa); });
        };
        Register(Name(kernel, layer, rate, block, threads), threads, body);
      }
    }
  }
}

void RegisterLinears(Isa isa, double peak, ThreadPool* pool) {
  const int threads = static_cast<int>(pool->threads());
  for (const Layer& layer : kLinears) {
    for (int rate : {1, 4}) {
      for (int block : {1, 2, 4, 8, 16}) {
        const char* kernel = KernelsOf(isa).linear[BlockIndex(block)].name;
        const auto body = [=](benchmark::State& state) {
          Workload work(layer, block, rate);
          const LinearArgs args = work.Linear();
          Measure(state, work.Flops(), peak, threads, [&] { Linear(args, pool, isa); });
        };
        Register(Name(kernel, layer, rate, block, threads), threads, body);
      }
    }
  }
}

}  // namespace
}  // namespace edge

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const edge::Isa isa = edge::ActiveIsa();
  const double peak = edge::MeasureFmaPeak(isa);
  benchmark::AddCustomContext("isa", edge::IsaName(isa));
  benchmark::AddCustomContext("fma_peak_gflops", std::to_string(peak / 1e9));
  edge::ThreadPool one(1), two(2);
  for (edge::ThreadPool* pool : {&one, &two}) {
    edge::RegisterConvs(isa, peak, pool);
    edge::RegisterLinears(isa, peak, pool);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
