#include "stderr_log.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <sstream>

namespace harness {

StderrLog::~StderrLog() {
  if (memory_ < 0) return;
  std::fflush(stderr);
  dup2(real_, STDERR_FILENO);
  std::fputs(Text().c_str(), stderr);
  close(real_);
  close(memory_);
}

void StderrLog::Start() {
  real_ = dup(STDERR_FILENO);
  memory_ = real_ < 0 ? -1 : memfd_create("stderr", MFD_CLOEXEC);
  if (memory_ >= 0) dup2(memory_, STDERR_FILENO);
}

std::string StderrLog::FirstError() const {
  constexpr char kMark[] = "ERROR: ";
  std::istringstream lines(Text());
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(kMark, 0) != 0) continue;
    line.erase(0, sizeof kMark - 1);
    while (!line.empty() && (line.back() == '.' || line.back() == ' ')) line.pop_back();
    return line;
  }
  return "";
}

std::string StderrLog::Text() const {
  std::string text;
  char block[4096];
  for (ssize_t got; (got = pread(memory_, block, sizeof block, text.size())) > 0;) {
    text.append(block, static_cast<size_t>(got));
  }
  return text;
}

}  // namespace harness
