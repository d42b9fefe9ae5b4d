// What is wrong with a .tflite file that LiteRT would not see.
#pragma once
#include <cstddef>
#include <cstdint>

namespace harness {

// Checks every index in a model against what it counts: tensors, buffers, operator codes,
// subgraphs. LiteRT verifies that a FlatBuffer is well-formed, but follows these without a look.
// Returns the reason why LiteRT must not see the file, or null. Reads nothing outside of the bytes.
const char* RefuseTflite(const uint8_t* bytes, size_t size);

}  // namespace harness
