#include "tflite_file.h"

#include <cstring>
#include <set>
#include <vector>

namespace harness {
namespace {

// Thrown and caught in this file.
struct Damaged {
  const char* why;
};
constexpr Damaged kCutShort{"it is cut short or damaged"};

// The bytes of a FlatBuffer. A table is known by its position, a field by its number.
class Flat {
 public:
  Flat(const uint8_t* bytes, size_t size) : bytes_(bytes), size_(size), budget_(size) {}

  template <typename T>
  T Read(size_t at) const {
    if (at > size_ || size_ - at < sizeof(T)) throw kCutShort;
    T value;
    std::memcpy(&value, bytes_ + at, sizeof value);
    return value;
  }
  // Where an offset that is stored at `at` leads.
  size_t Follow(size_t at) const { return at + Read<uint32_t>(at); }

  // Position of a table's field, or 0 when it has none.
  size_t Field(size_t table, size_t number) const {
    const auto back = Read<int32_t>(table);
    const auto vtable = static_cast<size_t>(static_cast<int64_t>(table) - back);
    const size_t entry = 4 + 2 * number;
    if (entry + 2 > Read<uint16_t>(vtable)) return 0;
    const auto offset = Read<uint16_t>(vtable + entry);
    return offset == 0 ? 0 : table + offset;
  }
  template <typename T>
  T Scalar(size_t table, size_t number, T absent) const {
    const size_t at = Field(table, number);
    return at == 0 ? absent : Read<T>(at);
  }
  // Number of elements of a vector field, 0 when it is absent.
  size_t Count(size_t table, size_t number, size_t width) const {
    const size_t at = Field(table, number);
    if (at == 0) return 0;
    const size_t start = Follow(at);
    const size_t count = Read<uint32_t>(start);
    if (count > (size_ - start - 4) / width) throw kCutShort;
    return count;
  }
  // Positions of the elements, which have 4 bytes, of a vector field. All of those that are asked
  // for cannot have more bytes than the file: it would be one that repeats itself without end.
  std::vector<size_t> Elements(size_t table, size_t number) {
    std::vector<size_t> elements(Count(table, number, 4));
    if (elements.empty()) return {};
    if (elements.size() > budget_ / 4) throw kCutShort;
    budget_ -= elements.size() * 4;
    const size_t first = Follow(Field(table, number)) + 4;
    for (size_t i = 0; i < elements.size(); ++i) elements[i] = first + i * 4;
    return elements;
  }
  std::vector<size_t> Tables(size_t table, size_t number) {
    std::vector<size_t> tables = Elements(table, number);
    for (size_t& at : tables) at = Follow(at);
    return tables;
  }
  size_t size() const { return size_; }

 private:
  const uint8_t* bytes_;
  size_t size_;
  size_t budget_;
};

// Fields of the tables in tflite/schema/schema.fbs, version 3.
namespace model {
enum { kOperatorCodes = 1, kSubgraphs = 2, kBuffers = 4, kMetadata = 6, kSignatures = 7 };
}
namespace subgraph {
enum { kTensors, kInputs, kOutputs, kOperators };
}
namespace tensor {
enum { kBuffer = 2 };
}
namespace op {
enum { kOpcode, kInputs, kOutputs, kIntermediates = 8 };
}
namespace buffer {
enum { kData, kOffset, kSize };
}
namespace metadata {
enum { kName, kBuffer };
}
namespace signature {
enum { kInputs, kOutputs, kKey, kSubgraph = 4 };
}
namespace tensor_map {
enum { kName, kTensor };
}

void Require(bool holds, const char* why) {
  if (!holds) throw Damaged{why};
}

// Whether tensors with this buffer are constants.
bool CheckBuffer(const Flat& file, size_t table) {
  const auto offset = file.Scalar<uint64_t>(table, buffer::kOffset, 0);
  const auto size = file.Scalar<uint64_t>(table, buffer::kSize, 0);
  Require(offset <= file.size() && size <= file.size() - offset,
          "the data of a tensor lies outside of it");
  return offset > 1 || file.Count(table, buffer::kData, 1) > 0;
}

class Checker {
 public:
  explicit Checker(Flat* file) : file_(file) {}

  void Check() {
    const size_t root = file_->Follow(0);
    n_codes_ = file_->Tables(root, model::kOperatorCodes).size();
    for (const size_t table : file_->Tables(root, model::kBuffers)) {
      constant_.push_back(CheckBuffer(*file_, table));
    }
    const std::vector<size_t> subgraphs = file_->Tables(root, model::kSubgraphs);
    Require(!subgraphs.empty(), "it holds no graph");
    for (const size_t table : subgraphs) graphs_.push_back(CheckSubgraph(table));
    for (const size_t table : file_->Tables(root, model::kMetadata)) {
      Require(file_->Field(table, metadata::kName) != 0 &&
                  file_->Scalar<uint32_t>(table, metadata::kBuffer, 0) < constant_.size(),
              "its metadata is damaged");
    }
    for (const size_t table : file_->Tables(root, model::kSignatures)) CheckSignature(table);
  }

 private:
  struct Graph {
    std::vector<int32_t> inputs;
    std::vector<int32_t> outputs;
  };

  Graph CheckSubgraph(size_t table) {
    std::vector<bool> constant;
    for (const size_t tensor : file_->Tables(table, subgraph::kTensors)) {
      const auto buffer = file_->Scalar<uint32_t>(tensor, tensor::kBuffer, 0);
      Require(buffer < constant_.size(), "a tensor names a buffer that is not there");
      constant.push_back(constant_[buffer]);
    }
    for (const size_t op : file_->Tables(table, subgraph::kOperators)) {
      Require(file_->Scalar<uint32_t>(op, op::kOpcode, 0) < n_codes_,
              "an operator names a code that is not there");
      const std::vector<int32_t> inputs = CheckTensors(op, op::kInputs, constant, true);
      Require(inputs.empty() || inputs[0] != kLeftOut, "an operator lacks its first input");
      CheckTensors(op, op::kIntermediates, constant, false);
      for (const int32_t id : CheckTensors(op, op::kOutputs, constant, false)) {
        Require(!constant[static_cast<size_t>(id)], "an operator writes over a constant");
      }
    }
    return {CheckTensors(table, subgraph::kInputs, constant, false),
            CheckTensors(table, subgraph::kOutputs, constant, false)};
  }

  std::vector<int32_t> CheckTensors(size_t table, size_t field, const std::vector<bool>& tensors,
                                    bool optional) {
    std::vector<int32_t> ids;
    for (const size_t at : file_->Elements(table, field)) {
      ids.push_back(file_->Read<int32_t>(at));
      Require((optional && ids.back() == kLeftOut) ||
                  (ids.back() >= 0 && static_cast<size_t>(ids.back()) < tensors.size()),
              "an operator or graph names a tensor that is not there");
    }
    return ids;
  }

  // A signature gives the inputs and outputs of a graph their names.
  void CheckSignature(size_t table) {
    const auto graph = file_->Scalar<uint32_t>(table, signature::kSubgraph, 0);
    Require(graph < graphs_.size(), "a signature names a graph that is not there");
    Require(file_->Field(table, signature::kKey) != 0, "a signature has no name");
    CheckNames(table, signature::kInputs, graphs_[graph].inputs);
    CheckNames(table, signature::kOutputs, graphs_[graph].outputs);
  }

  void CheckNames(size_t table, size_t field, const std::vector<int32_t>& tensors) {
    std::set<int64_t> named;
    for (const size_t map : file_->Tables(table, field)) {
      if (file_->Field(map, tensor_map::kName) != 0) {
        named.insert(file_->Scalar<uint32_t>(map, tensor_map::kTensor, 0));
      }
    }
    const std::set<int64_t> wanted(tensors.begin(), tensors.end());
    Require(named == wanted, "a signature names other tensors than its graph takes and gives");
  }

  static constexpr int32_t kLeftOut = -1;  // instead of an optional input

  Flat* file_;
  size_t n_codes_ = 0;
  std::vector<bool> constant_;  // of every buffer
  std::vector<Graph> graphs_;
};

}  // namespace

const char* RefuseTflite(const uint8_t* bytes, size_t size) {
  if (size < 8 || std::memcmp(bytes + 4, "TFL3", 4) != 0) return "it does not begin like one";
  try {
    Flat file(bytes, size);
    Checker(&file).Check();
    return nullptr;
  } catch (const Damaged& damaged) {
    return damaged.why;
  }
}

}  // namespace harness
