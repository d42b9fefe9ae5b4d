// Writes one JSON document, piece by piece. Values are numbers and strings; commas are put where
// they belong.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace harness {

// Length of the UTF-8 sequence that `text` begins with; 0 when it begins with none.
inline size_t Utf8Length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const size_t length = byte(0) < 0x80   ? 1
                        : byte(0) < 0xc2 ? 0
                        : byte(0) < 0xe0 ? 2
                        : byte(0) < 0xf0 ? 3
                        : byte(0) < 0xf5 ? 4
                                         : 0;
  if (length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if (length > 2) {  // overlong forms, surrogates, and code points past the last
    if (byte(0) == 0xe0 && byte(1) < 0xa0) return 0;
    if (byte(0) == 0xed && byte(1) > 0x9f) return 0;
    if (byte(0) == 0xf0 && byte(1) < 0x90) return 0;
    if (byte(0) == 0xf4 && byte(1) > 0x8f) return 0;
  }
  return length;
}

// A JSON string with its quotes. Messages may quote a damaged file: what is not UTF-8 becomes a
// question mark.
inline std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t length = Utf8Length(text.substr(i));
    if (length == 0) {
      out += '?';
    } else if (byte == '"' || byte == '\\') {
      out += '\\';
      out += text[i];
    } else if (byte < 0x20 || byte == 0x7f) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", byte);
      out += escape;
    } else {
      out += text.substr(i, length);
    }
    i += length == 0 ? 1 : length;
  }
  return out + "\"";
}

class Json {
 public:
  Json& BeginObject() { return Open('{'); }
  Json& EndObject() { return Close('}'); }
  Json& BeginArray() { return Open('['); }
  Json& EndArray() { return Close(']'); }
  Json& Key(std::string_view key) {
    Separate();
    text_ += Quoted(key) + ":";
    first_ = true;
    return *this;
  }
  Json& Value(int64_t number) { return Raw(std::to_string(number)); }
  Json& Value(double number) {  // a finite one
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.6g", number);
    return Raw(digits);
  }
  Json& Value(std::string_view text) { return Raw(Quoted(text)); }
  template <typename T>
  Json& Values(const std::vector<T>& numbers) {
    BeginArray();
    for (const T number : numbers) Value(static_cast<int64_t>(number));
    return EndArray();
  }
  const std::string& text() const { return text_; }

 private:
  Json& Raw(const std::string& piece) {
    Separate();
    text_ += piece;
    return *this;
  }
  Json& Open(char bracket) {
    Separate();
    text_ += bracket;
    first_ = true;
    return *this;
  }
  Json& Close(char bracket) {
    text_ += bracket;
    first_ = false;
    return *this;
  }
  void Separate() {
    if (!first_) text_ += ',';
    first_ = false;
  }

  std::string text_;
  bool first_ = true;
};

}  // namespace harness
