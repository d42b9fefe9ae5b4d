// What all runners have in common: the command line, the steps and the document. A framework's own
// part is a Model.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "options.h"

namespace harness {

struct Dtype {
  const char* name;   // "float32"
  const char* descr;  // NumPy's, "<f4"
};
inline constexpr Dtype kFloat32{"float32", "<f4"}, kFloat64{"float64", "<f8"},
    kFloat16{"float16", "<f2"}, kInt64{"int64", "<i8"}, kInt32{"int32", "<i4"},
    kInt16{"int16", "<i2"}, kInt8{"int8", "|i1"}, kUInt64{"uint64", "<u8"},
    kUInt32{"uint32", "<u4"}, kUInt16{"uint16", "<u2"}, kUInt8{"uint8", "|u1"},
    kBool{"bool", "|b1"};

// An input or output of a model: a dense tensor in C order, in memory of the model's.
struct Tensor {
  std::vector<int64_t> shape;
  const Dtype* dtype;
  void* data;
  size_t nbytes;
};

// A model in a framework. Every method may throw Failure.
class Model {
 public:
  virtual ~Model() = default;
  // The file exists. Afterwards the model is ready to run.
  virtual void Load(const Options& options) = 0;
  virtual int threads() const = 0;
  // Called once; the inputs are zeros.
  virtual std::vector<Tensor> Inputs() = 0;
  virtual void Run() = 0;
  // Of the last run.
  virtual std::vector<Tensor> Outputs() = 0;
  // With --profile: the runs from here on are recorded, and each is as long as it was measured.
  virtual void StartProfile() = 0;
  virtual void RecordRun(int64_t total_ns) = 0;
  virtual void WriteProfile(const std::string& path) = 0;
};

// Runs the program to its end; returns the exit code.
int Main(int argc, char** argv, const Program& program, Model* model);

// Writes a whole file. Throws Failure("output").
void WriteFile(const std::string& path, const void* data, size_t size);

}  // namespace harness
