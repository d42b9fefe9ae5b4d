// The runners' command line.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace harness {

struct Options {
  bool peaks = false;  // measure the device, run no model
  std::string model;
  std::vector<std::string> inputs;  // .npy, or raw bytes; the inputs that are not given are zeros
  std::string output;               // prefix of the outputs' files; empty: they are not written
  std::string profile;              // empty: nothing is recorded
  int warmup = 1;
  int runs = 1;
  int examples = 0;      // in every input's file, each run once; 0: one, without an axis for them
  int threads = 0;       // 0: as many as the framework chooses, 1 for the peaks
  std::string cpu_mask;  // hexadecimal, bit i is CPU i; empty: wherever the system likes
  bool help = false;
};

// One of the runners.
struct Program {
  const char* name;
  const char* ending;     // of its models' files
  const char* framework;  // that runs them
};

// What --help prints.
std::string Usage(const Program& program);

// Throws Failure("usage") when an argument is unknown, incomplete or out of range.
Options ParseOptions(int argc, char** argv);

// Keeps this process, and the threads it starts from now on, to the CPUs of a hexadecimal mask.
// Throws Failure("usage").
void ApplyCpuMask(const std::string& mask);

}  // namespace harness
