// How much faster a linear layer of 4-bit codes is than one of int8 levels, at batch 1, where
// reading the weights is what takes the time:
//
//   edge_linear_int8_bench [OUTPUTS INPUTS [THREADS]]
//
// The two run in turn, on as many matrices as exceed the caches, and the medians of their times and
// of the ratios are printed.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "kernels/int8/int8.h"

namespace edge {
namespace {

constexpr size_t kCaches = size_t{160} << 20;  // bytes that together leave no weight in a cache
constexpr int kRounds = 41;

// A dense layer with weights of so many bits, the rows with fixed-point levels or every second one
// with SP2's.
class Layer {
 public:
  Layer(uint32_t outputs, uint32_t inputs, uint32_t bits, bool mixed) : n_(outputs) {
    std::mt19937 rng(1);
    const uint32_t blocks = outputs / 8, entries = inputs / 4;
    for (uint32_t i = 0; i <= blocks; ++i) row_ptr_.push_back(i * entries);
    for (uint32_t i = 0; i < outputs / 4; ++i) groups_.push_back(i);
    for (uint32_t i = 0; i < entries; ++i) offsets_.push_back(static_cast<int32_t>(i));
    lists_.assign(blocks, 0);
    weights_.resize(size_t{outputs} * inputs * bits / 8);
    for (uint8_t& w : weights_) w = static_cast<uint8_t>(rng() % 255 + (bits == 8 ? 129 : 0));
    bias_.assign(outputs, 0);
    scale_.assign(outputs, 0.01f);
    for (uint32_t i = 0; i < outputs; ++i) codebooks_.push_back(mixed && i % 2 != 0);
    static constexpr int8_t kTables[32] = {-8, -7, -6, -5, -4, -3, -2, -1, 0,  1, 2,
                                           3,  4,  5,  6,  7,  0,  1,  2,  4,  5, 6,
                                           8,  0,  0,  0,  -8, -6, -5, -4, -2, -1};
    prepared_ = PrepareLinearInt8({8, blocks, outputs, entries, blocks * entries, bits, kTables,
                                   row_ptr_.data(), lists_.data(), groups_.data(), offsets_.data(),
                                   weights_.data(), bias_.data(), scale_.data(), codebooks_.data()},
                                  true, ActiveIsa(), &ready_);
  }

  // Milliseconds.
  double Run(const std::vector<Quad>& in, std::vector<Quad>* out, ThreadPool* pool) const {
    if (!prepared_) std::abort();
    Int8LinearArgs args = {};
    args.weights = &ready_;
    args.in = in.data(), args.out = out->data(), args.out_c = 1, args.n = 1;
    const auto begin = std::chrono::steady_clock::now();
    LinearInt8(args, pool, ActiveIsa());
    const auto end = std::chrono::steady_clock::now();
    return std::chrono::duration<double, std::milli>(end - begin).count();
  }

 private:
  uint32_t n_;
  std::vector<uint32_t> row_ptr_, lists_, groups_;
  std::vector<int32_t> offsets_, bias_;
  std::vector<uint8_t> weights_, codebooks_;
  std::vector<float> scale_;
  Int8Weights ready_;
  bool prepared_ = false;
};

double Median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

void Bench(uint32_t outputs, uint32_t inputs, int threads) {
  struct Kind {
    const char* name;
    uint32_t bits;
    bool mixed;
  };
  constexpr Kind kKinds[] = {{"int8", 8, false}, {"4-bit fixed", 4, false}, {"4-bit msq", 4, true}};
  ThreadPool pool(static_cast<size_t>(threads));
  const size_t copies = kCaches / (size_t{outputs} * inputs / 2) + 1;
  std::vector<std::vector<Layer>> layers(3);
  for (size_t k = 0; k < 3; ++k) {
    for (size_t i = 0; i < copies; ++i)
      layers[k].emplace_back(outputs, inputs, kKinds[k].bits, kKinds[k].mixed);
  }
  const std::vector<Quad> in(inputs / 4, 0x11ee33cc);
  std::vector<Quad> out(outputs / 4);
  std::vector<double> times[3], ratios[3];
  for (int round = 0; round < kRounds; ++round) {
    double taken[3];
    for (size_t k = 0; k < 3; ++k) {
      taken[k] = layers[k][static_cast<size_t>(round) % copies].Run(in, &out, &pool);
      times[k].push_back(taken[k]);
      ratios[k].push_back(taken[0] / taken[k]);
    }
  }
  std::printf("linear %u x %u, batch 1, %d thread(s), %s\n", outputs, inputs, threads,
              IsaName(ActiveIsa()));
  for (size_t k = 0; k < 3; ++k) {
    std::printf("%-12s %8.3f ms  %5.2fx as fast as int8\n", kKinds[k].name, Median(times[k]),
                Median(ratios[k]));
  }
}

}  // namespace
}  // namespace edge

int main(int argc, char** argv) {
  const int outputs = argc > 2 ? std::atoi(argv[1]) : 4096,
            inputs = argc > 2 ? std::atoi(argv[2]) : 4096;
  const int threads = argc > 3 ? std::atoi(argv[3]) : 1;
  if (outputs < 8 || outputs % 8 != 0 || inputs < 4 || inputs % 4 != 0 || threads < 1) {
    std::fprintf(stderr, "usage: %s [OUTPUTS INPUTS [THREADS]], multiples of 8 and 4\n", argv[0]);
    return 2;
  }
  edge::Bench(static_cast<uint32_t>(outputs), static_cast<uint32_t>(inputs), threads);
}
