// Reads and writes NumPy's .npy files, and reads raw ones. Files come from anywhere: every field is
// checked before it is used.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace harness {

struct NpyHeader {
  std::string descr;  // "<f4"
  bool fortran_order = false;
  std::vector<int64_t> shape;
  size_t data_offset = 0;  // from the start of the file
};

// The whole file. Throws std::runtime_error with one sentence.
std::vector<uint8_t> ReadFile(const std::string& path);

// Throws std::runtime_error with the reason when the bytes do not begin with a complete, plausible
// header.
NpyHeader ParseNpyHeader(const std::vector<uint8_t>& bytes);

// Reads a .npy file (by its ending) or raw bytes, which must hold exactly a float32 tensor of this
// shape, in C order. Throws std::runtime_error with one sentence that names the file.
std::vector<uint8_t> ReadFloatTensor(const std::string& path, const std::vector<int64_t>& shape);

// Writes a tensor in C order. Throws std::runtime_error with one sentence.
void WriteNpy(const std::string& path, const std::string& descr, const std::vector<int64_t>& shape,
              const void* data, size_t nbytes);

// "(1, 3, 8, 8)", as NumPy writes it.
std::string ShapeText(const std::vector<int64_t>& shape);

}  // namespace harness
