#include "failure.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>

#include "json.h"

namespace harness {
namespace {

const char* volatile current_step = "load";

// What the guards say; written once, before anything can crash.
std::string crashed;
std::string gave_up;

std::atomic<void (*)()> at_crash{nullptr};

// There is one document, though two threads may crash at once, or the process while it ends.
enum Said : int { kNothing, kDocument, kCrash };
std::atomic<int> said{kNothing};

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

[[noreturn]] void EndWithCrash(const std::string& sentence) {
  const int before = said.exchange(kCrash);
  if (before == kCrash) sleep(1);  // another thread is writing, and ends the process
  if (before != kNothing) _exit(kExitFailed);
  WriteRaw("{\"version\":1,\"error\":{\"step\":\"");
  WriteRaw(current_step);
  WriteRaw("\",\"message\":\"");
  WriteRaw(sentence.c_str());
  WriteRaw("\",\"code\":1}}\n");
  if (void (*function)() = at_crash.load()) function();
  _exit(kExitFailed);
}

void OnSignal(int) { EndWithCrash(crashed); }

}  // namespace

void InstallGuards(const char* framework) {
  const std::string why =
      " on this model: the file is damaged, or it is not made for this runtime.";
  crashed = std::string(framework) + " crashed" + why;
  gave_up = std::string(framework) + " gave up" + why;
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
}

void AtCrash(void (*function)()) { at_crash = function; }

void EnterStep(const char* step) { current_step = step; }

const char* CurrentStep() { return current_step; }

void EndWithAbort() { EndWithCrash(gave_up); }

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
