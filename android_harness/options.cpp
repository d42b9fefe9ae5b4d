#include "options.h"

#include <sched.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "failure.h"

namespace harness {

namespace {

int ParseCount(const std::string& flag, const char* text, int least, int most) {
  char* end = nullptr;
  errno = 0;
  const long value = std::strtol(text, &end, 10);
  if (end == text || *end != '\0' || errno != 0 || value < least || value > most) {
    throw Failure("usage", flag + " needs a whole number from " + std::to_string(least) + " to " +
                               std::to_string(most) + ", not " + text + ".");
  }
  return static_cast<int>(value);
}

void ParseOne(const std::string& flag, const char* value, Options* options) {
  if (flag == "--model") {
    options->model = value;
  } else if (flag == "--input") {
    options->inputs.emplace_back(value);
  } else if (flag == "--output") {
    options->output = value;
  } else if (flag == "--profile") {
    options->profile = value;
  } else if (flag == "--cpu-mask") {
    options->cpu_mask = value;
  } else if (flag == "--warmup") {
    options->warmup = ParseCount(flag, value, 0, 1000000);
  } else if (flag == "--runs") {
    options->runs = ParseCount(flag, value, 1, 1000000);
  } else if (flag == "--examples") {
    options->examples = ParseCount(flag, value, 1, 1000000);
  } else if (flag == "--threads") {
    options->threads = ParseCount(flag, value, 1, 256);
  }
}

bool Known(const std::string& flag) {
  for (const char* known : {"--model", "--input", "--output", "--profile", "--cpu-mask", "--warmup",
                            "--runs", "--examples", "--threads"}) {
    if (flag == known) return true;
  }
  return false;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::string Usage(const Program& program) {
  const std::string name = program.name;
  const std::string margin(sizeof "usage: " + name.size(), ' ');
  return "usage: " + name + " --model M" + program.ending +
         " [--input F.npy|F.raw]... [--output PREFIX] [--warmup N] [--runs N|--examples N]\n" +
         margin + "[--threads N] [--cpu-mask HEX] [--profile F]\n" + "       " + name +
         " --peaks [--threads N] [--cpu-mask HEX]\n" + "Runs a model with " + program.framework +
         " and prints one JSON document.\n" +
         "Inputs that are not given are zeros. With --examples N every input's file holds N of "
         "them\n"
         "along an axis in front, and so will the outputs': the model runs once for each.\n"
         "With --peaks it measures the device instead: multiply-adds, and reading memory.\n"
         "example: " +
         name + " --model model" + program.ending +
         " --input x.npy --output y --runs 20 --threads 1\n";
}

Options ParseOptions(int argc, char** argv) {
  Options options;
  std::string of_a_model;  // a flag that makes no sense without one
  bool runs = false;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--help" || flag == "-h") {
      options.help = true;
      return options;
    }
    if (flag == "--peaks") {
      options.peaks = true;
      --i;  // it takes no value
      continue;
    }
    if (!Known(flag)) throw Failure("usage", "There is no argument " + flag + "; see --help.");
    if (i + 1 == argc) throw Failure("usage", flag + " needs a value; see --help.");
    ParseOne(flag, argv[i + 1], &options);
    if (flag != "--threads" && flag != "--cpu-mask") of_a_model = flag;
    if (flag == "--runs") runs = true;
  }
  if (options.peaks && !of_a_model.empty()) {
    throw Failure("usage", "--peaks runs no model, so it takes no " + of_a_model + "; see --help.");
  }
  if (runs && options.examples > 0) {
    throw Failure("usage", "--examples runs each of them once, so it takes no --runs; see --help.");
  }
  if (!options.peaks && options.model.empty()) {
    throw Failure("usage", "Name a model with --model; see --help.");
  }
  return options;
}

void ApplyCpuMask(const std::string& mask) {
  const size_t start = mask.compare(0, 2, "0x") == 0 ? 2 : 0;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  size_t bit = 0;
  for (size_t i = mask.size(); i > start; --i, bit += 4) {
    const int digit = HexDigit(mask[i - 1]);
    if (digit < 0) {
      throw Failure("usage", "--cpu-mask needs a hexadecimal number, not " + mask + ".");
    }
    for (int k = 0; k < 4; ++k) {
      if (((digit >> k) & 1) != 0 && bit + k < CPU_SETSIZE) CPU_SET(bit + k, &cpus);
    }
  }
  if (CPU_COUNT(&cpus) == 0) throw Failure("usage", "--cpu-mask " + mask + " names no CPU.");
  if (sched_setaffinity(0, sizeof cpus, &cpus) != 0) {
    throw Failure("usage", "--cpu-mask " + mask +
                               " cannot be used on this device: " + std::strerror(errno) + ".");
  }
}

}  // namespace harness
