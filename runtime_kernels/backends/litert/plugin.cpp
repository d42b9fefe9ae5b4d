// The two functions that `load_delegate` of LiteRT's Python package, and any other user of external
// delegates, looks for in a shared library.
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "edge_delegate.h"
#include "hosted_plan.h"

#define EDGE_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// Returns 0 unless the text is a number from 1 to kMaxThreads.
size_t ParseThreads(const char* text) {
  char* end = nullptr;
  const unsigned long threads = std::strtoul(text, &end, 10);
  return end != text && *end == '\0' && threads <= edge::kMaxThreads ? threads : 0;
}

void Say(void (*report_error)(const char*), const std::string& sentence) {
  if (report_error != nullptr) report_error(sentence.c_str());
}

}  // namespace

// The only option is "threads", 1 unless given. Null after reporting what is wrong with an option.
EDGE_EXPORT TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys,
                                                          const char* const* values, size_t count,
                                                          void (*report_error)(const char*)) {
  try {
    size_t threads = 1;
    for (size_t i = 0; i < count; ++i) {
      if (std::strcmp(keys[i], "threads") != 0) {
        Say(report_error,
            "EdgeKernels has no option " + std::string(keys[i]) + "; its only one is threads.");
        return nullptr;
      }
      threads = ParseThreads(values[i]);
      if (threads == 0) {
        Say(report_error, "EdgeKernels needs a number of threads from 1 to " +
                              std::to_string(edge::kMaxThreads) + ", not " + values[i] + ".");
        return nullptr;
      }
    }
    return edge::CreateDelegate(threads, nullptr);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

EDGE_EXPORT void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) {
  edge::DestroyDelegate(delegate);
}
