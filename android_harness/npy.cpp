#include "npy.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string_view>

namespace harness {
namespace {

constexpr size_t kPreamble = 10;      // magic, version, u16 length (version 1)
constexpr size_t kPreambleWide = 12;  // the same with a u32 length (versions 2 and 3)
constexpr size_t kMaxHeader = 64 * 1024;
constexpr size_t kMaxRank = 16;
constexpr int64_t kMaxSize = int64_t{1} << 40;

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

[[noreturn]] void Refuse(const std::string& why) { throw std::runtime_error(why); }

// Reads the header's Python dict, which NumPy writes as {'descr': '<f4', 'fortran_order': False,
// 'shape': (1, 3), }.
class HeaderReader {
 public:
  explicit HeaderReader(std::string_view text) : text_(text) {}

  void Read(NpyHeader* header) {
    bool descr = false, order = false, shape = false;
    Expect('{');
    while (!Accept('}')) {
      const std::string key = String();
      Expect(':');
      if (key == "descr" && !descr) {
        header->descr = String();
        descr = true;
      } else if (key == "fortran_order" && !order) {
        header->fortran_order = Bool();
        order = true;
      } else if (key == "shape" && !shape) {
        header->shape = Tuple();
        shape = true;
      } else {
        Refuse("its header has an unexpected key");
      }
      if (!Accept(',')) {
        Expect('}');
        break;
      }
    }
    if (!descr || !order || !shape) Refuse("its header is incomplete");
  }

 private:
  void SkipSpace() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool Accept(char c) {
    SkipSpace();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void Expect(char c) {
    if (!Accept(c)) Refuse("its header is damaged");
  }
  std::string String() {
    const char quote = Accept('\'') ? '\'' : '"';
    if (quote == '"') Expect('"');
    const size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) Refuse("its header is damaged");
    const std::string value(text_.substr(at_, end - at_));
    at_ = end + 1;
    return value;
  }
  bool Bool() {
    SkipSpace();
    for (const std::string_view word : {std::string_view("False"), std::string_view("True")}) {
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return word == "True";
      }
    }
    Refuse("its header is damaged");
  }
  int64_t Size() {
    SkipSpace();
    int64_t value = 0;
    const size_t start = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      value = value * 10 + (text_[at_] - '0');
      if (value > kMaxSize) Refuse("its shape is too large");
    }
    if (at_ == start) Refuse("its shape is damaged");
    return value;
  }
  std::vector<int64_t> Tuple() {
    std::vector<int64_t> sizes;
    Expect('(');
    while (!Accept(')')) {
      sizes.push_back(Size());
      if (sizes.size() > kMaxRank) Refuse("its shape has too many dimensions");
      if (!Accept(',')) {
        Expect(')');
        break;
      }
    }
    return sizes;
  }

  std::string_view text_;
  size_t at_ = 0;
};

bool EndsWith(const std::string& text, std::string_view ending) {
  return text.size() >= ending.size() &&
         text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

// Drops the header of .npy bytes after checking them.
void StripNpy(std::vector<uint8_t>* bytes, const std::vector<int64_t>& shape) {
  const NpyHeader header = ParseNpyHeader(*bytes);
  if (header.descr != "<f4") Refuse("it holds " + header.descr + ", not float32 (<f4)");
  if (header.fortran_order && shape.size() > 1) Refuse("it is in Fortran order, not C order");
  if (header.shape != shape) {
    Refuse("its shape is " + ShapeText(header.shape) + ", but the model takes " + ShapeText(shape));
  }
  bytes->erase(bytes->begin(), bytes->begin() + static_cast<ptrdiff_t>(header.data_offset));
}

}  // namespace

std::vector<uint8_t> ReadFile(const std::string& path) {
  const File file(std::fopen(path.c_str(), "rb"));
  if (!file) Refuse(path + " cannot be opened: " + std::strerror(errno) + ".");
  std::vector<uint8_t> bytes;
  uint8_t block[65536];
  while (const size_t got = std::fread(block, 1, sizeof block, file.get())) {
    bytes.insert(bytes.end(), block, block + got);
  }
  if (std::ferror(file.get()) != 0) Refuse(path + " cannot be read: " + std::strerror(errno) + ".");
  return bytes;
}

NpyHeader ParseNpyHeader(const std::vector<uint8_t>& bytes) {
  if (bytes.size() < kPreamble || std::memcmp(bytes.data(), "\x93NUMPY", 6) != 0) {
    Refuse("it is not a .npy file");
  }
  const int version = bytes[6];
  if (version < 1 || version > 3) Refuse("its .npy version is unknown");
  const size_t preamble = version == 1 ? kPreamble : kPreambleWide;
  if (bytes.size() < preamble) Refuse("it is cut short");
  size_t length = bytes[8] | size_t{bytes[9]} << 8;
  if (version > 1) length |= size_t{bytes[10]} << 16 | size_t{bytes[11]} << 24;
  if (length > kMaxHeader) Refuse("its header is too long");
  if (bytes.size() - preamble < length) Refuse("it is cut short");
  NpyHeader header;
  HeaderReader({reinterpret_cast<const char*>(bytes.data()) + preamble, length}).Read(&header);
  header.data_offset = preamble + length;
  return header;
}

std::vector<uint8_t> ReadFloatTensor(const std::string& path, const std::vector<int64_t>& shape) {
  std::vector<uint8_t> bytes = ReadFile(path);
  try {
    if (EndsWith(path, ".npy")) StripNpy(&bytes, shape);
    size_t expected = sizeof(float);
    for (const int64_t size : shape) expected *= static_cast<size_t>(size);
    if (bytes.size() != expected) {
      Refuse("it holds " + std::to_string(bytes.size()) + " bytes of data, but float32 " +
             ShapeText(shape) + " has " + std::to_string(expected));
    }
  } catch (const std::runtime_error& error) {
    Refuse(path + " cannot be used as an input: " + error.what() + ".");
  }
  return bytes;
}

void WriteNpy(const std::string& path, const std::string& descr, const std::vector<int64_t>& shape,
              const void* data, size_t nbytes) {
  std::string header =
      "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + ShapeText(shape) + ", }";
  header.resize((kPreamble + header.size() + 1 + 63) / 64 * 64 - kPreamble - 1, ' ');
  header += '\n';
  std::string start("\x93NUMPY\x01\x00", 8);
  start += static_cast<char>(header.size() & 0xff);
  start += static_cast<char>(header.size() >> 8);
  File file(std::fopen(path.c_str(), "wb"));
  if (!file) Refuse(path + " cannot be created: " + std::strerror(errno) + ".");
  bool ok = std::fwrite(start.data(), 1, start.size(), file.get()) == start.size() &&
            std::fwrite(header.data(), 1, header.size(), file.get()) == header.size() &&
            std::fwrite(data, 1, nbytes, file.get()) == nbytes;
  ok = std::fclose(file.release()) == 0 && ok;  // a full disk may only show here
  if (!ok) Refuse(path + " cannot be written: " + std::strerror(errno) + ".");
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace harness
