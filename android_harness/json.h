// Writes one JSON document, piece by piece. Values are numbers and strings; commas are put where
// they belong.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace harness {

// A JSON string with its quotes. Bytes outside printable ASCII are kept when they are above 0x7f
// (UTF-8) and escaped otherwise.
inline std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", byte);
      out += escape;
    } else {
      out += c;
    }
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
