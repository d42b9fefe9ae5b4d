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

void StderrLog::Forget() {
  std::fflush(stderr);
  from_ = memory < 0 ? 0 : lseek(memory, 0, SEEK_END);
}

std::vector<std::string> StderrLog::Errors() const {
  const std::string mark = "ERROR: ";
  std::vector<std::string> errors;
  std::istringstream lines(Text());
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(mark, 0) == 0) errors.push_back(line.substr(mark.size()));
  }
  return errors;
}

std::string StderrLog::Text() const {
  std::string text;
  char block[4096];
  for (ssize_t got;
       (got = pread(memory, block, sizeof block, from_ + static_cast<off_t>(text.size()))) > 0;) {
    text.append(block, static_cast<size_t>(got));
  }
  return text;
}

}  // namespace harness
