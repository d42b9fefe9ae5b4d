// edge_fuzz_plan PLAN N SEED: damages a valid plan N times; what still loads is run. Build it with
// EDGE_SANITIZE. edge_fuzz_plan --self N SEED: the same with small plans of its own that hold every
// kind of op.
//
// Exits with 0 when every mutation was refused or ran; a crash, a hang or a sanitizer report is the
// failure.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "edge/plan.h"
#include "fuzz_plans.h"
#include "plan/validate.h"

// Lets a plan that asks for a huge arena be answered by kOutOfMemory instead of ending the program.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

namespace {

using edge::Plan;
using edge::Status;
using Bytes = std::vector<uint8_t>;
using Random = std::mt19937_64;

// What one run may cost here: valid plans may ask for hours, which would only show that they are
// valid.
constexpr double kMaxWork = 5e6;
constexpr uint64_t kMaxArena = 16u << 20;

size_t Below(Random& random, size_t n) { return n == 0 ? 0 : static_cast<size_t>(random() % n); }

// Numbers at which arithmetic goes wrong.
uint64_t Interesting(Random& random, uint64_t old) {
  constexpr uint64_t kTop = uint64_t{1} << 63, kMost = ~uint64_t{0};
  constexpr uint64_t kNaN = 0x7fc00000, kInfinity = 0x7f800000;  // as floats
  const uint64_t values[] = {
      0,    1,        3,     4,          7,           16,   63,        64,
      1023, 4096,     65536, kTop >> 32, kMost >> 32, kNaN, kInfinity, kInfinity | kTop >> 32,
      kTop, kTop - 1, kMost, kMost - 63};
  switch (Below(random, 4)) {
    case 0:
      return old + Below(random, 9) - 4;
    case 1:
      return old * 2;
    case 2:
      return old / 2;
    default:
      return values[Below(random, sizeof(values) / sizeof(values[0]))];
  }
}

template <typename T>
void OverwriteField(Random& random, size_t limit, Bytes* bytes) {
  if (bytes->size() < sizeof(T)) return;
  const size_t at = Below(random, std::min(limit, bytes->size()) / sizeof(T)) * sizeof(T);
  T value;
  if (at + sizeof(T) > bytes->size()) return;
  std::memcpy(&value, bytes->data() + at, sizeof(T));
  value = static_cast<T>(Interesting(random, value));
  std::memcpy(bytes->data() + at, &value, sizeof(T));
}

void Splice(Random& random, Bytes* bytes) {
  const size_t n = 1 + Below(random, 160), from = Below(random, bytes->size()),
               to = Below(random, bytes->size());
  if (from + n > bytes->size() || to + n > bytes->size()) return;
  std::memmove(bytes->data() + to, bytes->data() + from, n);
}

// Cuts or extends the plan; every other time the header says so.
void Resize(Random& random, Bytes* bytes) {
  bytes->resize(Below(random, 4) == 0 ? bytes->size() + Below(random, 256)
                                      : Below(random, bytes->size()));
  if (bytes->size() < sizeof(edge::Header) || Below(random, 2) == 0) return;
  const uint64_t size = bytes->size();
  std::memcpy(bytes->data() + offsetof(edge::Header, total_size), &size, sizeof size);
}

void Mutate(Random& random, Bytes* bytes) {
  edge::Header header = {};
  std::memcpy(&header, bytes->data(), sizeof header);
  const size_t records =
      static_cast<size_t>(header.strings_off);  // everything but names and weights
  for (size_t rounds = 1 + Below(random, 3); rounds > 0 && !bytes->empty(); --rounds) {
    switch (Below(random, 16)) {
      case 0:
        Resize(random, bytes);
        break;
      case 1:
        Splice(random, bytes);
        break;
      case 2:
      case 3:
        (*bytes)[Below(random, bytes->size())] ^= static_cast<uint8_t>(1u << Below(random, 8));
        break;
      case 4:
        (*bytes)[Below(random, bytes->size())] = static_cast<uint8_t>(random());
        break;
      case 5:
      case 6:
        OverwriteField<uint32_t>(random, bytes->size(), bytes);
        break;
      case 7:
      case 8:
      case 9:
        OverwriteField<uint64_t>(random, records, bytes);
        break;
      default:
        OverwriteField<uint32_t>(random, records, bytes);
    }
  }
}

// Bytes in a block of exactly their size, so that the sanitizer sees every step past the end.
struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Block = std::unique_ptr<uint8_t, Free>;
Block ExactCopy(const Bytes& bytes) {
  Block block(static_cast<uint8_t*>(std::malloc(std::max<size_t>(bytes.size(), 1))));
  if (!bytes.empty()) std::memcpy(block.get(), bytes.data(), bytes.size());
  return block;
}

std::vector<std::unique_ptr<float[]>> Buffers(Random& random, const Plan& plan, uint32_t n,
                                              bool inputs) {
  std::vector<std::unique_ptr<float[]>> buffers;
  for (uint32_t i = 0; i < n; ++i) {
    const auto size = static_cast<size_t>(edge::Elements(inputs ? plan.input(i) : plan.output(i)));
    buffers.emplace_back(new float[size]());
    for (size_t k = 0; inputs && k < size; ++k) {
      const auto bits = static_cast<uint32_t>(random());
      if (k % 16 == 0) {  // any float at all
        std::memcpy(&buffers[i][k], &bits, sizeof bits);
      } else {
        buffers[i][k] = static_cast<float>(bits % 2001) / 1000.0f - 1.0f;
      }
    }
  }
  return buffers;
}

const char* RunOnce(Random& random, const Plan& plan, edge::ThreadPool* pool) {
  if (edge::PlanWork(plan) > kMaxWork || plan.header().arena_size > kMaxArena)
    return "valid, too much work to run";
  std::unique_ptr<edge::Executor> executor;
  const Status status = edge::Executor::Create(plan, pool, &executor);
  if (status != Status::kOk) return edge::StatusMessage(status);
  const auto inputs = Buffers(random, plan, plan.header().n_inputs, true);
  const auto outputs = Buffers(random, plan, plan.header().n_outputs, false);
  std::vector<const float*> in;
  std::vector<float*> out;
  for (const auto& buffer : inputs) in.push_back(buffer.get());
  for (const auto& buffer : outputs) out.push_back(buffer.get());
  const Status ran = executor->Run(in.data(), in.size(), out.data(), out.size());
  return ran == Status::kOk ? "ran" : edge::StatusMessage(ran);
}

bool ReadFile(const char* path, Bytes* out) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) return false;
  uint8_t chunk[65536];
  for (size_t n; (n = std::fread(chunk, 1, sizeof chunk, file)) > 0;)
    out->insert(out->end(), chunk, chunk + n);
  std::fclose(file);
  return true;
}

bool Loads(const Bytes& bytes) {
  const Block block = ExactCopy(bytes);
  Plan plan;
  return Plan::Load(block.get(), bytes.size(), &plan) == Status::kOk;
}

int Fuzz(const std::vector<Bytes>& seeds, uint64_t n, uint64_t seed) {
  std::map<std::string, uint64_t> counts;
  edge::ThreadPool pool(2);
  double slowest = 0;
  for (uint64_t i = 0; i < n; ++i) {
    Random random(seed * 1000003 + i);
    Bytes bytes = seeds[Below(random, seeds.size())];
    Mutate(random, &bytes);
    const Block block = ExactCopy(bytes);
    Plan plan;
    const auto start = std::chrono::steady_clock::now();
    const Status status = Plan::Load(block.get(), bytes.size(), &plan);
    ++counts[status == Status::kOk ? RunOnce(random, plan, &pool) : edge::StatusMessage(status)];
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    slowest = std::max(slowest, seconds);
  }
  for (const auto& [outcome, count] : counts)
    std::printf("%8llu  %s\n", static_cast<unsigned long long>(count), outcome.c_str());
  std::printf("%llu mutations of %zu plans, the slowest took %.3f s\n",
              static_cast<unsigned long long>(n), seeds.size(), slowest);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: edge_fuzz_plan PLAN|--self N SEED\n");
    return 2;
  }
  std::vector<Bytes> seeds;
  if (std::strcmp(argv[1], "--self") == 0) {
    seeds = edge::testing::FuzzPlans();
  } else if (seeds.emplace_back(); !ReadFile(argv[1], &seeds.back())) {
    std::fprintf(stderr, "cannot read %s\n", argv[1]);
    return 2;
  }
  for (const Bytes& bytes : seeds) {
    if (Loads(bytes)) continue;
    std::fprintf(stderr, "the plan to start from is not valid\n");
    return 2;
  }
  return Fuzz(seeds, std::strtoull(argv[2], nullptr, 10), std::strtoull(argv[3], nullptr, 10));
}
