// Convolutions and linear layers of real networks, dense and sparse: GFLOP/s on the weights that
// are there, and the fraction of what this machine's FMA units can do at the same time. Names:
// KERNEL/SHAPE/kept:1/K/block:B/threads:N. Runs a selection of about two minutes; with
// --benchmark_filter=REGEX all that match. Set EDGE_ISA to choose the kernels.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/conv/conv.h"
#include "kernels/conv/kernel_table.h"
#include "kernels/depthwise/depthwise.h"
#include "peak.h"

namespace edge {
namespace {

struct Layer {
  const char* name;
  int c, f, k, h, w;
  bool depthwise;
};

constexpr Layer kConvs[] = {
    {"3->48 5x5 180x320", 3, 48, 5, 180, 320, false},
    {"16->64 3x3 180x320", 16, 64, 3, 180, 320, false},
    {"64->16 3x3 180x320", 64, 16, 3, 180, 320, false},
    {"64->64 3x3 180x320", 64, 64, 3, 180, 320, false},
    {"24->144 1x1 180x320", 24, 144, 1, 180, 320, false},
    {"144->24 1x1 180x320", 144, 24, 1, 180, 320, false},
    {"64->64 3x3 496x432", 64, 64, 3, 496, 432, false},
    {"256->256 3x3 52x52", 256, 256, 3, 52, 52, false},
    {"256->256 3x3 26x26", 256, 256, 3, 26, 26, false},
    {"512->256 1x1 26x26", 512, 256, 1, 26, 26, false},
    {"512->512 3x3 13x13", 512, 512, 3, 13, 13, false},
    {"1024->512 1x1 13x13", 1024, 512, 1, 13, 13, false},
    {"512->512 3x3 7x7", 512, 512, 3, 7, 7, false},
    {"960->160 1x1 7x7", 960, 160, 1, 7, 7, false},
    {"dw32 3x3 112x112", 32, 32, 3, 112, 112, true},
    {"dw144 5x5 52x52", 144, 144, 5, 52, 52, true},
    {"dw960 3x3 7x7", 960, 960, 3, 7, 7, true},
};

constexpr Layer kLinears[] = {
    {"linear 1280->1000", 1280, 1000, 1, 1, 1, false},
    {"linear 512->512 x16", 512, 512, 1, 16, 1, false},
};

struct Setting {
  int rate, block, threads;

  // Whether it runs unless asked for by name.
  bool Usual() const {
    if (threads > 1) return rate == 6 && block == 8;
    return (rate == 1 || rate == 6) && (block == 1 || block == 8);
  }
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

  DepthwiseArgs Depthwise() {
    const int k = layer_.k;
    kernels_.assign(static_cast<size_t>(layer_.c * DepthwiseWeights(k)), 0.01f);
    DepthwiseArgs a{};
    a.k = k, a.stride = 1;
    a.weights = kernels_.data();
    a.epilogue = Conv().epilogue;
    a.in = {in_.data(), 1, layer_.c, layer_.h + k - 1, layer_.w + k - 1, 0, plane_, row_};
    a.out = {out_.data(), 1, layer_.c, layer_.h, layer_.w, 0, plane_, row_};
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
  std::vector<float> weights_, bias_, in_, out_, linear_in_, kernels_;
};

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Takes turns with the peak: the fraction is the median over the turns, each against the bursts
// right before and after it.
template <class Body>
void Measure(benchmark::State& state, double flops, const FmaPeak* peak, const Body& body) {
  constexpr double kTurnSeconds = 5e-4;
  body();  // touch everything once
  std::vector<double> fractions;
  double before = peak->Measure(), seconds = 0;
  int64_t runs = 0;
  for (auto _ : state) {
    const double once = peak->SecondsOf([&] {
      body();
      benchmark::ClobberMemory();
    });
    state.SetIterationTime(once);
    seconds += once;
    ++runs;
    if (seconds < kTurnSeconds) continue;
    const double after = peak->Measure();
    fractions.push_back(static_cast<double>(runs) * flops / seconds / ((before + after) / 2));
    before = after;
    seconds = 0;
    runs = 0;
  }
  using benchmark::Counter;
  state.counters["GFLOP/s"] = Counter(flops / 1e9, Counter::kIsIterationInvariantRate);
  if (!fractions.empty()) state.counters["of_peak"] = Median(std::move(fractions));
}

std::string Name(const char* kernel, const Layer& layer, const Setting& s) {
  return std::string(kernel) + "/" + layer.name + "/kept:1/" + std::to_string(s.rate) +
         "/block:" + std::to_string(s.block) + "/threads:" + std::to_string(s.threads);
}

void RegisterConv(const Layer& layer, const Setting& s, Isa isa, ThreadPool* pool,
                  const FmaPeak* peak) {
  if (layer.depthwise && (s.block > 1 || s.rate > 2)) return;
  const char* kernel = KernelsOf(isa).conv[BlockIndex(static_cast<uint32_t>(s.block))].name;
  const auto body = [=](benchmark::State& state) {
    Workload work(layer, s.block, s.rate);
    const ConvArgs args = work.Conv();
    Measure(state, work.Flops(), peak, [&] { Conv(args, pool, isa); });
  };
  benchmark::RegisterBenchmark(Name(kernel, layer, s).c_str(), body)->UseManualTime();
}

void RegisterDepthwise(const Layer& layer, Isa isa, ThreadPool* pool, const FmaPeak* peak) {
  const std::string kernel = std::string("f32-depthwise-") + IsaName(isa);
  const Setting s{1, 1, static_cast<int>(pool->threads())};
  const auto body = [=](benchmark::State& state) {
    Workload work(layer, s.block, s.rate);
    const DepthwiseArgs args = work.Depthwise();
    Measure(state, work.Flops(), peak, [&] { Depthwise(args, pool, isa); });
  };
  benchmark::RegisterBenchmark(Name(kernel.c_str(), layer, s).c_str(), body)->UseManualTime();
}

void RegisterLinear(const Layer& layer, const Setting& s, Isa isa, ThreadPool* pool,
                    const FmaPeak* peak) {
  const char* kernel = KernelsOf(isa).linear[BlockIndex(static_cast<uint32_t>(s.block))].name;
  const auto body = [=](benchmark::State& state) {
    Workload work(layer, s.block, s.rate);
    const LinearArgs args = work.Linear();
    Measure(state, work.Flops(), peak, [&] { Linear(args, pool, isa); });
  };
  benchmark::RegisterBenchmark(Name(kernel, layer, s).c_str(), body)->UseManualTime();
}

void RegisterAll(Isa isa, ThreadPool* pool, const FmaPeak* peak) {
  const bool usual_only = benchmark::GetBenchmarkFilter().empty();
  for (const Layer& layer : kConvs) {
    if (layer.depthwise) RegisterDepthwise(layer, isa, pool, peak);
  }
  for (int rate : {1, 2, 4, 6, 8, 16}) {
    for (int block : {1, 2, 4, 8, 16}) {
      const Setting s{rate, block, static_cast<int>(pool->threads())};
      if (usual_only && !s.Usual()) continue;
      for (const Layer& layer : kConvs) RegisterConv(layer, s, isa, pool, peak);
      for (const Layer& layer : kLinears) RegisterLinear(layer, s, isa, pool, peak);
    }
  }
}

}  // namespace
}  // namespace edge

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const edge::Isa isa = edge::ActiveIsa();
  edge::ThreadPool one(1), two(2);
  const edge::FmaPeak peak_of_one(isa, &one), peak_of_two(isa, &two);
  double best = 0;
  for (int i = 0; i < 500; ++i) best = std::max(best, peak_of_one.Measure());
  benchmark::AddCustomContext("isa", edge::IsaName(isa));
  benchmark::AddCustomContext("best_fma_peak_of_a_core_gflops", std::to_string(best / 1e9));
  edge::RegisterAll(isa, &one, &peak_of_one);
  edge::RegisterAll(isa, &two, &peak_of_two);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
