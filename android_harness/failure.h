// How the runner fails: one JSON document on standard output and an exit code, whatever goes wrong.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace harness {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

// Ends the program with an error document. `step` is usage, load, inputs, run or output; `code` is
// ExecuTorch's error or 0.
struct Failure : std::runtime_error {
  Failure(const char* at, const std::string& sentence, uint32_t error = 0)
      : std::runtime_error(sentence), step(at), code(error) {}
  const char* step;
  uint32_t code;
};

// Makes crashes and ExecuTorch's own aborts end with an error document too, and collects
// ExecuTorch's log messages.
void InstallGuards();

// What the guards name as the step from here on; a string literal.
void EnterStep(const char* step);
const char* CurrentStep();

// The first message that ExecuTorch logged as an error since EnterStep, without its full stop;
// empty when there was none.
std::string LoggedError();

// Writes a whole document and flushes it.
void Print(const std::string& document);

// Prints the error document; returns the exit code.
int Report(const Failure& failure);

}  // namespace harness
