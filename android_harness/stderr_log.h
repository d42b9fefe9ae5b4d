// What a library that only writes to standard error says is wrong.
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

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
  // Looks only at what is said from here on.
  void Forget();
  // The lines that begin with "ERROR: ", without that.
  std::vector<std::string> Errors() const;

 private:
  std::string Text() const;
  off_t from_ = 0;
};

}  // namespace harness
