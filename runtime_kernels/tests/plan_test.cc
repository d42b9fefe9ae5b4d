// Plan::Load refuses whatever could read or write outside of its memory, and says why.
#include "edge/plan.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "plan/limits.h"
#include "plan_builder.h"

namespace edge::testing {
namespace {

constexpr uint32_t kIn = 0, kStaged = 1, kFeatures = 2, kPooled = 3, kOut = 4, kScale = 5;
constexpr uint32_t kCopyOp = 0, kConvOp = 1, kPoolOp = 2, kMulOp = 3;

// input (1, 2, 6, 8) -> copy -> 3x3 convolution -> 2x2 max pool -> times a constant -> output (1,
// 4, 3, 4)
PlanBytes SmallPlan() {
  PlanBuilder plan;
  plan.Input({1, 2, 6, 8});
  plan.Arena({1, 2, 6, 8}, {1, 1, 1, 1});
  plan.Arena({1, 4, 6, 8});
  plan.Arena({1, 4, 3, 4});
  plan.Output({1, 4, 3, 4});
  plan.Const({1, 4, 1, 1}, {1, 2, 3, 4});
  plan.Copy(kIn, kStaged);
  ConvWeights w{{4, 2, 3, 3}, std::vector<float>(72, 0.5f), std::vector<float>(4, 1.0f)};
  w.pad = 1;
  plan.Packed(OpKind::kConv, kStaged, kFeatures, w, "body.conv");
  OpRec& pool = plan.Op(OpKind::kMaxPool, {kFeatures}, kPooled, "body.pool");
  const int32_t p[] = {2, 2, 2, 2, 0, 0, 1, 1};
  std::copy(std::begin(p), std::end(p), pool.p);
  plan.Op(OpKind::kMul, {kPooled, kScale}, kOut, "head");
  return plan.Finish();
}

Status Load(const PlanBytes& bytes) {
  Plan plan;
  return Plan::Load(bytes.data(), bytes.size(), &plan);
}

struct Damage {
  const char* what;
  Status expected;
  std::function<void(PlanBytes&)> apply;
};

void ExpectRefused(const std::vector<Damage>& damages) {
  for (const Damage& damage : damages) {
    PlanBytes bytes = SmallPlan();
    damage.apply(bytes);
    EXPECT_EQ(Load(bytes), damage.expected) << damage.what;
  }
}

PackedHeader& Packed(PlanBytes& b) { return *reinterpret_cast<PackedHeader*>(b.blob(kConvOp)); }
template <typename T>
T* Array(PlanBytes& b, uint64_t offset) {
  return reinterpret_cast<T*>(b.blob(kConvOp) + offset);
}

TEST(Plan, LoadsWhatItsBuilderWrote) {
  const PlanBytes bytes = SmallPlan();
  Plan plan;
  ASSERT_EQ(Plan::Load(bytes.data(), bytes.size(), &plan), Status::kOk);
  EXPECT_EQ(plan.name(plan.op(kConvOp)), "body.conv");
  EXPECT_EQ(plan.input(0).dims[3], 8);
  EXPECT_EQ(plan.output(0).dims[1], 4);
}

TEST(Plan, EveryStatusHasASentence) {
  for (int i = 0; i <= static_cast<int>(Status::kBadArgument); ++i) {
    EXPECT_GT(std::string(StatusMessage(static_cast<Status>(i))).size(), 5u);
  }
}

TEST(Plan, RefusesNullAndMisalignedBytes) {
  PlanBytes bytes = SmallPlan();
  Plan plan;
  EXPECT_EQ(Plan::Load(nullptr, 100, &plan), Status::kBadArgument);
  EXPECT_EQ(Plan::Load(bytes.data(), bytes.size(), nullptr), Status::kBadArgument);
  EXPECT_EQ(Plan::Load(bytes.data() + 4, bytes.size() - 4, &plan), Status::kBadArgument);
}

TEST(Plan, RefusesEveryTruncation) {
  const PlanBytes bytes = SmallPlan();
  for (size_t size = 0; size < bytes.size(); ++size) {
    Plan plan;
    EXPECT_EQ(Plan::Load(bytes.data(), size, &plan), Status::kTruncated) << size;
  }
}

TEST(Plan, RefusesDamagedHeaders) {
  ExpectRefused({
      {"magic", Status::kNotAPlan, [](PlanBytes& b) { b.header().magic[0] = 'X'; }},
      {"version", Status::kWrongVersion,
       [](PlanBytes& b) { b.header().version = kPlanVersion + 1; }},
      {"smaller than the file", Status::kBadValue,
       [](PlanBytes& b) { b.header().total_size -= 8; }},
      {"larger than the file", Status::kTruncated,
       [](PlanBytes& b) { b.header().total_size += 8; }},
      {"tensors far away", Status::kBadOffset,
       [](PlanBytes& b) { b.header().tensors_off = ~7ull; }},
      {"tensors not aligned", Status::kBadOffset,
       [](PlanBytes& b) { b.header().tensors_off += 4; }},
      {"many tensors", Status::kBadOffset, [](PlanBytes& b) { b.header().n_tensors = 100000; }},
      {"too many ops", Status::kBadValue, [](PlanBytes& b) { b.header().n_ops = ~0u; }},
      {"index table", Status::kBadOffset, [](PlanBytes& b) { b.header().n_index = ~0u; }},
      {"strings", Status::kBadOffset, [](PlanBytes& b) { b.header().strings_size = ~0ull; }},
      {"data", Status::kBadOffset, [](PlanBytes& b) { b.header().data_size += 1; }},
      {"data not aligned", Status::kBadOffset, [](PlanBytes& b) { b.header().data_off += 4; }},
      {"no outputs", Status::kBadValue, [](PlanBytes& b) { b.header().n_outputs = 0; }},
      {"huge arena", Status::kBadValue,
       [](PlanBytes& b) { b.header().arena_size = kMaxArenaBytes + 4; }},
      {"small arena", Status::kBadOffset, [](PlanBytes& b) { b.header().arena_size = 64; }},
      {"an input id", Status::kBadOffset, [](PlanBytes& b) { b.index(0) = 1000; }},
      {"an input that is not one", Status::kBadValue, [](PlanBytes& b) { b.index(0) = kStaged; }},
      {"an output that nothing writes", Status::kBadValue,
       [](PlanBytes& b) { b.header().n_ops -= 1; }},
  });
}

TEST(Plan, RefusesDamagedTensors) {
  ExpectRefused({
      {"storage", Status::kBadValue, [](PlanBytes& b) { b.tensor(kStaged).storage = 9; }},
      {"zero dim", Status::kBadValue, [](PlanBytes& b) { b.tensor(kStaged).dims[1] = 0; }},
      {"negative dim", Status::kBadValue, [](PlanBytes& b) { b.tensor(kStaged).dims[2] = -6; }},
      {"huge dim", Status::kBadValue, [](PlanBytes& b) { b.tensor(kStaged).dims[2] = INT32_MAX; }},
      {"more rows than memory", Status::kBadOffset,
       [](PlanBytes& b) { b.tensor(kStaged).dims[2] = 600; }},
      {"negative stride", Status::kBadValue,
       [](PlanBytes& b) { b.tensor(kStaged).stride[1] = -1; }},
      {"huge stride", Status::kBadValue,
       [](PlanBytes& b) { b.tensor(kStaged).stride[0] = INT64_MAX; }},
      {"rows over their halo", Status::kBadValue,
       [](PlanBytes& b) { b.tensor(kStaged).stride[2] = 8; }},
      {"planes over each other", Status::kBadValue,
       [](PlanBytes& b) { b.tensor(kFeatures).stride[1] = 47; }},
      {"negative halo", Status::kBadValue, [](PlanBytes& b) { b.tensor(kStaged).halo[0] = -1; }},
      {"halo before the arena", Status::kBadOffset,
       [](PlanBytes& b) { b.tensor(kStaged).halo[0] = 2; }},
      {"halo of an input", Status::kBadValue, [](PlanBytes& b) { b.tensor(kIn).halo[1] = 1; }},
      {"offset past the arena", Status::kBadOffset,
       [](PlanBytes& b) { b.tensor(kPooled).offset = ~3ull; }},
      {"offset not aligned", Status::kBadOffset,
       [](PlanBytes& b) { b.tensor(kPooled).offset += 2; }},
      {"constant past the data", Status::kBadOffset,
       [](PlanBytes& b) { b.tensor(kScale).offset = 1 << 20; }},
      {"input with gaps", Status::kBadValue, [](PlanBytes& b) { b.tensor(kIn).stride[2] = 9; }},
      {"output at an offset", Status::kBadValue, [](PlanBytes& b) { b.tensor(kOut).offset = 4; }},
      {"input that does not exist", Status::kBadValue,
       [](PlanBytes& b) { b.tensor(kIn).io_index = 7; }},
  });
}

TEST(Plan, RefusesDamagedOps) {
  ExpectRefused({
      {"kind", Status::kBadValue, [](PlanBytes& b) { b.op(kPoolOp).op = 15; }},
      {"activation", Status::kBadValue, [](PlanBytes& b) { b.op(kConvOp).act = 7; }},
      {"activation of an op without one", Status::kBadValue,
       [](PlanBytes& b) { b.op(kPoolOp).act = 1; }},
      {"clamp to NaN", Status::kBadValue,
       [](PlanBytes& b) {
         b.op(kConvOp).act = 1;
         b.op(kConvOp).act_param[1] = __builtin_nanf("");
       }},
      {"name", Status::kBadOffset, [](PlanBytes& b) { b.op(kConvOp).name_len = ~0u; }},
      {"operands", Status::kBadOffset, [](PlanBytes& b) { b.op(kConvOp).inputs_off = ~0u; }},
      {"operand count", Status::kBadValue, [](PlanBytes& b) { b.op(kMulOp).n_inputs = 1; }},
      {"operand id", Status::kBadOffset,
       [](PlanBytes& b) { b.index(b.op(kConvOp).inputs_off) = 99; }},
      {"output id", Status::kBadOffset, [](PlanBytes& b) { b.op(kConvOp).output = kNone; }},
      {"output to a constant", Status::kBadValue,
       [](PlanBytes& b) { b.op(kMulOp).output = kScale; }},
      {"output to an input", Status::kBadValue, [](PlanBytes& b) { b.op(kCopyOp).output = kIn; }},
      {"output over an operand", Status::kBadValue,
       [](PlanBytes& b) { b.op(kConvOp).output = kStaged; }},
      {"residual id", Status::kBadOffset, [](PlanBytes& b) { b.op(kConvOp).residual = 77; }},
      {"residual of another shape", Status::kBadValue,
       [](PlanBytes& b) { b.op(kConvOp).residual = kStaged; }},
      {"residual of a pool", Status::kBadValue,
       [](PlanBytes& b) { b.op(kPoolOp).residual = kPooled; }},
      {"copy factor", Status::kBadValue, [](PlanBytes& b) { b.op(kCopyOp).p[0] = 0; }},
      {"copy padding", Status::kBadValue, [](PlanBytes& b) { b.op(kCopyOp).p[1] = INT32_MIN; }},
      {"pool kernel", Status::kBadValue, [](PlanBytes& b) { b.op(kPoolOp).p[0] = 0; }},
      {"pool stride", Status::kBadValue, [](PlanBytes& b) { b.op(kPoolOp).p[2] = -1; }},
      {"pool window in the padding", Status::kBadValue,
       [](PlanBytes& b) { b.op(kPoolOp).p[4] = 2; }},
      {"pool window past the input", Status::kBadValue,
       [](PlanBytes& b) { b.op(kPoolOp).p[3] = 4; }},
      {"broadcast", Status::kBadValue, [](PlanBytes& b) { b.tensor(kScale).dims[1] = 3; }},
      {"convolution of an input", Status::kBadValue,
       [](PlanBytes& b) { b.index(b.op(kConvOp).inputs_off) = kIn; }},
  });
}

TEST(Plan, RefusesDamagedWeights) {
  ExpectRefused({
      {"blob place", Status::kBadOffset, [](PlanBytes& b) { b.op(kConvOp).data_off = 1 << 30; }},
      {"blob alignment", Status::kBadOffset, [](PlanBytes& b) { b.op(kConvOp).data_off += 4; }},
      {"blob size", Status::kBadOffset, [](PlanBytes& b) { b.op(kConvOp).data_size = 60; }},
      {"block", Status::kBadValue, [](PlanBytes& b) { Packed(b).block = 3; }},
      {"blocks", Status::kBadOffset, [](PlanBytes& b) { Packed(b).n_blocks = 1u << 31; }},
      {"entries", Status::kBadOffset, [](PlanBytes& b) { Packed(b).n_entries = ~0u; }},
      {"fewer entries", Status::kBadValue, [](PlanBytes& b) { Packed(b).n_entries -= 1; }},
      {"filters", Status::kBadValue, [](PlanBytes& b) { Packed(b).n_filters = 5; }},
      {"array place", Status::kBadOffset, [](PlanBytes& b) { Packed(b).weights_off = ~63ull; }},
      {"array alignment", Status::kBadOffset, [](PlanBytes& b) { Packed(b).bias_off += 4; }},
      {"array over the header", Status::kBadOffset,
       [](PlanBytes& b) { Packed(b).filters_off = 0; }},
      {"rows", Status::kBadValue,
       [](PlanBytes& b) { Array<uint32_t>(b, Packed(b).row_ptr_off)[1] = 1000; }},
      {"first row", Status::kBadValue,
       [](PlanBytes& b) { Array<uint32_t>(b, Packed(b).row_ptr_off)[0] = 1; }},
      {"filter twice", Status::kBadValue,
       [](PlanBytes& b) {
         Array<uint32_t>(b, Packed(b).filters_off)[0] =
             Array<uint32_t>(b, Packed(b).filters_off)[1];
       }},
      {"filter missing", Status::kBadValue,
       [](PlanBytes& b) { Array<uint32_t>(b, Packed(b).filters_off)[0] = kNone; }},
      {"filter unknown", Status::kBadValue,
       [](PlanBytes& b) { Array<uint32_t>(b, Packed(b).filters_off)[0] = 4; }},
      {"entry before the arena", Status::kBadOffset,
       [](PlanBytes& b) { Array<int32_t>(b, Packed(b).offsets_off)[0] = -1000; }},
      {"entry past the arena", Status::kBadOffset,
       [](PlanBytes& b) { Array<int32_t>(b, Packed(b).offsets_off)[3] = INT32_MAX; }},
      {"entry in the output", Status::kBadValue,
       [](PlanBytes& b) { Array<int32_t>(b, Packed(b).offsets_off)[3] += 140; }},
  });
}

TEST(Plan, RefusesALinearLayerThatLeavesPixelsUnwritten) {
  for (int32_t w : {1, 2}) {
    PlanBuilder plan;
    const uint32_t in = plan.Input({1, 3, 1, 1}), out = plan.Output({1, 4, 1, w});
    plan.Packed(OpKind::kLinear, in, out,
                {{4, 3, 1, 1}, std::vector<float>(12, 0.0f), std::vector<float>(4, 1.0f)});
    EXPECT_EQ(Load(plan.Finish()), w == 1 ? Status::kOk : Status::kBadValue) << w;
  }
}

// The kernels take an unused lane for a second copy of the block's first.
TEST(Plan, RefusesAnUnusedLaneBeforeAUsedOne) {
  PlanBuilder plan;
  plan.Packed(OpKind::kLinear, plan.Input({1, 3, 1, 1}), plan.Output({1, 3, 1, 1}),
              {{3, 3, 1, 1}, std::vector<float>(9, 1.0f), std::vector<float>(3, 1.0f)});
  PlanBytes bytes = plan.Finish();
  ASSERT_EQ(Load(bytes), Status::kOk);
  uint8_t* blob = bytes.blob(0);
  auto* filters =
      reinterpret_cast<uint32_t*>(blob + reinterpret_cast<const PackedHeader*>(blob)->filters_off);
  for (int lane : {2, 1, 0}) {
    ASSERT_EQ(filters[lane + 1], kNone);
    std::swap(filters[lane], filters[lane + 1]);
    EXPECT_EQ(Load(bytes), Status::kBadValue) << lane;
  }
}

TEST(Plan, RefusesTilesThatAreNotThere) {
  const auto damaged = [](const std::function<void(PlanBytes&)>& damage) {
    PlanBuilder plan;
    const uint32_t x = plan.Input({1, 2, 5, 6});
    plan.Winograd(x, plan.Output({1, 3, 5, 6}),
                  {{3, 2, 3, 3}, std::vector<float>(54, 1.0f), std::vector<float>(3, 1.0f)}, 2, 4);
    PlanBytes bytes = plan.Finish();
    damage(bytes);
    return Load(bytes);
  };
  const auto offsets = [](PlanBytes& b) {
    uint8_t* blob = b.blob(0);
    return reinterpret_cast<int32_t*>(blob +
                                      reinterpret_cast<const PackedHeader*>(blob)->offsets_off);
  };
  EXPECT_EQ(damaged([](PlanBytes&) {}), Status::kOk);
  EXPECT_EQ(damaged([](PlanBytes& b) { b.op(0).p[0] = 3; }), Status::kBadValue);
  EXPECT_EQ(damaged([](PlanBytes& b) { b.op(0).p[0] = 4; }), Status::kBadValue);
  EXPECT_EQ(damaged([](PlanBytes& b) { b.op(0).p[3] = 0; }), Status::kBadValue);
  EXPECT_EQ(damaged([](PlanBytes& b) { b.op(0).p[3] = 1 << 24; }), Status::kBadValue);
  EXPECT_EQ(damaged([](PlanBytes& b) { b.op(0).p[3] = 3; }), Status::kBadOffset);
  EXPECT_EQ(damaged([&](PlanBytes& b) { offsets(b)[0] = -1; }), Status::kBadOffset);
  EXPECT_EQ(damaged([&](PlanBytes& b) { offsets(b)[0] = 31 * 4 + 1; }), Status::kBadOffset);
  EXPECT_EQ(damaged([&](PlanBytes& b) { offsets(b)[0] = 31 * 4; }), Status::kOk);
}

TEST(Plan, RefusesDepthwiseWindowsThatAreNotThere) {
  const auto damaged = [](const std::function<void(PlanBytes&)>& damage) {
    PlanBuilder plan;
    const uint32_t x = plan.Input({1, 2, 5, 6}), copy = plan.Arena({1, 2, 5, 6}, {1, 1, 1, 1});
    plan.Copy(x, copy);
    ConvWeights weights{{2, 1, 3, 3}, std::vector<float>(18, 1.0f), std::vector<float>(2, 1.0f)};
    weights.pad = 1;
    plan.Depthwise(copy, plan.Output({1, 2, 5, 6}), weights, 1);
    PlanBytes bytes = plan.Finish();
    damage(bytes);
    return Load(bytes);
  };
  EXPECT_EQ(damaged([](PlanBytes&) {}), Status::kOk);
  EXPECT_EQ(damaged([](PlanBytes& b) { b.op(1).p[0] = 4; }), Status::kBadValue);
  EXPECT_EQ(damaged([](PlanBytes& b) { b.op(1).p[0] = 5; }), Status::kBadValue);
  EXPECT_EQ(damaged([](PlanBytes& b) { b.op(1).p[1] = 0; }), Status::kBadValue);
  EXPECT_EQ(damaged([](PlanBytes& b) { b.op(1).p[1] = 2; }), Status::kBadValue);
  for (int p : {2, 3}) {
    EXPECT_EQ(damaged([p](PlanBytes& b) { b.op(1).p[p] = 2; }), Status::kBadValue);
    EXPECT_EQ(damaged([p](PlanBytes& b) { b.op(1).p[p] = 0; }), Status::kBadValue);
  }
  EXPECT_EQ(damaged([](PlanBytes& b) { b.op(1).data_size -= 4; }), Status::kBadOffset);
}

TEST(Plan, RefusesNamesThatAreNoNames) {
  for (uint32_t length : {kMaxName, kMaxName + 1}) {
    PlanBuilder plan;
    plan.Op(OpKind::kUnary, {plan.Input({1, 1, 1, 1})}, plan.Output({1, 1, 1, 1}),
            std::string(length, 'x'));
    EXPECT_EQ(Load(plan.Finish()), length == kMaxName ? Status::kOk : Status::kBadValue);
  }
}

// What an op costs beyond its output's elements counts too.
TEST(Plan, RefusesHoursOfWorkInSmallOps) {
  const auto repeated = [](int ops, const std::function<void(PlanBuilder&)>& add) {
    PlanBuilder plan;
    plan.Copy(plan.Input({1, 1, 1, 1}), plan.Output({1, 1, 1, 1}));
    for (int i = 0; i < ops; ++i) add(plan);
    return Load(plan.Finish());
  };
  const auto halos = [](PlanBuilder& plan) {
    if (plan.arena_bytes() == 0) plan.Arena({1, 1, 1, 1}, {16000, 16000, 16000, 16000});
    plan.Copy(0, 2);
  };
  EXPECT_EQ(repeated(3, halos), Status::kOk);
  EXPECT_EQ(repeated(5000, halos), Status::kBadValue);
  const auto windows = [](PlanBuilder& plan) {
    if (plan.arena_bytes() == 0) {
      plan.Arena({1, 1, 1 << 18, 2048});
      plan.Arena({1, 1, (1 << 18) - 2047, 1});
    }
    const int32_t p[] = {2048, 2048, 1, 1, 0, 0, 1, 1};
    std::copy(std::begin(p), std::end(p), plan.Op(OpKind::kMaxPool, {2}, 3).p);
  };
  EXPECT_EQ(repeated(3, windows), Status::kOk);
  EXPECT_EQ(repeated(4, windows), Status::kBadValue);
  const auto phases = [](PlanBuilder& plan) {
    if (plan.arena_bytes() == 0) {
      plan.Arena({256, 1 << 20, 1, 1});
      plan.Arena({256, 1, 1024, 1});
    }
    plan.Op(OpKind::kPixelShuffle, {2}, 3).p[0] = 1024;
  };
  EXPECT_EQ(repeated(1000, phases), Status::kOk);
  EXPECT_EQ(repeated(20000, phases), Status::kBadValue);
}

}  // namespace
}  // namespace edge::testing
