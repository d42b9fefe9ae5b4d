#include "failure.h"

#include <executorch/runtime/platform/platform.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string_view>

#include "json.h"

namespace harness {
namespace {

const char* volatile current_step = "load";

// There is one document, though two threads may crash at once, or the process while it ends.
enum Said : int { kNothing, kDocument, kCrash };
std::atomic<int> said{kNothing};

std::mutex log_mutex;
std::string first_error;

// Only what a signal handler may call: the process may be in any state.
void WriteRaw(const char* text) {
  size_t left = strlen(text);
  while (left > 0) {
    const ssize_t written = write(STDOUT_FILENO, text, left);
    if (written <= 0) return;
    text += written;
    left -= static_cast<size_t>(written);
  }
}

[[noreturn]] void EndWithCrash(const char* sentence) {
  const int before = said.exchange(kCrash);
  if (before == kCrash) sleep(1);  // another thread is writing, and ends the process
  if (before != kNothing) _exit(kExitFailed);
  WriteRaw("{\"version\":1,\"error\":{\"step\":\"");
  WriteRaw(current_step);
  WriteRaw("\",\"message\":\"");
  WriteRaw(sentence);
  WriteRaw("\",\"code\":1}}\n");
  _exit(kExitFailed);
}

void OnSignal(int) {
  EndWithCrash(
      "ExecuTorch crashed on this model: the file is damaged, or it is not made for this runtime.");
}

[[noreturn]] void OnAbort() {
  EndWithCrash(
      "ExecuTorch gave up on this model: the file is damaged, or it is not made for this runtime.");
}

void OnLog(et_timestamp_t, et_pal_log_level_t level, const char* file, const char*, size_t line,
           const char* message, size_t length) {
  if (level != et_pal_log_level_t::kError && level != et_pal_log_level_t::kFatal) return;
  const std::string_view text(message, length);
  std::fprintf(stderr, "%s:%zu] %.*s\n", file, line, static_cast<int>(text.size()), text.data());
  const std::lock_guard<std::mutex> lock(log_mutex);
  if (first_error.empty()) first_error = text;
}

}  // namespace

void InstallGuards() {
  // A damaged model may also exhaust the stack: the handler needs one of its own.
  static char stack[64 * 1024];
  stack_t alternate{};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, nullptr);
  struct sigaction action{};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_ONSTACK;
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) {
    sigaction(signal, &action, nullptr);
  }
  using executorch::runtime::PalImpl;
  PalImpl platform = PalImpl::create(OnLog, __FILE__);
  platform.abort = OnAbort;
  executorch::runtime::register_pal(platform);
}

void EnterStep(const char* step) {
  current_step = step;
  const std::lock_guard<std::mutex> lock(log_mutex);
  first_error.clear();
}

const char* CurrentStep() { return current_step; }

std::string LoggedError() {
  const std::lock_guard<std::mutex> lock(log_mutex);
  std::string text = first_error;
  while (!text.empty() && (text.back() == '.' || text.back() == '\n')) text.pop_back();
  return text;
}

void Print(const std::string& document) {
  std::fwrite(document.data(), 1, document.size(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
  said.store(kDocument);
}

int Report(const Failure& failure) {
  Json json;
  json.BeginObject().Key("version").Value(int64_t{1}).Key("error").BeginObject();
  json.Key("step").Value(failure.step).Key("message").Value(failure.what());
  json.Key("code").Value(static_cast<int64_t>(failure.code)).EndObject().EndObject();
  Print(json.text());
  return std::strcmp(failure.step, "usage") == 0 ? kExitUsage : kExitFailed;
}

}  // namespace harness
