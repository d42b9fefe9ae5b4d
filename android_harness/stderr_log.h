// What a library that only writes to standard error says is wrong.
#pragma once
#include <string>

namespace harness {

// From Start on, standard error goes to memory first. It comes out at the end of this, or of the
// process when it crashes. There is one.
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
};

}  // namespace harness
