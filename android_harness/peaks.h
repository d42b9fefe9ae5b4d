// What the device can do at most, measured: the two roofs of a roofline.
#pragma once
#include <string>

namespace harness {

// The document of `--peaks`: the float operations and the bytes read from memory of `threads`
// threads together, at best, by the nanosecond of the device's clock. Throws Failure("run").
std::string MeasurePeaks(int threads);

}  // namespace harness
