// How a runner fails: one JSON document on standard output and an exit code, whatever goes wrong.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace harness {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

// Ends the program with an error document. `step` is usage, load, inputs, run or output; `code` is
// the framework's error or 0.
struct Failure : std::runtime_error {
  Failure(const char* at, const std::string& sentence, uint32_t error = 0)
      : std::runtime_error(sentence), step(at), code(error) {}
  const char* step;
  uint32_t code;
};

// Makes crashes end with an error document too, one that names the framework.
void InstallGuards(const char* framework);

// What the guards name as the step from here on; a string literal.
void EnterStep(const char* step);
const char* CurrentStep();

// Is called once when the process crashes, before it ends, and may do what a signal handler may.
void AtCrash(void (*function)());

// Ends the program with the document of a framework that gave up.
[[noreturn]] void EndWithAbort();

// Writes a whole document and flushes it.
void Print(const std::string& document);

// Prints the error document; returns the exit code.
int Report(const Failure& failure);

}  // namespace harness
