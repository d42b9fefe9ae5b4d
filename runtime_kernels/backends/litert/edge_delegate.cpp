#include "edge_delegate.h"

#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <exception>
#include <list>
#include <memory>
#include <string_view>

#include "hosted_plan.h"

namespace edge {
namespace {

constexpr char kName[] = "EdgeKernels";

struct DelegateData {
  size_t threads;
  std::vector<DelegateRun>* log;
  std::list<std::string> names;  // of the nodes, as long as LiteRT may ask for them
};

// Of every op of a run, how long it took.
class OpTimes final : public Observer {
 public:
  explicit OpTimes(DelegateRun* run) : run_(run) {}
  uint64_t Now() override {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  }
  void Took(uint32_t, std::string_view name, uint64_t time) override {
    run_->ops.push_back({std::string(name), static_cast<int64_t>(time)});
  }

 private:
  DelegateRun* run_;
};

// One op `EdgeKernels`: its inputs are the plan's and then the plan, its outputs are the plan's.
// The methods return false after reporting what is wrong, and throw nothing.
class Node {
 public:
  Node(const DelegateData* delegate, const TfLiteNode& node, std::string name)
      : delegate_(delegate),
        name_(std::move(name)),
        inputs_(node.inputs->data, node.inputs->data + node.inputs->size),
        outputs_(node.outputs->data, node.outputs->data + node.outputs->size) {}

  bool Prepare(TfLiteContext* context) {
    return (plan_ != nullptr || Load(context)) && Bind(context);
  }

  bool Run(TfLiteContext* context) {
    if (plan_ == nullptr || !Bind(context)) return false;
    for (size_t i = 0; i < input_data_.size(); ++i) {
      if (input_data_[i] == nullptr) return Refuse(context, "an input has no memory");
    }
    for (size_t i = 0; i < output_data_.size(); ++i) {
      if (output_data_[i] == nullptr) return Refuse(context, "an output is used by nobody");
    }
    DelegateRun run{name_, {}};
    OpTimes times(&run);
    const Status status = plan_->Run(input_data_.data(), output_data_.data(),
                                     delegate_->log == nullptr ? nullptr : &times);
    if (status != Status::kOk) return Refuse(context, StatusMessage(status));
    if (delegate_->log != nullptr) delegate_->log->push_back(std::move(run));
    return true;
  }

  bool Refuse(TfLiteContext* context, const char* why) const {
    context->ReportError(context, "%s: %s.", name_.c_str(), why);
    return false;
  }

 private:
  static TfLiteTensor* Tensor(TfLiteContext* context, int id) {
    return id >= 0 && static_cast<size_t>(id) < context->tensors_size ? &context->tensors[id]
                                                                      : nullptr;
  }

  bool Load(TfLiteContext* context) {
    const TfLiteTensor* bytes = inputs_.empty() ? nullptr : Tensor(context, inputs_.back());
    if (bytes == nullptr || bytes->type != kTfLiteUInt8 ||
        bytes->allocation_type != kTfLiteMmapRo || bytes->data == nullptr) {
      return Refuse(context, "its last input is not a plan, a constant uint8 tensor");
    }
    auto plan = std::make_unique<HostedPlan>();
    const Status status = plan->Load(bytes->data, bytes->bytes, delegate_->threads);
    if (status != Status::kOk) return Refuse(context, StatusMessage(status));
    if (inputs_.size() != plan->n_inputs() + size_t{1} || outputs_.size() != plan->n_outputs()) {
      return Refuse(context, "it has another number of inputs or outputs than its plan");
    }
    input_data_.resize(plan->n_inputs());
    output_data_.resize(plan->n_outputs());
    plan_ = std::move(plan);
    return true;
  }

  // Finds the tensors' memory, null before LiteRT has allocated it, and checks that they are those
  // that the plan was compiled for.
  bool Bind(TfLiteContext* context) {
    for (uint32_t i = 0; i < input_data_.size(); ++i) {
      const TfLiteTensor* tensor = Tensor(context, inputs_[i]);
      if (!Check(context, tensor, plan_->input_elements(i), "input", i)) return false;
      input_data_[i] = static_cast<const float*>(tensor->data);
    }
    for (uint32_t i = 0; i < output_data_.size(); ++i) {
      const TfLiteTensor* tensor = Tensor(context, outputs_[i]);
      if (!Check(context, tensor, plan_->output_elements(i), "output", i)) return false;
      if (tensor->allocation_type == kTfLiteMmapRo) {
        return Refuse(context, "an output is a constant");
      }
      output_data_[i] = static_cast<float*>(tensor->data);
    }
    return true;
  }

  bool Check(TfLiteContext* context, const TfLiteTensor* tensor, int64_t elements, const char* kind,
             uint32_t index) const {
    char why[160];
    if (tensor == nullptr || tensor->type != kTfLiteFloat32) {
      std::snprintf(why, sizeof why, "%s %" PRIu32 " is not float32", kind, index);
      return Refuse(context, why);
    }
    if (tensor->bytes != static_cast<uint64_t>(elements) * sizeof(float)) {
      std::snprintf(why, sizeof why,
                    "%s %" PRIu32 " has %zu elements, the plan was compiled for %" PRId64, kind,
                    index, tensor->bytes / sizeof(float), elements);
      return Refuse(context, why);
    }
    return true;
  }

  const DelegateData* delegate_;
  std::string name_;
  std::vector<int> inputs_;
  std::vector<int> outputs_;
  std::unique_ptr<HostedPlan> plan_;
  std::vector<const float*> input_data_;
  std::vector<float*> output_data_;
};

bool IsOurs(TfLiteContext* context, int node) {
  TfLiteNode* found = nullptr;
  TfLiteRegistration* registration = nullptr;
  return context->GetNodeAndRegistration(context, node, &found, &registration) == kTfLiteOk &&
         registration->custom_name != nullptr &&
         std::string_view(registration->custom_name) == kName;
}

void* InitNode(TfLiteContext* context, const char* buffer, size_t) {
  const auto* params = reinterpret_cast<const TfLiteDelegateParams*>(buffer);
  auto* delegate = static_cast<DelegateData*>(params->delegate->data);
  TfLiteNode* node = nullptr;
  TfLiteRegistration* registration = nullptr;
  if (context->GetNodeAndRegistration(context, params->nodes_to_replace->data[0], &node,
                                      &registration) != kTfLiteOk) {
    return nullptr;
  }
  try {
    return new Node(delegate, *node, delegate->names.back());
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void FreeNode(TfLiteContext*, void* node) { delete static_cast<Node*>(node); }

TfLiteStatus Guarded(TfLiteContext* context, const TfLiteNode* tflite_node,
                     bool (Node::*step)(TfLiteContext*)) {
  auto* node = static_cast<Node*>(tflite_node->user_data);
  if (node == nullptr) return kTfLiteError;
  try {
    return (node->*step)(context) ? kTfLiteOk : kTfLiteError;
  } catch (const std::exception& problem) {
    node->Refuse(context, problem.what());
    return kTfLiteError;
  }
}

TfLiteStatus PrepareNode(TfLiteContext* context, TfLiteNode* node) {
  return Guarded(context, node, &Node::Prepare);
}

TfLiteStatus InvokeNode(TfLiteContext* context, TfLiteNode* node) {
  return Guarded(context, node, &Node::Run);
}

// Takes every op `EdgeKernels` over. Each becomes a node of its own, with a name of its own, so
// that LiteRT's profile tells them apart.
TfLiteStatus TakeNodes(TfLiteContext* context, TfLiteDelegate* delegate) {
  auto* data = static_cast<DelegateData*>(delegate->data);
  TfLiteIntArray* execution_plan = nullptr;
  if (context->GetExecutionPlan(context, &execution_plan) != kTfLiteOk) return kTfLiteError;
  try {
    // Replacing a node changes the execution plan.
    const std::vector<int> nodes(execution_plan->data, execution_plan->data + execution_plan->size);
    for (const int node : nodes) {
      if (!IsOurs(context, node)) continue;
      data->names.push_back(std::string(kName) + "#" + std::to_string(node));
      TfLiteRegistration registration{};
      registration.init = InitNode;
      registration.free = FreeNode;
      registration.prepare = PrepareNode;
      registration.invoke = InvokeNode;
      registration.builtin_code = kTfLiteBuiltinDelegate;
      registration.custom_name = data->names.back().c_str();
      registration.version = 1;
      const TfLiteIntArray one{1, {node}};
      if (context->ReplaceNodeSubsetsWithDelegateKernels(context, registration, &one, delegate) !=
          kTfLiteOk) {
        return kTfLiteError;
      }
    }
  } catch (const std::bad_alloc&) {
    return kTfLiteError;
  }
  return kTfLiteOk;
}

}  // namespace

TfLiteDelegate* CreateDelegate(size_t threads, std::vector<DelegateRun>* log) {
  auto data = std::make_unique<DelegateData>(DelegateData{threads, log, {}});
  auto delegate = std::make_unique<TfLiteDelegate>(TfLiteDelegate{});
  delegate->Prepare = TakeNodes;
  // Else TensorFlow Lite prepares all nodes first, and fails at those that only this can run.
  delegate->flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  delegate->data = data.release();
  return delegate.release();
}

void DestroyDelegate(void* delegate) {
  if (delegate == nullptr) return;
  delete static_cast<DelegateData*>(static_cast<TfLiteDelegate*>(delegate)->data);
  delete static_cast<TfLiteDelegate*>(delegate);
}

}  // namespace edge
