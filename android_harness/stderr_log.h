// What a library that only writes to standard error says is wrong.
#pragma once
#include <string>

namespace harness {

// While it exists, standard error goes to memory first, and comes out at its end.
class StderrLog {
 public:
  StderrLog() = default;
  StderrLog(const StderrLog&) = delete;
  StderrLog& operator=(const StderrLog&) = delete;
  ~StderrLog();
  void Start();
  // The first line that begins with "ERROR: ", without that and its full stop; empty when there is
  // none.
  std::string FirstError() const;

 private:
  std::string Text() const;
  int real_ = -1;
  int memory_ = -1;
};

}  // namespace harness
