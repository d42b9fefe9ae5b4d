#include "peaks.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <system_error>

#include "edge/thread_pool.h"
#include "failure.h"
#include "json.h"
#include "kernels/conv/conv.h"
#include "peak.h"

namespace harness {
namespace {

constexpr size_t kMebibytes = 128;  // well beyond the caches
constexpr int kReads = 16;
constexpr int kBursts = 200;

// The best of some measurements, of what there is a second, by the nanosecond.
template <class Peak>
double Best(const Peak& peak, int times) {
  double best = 0;
  for (int i = 0; i < times; ++i) best = std::max(best, peak.Measure());
  return best * 1e-9;
}

}  // namespace

std::string MeasurePeaks(int threads) {
  EnterStep("run");
  try {
    edge::ThreadPool pool(static_cast<size_t>(threads));
    const double flops = Best(edge::FmaPeak(edge::ActiveIsa(), &pool), kBursts);
    const double bytes = Best(edge::ReadPeak(kMebibytes, &pool), kReads);
    Json json;
    json.BeginObject().Key("version").Value(int64_t{1}).Key("threads").Value(int64_t{threads});
    json.Key("flops_per_ns").Value(flops).Key("bytes_per_ns").Value(bytes);
    return json.EndObject().text();
  } catch (const std::bad_alloc&) {
    throw Failure("run", "There is not enough memory for the " + std::to_string(kMebibytes) +
                             " MiB that are read to measure its bandwidth.");
  } catch (const std::system_error&) {
    throw Failure("run", "The device cannot start " + std::to_string(threads) + " threads.");
  }
}

}  // namespace harness
