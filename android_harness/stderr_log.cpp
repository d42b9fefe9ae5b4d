#include "stderr_log.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <sstream>

#include "failure.h"

namespace harness {
namespace {

int real = -1;    // what standard error was, or -1
int memory = -1;  // what it is, or -1

// Writes what is in memory to the real standard error; only what a signal handler may call.
void Replay() {
  char block[4096];
  off_t at = 0;
  for (ssize_t got; (got = pread(memory, block, sizeof block, at)) > 0; at += got) {
    if (write(real, block, static_cast<size_t>(got)) < 0) return;
  }
}

}  // namespace

StderrLog::~StderrLog() {
  if (memory < 0) return;
  std::fflush(stderr);
  dup2(real, STDERR_FILENO);
  Replay();
  close(real);
  close(memory);
  memory = -1;
}

void StderrLog::Start() {
  real = dup(STDERR_FILENO);
  memory = real < 0 ? -1 : memfd_create("stderr", MFD_CLOEXEC);
  if (memory < 0) return;
  dup2(memory, STDERR_FILENO);
  AtCrash(Replay);
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
  for (ssize_t got;
       (got = pread(memory, block, sizeof block, static_cast<off_t>(text.size()))) > 0;) {
    text.append(block, static_cast<size_t>(got));
  }
  return text;
}

}  // namespace harness
