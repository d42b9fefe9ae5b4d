#include "program.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <new>
#include <stdexcept>

#include "failure.h"
#include "json.h"
#include "kernels/conv/conv.h"
#include "npy.h"
#include "peaks.h"

namespace harness {
namespace {

using Clock = std::chrono::steady_clock;

// What the document says of a run.
struct Session {
  std::vector<Tensor> inputs;
  int64_t load_ns = 0;
  std::vector<int64_t> runs_ns;
  // With --examples: what every input is given and every output gave, one example after the other.
  std::vector<std::vector<uint8_t>> given, answers;
};

// The shape of a file of --examples, or of one tensor without.
std::vector<int64_t> FileShape(const Options& options, std::vector<int64_t> shape) {
  if (options.examples > 0) shape.insert(shape.begin(), options.examples);
  return shape;
}

int64_t Nanoseconds(Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

void Load(const Options& options, Model* model, Session* session) {
  EnterStep("load");
  if (std::FILE* file = std::fopen(options.model.c_str(), "rb")) {
    std::fclose(file);
  } else {
    throw Failure("load", "There is no readable model at " + options.model + ".");
  }
  const auto start = Clock::now();
  model->Load(options);
  session->load_ns = Nanoseconds(Clock::now() - start);
}

void PrepareInputs(const Options& options, Model* model, Session* session) {
  EnterStep("inputs");
  session->inputs = model->Inputs();
  const size_t count = session->inputs.size();
  if (options.inputs.size() > count) {
    throw Failure("inputs", "The model takes " + std::to_string(count) + " input" +
                                (count == 1 ? "" : "s") + ", not " +
                                std::to_string(options.inputs.size()) + ".");
  }
  for (size_t i = 0; i < options.inputs.size(); ++i) {
    const Tensor& input = session->inputs[i];
    if (input.dtype != &kFloat32) {
      throw Failure("inputs", "Input " + std::to_string(i) + " of the model is " +
                                  input.dtype->name +
                                  "; only float32 inputs can be read from a file.");
    }
    session->given.push_back(ReadFloatTensor(options.inputs[i], FileShape(options, input.shape)));
    std::memcpy(input.data, session->given[i].data(), input.nbytes);
  }
}

void GiveExample(size_t example, Session* session) {
  for (size_t i = 0; i < session->given.size(); ++i) {
    const Tensor& input = session->inputs[i];
    std::memcpy(input.data, session->given[i].data() + example * input.nbytes, input.nbytes);
  }
}

void KeepAnswer(Model* model, Session* session) {
  const std::vector<Tensor> outputs = model->Outputs();
  session->answers.resize(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto* data = static_cast<const uint8_t*>(outputs[i].data);
    session->answers[i].insert(session->answers[i].end(), data, data + outputs[i].nbytes);
  }
}

void Run(const Options& options, Model* model, Session* session) {
  EnterStep("run");
  const bool profile = !options.profile.empty();
  const int runs = options.examples > 0 ? options.examples : options.runs;
  for (int i = -options.warmup; i < runs; ++i) {
    if (i == 0 && profile) model->StartProfile();
    if (i > 0 && options.examples > 0) GiveExample(static_cast<size_t>(i), session);
    const auto start = Clock::now();
    model->Run();
    const auto stop = Clock::now();
    if (i < 0) continue;
    session->runs_ns.push_back(Nanoseconds(stop - start));
    if (profile) model->RecordRun(session->runs_ns.back());
    if (options.examples > 0 && !options.output.empty()) KeepAnswer(model, session);
  }
}

// Writes the outputs when a prefix is given, and adds their description to the document.
void DescribeOutputs(const Options& options, const Session& session, Model* model, Json* json) {
  json->Key("outputs").BeginArray();
  const std::vector<Tensor> outputs = model->Outputs();
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Tensor& output = outputs[i];
    json->BeginObject().Key("shape").Values(output.shape).Key("dtype").Value(output.dtype->name);
    if (!options.output.empty()) {
      const std::string path = options.output + "_" + std::to_string(i) + ".npy";
      const bool many = options.examples > 0;
      const void* data = many ? session.answers.at(i).data() : output.data;
      const size_t nbytes = many ? session.answers.at(i).size() : output.nbytes;
      WriteNpy(path, output.dtype->descr, FileShape(options, output.shape), data, nbytes);
      json->Key("path").Value(path);
    }
    json->EndObject();
  }
  json->EndArray();
}

// Not getrusage's, which counts what the process was before it became the runner.
int64_t PeakRssKb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::strtoll(line.c_str() + 6, nullptr, 10);
  }
  return 0;
}

std::string Describe(const Options& options, const Session& session, Model* model) {
  EnterStep("output");
  Json json;
  json.BeginObject().Key("version").Value(int64_t{1});
  json.Key("threads").Value(int64_t{model->threads()});
  json.Key("isa").Value(edge::IsaName(edge::ActiveIsa()));
  json.Key("warmup").Value(int64_t{options.warmup});
  json.Key("load_ns").Value(session.load_ns).Key("runs_ns").Values(session.runs_ns);
  json.Key("peak_rss_kb").Value(PeakRssKb()).Key("inputs").BeginArray();
  for (const Tensor& input : session.inputs) {
    json.BeginObject().Key("shape").Values(input.shape);
    json.Key("dtype").Value(input.dtype->name).EndObject();
  }
  json.EndArray();
  DescribeOutputs(options, session, model, &json);
  return json.EndObject().text();
}

void RunModel(const Options& options, Model* model) {
  Session session;
  Load(options, model, &session);
  PrepareInputs(options, model, &session);
  Run(options, model, &session);
  if (!options.profile.empty()) {
    EnterStep("output");
    model->WriteProfile(options.profile);
  }
  Print(Describe(options, session, model));
}

}  // namespace

int Main(int argc, char** argv, const Program& program, Model* model) {
  InstallGuards(program.framework);
  try {
    const Options options = ParseOptions(argc, argv);
    if (options.help) {
      std::fputs(Usage(program).c_str(), stdout);
      return 0;
    }
    if (!options.cpu_mask.empty()) ApplyCpuMask(options.cpu_mask);
    if (options.peaks) {
      Print(MeasurePeaks(std::max(1, options.threads)));
    } else {
      RunModel(options, model);
    }
    return 0;
  } catch (const Failure& failure) {
    return Report(failure);
  } catch (const std::bad_alloc&) {
    return Report(Failure(CurrentStep(), "There is not enough memory for this model."));
  } catch (const std::runtime_error& error) {
    return Report(Failure(CurrentStep(), error.what()));
  } catch (const std::exception& error) {  // not one of ours
    return Report(Failure(CurrentStep(), std::string(program.framework) +
                                             " gave up on this model: " + error.what() + "."));
  }
}

void WriteFile(const std::string& path, const void* data, size_t size) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  bool ok = file != nullptr && std::fwrite(data, 1, size, file) == size;
  ok = file != nullptr && std::fclose(file) == 0 && ok;
  if (!ok) throw Failure("output", path + " cannot be written.");
}

}  // namespace harness
